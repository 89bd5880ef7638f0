"""Fault points: every one is passed somewhere, each kills its process once, and none of them costs anything else."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import edif
from edif.faults import Point, parse

PROGRAM = """
import sys
from pathlib import Path
from edif import faults
faults.arm(sys.argv[2:], Path(sys.argv[1]))
for number in range(1, 6):
    print(number, flush=True)
    faults.point(faults.Point.JOB_RECORDED)
"""


def passes(marks: Path, *named: str) -> tuple[int, list[str]]:
    """A process that passes one point five times: how it ended, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(marks), *named], capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return done.returncode, done.stdout.split()


def test_process_dies_the_time_it_was_told_to_and_its_successor_lives(tmp_path: Path) -> None:
    assert passes(tmp_path / "marks", "job.recorded:3") == (-signal.SIGKILL, ["1", "2", "3"])
    assert passes(tmp_path / "marks", "job.recorded:3") == (0, ["1", "2", "3", "4", "5"])
    assert [mark.name for mark in (tmp_path / "marks").iterdir()] == ["job.recorded"]


def test_other_points_and_none_at_all_kill_nobody(tmp_path: Path) -> None:
    assert passes(tmp_path / "marks", "end.told", "job.recorded:6")[0] == 0
    assert passes(tmp_path / "none")[0] == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["", "job.record", "job.recorded:0", "job.recorded:-1", "job.recorded:1:2"])
def test_what_names_no_point_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fault point"):
        parse(text)
    assert parse("end.told") == (Point.END_TOLD, 1)


def test_every_point_is_passed_in_exactly_one_place() -> None:
    sources = "".join(path.read_text() for path in Path(edif.__file__).parent.rglob("*.py"))
    passed = re.findall(r"faults\.point\(Point\.(\w+)\)", sources)
    assert sorted(passed) == sorted(point.name for point in Point)
