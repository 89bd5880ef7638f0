"""The token bucket, against what it promises."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edif.core import errors
from edif.core.errors import OverLimit
from edif.gateway import rates
from edif.gateway.rates import RateLimiter
from tests.unit.helpers import refusal_of


def allowed(limiter: RateLimiter, caller: str, per_s: float, now: float) -> bool:
    kind = refusal_of(lambda: limiter.check(caller, per_s, now), error=OverLimit)
    assert kind in (None, errors.RATE_LIMITED)
    return kind is None


def test_five_seconds_worth_at_once_and_then_the_rate() -> None:
    limiter = RateLimiter()
    assert sum(allowed(limiter, "a", 20.0, 1000.0) for _ in range(300)) == 100
    assert sum(allowed(limiter, "a", 20.0, 1001.0) for _ in range(300)) == 20
    assert sum(allowed(limiter, "a", 20.0, 1001.0625) for _ in range(300)) == 1
    assert sum(allowed(limiter, "a", 20.0, 9999.0) for _ in range(300)) == 100


def test_callers_do_not_share_a_bucket() -> None:
    limiter = RateLimiter()
    while allowed(limiter, "a", 1.0, 0.0):
        pass
    assert allowed(limiter, "b", 1.0, 0.0)
    assert not allowed(limiter, "a", 1.0, 0.0)


def test_refused_calls_do_not_put_off_the_next_allowed_one() -> None:
    limiter = RateLimiter()
    while allowed(limiter, "a", 1.0, 0.0):
        pass
    assert not any(allowed(limiter, "a", 1.0, step / 100) for step in range(99))
    assert allowed(limiter, "a", 1.0, 1.0)


@given(
    per_s=st.floats(1.0, 50.0),
    waits=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60),
)
def test_never_more_than_burst_and_rate_allow_and_never_less(per_s: float, waits: list[float]) -> None:
    """Against the textbook bucket: in any span of time at most burst + rate * span calls pass."""
    limiter = RateLimiter()
    now, passed = 100.0, []
    level, then = per_s * 5, now
    for wait in waits:
        now += wait
        level, then = min(per_s * 5, level + (now - then) * per_s), now
        expected = level >= 1
        level -= expected
        assert allowed(limiter, "a", per_s, now) is expected
        passed += [now] * expected
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= per_s * 5 + (passed[last] - passed[first]) * per_s + 1e-6


def test_number_of_remembered_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_CALLERS", 100)
    limiter = RateLimiter()
    for number in range(1000):
        assert allowed(limiter, f"caller {number}", 1.0, 0.0)
    assert len(limiter._buckets) <= 101


@pytest.mark.parametrize("per_s", [0.01, 0.1, 0.19])
def test_slow_rate_is_slow_and_not_closed(per_s: float) -> None:
    limiter = RateLimiter()
    assert allowed(limiter, "a", per_s, 0.0)
    assert not allowed(limiter, "a", per_s, 0.5 / per_s)
    assert allowed(limiter, "a", per_s, 1.01 / per_s)
