"""Limited-memory BFGS for an image: a quasi-Newton method with one evaluation a step, inside bounds."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

HISTORY = 20
"""Curvature pairs kept; each is twice the size of the image."""

FIRST_STEP = 0.01
"""Root mean square of the very first step, before anything is known of the curvature, in units of the leaf."""

LONGEST_STEP = 0.1
"""Root mean square that no step exceeds."""

LOOK_BACK = 5
"""A step is accepted if its loss is below the largest of that many accepted ones."""


class LBFGS:
    """Nocedal, "Updating Quasi-Newton Matrices with Limited Storage", 1980, with two departures.

    Style transfer is usually done without a line search: an evaluation is expensive, and the full quasi-Newton
    step is nearly always good. Where it is not, the loss can rise by orders of magnitude and never come back. So
    the loss may rise, but not above the largest of the last few (Grippo, Lampariello, Lucidi, "A Nonmonotone Line
    Search Technique for Newton's Method", 1986); a step that goes beyond is taken back and shortened.

    Variables at a bound that the gradient pushes further out are left out of the direction, and the curvature is
    learned from the step that was possible rather than the one that was wanted (Bertsekas, "Projected Newton
    Methods for Optimization Problems with Simple Constraints", 1982).
    """

    def __init__(self, leaf: Tensor, bounds: tuple[float, float] = (-math.inf, math.inf)) -> None:
        """``leaf``: what to move, in place; ``bounds``: of each of its numbers."""
        self.leaf = leaf
        self.bounds = bounds
        self.pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
        self.accepted: deque[float] = deque(maxlen=LOOK_BACK)
        self.last: tuple[Tensor, Tensor] | None = None  # point and gradient
        self.best = math.inf
        self.best_point: Tensor | None = None

    @torch.no_grad()
    def step(self, loss: float, gradient: Tensor) -> None:
        """Move the leaf, given the loss and its gradient there."""
        point = self.leaf.detach().clone()
        if loss < self.best:
            self.best, self.best_point = loss, point
        if self.last is not None:
            last_point, last_gradient = self.last
            moved = point - last_point
            if not loss <= max(self.accepted):
                self.leaf.copy_(last_point + moved / 4)
                return
            self._learn(moved, gradient - last_gradient)
        self.accepted.append(loss)
        self.last = (point, gradient.clone())
        self.leaf.copy_((point + self._direction(point, gradient)).clamp(*self.bounds))

    @torch.no_grad()
    def finish(self) -> None:
        """Put the leaf where the loss was lowest."""
        if self.best_point is not None:
            self.leaf.copy_(self.best_point)

    def _learn(self, moved: Tensor, change: Tensor) -> None:
        """Keep what ``change`` of the gradient came of having ``moved``, if the curvature between is positive."""
        curvature = (moved * change).sum()
        if curvature > 1e-10 * change.square().sum():
            self.pairs.append((moved, change, 1 / curvature))

    def _direction(self, point: Tensor, gradient: Tensor) -> Tensor:
        """The quasi-Newton step by the two-loop recursion."""
        low, high = self.bounds
        free = ~(((point <= low) & (gradient > 0)) | ((point >= high) & (gradient < 0)))
        descent = -gradient * free
        direction = descent.clone()
        weights = []
        for moved, change, inverse in reversed(self.pairs):
            weight = inverse * (moved * direction).sum()
            direction -= weight * change
            weights.append(weight)
        if self.pairs:
            _, change, inverse = self.pairs[-1]
            direction /= inverse * change.square().sum()
        for (moved, change, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            direction += (weight - inverse * (change * direction).sum()) * moved
        direction *= free
        if not (direction * descent).sum() > 0:  # rounding has spoilt the curvature, or nothing is left to gain
            self.pairs.clear()
            direction = descent
        longest = LONGEST_STEP if self.pairs else FIRST_STEP
        length = direction.square().mean().sqrt()
        return direction * (longest / length.clamp(min=longest if self.pairs else 1e-30))
