"""Freed memory stays with the process until it is released, where the C library supports that."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dreamgram.image_optimization.memory import check_memory, is_out_of_memory

PAGES = """
import psutil, resource, torch
from dreamgram.image_optimization.memory import keep_freed_memory, release_kept_memory
print(keep_freed_memory())
for _ in range(32):  # until the heap is as large as it gets
    torch.zeros(2**24).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(32):
    torch.zeros(2**24).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
kept = psutil.Process().memory_info().rss
release_kept_memory()
print(kept - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_the_same_memory_is_used_again_until_it_is_released() -> None:
    # In a process of its own: it holds for all of it, and for the rest of it.
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    possible, faults, released = done.stdout.split()
    if possible == "False":
        pytest.skip("the C library has no mallopt")
    assert int(faults) < 32 * 2**26 / 4096 / 4  # fresh memory each time would be four times as many, at least
    assert int(released) > 2**26 / 2


def test_an_allocation_that_is_too_large() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 80000000000 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GB, other allocations: 1.00 MB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_out_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Pin memory thread exited unexpectedly"),
        RuntimeError("unsupported memory format option Preserve"),
        ValueError("there is too little memory"),
        OSError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_other_errors_about_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_images_that_are_larger_than_the_free_memory_are_refused_before_they_are_made() -> None:
    cpu = torch.device("cpu")
    check_memory(4, 64, (3, 224, 224), cpu)
    with pytest.raises(ValueError, match=r"an image of 900000x800000 pixels \(width x height\) needs at least 34,560"):
        check_memory(4, 1, (3, 800_000, 900_000), cpu)
    with pytest.raises(ValueError, match=r"1000000000 images of 28x28 pixels .* need at least 12,544\.0 GB of memory"):
        check_memory(4, 10**9, (1, 28, 28), cpu)
    check_memory(4, 10**9, (1, 28, 28), torch.device("cuda"))
