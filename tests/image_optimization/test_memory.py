"""Memory that is freed stays with the process until it is told otherwise, where the C library can be told so."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = """
import psutil, resource, torch
from image_optimization.memory import keep_freed_memory, release_kept_memory
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
