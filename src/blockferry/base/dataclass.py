"""`dataclass` as the standard library's, but a class costs a sixth of the time while its module is loaded.

A move loads some 400 of these classes. The standard library compiles up to six functions for each; together that took
a third of the CPU time that loading took. Here a class shares comparison, representation and
protection against changes with all others, and its `__init__` is compiled when its first object is made.

Type checkers see the standard library's: `dataclasses.fields`, `replace` and so on work as with that. Left out is what
nothing here uses: order, unsafe_hash, weakref_slot, InitVar, and match_args as an option.
"""

from __future__ import annotations

import dataclasses
import operator
import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, *, repr=True, eq=True, frozen=False, slots=False, kw_only=False):
        """Return the class as a dataclass, or a decorator that does so; see dataclasses.dataclass."""

        def make(cls):
            return _made(cls, own_repr=repr, own_eq=eq, frozen=frozen, slots=slots, kw_only=kw_only)

        return make if cls is None else make(cls)


def _made(cls: Any, *, own_repr: bool, own_eq: bool, frozen: bool, slots: bool, kw_only: bool) -> Any:
    own_fields = _fields_of(cls, kw_only=kw_only)
    every: dict[str, dataclasses.Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):
        every.update(base.__dict__.get("__dataclass_fields__", {}))
    cls.__dataclass_fields__ = {**every, **own_fields}
    cls.__dataclass_params__ = _FROZEN if frozen else _OPEN
    fields = dataclasses.fields(cls)
    if "__match_args__" not in cls.__dict__:
        matched = tuple(field.name for field in fields if field.init and not field.kw_only)
        setattr(cls, "__match_args__", matched)  # noqa: B010 - mypy takes it for a definition
    made = _with_slots(cls, tuple(field.name for field in fields)) if slots else cls
    own = made.__dict__
    hashed = "__hash__" in own and not (own["__hash__"] is None and "__eq__" in own)
    if "__init__" not in own:
        made.__init__ = _init_at_first_use(made, frozen=frozen)
    if own_repr and "__repr__" not in own:
        made.__repr__ = _repr
    if own_eq:
        values = _values(tuple(field.name for field in fields if field.compare))
        if "__eq__" not in own:
            made.__eq__ = _eq(values)
        if not hashed:
            made.__hash__ = _hash(values) if frozen else None
    if frozen:
        _freeze(made, frozenset(field.name for field in fields))
        if slots and "__getstate__" not in own:
            made.__getstate__, made.__setstate__ = _getstate, _setstate
    return made


def _fields_of(cls: Any, *, kw_only: bool) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields that the class itself names; each default is put in its place in the class.

    The standard library reads them, from a class without bases: it would have functions compiled for a frozen one.
    """
    annotations = cls.__annotations__
    given = {name: cls.__dict__[name] for name in annotations if name in cls.__dict__}
    about = {"__annotations__": annotations, "__module__": cls.__module__, "__doc__": cls.__name__}
    reading: Any = dataclasses.dataclass(init=False, repr=False, eq=False, match_args=False, kw_only=kw_only)
    fields: dict[str, dataclasses.Field[Any]] = reading(type(cls.__name__, (), {**given, **about})).__dataclass_fields__
    for name, value in given.items():
        if isinstance(value, dataclasses.Field):
            if value.default is dataclasses.MISSING:
                delattr(cls, name)
            else:
                setattr(cls, name, value.default)
    return fields


def _with_slots(cls: Any, names: tuple[str, ...]) -> Any:
    """Return the class made anew with slots for those fields that no base has a slot for."""
    inherited = {slot for base in cls.__mro__[1:] for slot in base.__dict__.get("__slots__", ())}
    content = {name: value for name, value in cls.__dict__.items() if name not in (*names, "__dict__", "__weakref__")}
    made: Any = type(cls)(
        cls.__name__, cls.__bases__, {**content, "__slots__": tuple(name for name in names if name not in inherited)}
    )
    made.__qualname__ = cls.__qualname__
    return made


def _init_at_first_use(cls: Any, *, frozen: bool) -> Callable[..., None]:
    """Return an `__init__` that puts the compiled one in its place and calls it. Two threads may do so at once."""

    def __init__(self: Any, /, *args: Any, **named: Any) -> None:  # noqa: N807
        compiled = _compiled_init(cls, frozen=frozen)
        cls.__init__ = compiled
        compiled(self, *args, **named)

    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    return __init__


def _compiled_init(cls: Any, *, frozen: bool) -> Callable[..., None]:
    """Return the `__init__` that sets each field from a parameter, a default or a factory, in their order."""
    names: dict[str, Any] = {"_set": object.__setattr__, "_missing": dataclasses.MISSING}
    positional: list[str] = []
    named: list[str] = []
    body: list[str] = []
    for field in dataclasses.fields(cls):
        given = field.name
        parameter = given
        if field.default is not dataclasses.MISSING:
            names[f"_default_{given}"] = field.default
            parameter = f"{given}=_default_{given}"
            given = given if field.init else f"_default_{given}"  # a class with slots does not have it
        elif field.default_factory is not dataclasses.MISSING:
            names[f"_factory_{given}"] = field.default_factory
            parameter = f"{given}=_missing"
            made = f"_factory_{given}()"
            given = f"{made} if {given} is _missing else {given}" if field.init else made
        elif not field.init:
            continue
        if field.init:
            (named if field.kw_only else positional).append(parameter)
        body.append(f"_set(_self, {field.name!r}, {given})" if frozen else f"_self.{field.name} = {given}")
    if hasattr(cls, "__post_init__"):
        body.append("_self.__post_init__()")
    parameters = ", ".join(("_self", "/", *positional, *(("*", *named) if named else ())))
    exec(f"def __init__({parameters}):\n " + "\n ".join(body or ["pass"]), names)
    compiled: Callable[..., None] = names["__init__"]
    compiled.__qualname__ = f"{cls.__qualname__}.__init__"
    compiled.__module__ = cls.__module__
    return compiled


def _values(names: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return what takes the values of these attributes of an object."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda one: tuple(getattr(one, name) for name in names)


def _eq(values: Callable[[Any], Any]) -> Callable[[Any, Any], bool]:
    def __eq__(self: Any, other: object) -> bool:  # noqa: N807
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _hash(values: Callable[[Any], Any]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    return __hash__


@reprlib.recursive_repr()
def _repr(self: Any) -> str:
    shown = (f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _freeze(cls: Any, names: frozenset[str]) -> None:
    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    cls.__setattr__, cls.__delattr__ = __setattr__, __delattr__


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


def _parameters(*, frozen: bool) -> Any:
    """Return what the standard library notes of a class about how it was made."""
    made: Any = dataclasses.dataclass(frozen=frozen)
    return made(type("Any", (), {"__doc__": "any"})).__dataclass_params__


_OPEN = _parameters(frozen=False)
_FROZEN = _parameters(frozen=True)
