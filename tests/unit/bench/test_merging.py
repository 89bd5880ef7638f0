"""The arithmetic of the tables of ``bench/merging.py`` and ``bench/merging_growth.py``."""

import pytest
from bench.closed_loop import Finished, Window
from bench.merging import Round
from bench.merging_growth import Growth, fullest

from tests.support.programs.serving import Outcome


def _window(jobs: int, seconds: float) -> Window:
    return Window([Finished(Outcome(b""), 0.0, 1.0, 0.0)] * jobs, seconds, 0.0)


def test_gain_and_its_part_of_the_limit() -> None:
    found = Round(limit_gain=4.0, sequential=_window(8, 2.0), merged=_window(16, 1.6))
    assert found.gain == pytest.approx(2.5)
    assert found.of_limit == pytest.approx(0.625)


def test_growth_is_what_a_pass_takes_longer_than_plain_pytorch() -> None:
    found = Growth(workers=4, layers=5, pass_s=0.5, pure_s=0.1)
    assert found.over_s == pytest.approx(0.4)
    assert found.per_worker_s == pytest.approx(0.1)
    assert found.per_visit_s == pytest.approx(0.02)


def test_the_fullest_pass_is_the_median_of_those_with_most_rows() -> None:
    assert fullest([(3, 9.0), (4, 1.0), (4, 5.0), (1, 0.1), (4, 2.0)]) == (4, 2.0)
    assert fullest([]) is None
