"""What ``bench/misfits.py`` sends, and what it makes of the times."""

from collections import Counter

from bench.misfits import COLUMNS, Times, compared, mix

from tests.support.replay import Outcome


def _innocent(seconds: float, shared_rows: int = 0) -> Outcome:
    meta = {"shared_rows": shared_rows} if shared_rows else {}
    return Outcome("job", [{"status": "COMPLETED", "meta": meta}], seconds=seconds)


def test_of_a_hundred_jobs_twenty_three_go_wrong() -> None:
    assert Counter(mix(1, 300)) == {"trace": 231, "raises": 30, "stops": 30, "sleeps": 6, "killed": 3}
    assert mix(1, 300) == mix(1, 300) != mix(2, 300)


def test_the_others_times_are_compared_with_those_without_them() -> None:
    quiet, mixed = Times(), Times()
    quiet.note([_innocent(0.1, 2), _innocent(0.2, 4)])
    quiet.note([_innocent(0.1, 1), _innocent(0.4)])
    mixed.note([_innocent(0.15, 8), _innocent(0.3, 8)])
    mixed.note([_innocent(0.45, 8), _innocent(0.5, 8)])
    without, beside = (dict(zip(COLUMNS, row, strict=True)) for row in compared("sealed", quiet, mixed))
    assert (without["innocent jobs"], without["of them in company"], without["p99, ms"]) == (4, "50%", "400")
    assert (without["p99 to none"], without["of each round"]) == ("1.00x", "1.00 (1.00-1.00) x")
    assert (beside["jobs that go wrong"], beside["of them in company"]) == ("23 in 100", "100%")
    assert (beside["p50, ms"], beside["p99, ms"], beside["p99 to none"]) == ("450", "500", "1.25x")
    assert beside["of each round"] == "1.38 (1.25-1.50) x"
