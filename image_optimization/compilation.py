"""Compile functions of images with ``torch.compile``, which computes several operations in one pass over memory."""

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
    """Return a compiled version of ``function`` for tensors like ``image`` and ``others``, or None if this fails.

    The compiled program accepts images of the shape of ``image`` and other tensors of the same shapes as ``others``. If
    ``image`` requires a gradient, the program can also compute the gradient with respect to the image. ``function`` may
    do anything that PyTorch can differentiate, such as calling hooks, but it must do the same in every call. The
    results of the program are compared with those of ``function`` once. If the results differ or ``function`` cannot be
    compiled, None is returned, and the log says why.
    """

    # PyTorch keeps compiled code for each code object. Every program therefore gets code objects of its own.
    @_own_code
    def inside(*given: Tensor) -> Sequence[Tensor]:
        return function(*given)

    @_own_code
    def whole(*given: Tensor) -> Sequence[Tensor]:
        result: Sequence[Tensor] = inside(*given)
        return result

    # PyTorch records the operations of the function while it runs, instead of analyzing its Python code.
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
    """Return whether two results are the same, except for rounding."""
    size = torch.linalg.vector_norm(expected)
    apart = torch.linalg.vector_norm(result - expected)
    return result.shape == expected.shape and bool(apart <= TOLERANCE * size)
