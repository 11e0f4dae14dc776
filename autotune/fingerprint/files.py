"""Small files of the kernel, read at the least cost."""

from __future__ import annotations

import os


def read_head(path: str, most: int = 4096) -> str:
    """The start of a text file, stripped; nothing if it cannot be read.

    Straight system calls: half the time of an `open()`, and no buffer that would ask the kernel to produce
    more of `/proc/cpuinfo` than is wanted.

    Args:
        path: the file.
        most: bytes to read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    try:
        return os.read(descriptor, most).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(descriptor)
