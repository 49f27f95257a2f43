"""Losses of style transfer: each computes its target once and is then a function to minimize.

To add one, write a class here that takes the target's activations and is called with the image's.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss


class ContentLoss:
    """Mean squared error of the activations, Gatys et al., arXiv:1508.06576, equation 1.

    A mean in place of their half sum, so that its weight means the same at every size.
    """

    def __init__(self, target: Tensor) -> None:
        """``target``: the photo's activations (1, C, H, W)."""
        self.target = target.detach()

    def __call__(self, activation: Tensor) -> Tensor:
        return mse_loss(activation, self.target)


class GramLoss:
    """Mean squared error of the Gram matrices, Gatys et al., arXiv:1508.06576, equations 3 to 5."""

    def __init__(self, target: Tensor) -> None:
        """``target``: the painting's Gram matrix (1, C, C), or a blend of several."""
        self.target = target.detach()

    def __call__(self, activation: Tensor) -> Tensor:
        return mse_loss(gram_matrix(activation), self.target)


def gram_matrix(activation: Tensor) -> Tensor:
    """Which channels fire together: (N, C, H, W) -> (N, C, C), F F^T / (C H W).

    Divided by the number of positions, unlike in the paper, so that pictures of different sizes compare.
    """
    features = activation.flatten(2)
    return features @ features.transpose(1, 2) / features[0].numel()


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
