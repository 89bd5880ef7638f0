"""Imports without the garbage collector."""

import gc
import weakref

import pytest

from edif.executor.libraries import uncollected


class _Ring:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_made_is_not_looked_at_then_or_later() -> None:
    frozen = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
        made = weakref.ref(_Ring())
    try:
        assert gc.get_freeze_count() > frozen
        gc.collect()
        assert made() is not None
    finally:
        gc.unfreeze()
    gc.collect()
    assert made() is None


def test_the_collector_is_at_work_again_also_after_a_failure() -> None:
    with pytest.raises(ImportError), uncollected():
        raise ImportError("nnsight")
    try:
        assert gc.isenabled()
        made = weakref.ref(_Ring())
        gc.collect()
        assert made() is None
    finally:
        gc.unfreeze()
