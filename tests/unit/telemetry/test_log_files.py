"""One log file for each day, and none for longer than is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edif.telemetry.log_files import LogFile

DAY_S = 86_400.0
NOON = 20_000 * DAY_S + DAY_S / 2  # 2024-10-04

TURNS = """
import os, sys
from pathlib import Path
from edif.telemetry.log_files import LogFile

path = Path(sys.argv[1])
now = float(sys.argv[2])
file = LogFile(path, keep_s=float(sys.argv[3]))
for day in range(3):
    file.turn(now + day * 86_400)
    print(f"line of day {day}", flush=True)
    print(f"error of day {day}", file=sys.stderr, flush=True)
    os.utime(path, (now + day * 86_400,) * 2)
    file.turn(now + day * 86_400 + 60)
"""


def run(path: Path, now: float = NOON, keep_s: float = 90 * DAY_S) -> None:
    with path.open("ab") as log:
        subprocess.run(
            [sys.executable, "-c", TURNS, str(path), str(now), str(keep_s)],
            stdout=log,
            stderr=log,
            check=True,
        )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_day_has_a_file_of_its_own_and_no_line_is_lost(tmp_path: Path) -> None:
    run(tmp_path / "gateway.log")
    assert names(tmp_path) == ["gateway-2024-10-04.log", "gateway-2024-10-05.log", "gateway.log"]
    for number, name in enumerate(names(tmp_path)):
        assert (tmp_path / name).read_text() == f"line of day {number}\nerror of day {number}\n"
        assert number < 1 or (tmp_path / name).stat().st_mode & 0o077 == 0


def test_a_service_that_no_supervisor_started_has_no_folder_of_logs_and_none_to_tend(tmp_path: Path) -> None:
    LogFile(tmp_path / "logs" / "agent.log", keep_s=DAY_S).turn(NOON)
    assert names(tmp_path) == []


def test_a_file_of_an_earlier_run_is_put_away_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "gateway.log"
    path.write_text("of yesterday\n")
    os.utime(path, (NOON - DAY_S,) * 2)
    (tmp_path / "gateway-2024-10-03.log").write_text("taken\n")
    run(path)
    assert (tmp_path / "gateway-2024-10-03.2.log").read_text() == "of yesterday\n"
    assert (tmp_path / "gateway-2024-10-03.log").read_text() == "taken\n"


def test_files_go_when_their_time_is_over_and_others_stay(tmp_path: Path) -> None:
    others = ["agent-2024-10-01.log", "gateway-notes.log", "gateway-2024-10-01.log.gz", "gateway.json"]
    for name in ("gateway-2024-10-01.log", "gateway-2024-10-01.2.log", *others):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (NOON - 3 * DAY_S,) * 2)
    LogFile(tmp_path / "gateway.log", keep_s=4 * DAY_S).turn(NOON)
    assert len(names(tmp_path)) == 6
    LogFile(tmp_path / "gateway.log", keep_s=2 * DAY_S).turn(NOON)
    assert names(tmp_path) == sorted(others)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_goes_elsewhere_is_left_alone(tmp_path: Path, stream: str) -> None:
    """Started by hand with one of its outputs in the log and the other on a terminal, say."""
    path = tmp_path / "gateway.log"
    path.write_text("of yesterday\n")
    os.utime(path, (NOON - DAY_S,) * 2)
    with path.open("ab") as log:
        outputs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: log}
        code = TURNS.replace("print(", "(lambda *a, **k: None)(")
        subprocess.run([sys.executable, "-c", code, str(path), str(NOON), "1e9"], check=True, **outputs)
    assert names(tmp_path) == ["gateway.log"]
