"""The L-BFGS optimizer for an image whose values are kept within bounds.

L-BFGS, limited-memory BFGS, is a quasi-Newton method. This implementation evaluates the loss once per step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

HISTORY = 20
"""Default number of curvature pairs to store. Each pair takes twice the memory of the optimized tensor."""

FIRST_STEP = 0.01
"""Root mean square change of the elements of the optimized tensor in a step for which no curvature is known, such as
the first step. Such a step follows the negative gradient."""

LONGEST_STEP = 0.1
"""Largest root mean square change of the elements of the optimized tensor in one step."""

LOOK_BACK = 5
"""Number of accepted steps that are remembered to judge the next step. A step is accepted if the loss after it is not
above the highest loss of these steps."""


class LBFGS:
    """The L-BFGS optimizer of Nocedal, "Updating Quasi-Newton Matrices with Limited Storage", 1980, with two changes.

    The first change replaces the line search by a limit on the loss. Implementations of style transfer usually omit the
    line search, because an evaluation is expensive and the full quasi-Newton step is nearly always good. However, after
    a bad full step the loss can rise by orders of magnitude and never recover. Therefore, this optimizer lets the
    loss rise only up to the largest of the last few accepted losses (Grippo, Lampariello, Lucidi, "A Nonmonotone Line
    Search Technique for Newton's Method", 1986). A step after which the loss exceeds this limit is undone, and a
    shorter step in the same direction is tried.

    The second change adds bounds. If an element is at a bound and descent would push it beyond the bound, the step does
    not change this element. The curvature is computed from the actual step, after clamping to the bounds, not from the
    intended step (Bertsekas, "Projected Newton Methods for Optimization Problems with Simple Constraints", 1982).

    The direction of a step is computed in the compact form of Byrd, Nocedal and Schnabel, "Representations of
    Quasi-Newton Matrices and Their Use in Limited Memory Methods", 1994. The compact form reads the curvature pairs
    half as often as the two-loop recursion. Every decision, such as whether to accept a step, is computed on the
    device, so that the CPU never waits for an accelerator.

    In addition to the optimized tensor, its gradient and the curvature pairs, the optimizer stores three tensors of the
    optimized tensor's size. During a step, it needs memory for three more such tensors.
    """

    VECTORS_PER_PAIR: ClassVar[int] = 2
    """Number of tensors, each as large as the optimized tensor, in one curvature pair: the move of the optimized tensor
    in a step, and the change of the gradient during this move."""

    def __init__(
        self,
        leaf: Tensor,
        bounds: tuple[float, float] = (-math.inf, math.inf),
        *,
        learning_rate: float = 1.0,
        history: int = HISTORY,
    ) -> None:
        """Prepare to optimize ``leaf`` in place.

        Args:
            leaf: tensor to optimize.
            bounds: smallest and largest allowed value of its elements.
            learning_rate: not used, because the curvature determines the length of a step.
            history: number of curvature pairs to store.
        """
        self.leaf = leaf
        self.bounds = bounds
        self.steps = 0
        self.point, self.gradient = leaf.new_zeros(2, leaf.numel())  # of the last accepted step
        self.accepted = leaf.new_full((LOOK_BACK,), -math.inf)
        self.best, self.best_point = leaf.new_tensor(math.inf), leaf.detach().flatten().clone()
        # Curvature pairs: the moves of the leaf, and the changes of the gradient during these moves.
        self.pairs = leaf.new_zeros(2, history, leaf.numel())
        self.valid = torch.zeros(history, dtype=torch.bool, device=leaf.device)
        # The products of pairs are in double precision, because small systems of equations are solved with them.
        # Apple's GPUs have no double precision.
        precise = torch.float32 if leaf.device.type == "mps" else torch.float64
        self.move_change, self.change_change = torch.zeros(2, history, history, dtype=precise, device=leaf.device)
        self.scale = leaf.new_zeros((), dtype=precise)

    @torch.no_grad()
    def step(self, loss: Tensor, gradient: Tensor, remaining: float = 1.0) -> None:
        """Update the optimized tensor, given the scalar ``loss`` and its ``gradient`` at the tensor's current value.

        ``remaining`` is not used; see :meth:`Optimizer.step`.
        """
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
        """Set the optimized tensor to the value that had the lowest loss of all steps."""
        self.leaf.copy_(self.best_point.view_as(self.leaf))

    def state(self) -> dict[str, Tensor]:
        """Return a dictionary of all tensors that are needed to resume the run. The next step may overwrite them."""
        return {
            "leaf": self.leaf.detach(),
            "point": self.point,
            "gradient": self.gradient,
            "accepted": self.accepted,
            "best": self.best,
            "best_point": self.best_point,
            "pairs": self.pairs,
            "valid": self.valid,
            "move_change": self.move_change,
            "change_change": self.change_change,
            "scale": self.scale,
            "steps": torch.tensor(self.steps),
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from ``state``, the result of :meth:`state`. Later steps may overwrite its tensors."""
        self.leaf.copy_(state["leaf"])
        self.point = state["point"].to(self.point)
        self.gradient = state["gradient"].to(self.gradient)
        self.accepted = state["accepted"].to(self.accepted)
        self.best = state["best"].to(self.best)
        self.best_point = state["best_point"].to(self.best_point)
        self.pairs = state["pairs"].to(self.pairs)
        self.valid = state["valid"].to(self.valid)
        self.move_change = state["move_change"].to(self.move_change)
        self.change_change = state["change_change"].to(self.change_change)
        self.scale = state["scale"].to(self.scale)
        self.steps = int(state["steps"])

    def _learn(self, point: Tensor, gradient: Tensor, accepted: Tensor) -> None:
        """Store a curvature pair: the move from the last accepted point to ``point``, and the change of the gradient.

        The pair is marked as invalid if its curvature is not positive, or if ``accepted`` is false, which means that
        the step to ``point`` is undone.
        """
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
        """Return the quasi-Newton step, shortened so that its root mean square is at most :data:`LONGEST_STEP`.

        If the known curvature gives no direction of descent, return a short step along the negative gradient.
        """
        low, high = self.bounds
        free = ~(((self.point <= low) & (self.gradient > 0)) | ((self.point >= high) & (self.gradient < 0)))
        descent = (-self.gradient).mul_(free)
        direction = self._times_inverse_hessian(descent).mul_(free)
        # The direction is useless if rounding spoiled the curvature, no curvature is known, or the gradient is zero.
        useless = ~(direction @ descent > 0)
        self.valid &= ~useless
        self.scale = torch.where(useless, 0, self.scale)
        _copy_where(useless, descent, direction)
        length = torch.linalg.vector_norm(direction) / math.sqrt(direction.numel())
        return direction.mul_(
            torch.where(useless, FIRST_STEP / length.clamp(min=1e-30), LONGEST_STEP / length.clamp(min=LONGEST_STEP))
        )

    def _times_inverse_hessian(self, vector: Tensor) -> Tensor:
        """Multiply ``vector`` by the approximate inverse Hessian: equation 3.1 of Byrd, Nocedal and Schnabel.

        In the notation of that paper, S holds the moves of the optimized tensor, and Y the changes of its gradient.
        """
        age = self.steps % len(self.valid)  # rolling the slots back by ``age`` sorts them from oldest to newest
        valid = self.valid.roll(-age).to(self.scale)
        both = valid * valid[:, None]
        # An invalid pair gets a row and a column of the identity matrix, so that it does not affect the other pairs.
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
    """Overwrite ``vector`` with ``other`` if ``wanted`` is true, and return ``vector``.

    ``wanted`` is a boolean scalar tensor on the device of both vectors.
    """
    return torch.where(wanted, other, vector, out=vector)
