"""Fixtures of the lab for the tests of the lab itself."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # `lab` is run from the checkout, it is not installed

from lab.pytest_plugin import *  # noqa: F403
