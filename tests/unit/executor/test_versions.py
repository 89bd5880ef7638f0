"""Dictionaries whose changes are told by CPython's own count of them."""

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch

from edif.executor import versions
from edif.executor.versions import Versions, table_of


class Owner:
    a = 1


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another value": lambda table: table.update(a=2),
    "one more": lambda table: table.update(b=1),
    "one less": lambda table: table.pop("a"),
    "none": lambda table: table.clear(),
    "all anew": lambda table: table.__ior__({"a": object()}),
}


@pytest.mark.parametrize("kind", [dict, OrderedDict])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_is_told(kind: type[dict[str, Any]], change: Callable[[dict[str, Any]], object]) -> None:
    tables = [kind(a=1) for _ in range(3)]
    noted = Versions(tables)
    change(tables[1])
    assert not noted.same
    noted.note()
    assert noted.same is versions._IS_KEPT


def test_looking_is_no_change() -> None:
    table = {"a": 1}
    noted = Versions([table])
    assert [*table.items()]
    assert table.get("b") is None
    assert noted.same is versions._IS_KEPT


def test_names_of_classes_and_modules_are_told() -> None:
    owner = Owner()
    tables = [table_of(each) for each in (Owner, owner, torch.nn.functional)]
    noted = Versions(tables)
    for change, undo in (
        (lambda: setattr(Owner, "a", 2), lambda: setattr(Owner, "a", 1)),
        (lambda: setattr(owner, "a", 2), lambda: delattr(owner, "a")),
    ):
        noted.note()
        change()
        assert not noted.same
        undo()
    noted.note()
    assert noted.same is versions._IS_KEPT


def test_this_python_keeps_the_count_where_it_is_known_to() -> None:
    assert versions._IS_KEPT or sys.version_info >= (3, 12)
