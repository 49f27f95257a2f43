"""The optimization loop that filter visualization, DeepDream and style transfer share: gradient descent on an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from dreamgram.image_optimization.adam import Adam, UniformAdam
from dreamgram.image_optimization.checks import as_number, as_whole
from dreamgram.image_optimization.lbfgs import HISTORY, LBFGS
from dreamgram.image_optimization.names import described, either, must_be
from dreamgram.image_optimization.parameterizations import Parameterization
from dreamgram.image_optimization.precision import most_precise
from dreamgram.image_optimization.recording import StepFunction, is_own, replayed
from dreamgram.image_optimization.settings import TURN

CHECK_EVERY = 16
"""Number of steps, on an accelerator, between two checks of whether the losses are finite and still falling. A check
makes the CPU wait for the accelerator. On the CPU, the losses are checked after every step."""

NO_GRADIENT = "the value to optimize does not depend on the image: no gradient passes back from it"
"""Error message for a loss that is a constant, or that was computed from detached tensors."""

State = dict[str, Tensor]
"""All tensors, by name, that are needed to resume an interrupted optimization."""


class Optimizer(Protocol):
    """Interface of an optimizer, which updates the tensor from which an image is rendered (the leaf).

    To add an optimizer, write a class that has all members of this interface, and add the class to
    :data:`OPTIMIZERS`.
    """

    VECTORS_PER_PAIR: ClassVar[int]
    """Number of tensors, each as large as the optimized tensor, in one curvature pair of a quasi-Newton method; 0 if
    the optimizer stores no curvature pairs."""

    def __init__(
        self, leaf: Tensor, bounds: tuple[float, float], *, learning_rate: float, history: int, block: int | None
    ) -> None:
        """Prepare to optimize the tensor ``leaf`` in place, with its elements kept within ``bounds``.

        ``learning_rate`` is a step size, in the unit of the elements of ``leaf``. ``history`` is the number of
        curvature pairs that a quasi-Newton method stores. ``block`` is the side, in pixels, of the square blocks in
        which a quasi-Newton method learns the curvature separately; None means that all elements of ``leaf`` form one
        block. An optimizer is allowed to ignore these three arguments.
        """

    def step(self, loss: Tensor, gradient: Tensor, remaining: Tensor) -> None:
        """Update the optimized tensor, given the scalar ``loss`` and its ``gradient`` at the tensor's current value.

        ``remaining`` is the fraction of the planned steps that are not yet done, as a scalar tensor. This step counts
        as not yet done, so ``remaining`` is 1 at the first step. All three tensors are on the optimized tensor's device
        and do not require gradients.

        Numbers that change from step to step must be tensors that this method changes in place. A recorded step can
        then be replayed (:mod:`dreamgram.image_optimization.recording`).
        """

    def finish(self) -> None:
        """Set the optimized tensor to its final value, such as the value that had the lowest loss.

        The optimization loop calls this method once, after the last step.
        """

    def state(self) -> State:
        """Return a dictionary of all tensors that are needed to resume the run.

        The optimized tensor has the key ``"leaf"``. After a step, all numbers in the tensors must be finite. The only
        exception is a number that is negative infinity before the first step: it may stay negative infinity. The next
        step may overwrite these tensors.
        """

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from ``state``, a dictionary that :meth:`state` returned and that can have additional entries.

        The additional entries are ignored. The next step may overwrite the tensors in ``state``.
        """


OptimizerFactory = Callable[[Tensor, tuple[float, float]], Optimizer]
"""Function that creates an optimizer, given the tensor to optimize and the smallest and largest allowed value of its
elements."""

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "lbfgs": LBFGS, "uniform": UniformAdam}
"""Optimizer classes by name."""


@dataclass(frozen=True)
class Step:
    """A record of one optimization step. After the step, the record is passed to all listener functions."""

    number: int
    """Number of this step, counted from 1."""
    steps: int
    """Total number of planned steps."""
    loss: Tensor
    """Loss before this step: a scalar tensor, or (N,) with one loss per image. If the tensor is on an accelerator,
    reading its value makes the CPU wait for the accelerator."""
    image: Tensor
    """Images (N, C, H, W) that were rendered in this step, with values in [0, 1], detached from the autograd graph. The
    next step may overwrite this tensor, so clone it to keep it."""
    done: float
    """Fraction of the work of the whole run that is done after this step; 1 after the last planned step."""
    state: Callable[[], State] = dict
    """Function that returns all tensors, by name, that are needed to resume the run after this step. Call it before
    the next step, which may overwrite these tensors."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """Terms of the loss by name, each a scalar tensor; empty if the terms are unknown. The next step may overwrite
    these tensors. If they are on an accelerator, reading a value makes the CPU wait for the accelerator."""


Listener = Callable[[Step], None]
"""Function that is called after every step. The function can raise :class:`StopRun` to end the run."""


class StopRun(KeyboardInterrupt):
    """Exception that a listener (a function called after every step) can raise to end the run after the current step.

    The attribute ``stopped`` of the result is then "interrupted", as it is after Ctrl-C.
    """


def as_listeners(given: Sequence[Listener] | Listener | None) -> list[Listener]:
    """Return ``given``, which is one listener, several listeners or None, as a list of listeners.

    A listener is a function that is called after every step.

    Raises:
        TypeError: one of the listeners is not a function.
    """
    if given is None:
        return []
    listeners: list[Listener] = list(given) if isinstance(given, Iterable) else [given]
    for each in listeners:
        if isinstance(each, ContextDecorator):  # it is callable, but only to decorate a function
            raise TypeError("listeners must be functions: write `with progress(...) as bar`, and give bar")
        if not callable(each):
            wrong = type(given if isinstance(given, str | Tensor) else each).__name__
            raise TypeError(f"listeners must be a function of a Step, or a list of them, not {wrong}")
    return listeners


def counted(listeners: Sequence[Listener], part: int, steps: Sequence[int], costs: Sequence[float]) -> list[Listener]:
    """Wrap ``listeners`` for one part of a run, so that they receive step numbers counted over the whole run.

    Listeners are functions that are called after every step. A part of a run is, for example, the optimization at one
    image size. ``part`` is the zero-based index of the part. For each part, ``steps`` holds the number of its steps,
    and ``costs`` holds the amount of work of one of these steps, in any unit.
    """
    before = sum(steps[:part])
    work = [count * cost for count, cost in zip(steps, costs, strict=True)]

    def tell(listener: Listener, step: Step) -> None:
        done = (sum(work[:part]) + work[part] * step.done) / sum(work)
        listener(replace(step, number=before + step.number, steps=sum(steps), done=done))

    return [partial(tell, listener) for listener in listeners]


Ending = Literal["finished", "converged", "interrupted"]
"""Reason why a run ended: all steps are done ("finished"), the loss has stopped falling ("converged"), or Ctrl-C was
pressed or a listener raised :class:`StopRun` ("interrupted")."""


@dataclass(frozen=True)
class Run:
    """The result of :func:`optimize`."""

    losses: Tensor
    """Loss before each step, on the CPU: a tensor (steps,), or (steps, N) with one loss per image."""
    stopped: Ending
    """Reason why the run ended."""


class NonFiniteLoss(ArithmeticError):
    """Exception that reports that the loss or the image became infinite or NaN."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's default CPU random number generator on entering the context; restore its old state on leaving.

    The initial noise of an image and the random transforms of this package are drawn from this generator, never from
    the generator of an accelerator. Therefore, the same seed gives the same random numbers on every device. The
    parameters of torchvision's random transforms, such as angles, are drawn from this generator, too. Only one thread
    at a time can be inside the context; other threads wait.
    """
    seed = as_whole(seed, "seed", least=-(2**63), most=2**64 - 1)
    with TURN:
        state = torch.default_generator.get_state()
        try:
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            torch.default_generator.set_state(state)


def optimize(
    image: Parameterization,
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int,
    learning_rate: float = 0.05,
    optimizer: str | OptimizerFactory = "adam",
    history: int = HISTORY,
    block: int | None = None,
    tolerance: float = 0.0,
    patience: int = 20,
    state: Mapping[str, Tensor] | None = None,
    listeners: Sequence[Listener] | Listener = (),
    record: bool = False,
) -> Run:
    """Optimize ``image`` to minimize ``loss``.

    Args:
        image: parameterization of the images to optimize. It is changed in place and holds the result afterwards.
        loss: function to minimize. It receives the rendered images (N, C, H, W) in [0, 1] and returns the loss: a
            scalar, or (N,) with one value per image. In the second case, the sum of the values is minimized.
        steps: largest number of steps. Each step evaluates the loss and its gradient once.
        learning_rate: step size of Adam, in the unit of ``image.leaf``, the tensor that is optimized. The step size
            is constant in the first half of the run and falls linearly to zero in the second half. L-BFGS does not use
            ``learning_rate``.
        optimizer: a name in :data:`OPTIMIZERS`, or a function that creates an optimizer, given the tensor to optimize
            and the bounds of its elements. ``"adam"`` can minimize any loss, even one that varies at random, and its
            result is the last image. ``"lbfgs"`` is faster for a loss that does not vary at random, and its result is
            the image with the lowest loss. ``"uniform"`` is Adam with one step size for all elements of an image. A
            function receives neither ``learning_rate`` nor ``history`` nor ``block``.
        history: number of curvature pairs that L-BFGS stores. Each pair takes twice the memory of ``image.leaf``.
        block: side, in pixels, of the square blocks in which L-BFGS learns the curvature separately, if ``image.leaf``
            holds pixels. Small blocks suit losses for which distant pixels hardly influence each other's gradient. By
            default, all elements of ``image.leaf`` form one block.
        tolerance: relative decrease of the loss at or below which the run stops. The mean loss of the last ``patience``
            steps is compared with the mean loss of the ``patience`` steps before them. If the mean has fallen by at
            most the fraction ``tolerance``, or has risen, the run has converged and stops. A tolerance of 0 turns this
            test off.
        patience: number of steps in each of the two means described under ``tolerance``.
        state: the result of calling :attr:`Step.state` after a step of a previous run. If ``state`` is given, the
            previous run is resumed after that step, as if it had not been interrupted. ``steps`` then includes the
            steps that are already done. The run may overwrite the tensors in ``state``.
        listeners: functions to call with a :class:`Step` after every step.
        record: whether to record one step and replay the recording in later steps, if possible. This is faster on an
            NVIDIA GPU (:mod:`dreamgram.image_optimization.recording`), and has no effect on other devices. ``loss``
            must do the same operations on the same tensors in every step, and is no longer called after a step has been
            recorded. A step is never recorded if the parameterization or the optimizer is defined outside Dreamgram.

    If Ctrl-C is pressed after the first step, the run ends early, and ``image`` holds the result so far.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before the first step was done.
        NonFiniteLoss: the loss or the image became infinite or NaN; the message gives the number of the step.
        ValueError: ``steps`` or ``learning_rate`` is not positive; there is no optimizer with the name ``optimizer``;
            ``state`` is damaged, or does not fit the optimizer and the image size; ``loss`` returns neither one number
            nor one number for each image; or the result of ``loss`` does not depend on the image.
        TypeError: ``image`` is not a parameterization, ``loss`` or a listener is not a function, or ``optimizer`` is
            neither a name nor a function.
    """
    if not isinstance(getattr(image, "leaf", None), Tensor) or not callable(loss):
        given = described(loss if isinstance(getattr(image, "leaf", None), Tensor) else image)
        raise TypeError(f"optimize needs images such as PixelImage(tensor), and a function of them, not {given}")
    steps = as_whole(steps, "steps", least=1)
    learning_rate = as_number(learning_rate, "the learning rate")
    if not learning_rate > 0:
        raise ValueError(f"the learning rate must be positive, not {learning_rate}")
    told = as_listeners(listeners)
    method = choose_optimizer(optimizer, learning_rate, history, block)(image.leaf, image.bounds)
    check_every = 1 if image.leaf.device.type == "cpu" else CHECK_EVERY
    losses: list[Tensor] = []
    if state is not None:
        _check_state(state, method.state(), steps)
        method.load(state)
        losses = list(state["losses"].to(image.leaf.device))

    def current() -> State:
        return {**method.state(), "losses": torch.stack(losses)}

    do_step = _step_function(image, loss, method, len(losses), steps, record)
    stopped: Ending = "finished"
    try:
        for number in range(len(losses) + 1, steps + 1):
            values, rendered = do_step()
            losses.append(values.clone())
            if told:
                drawn = torch.default_generator.get_state()
                for listener in told:
                    listener(Step(number, steps, losses[-1], rendered, number / steps, current))
                torch.default_generator.set_state(drawn)  # a listener might draw random numbers
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
    if not image.leaf.isfinite().all():  # after the last step, no loss is computed that would reveal this
        raise NonFiniteLoss(f"the image is not finite after step {len(losses)}; a smaller weight may help")
    return Run(torch.stack(losses).cpu(), stopped)


def _check_state(state: Mapping[str, Tensor], fresh: Mapping[str, Tensor], steps: int) -> None:
    """Check that a run of ``steps`` steps can be resumed from ``state``, which might come from a wrong file.

    ``fresh`` is the state of the optimizer before its first step. Numbers in ``state`` must be finite. The only
    exception is a number that is negative infinity in ``fresh``: it may be negative infinity in ``state``, too.

    Raises:
        ValueError: a tensor is missing, unknown or damaged, or ``state`` cannot come from a run of ``steps`` steps.
    """
    if state.keys() != {*fresh, "losses"} or any(state[name].shape != fresh[name].shape for name in fresh):
        raise ValueError(
            "cannot resume: the state belongs to a different optimizer, to a different image size, or to an older "
            "version of Dreamgram"
        )
    for name, tensor in fresh.items():
        if _kind(state[name]) != _kind(tensor):
            raise ValueError(f"cannot resume: {name} has the type {state[name].dtype}, not {tensor.dtype}")
    losses = state["losses"]
    if not losses.ndim or not 1 <= len(losses) <= steps or not losses.is_floating_point():
        raise ValueError(f"cannot resume: a run of {steps} steps cannot have losses of the shape {tuple(losses.shape)}")
    for name, tensor in state.items():
        unset = fresh[name].isneginf().to(tensor.device) if name in fresh else torch.zeros((), dtype=torch.bool)
        if not (tensor.isfinite() | (tensor.isneginf() & unset)).all():
            raise ValueError(f"cannot resume: {name} holds numbers that are not finite")


def _kind(tensor: Tensor) -> torch.dtype:
    """Return the type of a tensor's numbers. Single and double precision count as the same type."""
    return torch.float64 if tensor.dtype == torch.float32 else tensor.dtype


def _step_function(
    image: Parameterization, loss: Callable[[Tensor], Tensor], method: Optimizer, number: int, steps: int, record: bool
) -> StepFunction:
    """Return a function that does the next step each time it is called. ``number`` steps are already done.

    The function returns the loss before the step, and the image that was rendered in the step.
    """
    device = image.leaf.device
    done = torch.full((), number, dtype=most_precise(device), device=device)

    def step() -> tuple[Tensor, Tensor]:
        rendered = image.render()
        values = loss(rendered)
        _check_loss(values, len(rendered))
        [gradient] = torch.autograd.grad(values.sum(), image.leaf, allow_unused=True)
        if gradient is None:
            raise ValueError(NO_GRADIENT)
        method.step(values.detach().sum(), gradient.contiguous(), (steps - done) / steps)
        done.add_(1)
        return values.detach(), rendered.detach()

    return replayed(step, device) if record and is_own(type(image), type(method)) else step


def _check_loss(values: object, count: int) -> None:
    """Check the type and shape of ``values``, the result of a loss function for ``count`` images.

    The numbers in the tensor are not read, so that the CPU does not wait for an accelerator.

    Raises:
        ValueError: ``values`` is neither one number nor one number for each image, or does not depend on the images.
    """
    if not isinstance(values, Tensor) or values.shape not in ((), (count,)):
        given = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"the loss must be a tensor with one number, or with one for each image, shape ({count},), not {given}"
        )
    if not values.requires_grad:
        raise ValueError(NO_GRADIENT)


def choose_optimizer(
    optimizer: str | OptimizerFactory, learning_rate: float = 0.05, history: int = HISTORY, block: int | None = None
) -> OptimizerFactory:
    """Return the function that creates the optimizer called ``optimizer``.

    The returned function passes ``learning_rate``, ``history`` and ``block`` to the optimizer. If ``optimizer`` is a
    function instead of a name, it is returned unchanged.

    Raises:
        ValueError: there is no optimizer of that name; the message lists the names and suggests a similar one, if any.
        TypeError: ``optimizer`` is neither a name nor a function of the tensor to optimize and its bounds. For example,
            optimizers of ``torch.optim`` are not allowed.
    """
    if not isinstance(optimizer, str):
        kind = optimizer if isinstance(optimizer, type) else type(optimizer)
        if not callable(optimizer) or issubclass(kind, torch.optim.Optimizer):
            wanted = f"{either(OPTIMIZERS)}, or a function of the tensor to optimize and its bounds"
            raise TypeError(f"optimizer must be {wanted}, not {described(optimizer)}")
        return optimizer
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {must_be(optimizer, OPTIMIZERS)}")
    return partial(OPTIMIZERS[optimizer], learning_rate=learning_rate, history=history, block=block)


class Part(Protocol):
    """Interface of the result of one part of a run, such as the optimization at one image size."""

    @property
    def stopped(self) -> Ending:
        """Return the reason why this part of the run ended, such as "finished" or "interrupted"."""


P = TypeVar("P")
R = TypeVar("R", bound=Part)


def in_turn(parts: Iterable[P], work: Callable[[P], R]) -> tuple[list[R], Ending]:
    """Call ``work`` with each of ``parts`` in turn, until Ctrl-C interrupts one of the calls.

    Returns:
        The results of the calls, and the reason why the last call ended. If a call after the first one raises
        KeyboardInterrupt, because Ctrl-C was pressed before that call had done a step, the results of the earlier calls
        are returned and the reason is "interrupted".

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before any call had returned a result.
    """
    results: list[R] = []
    stopped: Ending = "finished"
    try:
        for part in parts:
            results.append(work(part))
            stopped = results[-1].stopped
            if stopped == "interrupted":
                break
    except KeyboardInterrupt:
        if not results:
            raise
        stopped = "interrupted"
    return results, stopped


def _check_finite(losses: list[Tensor], start: int) -> None:
    """Raise NonFiniteLoss if any loss in ``losses[start:]`` is infinite or NaN.

    The losses before index ``start`` have already been checked.
    """
    totals = torch.stack(losses[start:]).reshape(len(losses) - start, -1)
    for number, total in enumerate(totals.sum(1).tolist(), start + 1):
        if not math.isfinite(total):
            advice = "a smaller learning rate or weight may help"
            if number == 1:
                advice = "a smaller weight may help, or the weights of the network are not finite"
            raise NonFiniteLoss(f"the loss is {total} at step {number}; {advice}")


def _converged(losses: list[Tensor], tolerance: float, patience: int) -> bool:
    """Return whether the mean loss has stopped falling.

    The mean over the last ``patience`` steps is compared with the mean over the ``patience`` steps before them. The
    loss has stopped falling if the later mean is higher than the earlier mean, or lower by at most ``tolerance`` times
    the absolute value of the earlier mean.
    """
    if len(losses) < 2 * patience:
        return False
    recent = torch.stack(losses[-2 * patience :]).reshape(2, patience, -1).sum(dim=2).mean(dim=1)
    before, after = recent.tolist()
    return bool(before - after <= tolerance * abs(before))
