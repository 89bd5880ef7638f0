"""Makes a thread that shares no descriptors with the others, so that it may have as many again."""

import ctypes

KIND = "done"
STACK = ctypes.create_string_buffer(4096)
FLAGS = 0x10B00  # CLONE_VM, CLONE_FS, CLONE_SIGHAND, CLONE_THREAD


def attack(canary):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.clone(libc.pause, ctypes.byref(STACK, 4096), FLAGS, None) > 0, ctypes.get_errno()
    return canary["done"]
