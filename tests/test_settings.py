"""Dataclasses from TOML tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from train.errors import SpecError
from train.settings import from_table, override


@dataclass(frozen=True)
class Inner:
    size: int = 3
    mean: tuple[float, ...] = (0.5,)


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    inner: Inner = field(default_factory=Inner)
    pair: tuple[int, float] = (1, 2.0)
    maybe: float | None = None
    flag: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def test_nested_tables_become_nested_dataclasses():
    table = {
        "name": "x",
        "kind": "b",
        "inner": {"size": 4, "mean": [1, 2.5]},
        "pair": [3, 4],
        "maybe": 2,
        "options": {"z": 1},
    }
    outer = from_table(Outer, table, "top")
    assert outer == Outer("x", "b", Inner(4, (1.0, 2.5)), (3, 4.0), 2.0, False, {"z": 1})
    assert isinstance(outer.pair[1], float) and isinstance(outer.maybe, float)
    assert from_table(Outer, {"name": "x", "maybe": None}, "top").maybe is None  # as a card says it


@pytest.mark.parametrize(
    ("table", "found", "change"),
    [
        ({"name": "x", "innner": {}}, "unknown key top.innner", "did you mean inner?"),
        ({"name": "x", "inner": {"sise": 1}}, "top.inner.sise", "did you mean size?"),
        ({"name": "x", "qqq": 1}, "top.qqq", "known keys are name, kind"),
        ({}, "[top]", "missing key"),
        ({"name": 3}, "top.name = 3", "Give str"),
        ({"name": "x", "kind": "c"}, "top.kind = 'c'", "one of a, b"),
        ({"name": "x", "inner": 3}, "top.inner = 3", "a table"),
        ({"name": "x", "inner": {"size": True}}, "top.inner.size = True", "Give int"),
        ({"name": "x", "inner": {"size": 1.5}}, "top.inner.size = 1.5", "Give int"),
        ({"name": "x", "inner": {"mean": 1.0}}, "top.inner.mean = 1.0", "a list"),
        ({"name": "x", "pair": [1]}, "top.pair = [1]", "a list of 2"),
        ({"name": "x", "maybe": "no"}, "top.maybe = 'no'", "Give float"),
        ({"name": "x", "flag": 1}, "top.flag = 1", "Give bool"),
        ({"name": "x", "options": 1}, "top.options = 1", "a table"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(table, found, change):
    with pytest.raises(SpecError) as refused:
        from_table(Outer, table, "top")
    assert found in refused.value.found and change in refused.value.change


def test_settings_lie_on_top_and_leave_the_table_alone():
    table = {"a": {"b": 1, "c": 2}, "d": "x"}
    out = override(table, ["a.b=3", "a.e=[1, 2]", "d = plain text", "f.g='q'", "h=true", "i=1e-3"])
    assert out == {
        "a": {"b": 3, "c": 2, "e": [1, 2]},
        "d": "plain text",
        "f": {"g": "q"},
        "h": True,
        "i": 1e-3,
    }
    assert table == {"a": {"b": 1, "c": 2}, "d": "x"}


@pytest.mark.parametrize("setting", ["a", "=3", "d.e=1"])
def test_settings_that_are_none_are_refused(setting):
    with pytest.raises(SpecError, match="cannot use --set"):
        override({"d": 1}, [setting])
