"""Compute a convolution, its bias and the following ReLU in one operation, which saves two passes over memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from dreamgram.image_optimization.replay import is_own

Pair = tuple[nn.Conv2d, nn.ReLU]

_ON_CPU = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")

_BFLOAT16_ON_CPU = (
    _ON_CPU and hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
)

_ON_GPU = torch.version.cuda is not None and torch.backends.cudnn.is_available()


def hooks_of(module: nn.Module) -> list[Any]:
    """Return the hooks of ``module``, which are functions that it calls in every forward or backward pass."""
    kinds = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    return [hook for kind in kinds for hook in getattr(module, kind, {}).values()]


def pairs_in(model: nn.Module, used: Collection[nn.Module]) -> dict[nn.Sequential, list[Pair]]:
    """Return the pairs of a convolution and the following ReLU in each ``nn.Sequential`` in ``model``.

    A pair is omitted if its convolution is in ``used``, which means that the output of the convolution itself is
    needed. It is also omitted if one of its modules appears several times in the model, has hooks of the user's own, or
    has a ``forward`` that was replaced.
    """
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    found: dict[nn.Sequential, list[Pair]] = {}
    for parent in model.modules():
        # A subclass may call the modules in another way.
        if not isinstance(parent, nn.Sequential) or not (type(parent) is nn.Sequential or is_own(type(parent))):
            continue
        for first, second in itertools.pairwise(parent):
            if type(first) is nn.Conv2d and type(second) is nn.ReLU and places[first] == places[second] == 1:
                simple = first.padding_mode == "zeros" and isinstance(first.padding, tuple) and first.bias is not None
                plain = not hooks_of(first) and is_own(*hooks_of(second))
                changed = any("forward" in vars(module) for module in (parent, first, second))
                if simple and plain and not changed and first not in used:
                    found.setdefault(parent, []).append((first, second))
    return found


@contextmanager
def fused(pairs: dict[nn.Sequential, list[Pair]]) -> Iterator[None]:
    """Fuse ``pairs``, the result of :func:`pairs_in`, while the body of the ``with`` statement runs.

    The forward pass of each sequence then does the work of both modules of a pair in the first module, and no work in
    the second one.
    """
    for parent, inside in pairs.items():
        parent.forward = partial(_forward, parent, inside)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for parent in pairs:
            del parent.forward


def _forward(parent: nn.Sequential, pairs: list[Pair], image: Tensor) -> Any:
    """Run the sequence ``parent`` with fused ``pairs``."""
    for convolution, following in pairs:
        convolution.forward = partial(conv_relu, convolution)  # type: ignore[method-assign]
        following.forward = _same  # type: ignore[method-assign, assignment]
    try:
        return type(parent).forward(parent, image)
    finally:
        for pair in pairs:
            for module in pair:
                del module.forward


def _same(image: Tensor) -> Tensor:
    return image


def conv_relu(convolution: nn.Conv2d, image: Tensor) -> Tensor:
    """Return the ReLU of the output of ``convolution`` for ``image`` (N, C, H, W), as one operation if possible.

    The image is converted to the type of the weights. The weights get no gradients.
    """
    weight, bias = convolution.weight, convolution.bias
    image = image.to(weight.dtype)
    how: Any = convolution.stride, convolution.padding, convolution.dilation, convolution.groups
    if image.is_cuda:
        known = _ON_GPU and torch.backends.cudnn.enabled
    elif image.device.type == "cpu":
        types = {torch.float32: _ON_CPU, torch.bfloat16: _BFLOAT16_ON_CPU}
        known = types.get(weight.dtype, False) and torch._C._get_mkldnn_enabled()
    else:
        known = False
    if not known or weight.requires_grad or image.ndim != 4:
        return relu(conv2d(image, weight, bias, *how))
    result: Tensor = _ConvReLU.apply(image, weight, bias, *how)
    return result


class _ConvReLU(torch.autograd.Function):
    """Autograd function of a convolution followed by a ReLU. Only the image gets a gradient."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:
        ctx.how = stride, padding, dilation, groups
        if image.is_cuda:
            output = torch.cudnn_convolution_relu(image, weight, bias, stride, padding, dilation, groups)
        else:
            output = torch.ops.mkldnn._convolution_pointwise(
                image, weight, bias, padding, stride, dilation, groups, "relu", [], ""
            )
        ctx.save_for_backward(image, weight, output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight, output = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
        of_image, _, _ = torch.ops.aten.convolution_backward(
            gradient, image, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )
        return of_image, *[None] * 6
