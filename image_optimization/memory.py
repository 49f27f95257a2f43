"""Memory that one step frees is there for the next."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
"""Both from glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees on the CPU, to be used again, instead of handing it back to the system.

    Every step allocates the same large activations. Left alone, glibc returns each to the system and asks for it
    anew; to be given fresh pages, each wiped, takes up to a third of a step. For the whole process and from then on,
    which is why a command does this and no function of the packages: call it yourself in a script of your own.

    Returns:
        Whether it was possible: not without glibc, and there is no need on an accelerator.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    # No allocation of its own for anything large, and nothing freed at the end of the heap is given back.
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


class _Heap(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (*"1234567", "uordblks", "fordblks", "keepcost"))


def kept_memory() -> int:
    """Bytes that were freed and kept, and are there to be used again; 0 where that is not known."""
    if not sys.platform.startswith("linux"):
        return 0
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:  # musl, or glibc before 2.33
        return 0
    mallinfo2.restype = _Heap
    return int(mallinfo2().fordblks)
