"""Free places are taken: what is allocated afterwards lies elsewhere."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from edif.executor.holes import fill_holes

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size, large = int(sys.argv[1]), int(sys.argv[1]) > 512

def take(count):
    return [libc.malloc(size) if large else bytes(size - 33) for _ in range(count)]

def place(each):
    return each if large else id(each)

kept = take(20_000)
holes = {place(each) for each in kept[::2]}
if large:
    for each in kept[::2]:
        libc.free(each)
else:
    del kept[::2]
if sys.argv[2] == "fill":
    libc.malloc_trim(ctypes.c_size_t(0))
    fill_holes()
print(len(holes & {place(each) for each in take(5_000)}))
"""


def _reused(size: int, way: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(size), way], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("size", [48, 512, 1040, 8000])
def test_holes_are_not_used_again(size: int) -> None:
    assert _reused(size, "leave") > 1000
    assert (
        _reused(size, "fill") < 300
    )  # of 5,000: some lie at the heap's end, where new memory comes from too
