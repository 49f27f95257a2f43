"""Run functions under PyTorch's default settings, whatever the caller's settings are, in one thread at a time."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

TURN = threading.RLock()
"""The lock that a thread holds while it runs networks, so that other threads wait for their turn.

Networks, the random states and the default type of tensors are shared by all threads. Running a network adds hooks to
the network, turns off its training mode and the gradients of its parameters, seeds random number generators, and may
change the default type."""


FINDINGS: dict[Any, Any] = {}
"""Results about networks that several functions need. They are deleted when the outermost function that is decorated
with :func:`usual_settings` ends, because its caller might then change the networks."""

_running: list[object] = []
"""The decorated functions that are running, the outermost first."""

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def usual_settings(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Decorate a function to run under PyTorch's default settings, and to restore the caller's settings when it ends.

    While the function runs, gradients are computed, autocast is off, and new tensors have the type float32 and are on
    the CPU. This holds even if the caller has used ``torch.no_grad()``, ``torch.inference_mode()``,
    ``torch.autocast()``, a different default type or a different default device. The random states of PyTorch, NumPy
    and Python are restored, too. Only one thread at a time can run decorated functions.
    """

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        with TURN:
            before = _Settings()
            on_cpu = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
            normal = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
            depth = len(_running)
            try:
                _running.append(function)
                with on_cpu, normal:
                    torch.set_grad_enabled(True)
                    torch.set_default_dtype(torch.float32)
                    for device in before.autocast:
                        torch.set_autocast_enabled(device, False)
                    return function(*args, **kwargs)
            finally:
                del _running[depth:]  # Ctrl-C at the wrong moment might have left more or fewer entries
                if not depth:
                    FINDINGS.clear()
                before.put_back()

    return run


def without_collecting(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Decorate a function to run without Python's garbage collector.

    If a function makes thousands of objects, the collector runs many times and searches all objects of the program,
    which can take a tenth of a second.
    """

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            if collecting:
                gc.enable()

    return run


@contextmanager
def default_type(kind: torch.dtype) -> Iterator[None]:
    """Make ``kind`` the default type of new floating-point tensors while the body of the ``with`` statement runs."""
    before = torch.get_default_dtype()
    if kind != before:
        torch.set_default_dtype(kind)
    try:
        yield
    finally:
        if kind != before:
            torch.set_default_dtype(before)


class _Settings:
    """The settings and random states of the caller, to be restored later."""

    def __init__(self) -> None:
        """Store the current settings and random states."""
        self.gradients, self.dtype = torch.is_grad_enabled(), torch.get_default_dtype()
        self.autocast = {device: torch.is_autocast_enabled(device) for device in ("cpu", "cuda")}
        self.of_torch, self.of_numpy = torch.default_generator.get_state(), np.random.get_state()
        self.of_python = random.getstate()
        self.of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self.function_modes = torch._C._len_torch_function_stack()
        self.dispatch_modes = torch._C._len_torch_dispatch_stack()
        self.collecting = gc.isenabled()

    def put_back(self) -> None:
        """Restore all settings and random states. If Ctrl-C is pressed meanwhile, it takes effect afterwards."""
        try:
            self._leave_modes()
            if self.collecting:
                gc.enable()  # Ctrl-C at the wrong moment might have left it off
            torch.set_grad_enabled(self.gradients)
            torch.set_default_dtype(self.dtype)
            for device, enabled in self.autocast.items():
                torch.set_autocast_enabled(device, enabled)
            torch.default_generator.set_state(self.of_torch)
            np.random.set_state(self.of_numpy)
            random.setstate(self.of_python)
            if self.of_gpus:
                torch.cuda.set_rng_state_all(self.of_gpus)
        except KeyboardInterrupt:
            self.put_back()
            raise

    def _leave_modes(self) -> None:
        """Leave the modes that intercept calls of PyTorch functions, if an interruption by Ctrl-C has left any on.

        Such a mode would disturb what the caller does later, for example tracing a network.
        """
        while torch._C._len_torch_function_stack() > self.function_modes:
            torch.overrides._pop_mode()
        while torch._C._len_torch_dispatch_stack() > self.dispatch_modes:
            mode = torch._C._get_dispatch_stack_at(torch._C._len_torch_dispatch_stack() - 1)
            try:
                mode.__exit__(None, None, None)
            except IndexError:  # it was interrupted while it was being left
                torch.utils._python_dispatch._pop_mode()
