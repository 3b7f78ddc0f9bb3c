"""Programs of ours that run by themselves on a host: several modules become one text for its own python3.

Nothing is installed there and no file is left there; the text is an argument, of which Linux takes 128 KiB
(MAX_ARG_STRLEN, execve(2)). The host's python3 may be older than ours: 3.9 on RHEL 9 and Debian 11.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

PYTHON = "/usr/bin/python3"
"""The host's own: libnbd's binding comes with the distribution (python3-libnbd), not from a package index."""

_TEXT = """\
# {name}
import sys, types
for name, source in {parts!r}:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
exec(compile({program!r}, {name!r}, "exec"))
"""


def program(name: str, parts: Iterable[str] = (), package: str = "blockferry.images") -> str:
    """The text for `python3 -I -c` that runs a module of that package as `__main__`, with the parts that it imports.

    Parts are named each after those that it imports itself. They keep their full names, by which they import each
    other; nothing else of ours is there.
    """
    home = resources.files(package)
    texts = [(f"{package}.{part}", home.joinpath(f"{part}.py").read_text()) for part in parts]
    return _TEXT.format(parts=texts, program=home.joinpath(f"{name}.py").read_text(), name=f"{package}.{name}")
