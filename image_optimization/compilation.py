"""Compile functions of images with ``torch.compile``, which computes several operations in one pass over memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from torch import Tensor

Program = Callable[..., Sequence[Tensor]]
"""A differentiable function from an image and any number of other tensors to tensors."""

LIMIT = 1000
"""Largest number of programs that PyTorch may compile in one process. Its own limit is 8, but every size of an image
and every tile needs another program."""

_logger = logging.getLogger(__name__)


def compile_for(function: Program, image: Tensor, others: Sequence[Tensor]) -> Program | None:
    """Return a compiled program that does the same as ``function`` for an ``image`` of this shape and for ``others``.

    If ``image`` requires a gradient, the program can also compute the gradient with respect to the image. ``function``
    may do anything that PyTorch can differentiate, such as calling hooks. All tensors that it reads must be among its
    arguments. If it cannot be compiled, the result is None, and the log says why.
    """
    import torch._dynamo  # loading it takes a second

    # PyTorch records the operations of the function while it runs, instead of analyzing its Python code.
    torch.compiler.allow_in_graph(function)
    program: Program = torch.compile(lambda *given: function(*given), fullgraph=True, dynamic=False)
    limits = {"recompile_limit": LIMIT, "accumulated_recompile_limit": LIMIT}
    differentiable = torch.is_grad_enabled() and image.requires_grad
    sample = image.detach().clone().requires_grad_(differentiable)
    try:
        with torch._dynamo.config.patch(limits):
            outputs = program(sample, *others)  # the first call compiles the program
            if differentiable:
                torch.autograd.grad(torch.stack([output.float().sum() for output in outputs]).sum(), sample)
    except Exception as error:  # its type depends on what cannot be compiled
        _logger.debug("the network runs as usual, because compiling it failed: %s", error)
        return None
    return program
