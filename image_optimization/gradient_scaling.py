"""Scale gradients to the range of float16, whose smallest positive number is 6e-8."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Range:
    """The scale of the gradients inside a network.

    In the backward pass, the gradients of the losses are multiplied by the scale, so that the largest gradient is 1,
    before they enter the network. The gradient of the image is divided by the same scale when it leaves the network.
    Loss scaling in training works in the same way, but this class does not have to search for the scale or wait for
    the device.
    """

    def __init__(self) -> None:
        self.scale = torch.ones(())

    def enter(self, image: Tensor) -> Tensor:
        """Return ``image`` (N, C, H, W), to be given to the network. Its gradient is divided by the scale."""
        same: Tensor = _Unscale.apply(image, self)
        return same

    def leave(self, activations: list[Tensor]) -> list[Tensor]:
        """Return the network's ``activations`` in float32, to be given to the losses. Their gradients set the scale."""
        return list(_Scale.apply(self, *activations))


class _Unscale(torch.autograd.Function):
    """The identity function, except that its backward pass divides the gradient by the scale."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, within: Range) -> Tensor:
        ctx.within = within
        return image.view_as(image)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient / ctx.within.scale, None


class _Scale(torch.autograd.Function):
    """A conversion to float32 whose backward pass chooses the scale and multiplies the gradients by it."""

    @staticmethod
    def forward(ctx: Any, within: Range, *activations: Tensor) -> tuple[Tensor, ...]:
        ctx.within = within
        return tuple(activation.to(torch.promote_types(activation.dtype, torch.float32)) for activation in activations)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        largest = torch.stack([gradient.abs().max() for gradient in gradients]).max()
        ctx.within.scale = 1 / largest.clamp(min=1e-30)
        return None, *(gradient * ctx.within.scale for gradient in gradients)
