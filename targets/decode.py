"""Decode merged TOML tables into the classes of ``schema.py``, with errors that name file, key and fix.

The walk keeps its own path, because a key's name is lost in other decoders' messages once it lies in a
free-form table, and because after ``extends`` the keys of one table come from different files.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from targets.errors import TargetError, nearest
from targets.quantity import Quantity
from targets.schema import NOT_IN_FILES

T = TypeVar("T")
Path = tuple[str | int, ...]
"""Keys (and indices of list items) from the top of the file down."""
Origin = Callable[[Path], str]
"""Tells which file the value at a path came from."""

_JSON_WORD = re.compile(r"`(\w+)`")
_TOML_WORDS = {
    "object": "table",
    "array": "list",
    "str": "string",
    "int": "whole number",
    "bool": "true or false",
}
"""What msgspec's words for types are in TOML."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dotted(path: Path) -> str:
    """Spell a path as TOML does: ``machine.flops.f32``, ``runtime.session."session.x"``, ``isa[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if _BARE.fullmatch(part) else json.dumps(part))
    return text


def decode(data: dict[str, Any], kind: type[T], *, origin: Origin) -> T:
    """Build a ``kind`` from nested TOML values; raise ``TargetError`` at the first key that does not fit."""
    built: T = _table(data, kind, (), origin)
    return built


def _table(data: Any, kind: Any, path: Path, origin: Origin) -> Any:
    """Build a table's class, refusing unknown and missing keys."""
    if not isinstance(data, dict):
        raise TargetError(f"should be a table, not {data!r}", file=origin(path), key=dotted(path))
    kinds = {name: hint for name, hint in get_type_hints(kind).items() if name not in NOT_IN_FILES}
    for name in data:
        if name not in kinds:
            raise _unknown(path, name, list(kinds), origin)
    for field in dataclasses.fields(kind):
        optional = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if not optional and field.name not in data:
            key = dotted((*path, field.name))
            raise TargetError("this key is missing", file=origin(path), key=key)
    return kind(**{name: _value(data[name], kinds[name], (*path, name), origin) for name in data})


def _unknown(path: Path, name: str, known: list[str], origin: Origin) -> TargetError:
    """Describe a key that its table does not have."""
    return TargetError(
        "there is no such key",
        file=origin((*path, name)),
        key=dotted((*path, name)),
        nearest=nearest(name, known),
        hint=f"keys here are {', '.join(known)}",
    )


def _value(value: Any, kind: Any, path: Path, origin: Origin) -> Any:
    """Build a value of any type that the schema uses."""
    if get_origin(kind) in (Union, types.UnionType) and types.NoneType in get_args(kind):
        return _value(
            value, next(part for part in get_args(kind) if part is not types.NoneType), path, origin
        )
    if isinstance(kind, type) and issubclass(kind, Quantity):
        return _quantity(value, kind, path, origin)
    if dataclasses.is_dataclass(kind):
        return _table(value, kind, path, origin)
    return _generic(value, kind, path, origin)


def _generic(value: Any, kind: Any, path: Path, origin: Origin) -> Any:
    """Build a word from a set, a list, a free-form table, or a plain value."""
    shape, parts = get_origin(kind), get_args(kind)
    if shape is Literal:
        return _choice(value, parts, path, origin)
    if shape is tuple and isinstance(value, list):
        return _items(value, parts, path, origin)
    if shape is dict and isinstance(value, dict):
        return _entries(value, parts, path, origin)
    return _leaf(value, kind, path, origin)


def _quantity(value: Any, kind: type[Quantity], path: Path, origin: Origin) -> Quantity:
    """Parse a quantity with its unit."""
    try:
        return kind.parse(value)
    except ValueError as error:
        raise TargetError(str(error), file=origin(path), key=dotted(path)) from None


def _choice(value: Any, choices: tuple[str, ...], path: Path, origin: Origin) -> str:
    """Check that a word is one of ``choices``."""
    if isinstance(value, str) and value in choices:
        return value
    why = f"{value!r} is not one of {', '.join(choices)}"
    raise TargetError(why, file=origin(path), key=dotted(path), nearest=nearest(str(value), choices))


def _items(value: list[Any], parts: tuple[Any, ...], path: Path, origin: Origin) -> tuple[Any, ...]:
    """Build a tuple: of any length when its type ends in ``...``, else of exactly the types given."""
    open_ended = len(parts) == 2 and parts[1] is Ellipsis
    kinds = parts[:1] * len(value) if open_ended else parts
    if len(kinds) != len(value):
        why = f"should have {len(kinds)} items, not {len(value)}"
        raise TargetError(why, file=origin(path), key=dotted(path))
    return tuple(
        _value(item, kind, (*path, index), origin)
        for index, (item, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _entries(value: dict[str, Any], parts: tuple[Any, ...], path: Path, origin: Origin) -> dict[str, Any]:
    """Build a free-form table, whose keys may be limited to a set of words."""
    if get_origin(parts[0]) is Literal:
        for name in value:
            if name not in get_args(parts[0]):
                raise _unknown(path, name, list(get_args(parts[0])), origin)
    return {name: _value(item, parts[1], (*path, name), origin) for name, item in value.items()}


def _leaf(value: Any, kind: Any, path: Path, origin: Origin) -> Any:
    """Check a plain value with msgspec, which does not convert between types."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        why = _JSON_WORD.sub(lambda word: _TOML_WORDS.get(word[1], word[1]), str(error))
        raise TargetError(why, file=origin(path), key=dotted(path)) from None
