"""The one loop: gradient descent on an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from image_optimization.adam import Adam
from image_optimization.lbfgs import HISTORY, LBFGS
from image_optimization.parameterizations import Parameterization

CHECK_EVERY = 16
"""On an accelerator the losses are read, which waits for the device, only every so many steps."""

SETTLING = 0.5
"""The last share of the steps, in which Adam's learning rate falls to nothing: the noise that large steps leave in the
image goes."""


State = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """What a listener is told after every step."""

    number: int
    """From 1."""
    steps: int
    """How many were planned."""
    loss: Tensor
    """Before this step: () or one per image (N,). On an accelerator, reading its value waits for the device."""
    image: Tensor
    """The image (N, C, H, W) in [0, 1], detached. The next step may write over it: clone what you keep."""
    done: float
    """The share of all the work that is done, up to 1."""
    state: Callable[[], State] = dict
    """All that is needed to go on from here, in tensors that the next step may write over."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """What the loss is the sum of, by name, each (), if that is known; read it as the loss."""


Listener = Callable[[Step], None]


def counted(listeners: Sequence[Listener], part: int, costs: Sequence[float]) -> list[Listener]:
    """``listeners`` that are told the steps of one ``part`` of a run as steps of the whole.

    The parts have as many steps each; ``costs`` is how the work of one step in each of them compares.
    """

    def tell(listener: Listener, step: Step) -> None:
        done = (sum(costs[:part]) + costs[part] * step.done) / sum(costs)
        listener(replace(step, number=part * step.steps + step.number, steps=len(costs) * step.steps, done=done))

    return [partial(tell, listener) for listener in listeners]


@dataclass(frozen=True)
class Run:
    """What an optimization did."""

    losses: Tensor
    """The loss before each step: (steps,) or (steps, N). On the CPU."""
    stopped: Literal["finished", "converged", "interrupted"]


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or NaN."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw all randomness from one generator with this seed; the random state is put back on leaving.

    It is PyTorch's default CPU generator: the one that everybody's transforms draw from. Nothing is drawn on an
    accelerator, so that a seed means the same on every device.
    """
    generator = torch.default_generator
    state = generator.get_state()
    try:
        generator.manual_seed(seed)
        yield
    finally:
        generator.set_state(state)


def optimize(
    image: Parameterization,
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int,
    learning_rate: float = 0.05,
    optimizer: Literal["adam", "lbfgs"] = "adam",
    history: int = HISTORY,
    tolerance: float = 0.0,
    patience: int = 20,
    state: Mapping[str, Tensor] | None = None,
    listeners: Sequence[Listener] = (),
) -> Run:
    """Move ``image`` so that ``loss`` falls.

    Args:
        image: what to move; holds the result afterwards.
        loss: from the rendered image (N, C, H, W) in [0, 1] to what to minimize, () or one value per image (N,);
            their sum is minimized.
        steps: evaluations of the loss and its gradient, at most.
        learning_rate: Adam's step in units of the leaf, until it settles (:data:`SETTLING`); L-BFGS finds its own.
        optimizer: :class:`image_optimization.adam.Adam`, also for a loss that is random; or
            :class:`image_optimization.lbfgs.LBFGS`, faster for one that is not. Its result is the image with the
            lowest loss, Adam's the last one.
        history: curvature pairs that L-BFGS keeps, each twice the size of the leaf.
        tolerance: stop as soon as the mean loss of the last ``patience`` steps is not lower, by more than this share,
            than that of the ``patience`` steps before; 0 never stops.
        patience: see ``tolerance``.
        state: of a step (:attr:`Step.state`) of such a run that was stopped, to go on after it as if nothing had been.
        listeners: told of every step.

    Ctrl-C ends the run after its first step; the image is then the result so far.

    Raises:
        NonFiniteLoss: with the number of the step.
        ValueError: ``steps`` or ``learning_rate`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not learning_rate > 0:
        raise ValueError(f"the learning rate must be positive, not {learning_rate}")
    method: Adam | LBFGS
    if optimizer == "adam":
        method = Adam(image.leaf, image.bounds, learning_rate)
    elif optimizer == "lbfgs":
        method = LBFGS(image.leaf, image.bounds, history)
    else:
        raise ValueError(f"optimizer must be 'adam' or 'lbfgs', not {optimizer!r}")
    check_every = 1 if image.leaf.device.type == "cpu" else CHECK_EVERY
    losses: list[Tensor] = []
    if state is not None:
        restore(method, state)
        losses = list(state["losses"])

    def current() -> State:
        return {**tensors_of(method), "losses": torch.stack(losses)}

    stopped: Literal["finished", "converged", "interrupted"] = "finished"
    try:
        for number in range(len(losses) + 1, steps + 1):
            image.leaf.grad = None
            rendered = image.render()
            values = loss(rendered)
            total = values.sum()
            total.backward()
            assert image.leaf.grad is not None
            if isinstance(method, Adam):
                method.learning_rate = learning_rate * min(1, (steps - number + 1) / (SETTLING * steps))
            method.step(total.detach(), image.leaf.grad)
            losses.append(values.detach())
            for listener in listeners:
                listener(Step(number, steps, values.detach(), rendered.detach(), number / steps, current))
            if number % check_every == 0 or number == steps:
                _check_finite(losses, number - len(losses[-check_every:]))
                if tolerance and _converged(losses, tolerance, patience):
                    stopped = "converged"
                    break
    except KeyboardInterrupt:
        if not losses:
            raise  # there is nothing to show yet
        stopped = "interrupted"
    method.finish()
    return Run(torch.stack(losses).cpu(), stopped)


def tensors_of(method: Adam | LBFGS) -> State:
    """What an optimizer knows, its leaf included."""
    tensors = {name: value.detach() for name, value in vars(method).items() if isinstance(value, Tensor)}
    return {**tensors, "steps": torch.tensor(method.steps)}


def restore(method: Adam | LBFGS, state: Mapping[str, Tensor]) -> None:
    """Let an optimizer know what another one knew.

    Raises:
        ValueError: it is of another kind, or of an image of another size.
    """
    if not set(tensors_of(method)) <= set(state) or state["leaf"].shape != method.leaf.shape:
        raise ValueError("the state is that of another optimizer or of an image of another size: it cannot go on here")
    with torch.no_grad():
        method.leaf.copy_(state["leaf"])
    for name, value in tensors_of(method).items():
        if name not in ("leaf", "steps"):
            setattr(method, name, state[name].to(value))
    method.steps = int(state["steps"])


def _check_finite(losses: list[Tensor], start: int) -> None:
    totals = torch.stack(losses[start:]).reshape(len(losses) - start, -1)
    for number, total in enumerate(totals.sum(1).tolist(), start + 1):
        if not math.isfinite(total):
            raise NonFiniteLoss(f"the loss is {total} at step {number}; a smaller learning rate or weight may help")


def _converged(losses: list[Tensor], tolerance: float, patience: int) -> bool:
    if len(losses) < 2 * patience:
        return False
    recent = torch.stack(losses[-2 * patience :]).reshape(2, patience, -1).sum(dim=2).mean(dim=1)
    before, after = recent.tolist()
    return bool(before - after <= tolerance * abs(before))
