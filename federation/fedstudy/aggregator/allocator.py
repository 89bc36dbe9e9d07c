"""The C library's allocator, told that this process moves chunks of 1 MiB through several threads and lives for weeks."""

from __future__ import annotations

import ctypes

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # of <malloc.h>


def keep_memory_small() -> None:
    """One arena for all threads, and chunks on the heap, where freed ones are used again.

    By default glibc keeps up to eight arenas a core, each with its own free chunks (300 MB more with 4 sites of 100 MB).
    No effect with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_THRESHOLD, 32 << 20)
    mallopt(_TRIM_THRESHOLD, 32 << 20)
