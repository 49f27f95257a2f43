"""The Adam optimizer for an image whose values are kept within bounds, and a variant with one step size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from dreamgram.image_optimization.precision import most_precise

DECAY = 0.9, 0.99
"""Decay rates beta1 and beta2 of the running means of the gradient and of its square. Runs are short, so beta2 is 0.99
instead of the usual 0.999."""

EPSILON = 1e-8
"""Ratio of Adam's epsilon to the largest root mean square gradient of any element of an image. Adam divides the step of
each element by the sum of epsilon and the root mean square of the element's gradient over recent steps. Because epsilon
is proportional to the gradients instead of constant, the result does not depend on the scale of the loss."""

SETTLING = 0.5
"""Length of the final phase of a run, in which the learning rate falls linearly to zero, as a fraction of all steps.
The small steps in this phase remove the noise that larger steps leave in the image."""


class Adam:
    """The Adam optimizer, with the optimized tensor clamped to its bounds after every step.

    The class implements algorithm 1 of Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2014. It replaces
    PyTorch's own Adam, which takes a second to load because it imports PyTorch's compiler.

    All numbers that change from step to step are tensors on the device, and every step changes them in place. A
    recording of one step (a CUDA graph) can therefore be replayed for all following steps
    (:mod:`dreamgram.image_optimization.recording`).
    """

    VECTORS_PER_PAIR: ClassVar[int] = 0
    """Number of tensors in one curvature pair; 0, because only quasi-Newton methods store curvature pairs."""

    def __init__(
        self,
        leaf: Tensor,
        bounds: tuple[float, float] = (-math.inf, math.inf),
        *,
        learning_rate: float = 0.05,
        history: int = 0,
        block: int | None = None,
        settling: float = SETTLING,
    ) -> None:
        """Prepare to optimize ``leaf`` in place.

        Args:
            leaf: tensor to optimize. Its first axis is the batch axis.
            bounds: smallest and largest allowed value of the elements of ``leaf``.
            learning_rate: step size before the final phase of the run, in the unit of the elements of ``leaf``.
            history: not used, because Adam stores no curvature pairs.
            block: not used, because Adam does not learn the curvature.
            settling: length of the final phase of the run, in which the learning rate falls linearly to zero, as a
                fraction of all steps. The fraction must be above 0.
        """
        self.leaf = leaf
        self.bounds = bounds
        self.learning_rate = leaf.new_tensor(learning_rate, dtype=most_precise(leaf.device))
        self.settling = settling
        self.decay = leaf.new_tensor(DECAY, dtype=self.learning_rate.dtype)
        self.steps = torch.zeros((), dtype=torch.long, device=leaf.device)
        self.mean, self.square = torch.zeros_like(leaf), self.squared(torch.zeros_like(leaf))

    @staticmethod
    def squared(gradient: Tensor) -> Tensor:
        """Return the square of each element of ``gradient``."""
        return gradient.square()

    @torch.no_grad()
    def step(self, loss: Tensor, gradient: Tensor, remaining: Tensor) -> None:
        """Update the optimized tensor, given the ``gradient`` of the loss at the tensor's current value.

        ``remaining`` is the fraction of the planned steps that are not yet done, as a scalar tensor. ``loss`` is not
        used.
        """
        self.steps += 1
        self.mean.lerp_(gradient, 1 - DECAY[0])
        self.square.lerp_(self.squared(gradient), 1 - DECAY[1])
        # Both running means start at zero. Dividing them by these factors removes the resulting bias.
        of_mean, of_square = 1 - self.decay**self.steps
        root = (self.square / of_square.to(self.square)).sqrt_()
        largest = root.reshape(len(root), -1).amax(1).view(-1, *[1] * (root.ndim - 1))
        root += EPSILON * largest + torch.finfo(root.dtype).tiny
        rate = self.learning_rate * (remaining / self.settling).clamp(max=1)
        self.leaf.addcdiv_(self.mean * (-rate / of_mean).to(self.mean), root).clamp_(*self.bounds)

    def finish(self) -> None:
        """Leave the optimized tensor as the last step set it.

        The image with the lowest loss is not restored, because it need not be the best image if the loss is random.
        """

    def state(self) -> dict[str, Tensor]:
        """Return all tensors, by name, that are needed to resume the run. The next step may overwrite these tensors."""
        return {
            "leaf": self.leaf.detach(),
            "mean": self.mean,
            "square": self.square,
            "steps": self.steps,
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from ``state``, the result of :meth:`state`. Later steps may overwrite the tensors in ``state``.

        Raises:
            ValueError: ``state`` is damaged: a running mean of the squared gradient is negative.
        """
        if (state["square"] < 0).any():
            raise ValueError("cannot resume: square holds negative numbers")
        self.leaf.copy_(state["leaf"])
        self.mean = state["mean"].to(self.mean)
        self.square = state["square"].to(self.square)
        self.steps = state["steps"].to(self.steps)


class UniformAdam(Adam):
    """Adam with the same step size for all elements of an image, so that each changes in proportion to its gradient.

    Adam itself divides the step of each element by the root mean square of the element's gradient, so that all elements
    change by similar amounts, whether the loss depends on them or not. Where it hardly does, the gradient is mostly
    random if the loss is, and leaves grain. Here, the mean of the squares is taken over all elements of an image.
    """

    @staticmethod
    def squared(gradient: Tensor) -> Tensor:
        """Return the mean square (N, 1, ...) of all elements of each image in ``gradient`` (N, ...)."""
        return gradient.square().mean(tuple(range(1, gradient.ndim)), keepdim=True)
