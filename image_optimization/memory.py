"""Functions that check for free memory, keep or release freed memory, and recognize out-of-memory errors."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
"""Numbers of two parameters of glibc's function ``mallopt``: M_TRIM_THRESHOLD and M_MMAP_MAX in malloc.h."""

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "not enough memory: you tried to allocate",  # the CPU's allocator, on Windows
    "out of memory. Tried to allocate",  # the caching allocators of CUDA, ROCm and XPU
    "CUDA error: out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Substrings by which PyTorch's messages about failed allocations are recognized. The substrings are specific,
because messages of other errors also mention memory, such as CUDA's "an illegal memory access was encountered"."""


def check_memory(copies: int, count: int, shape: Sequence[int], device: torch.device) -> None:
    """Check that CPU memory is free for ``copies`` float32 copies of ``count`` images of ``shape`` (C, H, W).

    Many operating systems let a program allocate more memory than is free, and kill the program when it uses this
    memory. If ``device`` is not the CPU, nothing is checked, because PyTorch raises an error when an allocation on
    another device fails.

    Raises:
        ValueError: the copies alone, not counting the network's activations, need more memory than is free.
    """
    import psutil  # psutil takes a while to load, and even showing the help loads this module.

    def free_memory() -> int:
        return int(psutil.virtual_memory().available + psutil.swap_memory().free)

    needed, free = 4 * copies * count * math.prod(shape), free_memory()
    if device.type == "cpu" and needed > free:
        release_kept_memory()
        free = free_memory()
    if device.type == "cpu" and needed > free:
        what = f"{count} images" if count > 1 else "an image"
        raise ValueError(
            f"{what} of {shape[2]}x{shape[1]} pixels (width x height) need{'s' * (count == 1)} at least "
            f"{needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free: try a smaller size"
        )


def keep_freed_memory() -> bool:
    """Let this process keep the CPU memory that it frees, so that later allocations can use it.

    Every optimization step allocates the same large amounts of memory for the activations. By default, glibc returns
    freed memory to the operating system and requests memory again in the next step. The system then clears every page,
    which takes up to a third of the time of a step. This function changes a setting of glibc for the rest of the
    process. Therefore, only the command line programs of Dreamgram call the function; in your own script, you have to
    call it yourself. If all work is done on an accelerator, the change is not needed.

    Returns:
        Whether the setting was changed. It can be changed only on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    # Large tensors get no separate memory mapping, and freed memory at the end of the heap is not returned.
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
    """Return to the operating system the CPU memory that this process has freed but still holds.

    Call this function before you allocate tensors that are much larger than the previous ones. Without glibc, the
    function does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
