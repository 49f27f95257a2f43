"""Share the random states, which belong to the whole process, between threads, and put them back after use."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


class _Turns:
    """The threads that use random numbers, and the random states that all other code sees."""

    def __init__(self) -> None:
        self.door, self.lock = threading.Lock(), threading.Lock()
        self.thread = threading.local()
        """The number of contexts in which the current thread is, as ``thread.depth``."""
        self.users = 0
        """Number of threads that are in a context, including those that let others run."""
        self.outside = torch.empty(0)
        """State of PyTorch's CPU generator that other code sees."""
        self.others: Any = None
        """States of all other generators before the first thread entered a context."""

    @property
    def depth(self) -> int:
        """Return the number of contexts in which the current thread is."""
        return getattr(self.thread, "depth", 0)

    def begin(self) -> None:
        """Wait until no other thread uses the random states. Threads that wait take turns."""
        with self.door:  # a thread that waits for the lock holds the door, so that no other thread overtakes it
            self.lock.acquire()
        self.outside = torch.default_generator.get_state()

    def end(self) -> None:
        """Put the state of PyTorch's CPU generator back, and let other threads use it."""
        torch.default_generator.set_state(self.outside)
        self.lock.release()


_turns = _Turns()


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the random states of PyTorch, NumPy and Python back as they were.

    Only one thread at a time is inside such a context; other threads wait.
    """
    nested = _turns.depth > 0
    if nested:
        before = torch.default_generator.get_state()
    else:
        _turns.begin()
        if not _turns.users:
            _turns.others = _other_states()
        _turns.users += 1
    _turns.thread.depth = _turns.depth + 1
    try:
        yield
    finally:
        _turns.thread.depth -= 1
        if nested:
            torch.default_generator.set_state(before)
        else:
            _turns.users -= 1
            if not _turns.users:
                _set_other_states(*_turns.others)
            _turns.end()


@contextmanager
def others_may_run() -> Iterator[None]:
    """Let other threads and other code use the random states while the body of the ``with`` statement runs.

    They see PyTorch's CPU generator as it was before this thread began. Afterwards, this thread continues with its own
    random numbers. Threads that optimize images take turns after every step in this way.
    """
    if not _turns.depth:
        yield
        return
    own = torch.default_generator.get_state()
    _turns.end()
    try:
        yield
    finally:
        _turns.begin()
        torch.default_generator.set_state(own)


def _other_states() -> tuple[list[Tensor], Any, Any]:
    """Return the random states of NVIDIA GPUs, if they are in use, of NumPy and of Python."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return gpus, np.random.get_state(), random.getstate()


def _set_other_states(gpus: list[Tensor], of_numpy: Any, of_python: Any) -> None:
    if gpus:
        torch.cuda.set_rng_state_all(gpus)
    np.random.set_state(of_numpy)
    random.setstate(of_python)
