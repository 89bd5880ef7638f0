"""A process whose event loop stands still ends and says where it stood; one that works does not."""

import subprocess
import sys

PROGRAM = """
import asyncio, time
from edif.launch.watchdog import loop_watched

def hang_here():
    time.sleep(600)

async def main():
    async with loop_watched(5.0):
        for _ in range({beats}):
            await asyncio.sleep(0.1)
        if {hangs}:
            hang_here()
    time.sleep(6)  # nothing watches any more

asyncio.run(main())
"""


def run(*, beats: int, hangs: bool) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(beats=beats, hangs=hangs)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=False
    )


def test_a_loop_that_stands_still_ends_its_process_and_says_where() -> None:
    ended = run(beats=2, hangs=True)
    assert ended.returncode == 1
    assert "hang_here" in ended.stderr


def test_a_loop_that_works_is_left_alone_and_so_is_what_comes_after() -> None:
    ended = run(beats=60, hangs=False)
    assert (ended.returncode, ended.stderr) == (0, "")
