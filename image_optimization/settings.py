"""Run under PyTorch's usual settings, whatever the caller's are, in one thread at a time."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

TURN = threading.RLock()
"""The lock that a thread holds while it runs networks, so that others wait until it is their turn.

Networks, the random states and the default type of tensors belong to all threads. Running a network adds hooks to it,
turns training and gradients of parameters off, draws random numbers from a seed and may change the default type."""


@contextmanager
def usual_settings() -> Iterator[None]:
    """Compute gradients, turn autocast off, and make float32 tensors on the CPU by default, as PyTorch does unasked.

    The caller's settings are restored afterwards. They may be ``torch.no_grad()``, ``torch.inference_mode()``,
    ``torch.autocast()``, another default type or another default device. Only one thread at a time is inside. Use it as
    a decorator of public functions.
    """
    with TURN, ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(default_type(torch.float32))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def default_type(kind: torch.dtype) -> Iterator[None]:
    """Make ``kind`` the type of new tensors while the body of the ``with`` statement runs."""
    before = torch.get_default_dtype()
    if kind != before:
        torch.set_default_dtype(kind)
    try:
        yield
    finally:
        if kind != before:
            torch.set_default_dtype(before)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the random states of PyTorch, NumPy and Python back as they were. Only one thread at a time is inside."""
    with TURN:
        own, of_numpy, of_python = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        try:
            yield
        finally:
            torch.default_generator.set_state(own)
            np.random.set_state(of_numpy)
            random.setstate(of_python)
            if gpus:
                torch.cuda.set_rng_state_all(gpus)
