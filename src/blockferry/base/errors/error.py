"""What every error is: a code, a sentence, a hint, an exit status; its facts are fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from blockferry.base import lazy

if TYPE_CHECKING:
    import difflib
else:  # only a mistyped name needs it
    difflib = lazy.module("difflib")


def nearest(name: str, known: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """Up to `limit` of the known names that look like `name`, best first."""
    return tuple(difflib.get_close_matches(name, sorted(known), n=limit, cutoff=0.4))


@dataclass(eq=False, repr=False)
class BlockferryError(Exception):
    """Something that blockferry can say in a sentence. Never raised itself: each kind is a subclass."""

    code: ClassVar[str] = "ERROR"
    exit_status: ClassVar[int] = 1
    sentence_form: ClassVar[str] = ""
    hint_form: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__init__(*(getattr(self, field.name) for field in fields(self)))

    @property
    def facts(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def sentence(self) -> str:
        return self.sentence_form.format(**self.facts)

    @property
    def hint(self) -> str:
        return self.hint_form.format(**self.facts)

    # These two serve all kinds of errors: dataclass() would compile them for each kind, at each start of the command.

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, BlockferryError) and self.facts == other.facts

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.facts.items())})"

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint}".strip()


def suggest(names: tuple[str, ...]) -> str:
    return f"Did you mean {', '.join(names)}? " if names else ""


def all_errors() -> tuple[type[BlockferryError], ...]:
    """Every kind of error, by code, for `explain` and the generated docs/errors.md."""
    found: list[type[BlockferryError]] = []
    queue = list(BlockferryError.__subclasses__())
    while queue:
        kind = queue.pop()
        queue.extend(kind.__subclasses__())
        found.append(kind)
    return tuple(sorted(found, key=lambda kind: kind.code))
