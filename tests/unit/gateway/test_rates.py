"""The token bucket and the pace of refusals, against what they promise."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edif.core import errors
from edif.core.errors import OverLimit
from edif.gateway import rates
from edif.gateway.rates import Pace, RateLimiter
from tests.unit.helpers import refusal_of


def allowed(limiter: RateLimiter, caller: str, now: float) -> bool:
    kind = refusal_of(lambda: limiter.take(caller, now), error=OverLimit)
    assert kind in (None, errors.RATE_LIMITED)
    return kind is None


def test_five_seconds_worth_at_once_and_then_the_rate() -> None:
    limiter = RateLimiter("requests", 20.0)
    assert sum(allowed(limiter, "a", 1000.0) for _ in range(300)) == 100
    assert sum(allowed(limiter, "a", 1001.0) for _ in range(300)) == 20
    assert sum(allowed(limiter, "a", 1001.0625) for _ in range(300)) == 1
    assert sum(allowed(limiter, "a", 9999.0) for _ in range(300)) == 100


def test_callers_do_not_share_a_bucket() -> None:
    limiter = RateLimiter("requests", 1.0)
    while allowed(limiter, "a", 0.0):
        pass
    assert allowed(limiter, "b", 0.0)
    assert not allowed(limiter, "a", 0.0)


def test_refused_calls_do_not_put_off_the_next_allowed_one() -> None:
    limiter = RateLimiter("requests", 1.0)
    while allowed(limiter, "a", 0.0):
        pass
    assert not any(allowed(limiter, "a", step / 100) for step in range(99))
    assert allowed(limiter, "a", 1.0)


@given(
    per_s=st.floats(1.0, 50.0),
    waits=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60),
)
def test_never_more_than_burst_and_rate_allow_and_never_less(per_s: float, waits: list[float]) -> None:
    """Against the textbook bucket: in any span of time at most burst + rate * span calls pass."""
    limiter = RateLimiter("requests", per_s)
    now, passed = 100.0, []
    level, then = per_s * 5, now
    for wait in waits:
        now += wait
        level, then = min(per_s * 5, level + (now - then) * per_s), now
        expected = level >= 1
        level -= expected
        assert allowed(limiter, "a", now) is expected
        passed += [now] * expected
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= per_s * 5 + (passed[last] - passed[first]) * per_s + 1e-6


def test_number_of_remembered_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_CALLERS", 100)
    limiter = RateLimiter("requests", 1.0)
    for number in range(1000):
        assert allowed(limiter, f"caller {number}", 0.0)
    assert len(limiter._buckets) == 100


@pytest.mark.parametrize("per_s", [0.01, 0.1, 0.19])
def test_slow_rate_is_slow_and_not_closed(per_s: float) -> None:
    limiter = RateLimiter("requests", per_s)
    assert allowed(limiter, "a", 0.0)
    assert not allowed(limiter, "a", 0.5 / per_s)
    assert allowed(limiter, "a", 1.01 / per_s)


def test_many_addresses_do_not_free_one_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_CALLERS", 100)
    limiter = RateLimiter("requests", 1.0)
    while allowed(limiter, "flood", 0.0):
        pass
    for number in range(1000):
        assert allowed(limiter, f"address {number}", 0.0)
        assert not allowed(limiter, "flood", 0.0)


def test_a_refusal_says_which_limit_and_when_it_frees() -> None:
    limiter = RateLimiter("questions", 0.1)
    limiter.take("ada", 100.0)
    with pytest.raises(OverLimit) as refused:
        limiter.check("ada", 104.0)
    assert refused.value.retry_after_s == 6
    assert refused.value.sentence == (
        "More than 0.1 questions a second came from ada; the next is answered in 6 s."
    )
    limiter.check("ada", 110.0)
    limiter.take("ada", 110.0)


def test_answers_wait_once_five_seconds_worth_have_left() -> None:
    pace = Pace(8.0)
    assert [pace.wait_s("a", 1000.0) for _ in range(40)] == [0.0] * 40
    assert [pace.wait_s("a", 1000.0) for _ in range(3)] == [0.125, 0.25, 0.375]
    assert pace.wait_s("b", 1000.0) == 0.0
    assert max(pace.wait_s("a", 1000.0) for _ in range(1000)) == 10.0
    assert pace.wait_s("a", 1020.0) == 0.0


def test_so_many_turns_at_once_and_the_others_one_after_the_other() -> None:
    pace = Pace(8.0, at_once=3)
    assert [pace.wait_s("a", 1000.0) for _ in range(6)] == [0.0, 0.0, 0.0, 0.125, 0.25, 0.375]
    assert pace.wait_s("a", 1000.375) == 0.125
    assert [pace.wait_s("a", 1001.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.125]


@given(
    per_s=st.floats(1.0, 50.0),
    gaps=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60),
)
def test_in_no_span_do_more_answers_leave_than_the_pace_allows(per_s: float, gaps: list[float]) -> None:
    """Unless one has waited for the longest time that any waits."""
    pace, now, left = Pace(per_s), 100.0, []
    for gap in gaps:
        now += gap
        wait_s = pace.wait_s("a", now)
        if wait_s == 10.0:
            break
        left.append(now + wait_s)
    for first in range(len(left)):
        for last in range(first, len(left)):
            allowed_s = (last - first) / per_s - 5.0
            assert left[last] - left[first] >= allowed_s - 1e-6
