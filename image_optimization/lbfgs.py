"""The L-BFGS optimizer for an image whose values are kept within bounds.

L-BFGS (limited-memory BFGS) is a quasi-Newton method. This implementation evaluates the loss once per step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from dreamgram.image_optimization.coordinates import EXPONENT, Coordinates
from dreamgram.image_optimization.precision import most_precise

HISTORY = 16
"""Default number of curvature pairs to store. Each pair takes twice the memory of the optimized tensor."""

FIRST_STEP = 0.01
"""Root mean square change of the elements of the optimized tensor in a step for which no curvature is known, such as
the first step. Such a step goes in the direction of the negative gradient."""

LONGEST_STEP = 0.1
"""Largest root mean square change of the elements of the optimized tensor in one step."""

LOOK_BACK = 5
"""Number of recent accepted steps whose losses are stored. A new step is accepted if the loss after this step is at
most the highest of the stored losses."""

LEAST_COSINE = 1e-10
"""Smallest cosine of the angle between the two parts of a curvature pair: the move of the optimized tensor in a step,
and the change of the gradient during this move. Pairs with a smaller cosine are not used; their cosine is negative or
almost zero."""


class LBFGS:
    """The L-BFGS optimizer of Nocedal, "Updating Quasi-Newton Matrices with Limited Storage", 1980, with three changes.

    The first change replaces the line search with a limit on the loss. Implementations of style transfer usually omit
    the line search, because an evaluation of the loss is expensive and the full quasi-Newton step is nearly always
    good. However, after a bad full step the loss can rise by orders of magnitude and never recover. Therefore, this
    optimizer allows the loss to rise only to the highest loss of the last few accepted steps (Grippo, Lampariello,
    Lucidi, "A Nonmonotone Line Search Technique for Newton's Method", 1986). A step after which the loss exceeds this
    limit is undone, and a shorter step in the same direction is tried.

    The second change adds bounds. If an element is at a bound and descent would push the element beyond the bound, the
    step does not change this element. The curvature is computed from the actual step, after clamping to the bounds,
    instead of the intended step (Bertsekas, "Projected Newton Methods for Optimization Problems with Simple
    Constraints", 1982).

    The third change makes better use of the curvature pairs. A curvature pair consists of the move of the optimized
    tensor in one step and the change of the gradient during this move. The curvature is learned in each block of the
    image separately, and in :class:`Coordinates` in which it varies less between low and high frequencies than it does
    in pixels. A large image has far more directions with different curvatures than there are pairs. With blocks, each
    pair describes the curvature along one direction in every block. Without blocks, it would describe the curvature
    along only one direction in the whole image. Between the centers of neighboring blocks, the coefficients of the
    pairs are interpolated, so that the edges of the blocks cannot be seen.

    The direction of a step is computed in the compact form of Byrd, Nocedal and Schnabel, "Representations of
    Quasi-Newton Matrices and Their Use in Limited Memory Methods", 1994. The compact form needs only a few products
    with matrices that hold all curvature pairs, whereas the two-loop recursion of Nocedal needs several operations for
    each pair.

    Every decision, such as whether to accept a step, is computed on the device, so that the CPU never waits for an
    accelerator. All numbers that change from step to step are tensors on the device, and every step changes them in
    place. A recording of one step (a CUDA graph) can therefore be replayed for all following steps
    (:mod:`dreamgram.image_optimization.recording`).

    In addition to the optimized tensor, its gradient and the curvature pairs, the optimizer stores three tensors of the
    optimized tensor's size. During a step, it needs memory for five more tensors of this size.
    """

    VECTORS_PER_PAIR: ClassVar[int] = 2
    """Number of tensors in one curvature pair, each as large as the optimized tensor. They are the move of the
    optimized tensor in a step, and the change of the gradient during this move."""

    def __init__(
        self,
        leaf: Tensor,
        bounds: tuple[float, float] = (-math.inf, math.inf),
        *,
        learning_rate: float = 1.0,
        history: int = HISTORY,
        block: int | None = None,
        exponent: float = EXPONENT,
    ) -> None:
        """Prepare to optimize ``leaf`` in place.

        Args:
            leaf: tensor to optimize.
            bounds: smallest and largest allowed value of the elements of ``leaf``.
            learning_rate: not used, because the curvature determines the length of a step.
            history: number of curvature pairs to store.
            block: side, in pixels, of the square blocks in which the curvature is learned separately, if ``leaf`` holds
                pixels (N, C, H, W). By default, all elements of ``leaf`` form one block, and ``exponent`` is not used.
            exponent: exponent of the :class:`Coordinates`; 0 gives all frequencies the same weight.
        """
        self.leaf = leaf
        self.bounds = bounds
        self.steps = torch.zeros((), dtype=torch.long, device=leaf.device)
        self.coordinates = Coordinates(leaf, block, exponent)
        blocks, (cells, size) = self.coordinates.block_count, self.coordinates.shape_of_cells()
        # The last accepted value of the leaf, and the gradient at this value.
        self.point, self.gradient = leaf.new_zeros(2, *leaf.shape)
        self.accepted = leaf.new_full((LOOK_BACK,), -math.inf)
        self.best, self.best_point = leaf.new_tensor(math.inf), leaf.detach().clone()
        # Curvature pairs: the moves of the leaf, and the changes of the gradient during these moves, in coordinates.
        self.pairs = leaf.new_zeros(2, cells, history, size)
        self.valid = torch.zeros(blocks, history, dtype=torch.bool, device=leaf.device)
        self.slots = torch.arange(history, device=leaf.device)
        # The products of pairs are stored in double precision, because systems of equations are solved with them.
        precise = most_precise(leaf.device)
        shape = 2, blocks, history, history
        self.move_change, self.change_change = torch.zeros(shape, dtype=precise, device=leaf.device)
        self.scale = leaf.new_zeros(blocks, dtype=precise)

    @torch.no_grad()
    def step(self, loss: Tensor, gradient: Tensor, remaining: Tensor | None = None) -> None:
        """Update the optimized tensor, given the scalar ``loss`` and its ``gradient`` at the tensor's current value.

        ``remaining``, the fraction of the planned steps that are not yet done, is not used.
        """
        point = self.leaf.detach()
        better = loss < self.best
        self.best.copy_(torch.where(better, loss, self.best))
        _copy_where(better, point, self.best_point)
        first = self.steps == 0
        accepted = (loss <= self.accepted.max()) | first
        self._learn(point, gradient, accepted & ~first)
        self.accepted.copy_(torch.where(accepted, torch.cat([self.accepted[1:], loss[None]]), self.accepted))
        _copy_where(accepted, point, self.point)
        _copy_where(accepted, gradient, self.gradient)
        onward = self._direction().add_(self.point).clamp_(*self.bounds)
        shortened = self.point.lerp(point, 0.25)
        self.leaf.copy_(_copy_where(accepted, onward, shortened))
        self.steps += 1

    @torch.no_grad()
    def finish(self) -> None:
        """Set the optimized tensor to the value that had the lowest loss of all steps."""
        self.leaf.copy_(self.best_point)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors, by name, that are needed to resume the run. The next step may overwrite these tensors."""
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
            "steps": self.steps,
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from ``state``, the result of :meth:`state`. Later steps may overwrite the tensors in ``state``."""
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
        self.steps = state["steps"].to(self.steps)

    def _learn(self, point: Tensor, gradient: Tensor, wanted: Tensor) -> None:
        """Store a curvature pair: the move from the last accepted point to ``point``, and the change of the gradient.

        The pair is marked as invalid in every block in which its curvature is negative or almost zero
        (:data:`LEAST_COSINE`). If ``wanted`` is false, the pair is marked as invalid in all blocks. This happens if
        there is no last accepted point yet, or if the step to ``point`` is undone.
        """
        slot = ((self.steps - 1) % len(self.slots))[None]
        moved = self.coordinates.of_move(point - self.point)
        change = self.coordinates.of_gradient(gradient - self.gradient)
        curvature, square = self._products(moved, change), self._products(change, change)
        valid = wanted & (curvature > LEAST_COSINE * square.sqrt() * self._products(moved, moved).sqrt())
        self.valid.copy_(torch.where(self.slots == slot, valid[:, None], self.valid))
        unusable = self.coordinates.copy_to_cells(~valid[:, None])
        for vector, vectors in zip((moved, change), self.pairs, strict=True):
            vectors[:, slot] = vector.masked_fill_(unusable, 0)[:, None]
        self.scale.copy_(torch.where(valid, curvature / square, self.scale))
        by_move, by_change = self._with_pairs(change)
        self.move_change[:, :, slot] = by_move[:, :, None]  # only products with later changes are needed
        self.change_change[:, slot] = by_change[:, None]
        self.change_change[:, :, slot] = by_change[:, :, None]

    def _direction(self) -> Tensor:
        """Return the quasi-Newton step, shortened if its root mean square is above :data:`LONGEST_STEP`.

        If the known curvature gives no direction of descent, return a short step along the negative gradient.
        """
        low, high = self.bounds
        free = ~(((self.point <= low) & (self.gradient > 0)) | ((self.point >= high) & (self.gradient < 0)))
        descent = (-self.gradient).mul_(free)
        # A block in which no curvature is known gets the mean scale of the other blocks.
        known = self.scale > 0
        scale = torch.where(known, self.scale, self.scale.sum() / known.sum().clamp(min=1))
        along = self._times_inverse_hessian(self.coordinates.of_gradient(descent), scale)
        direction = self.coordinates.move(along).mul_(free)
        # The direction is useless if the curvature is unknown or inaccurate due to rounding, or the gradient is zero.
        useless = ~((direction * descent).sum() > 0)
        self.valid &= ~useless
        self.scale.masked_fill_(useless, 0)
        _copy_where(useless, descent, direction)
        length = torch.linalg.vector_norm(direction) / math.sqrt(direction.numel())
        return direction.mul_(
            torch.where(useless, FIRST_STEP / length.clamp(min=1e-30), LONGEST_STEP / length.clamp(min=LONGEST_STEP))
        )

    def _times_inverse_hessian(self, vector: Tensor, scale: Tensor) -> Tensor:
        """Multiply ``vector`` (cells, n) by the approximate inverse Hessian of each block.

        The product is computed with equation 3.1 of the paper by Byrd, Nocedal and Schnabel that :class:`LBFGS` cites.
        In the notation of that paper, S holds the moves of the optimized tensor, Y holds the changes of the gradient,
        and gamma is ``scale`` (blocks,). The coefficients with which the vectors are added up are interpolated between
        the blocks.
        """
        by_age = (self.slots + self.steps) % len(self.slots)  # the slots from the oldest pair to the newest
        valid = self.valid[:, by_age].to(scale)
        both = valid[:, :, None] * valid[:, None]
        # An invalid pair gets a row and a column of the identity matrix, so that it does not affect the other pairs.
        products = self.move_change[:, by_age[:, None], by_age] * both
        upper = products.triu() + torch.diag_embed(1 - valid)
        squares = self.change_change[:, by_age[:, None], by_age] * both
        by_move, by_change = self._with_pairs(vector)[:, :, by_age] * valid
        first = torch.linalg.solve_triangular(upper, by_move[..., None], upper=True)[..., 0]
        rest = products.diagonal(dim1=1, dim2=2) * first
        rest += scale[:, None] * ((squares @ first[..., None])[..., 0] - by_change)
        second = torch.linalg.solve_triangular(upper.mT, rest[..., None], upper=False)[..., 0]
        step = vector * self.coordinates.spread(scale[:, None].to(vector))
        for by_pair, vectors in zip((second, -scale[:, None] * first), self.pairs, strict=True):
            weights = torch.empty_like(by_pair)
            weights[:, by_age] = by_pair
            step += (self.coordinates.spread(weights.to(vector))[:, None] @ vectors)[:, 0]
        return step

    def _with_pairs(self, vector: Tensor) -> Tensor:
        """Return the dot products of ``vector`` (cells, n) with both tensors of each curvature pair, in each block.

        The result (2, blocks, history) holds first the products with the moves, then the products with the gradient
        changes.
        """
        products = [(vectors @ vector[:, :, None])[..., 0].to(self.scale) for vectors in self.pairs]
        return torch.stack([self.coordinates.add_up(each) for each in products])

    def _products(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the dot product of ``a`` (cells, n) and ``b`` (cells, n) in each block, as a tensor (blocks,)."""
        return self.coordinates.add_up((a * b).sum(1, keepdim=True))[:, 0]


def _copy_where(wanted: Tensor, other: Tensor, vector: Tensor) -> Tensor:
    """Overwrite ``vector`` with ``other`` if ``wanted`` is true; in both cases, return ``vector``.

    ``wanted`` is a boolean scalar tensor on the device of ``vector`` and ``other``.
    """
    return torch.where(wanted, other, vector, out=vector)
