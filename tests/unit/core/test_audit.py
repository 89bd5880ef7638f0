"""The chain of the audit log."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from edif.core.audit import GENESIS, AuditEntry, AuditRecord, faults, sealed
from tests.sizes import SIZES

entries = st.builds(
    AuditEntry,
    at_us=st.integers(0, 2**53),
    actor=st.text(max_size=8),
    action=st.text(max_size=8),
    subject=st.text(max_size=8),
    detail=st.text(max_size=8),
)


def chain(acts: list[AuditEntry]) -> list[AuditRecord]:
    records, previous = [], GENESIS
    for number, entry in enumerate(acts, start=1):
        previous = sealed(previous, number, entry)
        records.append(AuditRecord(number, entry, previous))
    return records


@settings(max_examples=SIZES.examples, derandomize=SIZES.derandomize)
@given(st.lists(entries, max_size=12))
def test_a_log_that_nobody_touched_has_no_fault(acts: list[AuditEntry]) -> None:
    assert not list(faults(chain(acts)))


@settings(max_examples=SIZES.examples, derandomize=SIZES.derandomize)
@given(st.lists(entries, min_size=1, max_size=12), st.data())
def test_whatever_is_changed_is_found(acts: list[AuditEntry], data: st.DataObject) -> None:
    records = chain(acts)
    which = data.draw(st.integers(0, len(records) - 1))
    other = data.draw(entries.filter(lambda entry: entry != records[which].entry))
    records[which] = replace(records[which], entry=other)
    assert [fault.number for fault in faults(records)] == [which + 1]


@settings(max_examples=SIZES.examples, derandomize=SIZES.derandomize)
@given(st.lists(entries, min_size=2, max_size=12), st.data())
def test_what_is_taken_out_is_missed(acts: list[AuditEntry], data: st.DataObject) -> None:
    records = chain(acts)
    which = data.draw(st.integers(0, len(records) - 2))
    del records[which]
    found = list(faults(records))
    assert [fault.number for fault in found] == [which + 2]
    assert f"Entry {which + 1} is missing" in found[0].sentence


@settings(max_examples=SIZES.examples, derandomize=SIZES.derandomize)
@given(st.lists(entries, min_size=1, max_size=12), entries, st.data())
def test_what_is_put_in_is_found(acts: list[AuditEntry], extra: AuditEntry, data: st.DataObject) -> None:
    """Even with a hash that fits: the next entry no longer follows."""
    records = chain(acts)
    where = data.draw(st.integers(0, len(records) - 1))
    before = records[where - 1].hash if where else GENESIS
    forged = AuditRecord(where + 1, extra, sealed(before, where + 1, extra))
    moved = [replace(record, number=record.number + 1) for record in records[where:]]
    assert list(faults([*records[:where], forged, *moved]))


@pytest.mark.parametrize("first", [("ab", "c"), ("1:ab", "c"), ("", "abc")])
@pytest.mark.parametrize("second", [("a", "bc"), ("abc", ""), ("ab1", "c")])
def test_entries_that_read_alike_have_different_seals(
    first: tuple[str, str], second: tuple[str, str]
) -> None:
    seals = {sealed(GENESIS, 1, AuditEntry(0, *parts, "job")) for parts in (first, second)}
    assert len(seals) == 2
