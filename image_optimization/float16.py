"""Gradients within the range of float16, whose smallest number is 6e-8."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Range:
    """Around a network: keeps the gradients inside it within range.

    On their way from the losses into the network they are multiplied so that the largest is 1, and on their way
    from the network into the image by the inverse: what a loss scale does for training, without a search for it
    and without waiting for the device.
    """

    def __init__(self) -> None:
        self.scale = torch.ones(())

    def enter(self, image: Tensor) -> Tensor:
        """The image on its way into the network."""
        same: Tensor = _Unscale.apply(image, self)
        return same

    def leave(self, activations: list[Tensor]) -> list[Tensor]:
        """The activations on their way out of it, in float32."""
        return list(_Scale.apply(self, *activations))


class _Unscale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, within: Range) -> Tensor:
        ctx.within = within
        return image.view_as(image)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient / ctx.within.scale, None


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, within: Range, *activations: Tensor) -> tuple[Tensor, ...]:
        ctx.within = within
        return tuple(activation.to(torch.promote_types(activation.dtype, torch.float32)) for activation in activations)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        largest = torch.stack([gradient.abs().max() for gradient in gradients]).max()
        ctx.within.scale = 1 / largest.clamp(min=1e-30)
        return None, *(gradient * ctx.within.scale for gradient in gradients)
