"""How much of what is freed glibc's malloc keeps for what comes next.

By itself it gives large blocks back to the system at once, and a loop that needs the same ones
again has them faulted in, page by page, each time. Other platforms' allocators are left alone.
"""

from __future__ import annotations

import ctypes

_LIBC = ctypes.CDLL(None) if hasattr(ctypes.CDLL(None), "malloc_trim") else None  # glibc's alone
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of malloc.h, which mallopt takes
MOST_BYTES = 2**31 - 1  # that mallopt can be told


def keep_freed(kept_bytes: int = MOST_BYTES, block_bytes: int = MOST_BYTES) -> None:
    """Let malloc keep that much at the end of its heap, of blocks of up to ``block_bytes``.

    For the whole process, from now on. Without numbers: for a loop whose steps are all alike.
    """
    if _LIBC is not None:
        _LIBC.mallopt(_TRIM_THRESHOLD, kept_bytes)
        _LIBC.mallopt(_MMAP_THRESHOLD, block_bytes)


def give_freed_back() -> None:
    """Return what is free to the system now; it takes milliseconds."""
    if _LIBC is not None:
        _LIBC.malloc_trim(0)
