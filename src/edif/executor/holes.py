"""Free places amid what is in use, of which this process's forks are to have none.

A fork that allocates is first given what its parent has freed: places here and there, each on a page that the kernel then has to copy
for it. Once all of them are taken, it gets pages that nobody has used, side by side, which cost half as much and are a fraction
as many. What is taken here is never given back, and is not touched.
"""

import ctypes
from bisect import bisect
from collections import Counter

from edif.executor.own_memory import writable_mappings

_POOL = 16 * 1024
_POOL_HEADER = 48
_PER_POOL_MISSED = 6
"""Of a pool's blocks so many may go to the interpreter itself, while the others are taken."""
_WHOLE_POOLS = 3
_STEP, _LARGEST_BLOCK = 16, 512
"""CPython, Objects/obmalloc.c: blocks of so many bytes, and multiples thereof up to the largest, each kind from pools of its own."""

_MOST_TAKEN = 1 << 20
"""So often at most for one size: a bound for allocators that are not as we know them."""
_HEAP_SIZES = (*(1 << each for each in range(22, 13, -1)), *range(8192, 1032, -512), *range(1032, 23, -_STEP))
_NEAR_TOP = 512 * 1024
"""What lies so near to the heap's end is as good as new memory."""

_libc = ctypes.CDLL(None)
_libc.malloc.restype = _libc.sbrk.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.sbrk.argtypes = [ctypes.c_long]
_take_block = ctypes.pythonapi.PyObject_Malloc
_take_block.restype = ctypes.c_void_p
_take_block.argtypes = [ctypes.c_size_t]


def fill_holes() -> None:
    """Take every free place that the allocators of C and of Python have. A tenth of a second at most; collect garbage before."""
    _fill_heap()
    for size in range(_STEP, _LARGEST_BLOCK + 1, _STEP):
        _fill_pools(size)
    _fill_arenas()


def _fill_heap() -> None:
    """Of the C library's heap, from large places to small ones, until the next would be at its end."""
    for size in _HEAP_SIZES:
        for _ in range(_MOST_TAKEN):
            top = _libc.sbrk(0)
            if _libc.malloc(size) + size > top - _NEAR_TOP:
                break


def _fill_pools(size: int) -> None:
    """Of the pools for blocks of this size, until some were given from their first block to their last."""
    taken, whole = Counter[int](), 0
    for _ in range(_MOST_TAKEN):
        pool = _take_block(size) // _POOL
        taken[pool] += 1
        whole += taken[pool] == (_POOL - _POOL_HEADER) // size - _PER_POOL_MISSED
        if whole == _WHOLE_POOLS:
            return


def _fill_arenas() -> None:
    """Of the memory that pools are made of, until there is a new piece of it."""
    mappings = [(each.start, each.end) for each in writable_mappings()]
    for _ in range(_MOST_TAKEN):
        block = _take_block(_LARGEST_BLOCK)
        before = bisect(mappings, (block, block)) - 1
        if before < 0 or block >= mappings[before][1]:
            return
