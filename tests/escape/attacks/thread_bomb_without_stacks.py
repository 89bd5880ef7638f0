"""Makes threads without end that need no memory of their own."""

import ctypes
import mmap

KIND = "done"
HELD = []  # what the threads stand on, however late they begin
FLAGS = 0x10F00  # CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD


def attack(canary):
    libc = ctypes.CDLL(None, use_errno=True)
    stacks = mmap.mmap(-1, 512 * (canary["threads"] + 1))
    HELD.append(stacks)
    bottom = ctypes.addressof(ctypes.c_char.from_buffer(stacks))
    for number in range(1, canary["threads"] + 1):
        top = ctypes.c_void_p(bottom + 512 * number)
        assert libc.clone(libc.pause, top, FLAGS, None) > 0, (number, ctypes.get_errno())
    return canary["done"]
