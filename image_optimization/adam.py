"""The Adam optimizer for an image, within bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

DECAY = 0.9, 0.99
"""Decay rates beta1 and beta2 of the two moments. Runs are short, so beta2 is 0.99 instead of the usual 0.999."""

EPSILON = 1e-8
"""Fraction of an image's largest root mean square gradient that is added to all root mean squares of that image, so
that none of them is zero. The paper adds a constant instead. With a fraction, the result does not depend on the
unit of the loss."""

SETTLING = 0.5
"""Fraction of the steps, at the end of a run, in which the learning rate falls linearly to zero. The small last
steps remove the noise that large steps leave in the image."""


class Adam:
    """The Adam optimizer, with the leaf clamped to its bounds after every step.

    It is algorithm 1 of Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2014. PyTorch's own Adam takes a
    second to load, because it imports the compiler.
    """

    VECTORS_PER_PAIR: ClassVar[int] = 0
    """Number of vectors in a curvature pair: 0, because Adam stores no pairs."""

    def __init__(
        self,
        leaf: Tensor,
        bounds: tuple[float, float] = (-math.inf, math.inf),
        *,
        learning_rate: float = 0.05,
        history: int = 0,
        settling: float = SETTLING,
    ) -> None:
        """Prepare to move ``leaf`` in place.

        Args:
            leaf: tensor to move. Its first axis is the batch axis.
            bounds: smallest and largest allowed value of its elements.
            learning_rate: size of a step, in units of the leaf, until the last part of the run, in which it falls.
            history: not used.
            settling: fraction of the steps, above 0, in which the learning rate falls linearly to zero at the end of
                the run.
        """
        self.leaf = leaf
        self.bounds = bounds
        self.learning_rate = learning_rate
        self.settling = settling
        self.steps = 0
        self.mean, self.square = torch.zeros_like(leaf), torch.zeros_like(leaf)

    @torch.no_grad()
    def step(self, loss: Tensor, gradient: Tensor, remaining: float = 1.0) -> None:
        """Move the leaf, given the loss () and its gradient at the current leaf; see :meth:`Optimizer.step`."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - DECAY[0])
        self.square.lerp_(gradient.square(), 1 - DECAY[1])
        # Both moments start at zero. Dividing by these factors removes the bias.
        of_mean, of_square = 1 - DECAY[0] ** self.steps, 1 - DECAY[1] ** self.steps
        root = (self.square / of_square).sqrt_()
        largest = root.reshape(len(root), -1).amax(1).view(-1, *[1] * (root.ndim - 1))
        root += EPSILON * largest + torch.finfo(root.dtype).tiny
        rate = self.learning_rate * min(1, remaining / self.settling)
        self.leaf.addcdiv_(self.mean, root, value=-rate / of_mean).clamp_(*self.bounds)

    def finish(self) -> None:
        """Keep the leaf that the last step produced, because a stochastic loss has no lowest point to return to."""

    def state(self) -> dict[str, Tensor]:
        """Return, by name, all tensors that are needed to resume the run. The next step may overwrite them."""
        return {
            "leaf": self.leaf.detach(),
            "mean": self.mean,
            "square": self.square,
            "steps": torch.tensor(self.steps),
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from ``state``, whose tensors may be overwritten afterwards."""
        self.leaf.copy_(state["leaf"])
        self.mean = state["mean"].to(self.mean)
        self.square = state["square"].to(self.square)
        self.steps = int(state["steps"])
