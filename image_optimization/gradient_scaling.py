"""Scale gradients to the range of float16, whose smallest positive number is 6e-8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Range:
    """The scale of the gradients inside a network: a factor by which they are multiplied in the backward pass.

    Before the gradients of the losses with respect to the activations enter the network, they are multiplied by the
    scale, so that the largest absolute gradient is 1. When the gradient of the image leaves the network, it is divided
    by the same scale. Loss scaling in mixed-precision training has the same purpose, but finds its scale by trial and
    error. This class computes the scale from the gradients. The computation runs on the same device as the network, so
    that the CPU never waits for an accelerator.
    """

    def __init__(self) -> None:
        self.scale = torch.ones(())

    def enter(self, image: Tensor) -> Tensor:
        """Return the values of ``image`` (N, C, H, W) unchanged, as the input of the network.

        In the backward pass, the gradient of ``image`` is divided by the scale that :meth:`leave` applies to the
        gradients of the activations.
        """
        same: Tensor = _Unscale.apply(image, self)
        return same

    def leave(self, activations: Sequence[Tensor]) -> list[Tensor]:
        """Return the network's ``activations``, converted to float32, as the input of the losses.

        The backward pass computes the scale from the gradients of the activations and multiplies these
        gradients by the scale.
        """
        return list(_Scale.apply(self, *activations))


class _Unscale(torch.autograd.Function):
    """The identity function, except that its backward pass divides the gradient by the scale of a :class:`Range`."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, within: Range) -> Tensor:
        ctx.within = within
        return image.view_as(image)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient / ctx.within.scale, None


class _Scale(torch.autograd.Function):
    """A conversion to float32 whose backward pass sets the scale of a :class:`Range` and multiplies gradients by it."""

    @staticmethod
    def forward(ctx: Any, within: Range, *activations: Tensor) -> tuple[Tensor, ...]:
        ctx.within = within
        return tuple(activation.to(torch.promote_types(activation.dtype, torch.float32)) for activation in activations)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        largest = torch.stack([gradient.abs().max() for gradient in gradients]).max()
        ctx.within.scale = 1 / largest.clamp(min=1e-30)
        return None, *(gradient * ctx.within.scale for gradient in gradients)
