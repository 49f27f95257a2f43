"""The optimization loop that all applications share: gradient descent on an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from dreamgram.image_optimization.adam import Adam
from dreamgram.image_optimization.lbfgs import HISTORY, LBFGS
from dreamgram.image_optimization.names import did_you_mean
from dreamgram.image_optimization.parameterizations import Parameterization

CHECK_EVERY = 16
"""Number of steps between two checks of the losses on an accelerator. Each check waits for the device."""

State = dict[str, Tensor]
"""Tensors, by name, that are needed to resume a run."""


class Optimizer(Protocol):
    """A method that moves the leaf of an image.

    To add a method, write a class with these members and add it to :data:`OPTIMIZERS`.
    """

    VECTORS_PER_PAIR: ClassVar[int]
    """Number of tensors of the leaf's size in one stored curvature pair; 0 if the method stores no pairs."""

    def __init__(self, leaf: Tensor, bounds: tuple[float, float], *, learning_rate: float, history: int) -> None:
        """Prepare to move ``leaf`` in place and keep it within ``bounds``.

        ``learning_rate`` is in units of the leaf. ``history`` is the number of curvature pairs to store. A method may
        ignore either of them.
        """

    def step(self, loss: Tensor, gradient: Tensor, remaining: float) -> None:
        """Move the leaf, given the loss () and its gradient at the current leaf.

        ``remaining`` is the fraction of all steps that are not yet done, including this step: 1 at the first step.
        """

    def finish(self) -> None:
        """Set the leaf to the result."""

    def state(self) -> State:
        """Return, by name, all tensors that are needed to resume the run, including the leaf.

        The next step may overwrite these tensors.
        """

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from ``state``, which may have more tensors than :meth:`state` returned.

        The next step may overwrite these tensors.
        """


OptimizerFactory = Callable[[Tensor, tuple[float, float]], Optimizer]
"""Function that makes an optimizer from a leaf and its bounds."""

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "lbfgs": LBFGS}
"""Optimizer classes by name."""


@dataclass(frozen=True)
class Step:
    """A record of one step, which every listener receives."""

    number: int
    """Number of this step, counted from 1."""
    steps: int
    """Number of planned steps."""
    loss: Tensor
    """Loss before this step, () or (N,) with one loss per image. On an accelerator, reading the value waits for the
    device."""
    image: Tensor
    """Image (N, C, H, W) in [0, 1], detached. The next step may overwrite it, so clone it to keep it."""
    done: float
    """Fraction of the whole work that is done, up to 1."""
    state: Callable[[], State] = dict
    """Function that returns all tensors that are needed to resume the run after this step. The next step may overwrite
    them."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """Terms of the loss by name, each (); empty if they are unknown. On an accelerator, reading a value waits for the
    device."""


Listener = Callable[[Step], None]
"""Function that is called after every step. It may raise :class:`StopRun`."""


class StopRun(KeyboardInterrupt):
    """Exception that a listener raises to end the run after this step.

    The run is then reported as "interrupted", as after Ctrl-C.
    """


def counted(listeners: Sequence[Listener], part: int, costs: Sequence[float]) -> list[Listener]:
    """Wrap ``listeners`` for one part of a run, so that they receive its steps numbered as steps of the whole run.

    ``part`` is the zero-based index of the part. All parts have the same number of steps. ``costs`` holds the relative
    amount of work of one step in each part.
    """

    def tell(listener: Listener, step: Step) -> None:
        done = (sum(costs[:part]) + costs[part] * step.done) / sum(costs)
        listener(replace(step, number=part * step.steps + step.number, steps=len(costs) * step.steps, done=done))

    return [partial(tell, listener) for listener in listeners]


Ending = Literal["finished", "converged", "interrupted"]
"""Reason why a run ended: all steps are done, the loss has stopped improving, or Ctrl-C was pressed."""


@dataclass(frozen=True)
class Run:
    """The result of :func:`optimize`."""

    losses: Tensor
    """Loss before each step, (steps,) or (steps, N), on the CPU."""
    stopped: Ending
    """Reason why the run ended."""


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or NaN."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's default CPU generator within the context, and restore its state on leaving.

    All random numbers are drawn from this generator, which the transforms of all libraries use, too. No random numbers
    are drawn on an accelerator, so that a seed gives the same numbers on every device.
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
    optimizer: str | OptimizerFactory = "adam",
    history: int = HISTORY,
    tolerance: float = 0.0,
    patience: int = 20,
    state: Mapping[str, Tensor] | None = None,
    listeners: Sequence[Listener] = (),
) -> Run:
    """Optimize ``image`` to minimize ``loss``.

    Args:
        image: image to optimize. It holds the result afterwards.
        loss: function to minimize. It receives the rendered image (N, C, H, W) in [0, 1] and returns the loss, () or
            (N,) with one value per image. The sum of the values is minimized.
        steps: largest number of evaluations of the loss and its gradient.
        learning_rate: step size of Adam, in units of the leaf, until the last part of the run, in which it falls.
            L-BFGS does not use it.
        optimizer: a name in :data:`OPTIMIZERS`, or a function that makes an optimizer from a leaf and its bounds.
            ``"adam"`` can also minimize a stochastic loss, and its result is the last image. ``"lbfgs"`` is faster for
            a loss that is not random, and its result is the image with the lowest loss.
        history: number of curvature pairs that L-BFGS stores. Each pair is twice the size of the leaf.
        tolerance: relative decrease of the loss at which the run stops. If the mean loss of the last ``patience`` steps
            is lower than that of the previous ``patience`` steps by no more than this fraction, the run has converged.
            With 0 the run never stops early.
        patience: number of steps in each of the two means that ``tolerance`` compares.
        state: state of a step (:attr:`Step.state`) of a previous run, to resume that run as if it had not stopped. Its
            tensors may be overwritten.
        listeners: functions to call after every step.

    If Ctrl-C is pressed after the first step, the run ends early, and ``image`` holds the result so far.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before the first step was done.
        NonFiniteLoss: the loss became infinite or NaN; the message has the number of the step.
        ValueError: ``steps`` or ``learning_rate`` is not positive, there is no such optimizer, or ``state`` belongs to
            a different optimizer or to an image of a different size.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not learning_rate > 0:
        raise ValueError(f"the learning rate must be positive, not {learning_rate}")
    method = choose_optimizer(optimizer, learning_rate, history)(image.leaf, image.bounds)
    check_every = 1 if image.leaf.device.type == "cpu" else CHECK_EVERY
    losses: list[Tensor] = []
    if state is not None:
        if not method.state().keys() <= state.keys() or state["leaf"].shape != image.leaf.shape:
            raise ValueError("cannot resume: the state belongs to a different optimizer or to a different image size")
        method.load(state)
        losses = list(state["losses"].to(image.leaf.device))

    def current() -> State:
        return {**method.state(), "losses": torch.stack(losses)}

    stopped: Ending = "finished"
    try:
        for number in range(len(losses) + 1, steps + 1):
            image.leaf.grad = None
            rendered = image.render()
            values = loss(rendered)
            total = values.sum()
            total.backward()
            assert image.leaf.grad is not None
            method.step(total.detach(), image.leaf.grad, (steps - number + 1) / steps)
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
            raise  # there is no result yet
        stopped = "interrupted"
    method.finish()
    return Run(torch.stack(losses).cpu(), stopped)


def choose_optimizer(optimizer: str | OptimizerFactory, learning_rate: float, history: int) -> OptimizerFactory:
    """Return the function that makes the optimizer called ``optimizer``; return a function unchanged.

    Raises:
        ValueError: there is no such optimizer; the message lists the names and suggests the nearest one.
    """
    if not isinstance(optimizer, str):
        return optimizer
    if optimizer not in OPTIMIZERS:
        names = " or ".join(map(repr, OPTIMIZERS))
        hint = did_you_mean(optimizer, OPTIMIZERS)
        raise ValueError(f"optimizer must be {names}, not {optimizer!r}" + (f"; {hint.strip()}" if hint else ""))
    return partial(OPTIMIZERS[optimizer], learning_rate=learning_rate, history=history)


class Part(Protocol):
    """The result of a part of a run."""

    @property
    def stopped(self) -> str:
        """Return the reason why the part ended, such as "finished" or "interrupted"."""


P = TypeVar("P")
R = TypeVar("R", bound=Part)


def in_turn(parts: Iterable[P], run: Callable[[P], R]) -> tuple[list[R], str]:
    """Call ``run`` with each of ``parts``, until one of the calls is interrupted.

    Returns:
        The results, and the reason why the last part ended. If Ctrl-C is pressed before the first step of a part, the
        results so far are returned and the reason is "interrupted".

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before there were any results.
    """
    results: list[R] = []
    stopped = "finished"
    try:
        for part in parts:
            results.append(run(part))
            stopped = results[-1].stopped
            if stopped == "interrupted":
                break
    except KeyboardInterrupt:
        if not results:
            raise
        stopped = "interrupted"
    return results, stopped


def _check_finite(losses: list[Tensor], start: int) -> None:
    """Raise NonFiniteLoss if any loss, except the first ``start`` losses, is infinite or NaN."""
    totals = torch.stack(losses[start:]).reshape(len(losses) - start, -1)
    for number, total in enumerate(totals.sum(1).tolist(), start + 1):
        if not math.isfinite(total):
            raise NonFiniteLoss(f"the loss is {total} at step {number}; a smaller learning rate or weight may help")


def _converged(losses: list[Tensor], tolerance: float, patience: int) -> bool:
    """Return whether the mean loss has stopped falling.

    It has stopped if the mean of the last ``patience`` steps is lower than that of the previous ``patience`` steps by
    no more than the fraction ``tolerance``.
    """
    if len(losses) < 2 * patience:
        return False
    recent = torch.stack(losses[-2 * patience :]).reshape(2, patience, -1).sum(dim=2).mean(dim=1)
    before, after = recent.tolist()
    return bool(before - after <= tolerance * abs(before))
