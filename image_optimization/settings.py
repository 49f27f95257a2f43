"""Run under PyTorch's usual settings, whatever the settings of the caller are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def usual_settings() -> Iterator[None]:
    """Compute gradients, turn autocast off, and make float32 tensors on the CPU by default, as PyTorch does unasked.

    The caller's settings are restored afterwards. They may be ``torch.no_grad()``, ``torch.inference_mode()``,
    ``torch.autocast()``, another default type or another default device. Use it as a decorator of public functions.
    """
    with ExitStack() as stack:
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
