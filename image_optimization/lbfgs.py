"""Limited-memory BFGS for an image: a quasi-Newton method with one evaluation a step, inside bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HISTORY = 20
"""Curvature pairs kept if nobody says how many; each is twice the size of the image."""

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

    The direction is computed in the compact form of Byrd, Nocedal and Schnabel, "Representations of Quasi-Newton
    Matrices and Their Use in Limited Memory Methods", 1994: it reads the curvature pairs half as often as the
    two-loop recursion. Every decision is made on the device, so that a step never waits for it.

    Beside leaf, gradient and pairs it holds three vectors of the leaf's size, and three more during a step.
    """

    def __init__(
        self, leaf: Tensor, bounds: tuple[float, float] = (-math.inf, math.inf), history: int = HISTORY
    ) -> None:
        """``leaf``: what to move, in place; ``bounds``: of each of its numbers; ``history``: pairs to keep."""
        self.leaf = leaf
        self.bounds = bounds
        self.steps = 0
        self.point, self.gradient = leaf.new_zeros(2, leaf.numel())  # where it stands
        self.accepted = leaf.new_full((LOOK_BACK,), -math.inf)
        self.best, self.best_point = leaf.new_tensor(math.inf), leaf.detach().flatten().clone()
        # Curvature pairs: how far it moved, and how the gradient changed by that.
        self.pairs = leaf.new_zeros(2, history, leaf.numel())
        self.valid = torch.zeros(history, dtype=torch.bool, device=leaf.device)
        # Their products in double precision, for the small systems of equations; Apple's GPUs have none.
        precise = torch.float32 if leaf.device.type == "mps" else torch.float64
        self.move_change, self.change_change = torch.zeros(2, history, history, dtype=precise, device=leaf.device)
        self.scale = leaf.new_zeros((), dtype=precise)

    @torch.no_grad()
    def step(self, loss: Tensor, gradient: Tensor) -> None:
        """Move the leaf, given the loss () and its gradient there."""
        point, gradient = self.leaf.detach().flatten(), gradient.flatten()
        better = loss < self.best
        self.best = torch.where(better, loss, self.best)
        _copy_where(better, point, self.best_point)
        accepted = (loss <= self.accepted.max()) | (self.steps == 0)
        if self.steps:
            self._learn(point, gradient, accepted)
        self.accepted = torch.where(accepted, torch.cat([self.accepted[1:], loss[None]]), self.accepted)
        shortened = self.point.lerp(point, 0.25)
        _copy_where(accepted, point, self.point)
        _copy_where(accepted, gradient, self.gradient)
        onward = self._direction().add_(self.point).clamp_(*self.bounds)
        self.leaf.copy_(_copy_where(accepted, onward, shortened).view_as(self.leaf))
        self.steps += 1

    @torch.no_grad()
    def finish(self) -> None:
        """Put the leaf where the loss was lowest."""
        self.leaf.copy_(self.best_point.view_as(self.leaf))

    def _learn(self, point: Tensor, gradient: Tensor, accepted: Tensor) -> None:
        """Keep how the gradient changed on the way to ``point``, if the curvature between is positive."""
        slot = (self.steps - 1) % len(self.valid)
        moved, change = self.pairs[:, slot]
        torch.sub(point, self.point, out=moved)
        torch.sub(gradient, self.gradient, out=change)
        curvature, square = moved @ change, change @ change
        valid = accepted & (curvature > 1e-10 * square)
        self.valid[slot] = valid
        self.pairs[:, slot].masked_fill_(~valid, 0)
        self.scale = torch.where(valid, (curvature / square).to(self.scale), self.scale)
        by_move, by_change = (self.pairs @ self.pairs[:, slot].T).to(self.scale)
        self.move_change[slot], self.change_change[slot] = by_change[:, 0], by_change[:, 1]
        self.change_change[:, slot] = by_change[:, 1]
        self.move_change[:, slot] = by_move[:, 1]

    def _direction(self) -> Tensor:
        """The quasi-Newton step, no longer than allowed."""
        low, high = self.bounds
        free = ~(((self.point <= low) & (self.gradient > 0)) | ((self.point >= high) & (self.gradient < 0)))
        descent = (-self.gradient).mul_(free)
        direction = self._times_inverse_hessian(descent).mul_(free)
        # Rounding has spoilt the curvature, or nothing is known of it, or nothing is left to gain.
        useless = ~(direction @ descent > 0)
        self.valid &= ~useless
        self.scale = torch.where(useless, 0, self.scale)
        _copy_where(useless, descent, direction)
        length = torch.linalg.vector_norm(direction) / math.sqrt(direction.numel())
        return direction.mul_(
            torch.where(useless, FIRST_STEP / length.clamp(min=1e-30), LONGEST_STEP / length.clamp(min=LONGEST_STEP))
        )

    def _times_inverse_hessian(self, vector: Tensor) -> Tensor:
        """Byrd, Nocedal and Schnabel, equation 3.1; their S, Y, R and D are of the moves and the changes."""
        age = self.steps % len(self.valid)  # slots rolled by so many are from the oldest to the newest
        valid = self.valid.roll(-age).to(self.scale)
        both = valid * valid[:, None]
        # A pair that is not valid has a row and a column of its own, and no part in the others.
        products = self.move_change.roll((-age, -age), (0, 1)) * both
        upper = products.triu() + torch.diag(1 - valid)
        squares = self.change_change.roll((-age, -age), (0, 1)) * both
        by_move, by_change = (self.pairs @ vector).to(self.scale).roll(-age, 1) * valid
        first = torch.linalg.solve_triangular(upper, by_move[:, None], upper=True)[:, 0]
        rest = products.diagonal() * first + self.scale * (squares @ first - by_change)
        second = torch.linalg.solve_triangular(upper.T, rest[:, None], upper=False)[:, 0]
        weights = torch.cat([second.roll(age), (-self.scale * first).roll(age)]).to(vector)
        step: Tensor = (weights @ self.pairs.flatten(0, 1)).addcmul_(vector, self.scale.to(vector))
        return step


def _copy_where(wanted: Tensor, other: Tensor, vector: Tensor) -> Tensor:
    """Write ``other`` over ``vector``, if it is ``wanted``: a boolean () on their device."""
    return torch.where(wanted, other, vector, out=vector)
