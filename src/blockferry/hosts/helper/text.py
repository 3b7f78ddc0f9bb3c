"""The helper's program as one text: all modules of `program/`, each compiled on the host when it is first needed."""

from __future__ import annotations

import functools
from importlib import resources
from importlib.resources.abc import Traversable

from blockferry.hosts.helper.program.starting import BOOTSTRAP

PYTHON = "/usr/bin/python3"
"""The host's own: libnbd's binding comes with the distribution (python3-libnbd), not from a package index."""

ARGV = [PYTHON, "-I", "-S", "-c", BOOTSTRAP]
"""What is run on the host. Its standard input begins with the text's length, a line break and the text."""

_PACKAGE = "blockferry.hosts.helper.program"

_TEXT = """\
import sys
from importlib.machinery import ModuleSpec

SOURCES = {sources!r}


class Sent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] != "blockferry":
            return None
        package = any(one.startswith(name + ".") for one in SOURCES)
        if not package and name not in SOURCES:
            raise ModuleNotFoundError("No module named " + repr(name) + " was sent", name=name)
        return ModuleSpec(name, Sent, is_package=package)

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        name = module.__name__
        exec(compile(SOURCES.get(name, ""), name, "exec"), module.__dict__)


sys.meta_path.insert(0, Sent)
if "WISH" in globals():
    from {package}.alone import main
    main(WISH)
else:
    from {package}.serving import main
    main({silence_s!r}, TEXT)
"""


@functools.cache
def program(silence_s: float = 0.0) -> bytes:
    """The text, with its length before it, as the helper's standard input begins. `silence_s`: see Transport."""
    sources = _sources(resources.files(_PACKAGE), _PACKAGE)
    text = _TEXT.format(sources=dict(sorted(sources.items())), package=_PACKAGE, silence_s=silence_s).encode()
    return b"%d\n" % len(text) + text


def _sources(folder: Traversable, package: str) -> dict[str, str]:
    found = {}
    for entry in folder.iterdir():
        name, _, kind = entry.name.partition(".")
        if kind == "py" and name != "__init__":
            found[f"{package}.{name}"] = entry.read_text()
        elif entry.is_dir() and name.isidentifier() and name != "__pycache__":
            found.update(_sources(entry, f"{package}.{name}"))
    return found
