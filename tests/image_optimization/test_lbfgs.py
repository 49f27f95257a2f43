from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dreamgram.image_optimization.lbfgs import HISTORY, LBFGS, LONGEST_STEP
from dreamgram.image_optimization.optimize import optimize
from dreamgram.image_optimization.parameterizations import PixelImage


def minimize(
    function: Callable[[Tensor], Tensor], start: Tensor, steps: int, bounds: tuple[float, float] = (-10, 10)
) -> tuple[Tensor, list[float]]:
    leaf = start.double().requires_grad_()
    method, losses = LBFGS(leaf, bounds), []
    for _ in range(steps):
        leaf.grad = None
        loss = function(leaf)
        loss.backward()
        assert leaf.grad is not None
        losses.append(loss.item())
        method.step(loss.detach(), leaf.grad)
        assert bounds[0] <= leaf.min() <= leaf.max() <= bounds[1]
    method.finish()
    return leaf.detach(), losses


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_it_follows_a_curved_valley() -> None:
    """Rosenbrock's function in ten dimensions, where steepest descent takes tens of thousands of steps."""
    result, _ = minimize(rosenbrock, torch.full((10,), -0.5), steps=300)
    torch.testing.assert_close(result, torch.ones(10).double(), rtol=0, atol=1e-3)


def test_bounds_against_the_exact_solution() -> None:
    """A stretched bowl whose minimum lies outside: separable, so that the bounded minimum is the clamped one."""
    stretch, target = torch.logspace(0, 3, 50).double(), torch.linspace(-1, 2, 50).double()
    result, _ = minimize(lambda x: (stretch * (x - target) ** 2).sum(), torch.full((50,), 0.5), 100, bounds=(0, 1))
    torch.testing.assert_close(result, target.clamp(0, 1), rtol=0, atol=1e-4)


def test_bounds_with_coupled_variables() -> None:
    """Against projected gradient descent with small steps, which is slow and sure."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(20, 20, generator=generator).double()
    matrix, vector = factor @ factor.T + torch.eye(20), 8 * torch.randn(20, generator=generator).double()
    slow = torch.full((20,), 0.5).double()
    for _ in range(20000):
        slow = (slow - 0.005 * (matrix @ slow - vector)).clamp(0, 1)
    result, _ = minimize(lambda x: x @ matrix @ x / 2 - vector @ x, torch.full((20,), 0.5), 200, bounds=(0, 1))
    assert 0 < ((slow == 0) | (slow == 1)).sum() < 20
    torch.testing.assert_close(result, slow, rtol=0, atol=1e-3)


def test_a_step_that_raises_the_loss_is_taken_back() -> None:
    """A cliff: a step down the gentle slope ends where the loss is a million times larger."""

    def cliff(x: Tensor) -> Tensor:
        return torch.where(x > 0.5, 1e6 * (x - 0.5) ** 2 - 0.5, -x).sum()

    result, losses = minimize(cliff, torch.full((4,), -1.003), steps=400)
    assert max(losses) > losses[0]
    torch.testing.assert_close(result, torch.full((4,), 0.5).double(), rtol=0, atol=1e-2)


def test_the_result_is_the_image_with_the_lowest_loss() -> None:
    def loss(x: Tensor) -> Tensor:
        return torch.sin(9 * x).sum() + (x - 0.3).abs().sum()

    for steps in (1, 2, 7, 30):
        image = PixelImage.from_noise((1, 1, 6, 6), strength=30)
        run = optimize(image, loss, steps=steps, optimizer="lbfgs")
        assert loss(image.render()).item() == pytest.approx(run.losses.min().item(), abs=1e-5)


def test_what_is_not_finite_is_forgotten() -> None:
    """A step that went too far is taken back, and nothing is learned from it."""
    leaf = torch.full((5,), 1.0)
    method = LBFGS(leaf, (-10, 10))
    for step in range(40):
        loss, gradient = leaf.square().sum(), 2 * leaf
        if step == 4:
            loss, gradient = torch.tensor(torch.inf), torch.full((5,), torch.inf)
        method.step(loss, gradient)
    method.finish()
    assert leaf.abs().max() < 1e-3


def test_nothing_to_gain() -> None:
    image = PixelImage.from_noise((1, 1, 4, 4))
    before = image.render().detach().clone()
    optimize(image, lambda x: 0 * x.sum(), steps=5, optimizer="lbfgs")
    assert torch.equal(image.render(), before)


def test_the_direction_is_that_of_the_two_loop_recursion() -> None:
    """There are more steps than room for pairs, and one pair has negative curvature.

    The leaf is moved at random between the steps, so that the pairs are as different as possible.
    """
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(60, 60, generator=generator).double()
    hessian = factor @ factor.T / 60 + 0.1 * torch.eye(60)
    leaf = torch.zeros(60).double()
    method = LBFGS(leaf)
    pairs: list[tuple[Tensor, Tensor]] = []
    last_point = last_gradient = leaf
    for number in range(HISTORY + 12):
        point = 1e-3 * torch.randn(60, generator=generator).double()
        gradient = hessian @ point
        if number == HISTORY:
            gradient = last_gradient - hessian @ (point - last_point)  # the curvature between is negative
        if number:
            pairs.append((point - last_point, gradient - last_gradient))
        last_point, last_gradient = point, gradient
        leaf.copy_(point)
        method.step(torch.tensor(-float(number)).double(), gradient)  # every step is accepted
        kept = [(moved, change) for moved, change in pairs[-HISTORY:] if moved @ change > 0]
        if kept:
            direction = two_loops(kept, -gradient)
            assert direction.square().mean().sqrt() < LONGEST_STEP  # the step is not shortened
            torch.testing.assert_close(leaf - point, direction)
    assert len(kept) < HISTORY < len(pairs)


def two_loops(pairs: list[tuple[Tensor, Tensor]], vector: Tensor) -> Tensor:
    """Nocedal and Wright, "Numerical Optimization", algorithm 7.4."""
    weights = []
    for moved, change in reversed(pairs):
        weights.append((moved @ vector) / (moved @ change))
        vector = vector - weights[-1] * change
    moved, change = pairs[-1]
    vector = vector * (moved @ change) / (change @ change)
    for (moved, change), weight in zip(pairs, reversed(weights), strict=True):
        vector = vector + (weight - (change @ vector) / (moved @ change)) * moved
    return vector


class NoReading(TorchDispatchMode):
    """Fails where a number is read from a tensor: on an accelerator that waits for the device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_never_waits_for_the_device() -> None:
    leaf = torch.rand(3, 4)
    method = LBFGS(leaf, (0, 1))
    with NoReading():
        for _ in range(30):
            method.step(leaf.square().sum(), 2 * leaf)
        method.finish()
    assert leaf.abs().max() < 0.1
    with NoReading(), pytest.raises(AssertionError):
        leaf.sum().item()
