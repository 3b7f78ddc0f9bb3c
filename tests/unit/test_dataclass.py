"""Our `dataclass` beside the standard library's: the same classes made by both behave the same."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar

import msgspec
import pytest

import blockferry.base.dataclass as ours

BOTH = [pytest.param(ours.dataclass, id="ours"), pytest.param(dataclasses.dataclass, id="standard")]
WAYS = [
    {"frozen": frozen, "slots": slots, "eq": eq, "kw_only": kw_only}
    for frozen in (True, False)
    for slots in (True, False)
    for eq in (True, False)
    for kw_only in (True, False)
]


def make(decorator: Callable[..., Any], ways: dict[str, bool]) -> tuple[type[Any], type[Any]]:
    """A class with all that fields can be, and one that is derived from it."""

    @decorator(**ways)
    class Base:
        KIND: ClassVar[str] = "base"

        number: int
        name: str = "none"
        tags: list[str] = field(default_factory=list)
        hidden: int = field(default=7, repr=False, compare=False)
        made: tuple[int, ...] = field(default_factory=lambda: (1, 2), init=False)
        fixed: str = field(default="fixed", init=False)
        late: int = field(default=3, kw_only=True)

    @decorator(**ways)
    class Derived(Base):
        name: str = "derived"
        more: int = 5

        def __post_init__(self) -> None:
            object.__setattr__(self, "late", self.late + 1)

    return Base, Derived


def outcome(call: Callable[[], Any]) -> object:
    try:
        return call()
    except (TypeError, AttributeError) as error:
        return type(error), str(error).replace("_self, ", "")


@pytest.mark.parametrize("ways", WAYS, ids=str)
def test_objects_are_made_compared_and_shown_as_by_the_standard_library(ways: dict[str, bool]) -> None:
    seen = []
    for decorator in (ours.dataclass, dataclasses.dataclass):
        found: list[object] = []
        for cls in make(decorator, ways):
            one, same, other = cls(number=1), cls(number=1), cls(number=2, name="b", tags=["x"], late=9)
            found += [repr(one), repr(other), one == same, one == other, one == 1, cls.__match_args__]
            found += [str(vars(cls).get(name, "-")) for name in ("fixed", "hidden", "KIND")]
            found.append(dataclasses.asdict(other))
            found += [dataclasses.replace(other, number=4, late=1).late, hasattr(one, "__dict__")]
            found += [cls.__dataclass_params__.frozen, cls.__qualname__, cls.__module__]
            found.append([(each.name, each.type, each.init, each.kw_only) for each in dataclasses.fields(cls)])
            found += [
                outcome(lambda cls=cls: repr(cls(1, "a", ["b"], 8))),  # type: ignore[misc]
                outcome(lambda cls=cls: cls()),  # type: ignore[misc]
                outcome(lambda cls=cls: repr(cls(number=1, wrong=2))),  # type: ignore[misc]
                outcome(lambda one=one: setattr(one, "number", 3)),  # type: ignore[misc]
                outcome(lambda one=one: delattr(one, "number")),  # type: ignore[misc]
                outcome(lambda one=one: hash(one) and "hashed" if ways["eq"] else "by identity"),  # type: ignore[misc]
            ]
        base, derived = make(decorator, ways)
        found.append(base(number=1) == derived(number=1))
        seen.append(found)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("decorator", BOTH)
def test_equal_objects_have_one_hash(decorator: Callable[..., Any]) -> None:
    for names in ((), ("a",), ("a", "b")):
        cls = decorator(frozen=True, slots=True)(type("Some", (), {"__annotations__": dict.fromkeys(names, "int")}))
        values = range(len(names))
        assert cls(*values) == cls(*values)
        assert len({cls(*values), cls(*values)}) == 1


@ours.dataclass(frozen=True, slots=True)
class Kept:
    number: int
    more: tuple[str, ...] = ()


@ours.dataclass(frozen=True, slots=True)
class Around:
    kept: Kept
    names: dict[str, int] = field(default_factory=dict)


def test_objects_are_copied_pickled_and_read_from_json() -> None:
    around = Around(Kept(1, ("a",)), {"b": 2})
    assert pickle.loads(pickle.dumps(around)) == around
    assert copy.deepcopy(around) == around
    assert msgspec.json.decode(msgspec.json.encode(around), type=Around) == around


def test_a_class_of_the_standard_library_may_be_derived_from_ours_and_the_other_way_round() -> None:
    @dataclasses.dataclass(frozen=True)
    class Standard(Kept):
        last: int = 0

    @ours.dataclass(frozen=True)
    class Ours(Standard):
        really: int = 1

    assert Standard(1, last=2) == Standard(1, (), 2)
    assert repr(Ours(1, really=3)).endswith("Ours(number=1, more=(), last=0, really=3)")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Ours(1).number = 2  # type: ignore[misc]


def test_what_the_class_defines_itself_stays() -> None:
    @ours.dataclass(frozen=True, slots=True)
    class Own:
        number: int

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 5

        def __repr__(self) -> str:
            return "own"

    assert Own(1) == Own(2)
    assert (hash(Own(1)), repr(Own(1))) == (5, "own")


def test_an_object_that_holds_itself_can_be_shown() -> None:
    @ours.dataclass
    class Ring:
        inner: object = None

    ring = Ring()
    ring.inner = ring
    assert repr(ring).endswith("Ring(inner=...)")


def test_init_is_compiled_when_the_first_object_is_made_and_only_then() -> None:
    @ours.dataclass(frozen=True, slots=True)
    class Late:
        number: int

    inits = [Late.__init__]
    for number in (1, 2):
        assert Late(number).number == number
        inits.append(Late.__init__)
    assert inits[0] is not inits[1]
    assert inits[1] is inits[2]
