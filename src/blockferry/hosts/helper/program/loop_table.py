"""Loop devices, of which the kernel tells from memory."""

from __future__ import annotations

import fcntl
import os
import struct

LOOP_GET_STATUS64 = 0x4C05  # linux/loop.h
STATUS_SIZE = 232  # struct loop_info64; it begins with the file's device and inode


def loop_file(device: str) -> tuple[int, int]:
    """The device and inode of the file that a loop device stands on: by the kernel, whatever has become of its name.

    Raises OSError, ENXIO when it stands on nothing.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        number, inode = struct.unpack_from("=QQ", fcntl.ioctl(descriptor, LOOP_GET_STATUS64, bytes(STATUS_SIZE)))
    finally:
        os.close(descriptor)
    return number, inode
