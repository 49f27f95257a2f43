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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory: PyTorch's on the CPU has no class of its own."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error))


def release_kept_memory() -> None:
    """Hand what was freed and kept back to the system: before allocating what is much larger than all before it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
