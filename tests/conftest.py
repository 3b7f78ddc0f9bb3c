"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

from tests.sampling import pytest_collection_modifyitems, pytest_terminal_summary

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]  # pytest finds its hooks here

os.environ.setdefault("BLOCKFERRY_LOG", "off")  # workers that tests start write no log of the machine

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
"""The same examples each time, so that a run tells of the change and not of chance; `HYPOTHESIS_PROFILE=search`
looks for new ones, as `make test-all` does."""
