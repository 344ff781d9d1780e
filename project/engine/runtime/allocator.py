"""The memory of one training step is there for the next."""

import ctypes
import platform

# Parameters of glibc's malloc.h, and the most that each may be.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_ALL = 2**31 - 1
_LARGEST_ON_THE_HEAP = 32 * 2**20


def keep_freed_memory() -> None:
    """Keep what is freed for what is allocated next, rather than give it back to the system.

    Tensors come and go with each step. By default glibc returns the memory and fetches it anew, page by page: up to a
    quarter of a step of three milliseconds, and it depends on what else the process has imported whether it does.
    The process holds its peak. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _ALL)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_THE_HEAP)
