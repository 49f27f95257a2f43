"""Adam for an image, inside bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DECAY = 0.9, 0.99
"""Of the mean of the gradients and of that of their squares; the second is shorter than the usual 0.999: runs are."""

SMALLEST = 1e-8
"""Share of an image's largest root mean square that is added to all of them, lest one be divided by zero. The paper
adds that much itself; with a share, an objective in other units makes the same image."""


class Adam:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2014, algorithm 1; then clamped to the bounds.

    PyTorch's own takes a second to load, since it brings the compiler along.
    """

    def __init__(
        self, leaf: Tensor, bounds: tuple[float, float] = (-math.inf, math.inf), learning_rate: float = 0.05
    ) -> None:
        """``leaf``: what to move, in place; ``bounds``: of each of its numbers."""
        self.leaf = leaf
        self.bounds = bounds
        self.learning_rate = learning_rate
        self.steps = 0
        self.mean, self.square = torch.zeros_like(leaf), torch.zeros_like(leaf)

    @torch.no_grad()
    def step(self, loss: Tensor, gradient: Tensor) -> None:
        """Move the leaf, given the loss () and its gradient there."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - DECAY[0])
        self.square.lerp_(gradient.square(), 1 - DECAY[1])
        # Both begin at zero; these undo it.
        of_mean, of_square = 1 - DECAY[0] ** self.steps, 1 - DECAY[1] ** self.steps
        root = (self.square / of_square).sqrt_()
        largest = root.reshape(len(root), -1).amax(1).view(-1, *[1] * (root.ndim - 1))
        root += SMALLEST * largest + torch.finfo(root.dtype).tiny
        self.leaf.addcdiv_(self.mean, root, value=-self.learning_rate / of_mean).clamp_(*self.bounds)

    def finish(self) -> None:
        """The leaf is where it belongs: a random loss has no lowest point to return to."""
