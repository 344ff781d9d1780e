"""The setting that makes glibc keep freed memory, so that steps do not page-fault it back in."""

import ctypes
import platform

# Parameters of glibc's malloc.h, and the largest value of each.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
_LARGEST_ON_THE_HEAP = 32 * 2**20


def keep_freed_memory() -> None:
    """Keep freed memory for later allocations instead of returning it to the system.

    Each step allocates and frees tensors. By default glibc may return their memory to the kernel and fault it back in,
    which can cost a quarter of a 3 ms step. Whether it does depends on what else was imported. With this setting, the
    process keeps its peak memory. Other C libraries are not changed.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_THE_HEAP)
