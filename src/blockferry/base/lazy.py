"""Modules that are loaded when they are first used: `--help` and completion do not wait for what they do not need.

    if TYPE_CHECKING:
        from blockferry.base import log
    else:
        log = lazy.module("blockferry.base.log")

Type checkers and the contracts of imports read the first branch, so a module that is loaded late is checked as any
other. Not importlib.util.LazyLoader: two threads that use its module at once may see it half loaded (Python 3.11).
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from typing import Any


class LazyModule:
    """Stands for a module and hands over each attribute. Loading is Python's own import, with its lock."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by whoever looks at an object, and no use of the module
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)

    def __repr__(self) -> str:
        return f"<module {self._name!r}, loaded when it is used>"


def module(name: str) -> Any:
    """Return a stand-in for the module of this name, which need not be loaded yet."""
    return LazyModule(name)


def attributes(here: str, homes: dict[str, tuple[str, ...]]) -> Any:
    """Return the `__getattr__` of module `here`, which takes each name of `homes` (module: names) from its home.

    What has been taken stays in `here`, so that it is asked for once.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def take(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {here!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home_of[name]), name)
        setattr(importlib.import_module(here), name, value)
        return value

    return take


def preload(*names: str) -> None:
    """Load these modules in a thread, while a command waits for a host: they are used next.

    Safe with Python's locks of modules as long as no two modules import each other. An error is met by who uses them.
    """

    def load() -> None:
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)

    threading.Thread(target=load, name="preload", daemon=True).start()
