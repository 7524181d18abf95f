"""Keep freed memory in the process; take memory that is read over and over in large pages.

glibc gives large freed blocks back to the system and takes a page fault for every page of the next one.
Training allocates the same large blocks at every step, so keeping them is worth 1.1x to 1.8x on a CPU
(docs/results.md) for a bounded amount of memory.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what is told to malloc is told before torch is there
    from torch import Tensor

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameter numbers in <malloc.h>
_TOP_PAD_BYTES = 64 << 20
_HUGE_PAGE_BYTES, _MADV_HUGEPAGE = 2 << 20, 14  # the number in <sys/mman.h>


def keep_heap() -> bool:
    """Tell malloc to keep freed blocks. Returns whether this C library can (glibc only)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: _TOP_PAD_BYTES, _MMAP_MAX: 0}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())


def in_huge_pages(memory: Tensor) -> Tensor:
    """The same tensor, after Linux was asked to hold it in pages of 2 MiB: before anything is written to it.

    A processor fetches ahead only within a page. What is not a whole page at either end stays as it is.
    """
    begin = -(-memory.data_ptr() // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    end = (memory.data_ptr() + memory.nbytes) // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
    if sys.platform == "linux" and memory.device.type == "cpu" and end > begin:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_HUGEPAGE)
    return memory
