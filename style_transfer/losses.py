"""Losses of style transfer: each computes its target once and is then a function to minimize.

A style loss is a class with

- ``statistic(activation)``: what it compares, in float32, from activations (N, C, H, W) in float32 or bfloat16;
  several paintings are blended in it,
- ``__init__(target)``: with the painting's statistic,
- ``__call__(activation)``: the loss of the image's activations, with ``target`` as an attribute.

To add one, write such a class here and name it in a :class:`style_transfer.transfer.Preset`.
"""

# Torch is not imported: tensors bring their operations along, and the command line reads the presets without it.
from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Protocol):
    """What the sum of losses needs of each."""

    target: Tensor

    def __call__(self, activation: Tensor) -> Tensor: ...


class StyleLoss(Loss, Protocol):
    """A loss of a statistic that does not depend on the size of the picture."""

    def __init__(self, target: Tensor) -> None: ...

    @staticmethod
    def statistic(activation: Tensor) -> Tensor: ...


class ContentLoss:
    """Mean squared error of the activations, Gatys et al., arXiv:1508.06576, equation 1.

    A mean in place of their half sum, so that its weight means the same at every size.
    """

    def __init__(self, target: Tensor) -> None:
        """``target``: the photo's activations (1, C, H, W), in float32."""
        self.target = target.detach()

    def __call__(self, activation: Tensor) -> Tensor:
        return (activation - self.target).square().mean()


class GramLoss:
    """Mean squared error of the Gram matrices, Gatys et al., arXiv:1508.06576, equations 3 to 5."""

    def __init__(self, target: Tensor) -> None:
        """``target``: the painting's Gram matrix (1, C, C), or a blend of several."""
        self.target = target.detach()

    def __call__(self, activation: Tensor) -> Tensor:
        return (self.statistic(activation) - self.target).square().mean()

    @staticmethod
    def statistic(activation: Tensor) -> Tensor:
        """Which channels fire together: (N, C, H, W) -> (N, C, C)."""
        from style_transfer.gram import gram_matrix

        return gram_matrix(activation)


def total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of (N, C, H, W) in [0, 1], down plus across."""
    down, across = _differences(image)
    return down.mean() + across.mean()


def total_variation_sum(image: Tensor) -> Tensor:
    """The sum of the absolute differences of neighbouring pixels in units of 0-255, as neural-style has it."""
    down, across = _differences(image)
    return 255 * (down.sum() + across.sum())


def _differences(image: Tensor) -> tuple[Tensor, Tensor]:
    return (image[:, :, 1:] - image[:, :, :-1]).abs(), (image[:, :, :, 1:] - image[:, :, :, :-1]).abs()
