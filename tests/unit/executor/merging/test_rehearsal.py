"""A shared runner that stands by goes the way of jobs that share a pass, and is as it was afterwards."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from edif.executor import runner
from edif.executor.merging import traces
from edif.executor.merging.tenant import Tenant
from edif.executor.runner import Together
from edif.executor.warm_up import rehearse
from tests.unit.executor.merging.jobs import BOUNDS, Site, all_fit, payload
from tests.unit.executor.merging.test_joint_pass import reads

pytestmark = pytest.mark.timeout(method="thread")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[int]]]:
    """Of each rehearsed job the rows of the passes that it shared."""
    seen: list[list[int]] = []

    def noted(loaded: Any, sent: bytes, company: Tenant) -> None:
        rehearse(loaded, sent, company)
        seen.append([each.rows for each in company.passes])

    monkeypatch.setattr(runner, "rehearse", noted)
    before = signal.getsignal(signal.SIGALRM)
    yield seen
    signal.signal(signal.SIGALRM, before)
    traces.enter(None)


def test_they_share_one_pass_and_leave_nothing(gpt2: Site, rows: list[list[int]]) -> None:
    sent = payload(gpt2.client, reads(3))
    interleaver = vars(gpt2.model.interleaver)
    runner._rehearse_together(gpt2.loaded, Together(BOUNDS, gpt2.layout, gpt2.untouched), sent)
    assert rows == [[4]] * 4
    assert vars(gpt2.model.interleaver) is interleaver
    all_fit(gpt2, [reads(5), reads(13)])


@pytest.mark.parametrize(("sent", "rehearsed"), [(b"", 4), (b"no payload", 0)])
def test_where_nothing_can_be_rehearsed_it_serves_all_the_same(
    gpt2: Site, rows: list[list[int]], sent: bytes, rehearsed: int
) -> None:
    runner._rehearse_together(gpt2.loaded, Together(BOUNDS, gpt2.layout, gpt2.untouched), sent)
    assert rows == [[]] * rehearsed
    all_fit(gpt2, [reads(5), reads(13)])
