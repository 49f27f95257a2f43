"""Memory of the process: keep freed memory for the next step, release it, and recognize that memory ran out."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
"""Parameters of mallopt, from glibc's malloc.h."""

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "not enough memory: you tried to allocate",  # the CPU's allocator, on Windows
    "out of memory. Tried to allocate",  # the caching allocators of CUDA, ROCm and XPU
    "CUDA error: out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Parts of PyTorch's messages when an allocation fails. Some other messages also mention memory, such as CUDA's "an
illegal memory access was encountered"."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees on the CPU, for its next allocation.

    Every step allocates the same large activations. By default, glibc returns freed memory to the system and requests
    it again. The system then clears every page, which takes up to a third of a step. The setting lasts as long as
    the process, so only the command line programs call this function. In your own script, call it yourself. Work on an
    accelerator does not need this setting.

    Returns:
        Whether the setting was made. The setting requires glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    # Large tensors get no mapping of their own, and freed memory at the end of the heap is not given back.
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that an allocation failed.

    The message of ``error`` is examined as well as its class, because PyTorch has no separate class for this error on
    the CPU.
    """
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in _OUT_OF_MEMORY)


def release_kept_memory() -> None:
    """Give back to the system the memory that this process has freed but kept.

    Call this function before you allocate tensors that are much larger than the previous ones. Without
    glibc it does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
