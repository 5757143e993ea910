"""Frozen dataclasses from the tables of a TOML file: unknown keys and wrong types are refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from train.errors import SpecError

T = TypeVar("T")


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A dataclass from a table, nested dataclasses from nested tables.

    Args:
        cls: A dataclass whose fields are numbers, strings, booleans, tuples, mappings or such dataclasses.
        table: Keys and values; keys left out keep their defaults.
        where: Name of the table in messages.

    Returns:
        An instance of `cls`.

    Raises:
        SpecError: for an unknown key (the nearest is suggested), a missing key or a value of another type.
    """
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            change = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
            raise SpecError("cannot read the recipe", f"unknown key {where}.{key}", change)
    values = {key: _value(hints[key], value, f"{where}.{key}") for key, value in table.items()}
    try:
        return cls(**values)
    except TypeError as error:  # a key without a default is not given
        raise SpecError("cannot read the recipe", f"[{where}]: {error}", "Give the missing key.") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a table")
        return from_table(typing.cast(type, hint), value, where)
    if origin in (types.UnionType, typing.Union):
        return _of_union(args, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise _wrong(where, value, "one of " + ", ".join(map(str, args)))
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, value, "a list")
        inner = args[0] if len(args) == 2 and args[1] is Ellipsis else None
        if inner is None and len(value) != len(args):
            raise _wrong(where, value, f"a list of {len(args)}")
        parts = [inner] * len(value) if inner else list(args)
        return tuple(_value(part, each, where) for part, each in zip(parts, value, strict=True))
    return _plain(hint, origin, value, where)


def _of_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:  # a card says it; TOML cannot
        return None
    for each in args:
        if each is type(None):
            continue
        try:
            return _value(each, value, where)
        except SpecError as error:
            last = error
    raise last


def _plain(hint: Any, origin: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a table")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:  # bool is an int to isinstance
        raise _wrong(where, value, getattr(hint, "__name__", str(hint)))
    return value


def _wrong(where: str, value: Any, wanted: str) -> SpecError:
    return SpecError("cannot read the recipe", f"{where} = {value!r}", f"Give {wanted}.")


def override(table: Mapping[str, Any], settings: list[str]) -> dict[str, Any]:
    """A copy of a nested table with `key.of.it=value` settings on top; values are TOML, else plain text.

    Raises:
        SpecError: for a setting without `=`, or a key below something that is no table.
    """
    out = _copy(table)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise SpecError("cannot use --set", repr(setting), "Give KEY=VALUE, such as training.epochs=3.")
        keys = path.strip().split(".")
        inner = out
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise SpecError("cannot use --set", repr(setting), f"{key} is not a table.")
        inner[keys[-1]] = _parsed(text.strip())
    return out


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _copy(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in table.items()}
