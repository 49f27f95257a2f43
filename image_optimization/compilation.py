"""Compile functions of images with ``torch.compile``, which fuses several operations into one pass over memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from dreamgram.image_optimization.memory import is_out_of_memory

Program = Callable[..., Sequence[Tensor]]
"""Type of a differentiable function that takes an image and any number of other tensors, and returns a sequence of
tensors."""

TOLERANCE = 0.02
"""Largest accepted relative error of the results of a compiled program. It is well above the rounding errors of
bfloat16."""

_logger = logging.getLogger(__name__)


def compile_for(function: Program, image: Tensor, others: Sequence[Tensor]) -> Program | None:
    """Return a compiled version of ``function`` for tensors like ``image`` and ``others``, or None if compiling fails.

    The compiled function accepts an image of the same shape as ``image``, and tensors of the same shapes as ``others``.
    If ``image`` requires a gradient, the compiled function can also compute the gradient with respect to the image.
    ``function`` can contain any operations that PyTorch can differentiate, and it can call hooks, but it must do the
    same operations in every call. The results of the compiled function are compared once with those of ``function``. If
    the results differ by more than :data:`TOLERANCE`, or if ``function`` cannot be compiled, None is returned, and the
    log says why.
    """

    # PyTorch stores compiled code by code object. Every compiled function therefore gets its own code objects.
    @_own_code
    def inside(*given: Tensor) -> Sequence[Tensor]:
        return function(*given)

    @_own_code
    def whole(*given: Tensor) -> Sequence[Tensor]:
        result: Sequence[Tensor] = inside(*given)
        return result

    # PyTorch records the operations of ``inside`` while it runs, instead of analyzing the Python code of ``inside``.
    torch.compiler.allow_in_graph(inside)
    program: Program = torch.compile(whole, fullgraph=True, dynamic=False)
    differentiable = torch.is_grad_enabled() and image.requires_grad
    sample = image.detach().clone().requires_grad_(differentiable)
    try:
        with torch.no_grad():
            expected = function(sample, *others)
        outputs = program(sample, *others)  # the first call compiles the program
        if differentiable:
            torch.autograd.grad(torch.stack([output.float().sum() for output in outputs]).sum(), sample)
        for output, right in zip(outputs, expected, strict=True):
            if not _close(output.detach().float(), right.float()):
                raise ValueError("the compiled network computes something else")
    except Exception as error:  # its type depends on what cannot be compiled
        if is_out_of_memory(error):
            raise
        _logger.debug("the network runs as usual, because compiling it failed: %s", error)
        return None
    return program


def _own_code(function: Any) -> Any:
    """Return a copy of ``function`` with a code object that no other function has."""
    return FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__
    )


def _close(result: Tensor, expected: Tensor) -> bool:
    """Return whether two results have the same shape and a relative difference of at most :data:`TOLERANCE`."""
    size = torch.linalg.vector_norm(expected)
    apart = torch.linalg.vector_norm(result - expected)
    return result.shape == expected.shape and bool(apart <= TOLERANCE * size)
