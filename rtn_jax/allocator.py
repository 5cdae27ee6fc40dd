"""What the C library does with memory that is given back."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt, as <malloc.h> numbers them


def keep_freed_memory() -> bool:
    """Has glibc keep memory that is given back, for the next program that JAX runs: to be called before JAX is used.

    A compiled program takes its temporary arrays from the C library and gives them back at its end. Left to itself,
    glibc returns large ones to the system, which clears page after page of those that are taken next: a tenth to a
    sixth of all time on the CPU (docs/performance.md). What is kept stays the process's until it ends, and cannot
    always be joined to larger pieces again: training takes up to two fifths more memory.

    The user's own choice in `MALLOC_...` or `GLIBC_TUNABLES` stays. Other C libraries are left alone; another allocator
    that was loaded in place of glibc's does not notice.

    Returns:
        Whether it was done.

    Source: mallopt(3).
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # A thread's own arena holds 64 MB at most, and maps anew what is larger: JAX's threads have to share the first.
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1)])
