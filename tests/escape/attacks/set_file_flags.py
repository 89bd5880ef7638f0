"""Sets a flag in the inode of a file that it may read."""

import fcntl
import os
import struct

KIND = "changed"


FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, NO_DUMP = 0x80086601, 0x40086602, 0x40


def attack(canary):
    fd = os.open(canary["readable"], os.O_RDONLY)
    (flags,) = struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", flags | NO_DUMP))
