"""Keep freed memory in the process.

glibc gives large freed blocks back to the system and takes a page fault for every page of the next one.
Training allocates the same large blocks at every step, so keeping them is worth 1.1x to 1.8x on a CPU
(docs/results.md) for a bounded amount of memory.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameter numbers in <malloc.h>
_TOP_PAD_BYTES = 64 << 20


def keep_heap() -> bool:
    """Tell malloc to keep freed blocks. Returns whether this C library can (glibc only)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: _TOP_PAD_BYTES, _MMAP_MAX: 0}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
