"""Keeps freed memory in the process, so that steps do not fault it in anew.

XLA on a CPU allocates the temporary buffers of a program at every call: 95 MB
for a step of the quickstart's model. glibc maps and unmaps blocks of that size,
and the kernel hands out 25 thousand zeroed pages a step, which takes a third of
its time (`benchmarks/training.py`). Only speed depends on this, no result.
"""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """To be called before the threads of JAX start; elsewhere a no-op.

    One arena, because those of other threads cannot hold large blocks. The
    process keeps the most memory that it ever used.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Gives freed memory back once, so that what is resident is in use."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
