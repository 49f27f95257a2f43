from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamgram.image_optimization.adam import Adam
from dreamgram.image_optimization.names import must_be
from dreamgram.image_optimization.optimize import (
    OPTIMIZERS,
    NonFiniteLoss,
    Optimizer,
    Run,
    State,
    Step,
    StopRun,
    in_turn,
    optimize,
    seeded,
)
from dreamgram.image_optimization.parameterizations import FourierImage, PixelImage


def test_adam_against_the_formulas() -> None:
    """Kingma and Ba, algorithm 1, for one pixel, in plain numbers; the rate falls to nothing in the second half."""
    image = PixelImage(torch.full((1, 1, 1, 1), 0.9, dtype=torch.float64))
    run = optimize(image, lambda x: (x - 0.3).square().sum(), steps=5, learning_rate=0.05)
    x, m, v, losses = 0.9, 0.0, 0.0, []
    for t, rate in enumerate((0.05, 0.05, 0.05, 0.04, 0.02), 1):
        losses.append((x - 0.3) ** 2)
        gradient = 2 * (x - 0.3)
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        x -= rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)) ** 0.5 + 1e-8)
    assert image.render().item() == pytest.approx(x, abs=1e-9)
    assert run.losses.tolist() == pytest.approx(losses, abs=1e-9)


def test_lbfgs_finds_the_minimum_of_a_stretched_bowl() -> None:
    torch.manual_seed(1)
    stretch = torch.logspace(0, 3, 64).reshape(1, 1, 8, 8)
    target = torch.rand(1, 1, 8, 8)
    image = PixelImage.from_noise((1, 1, 8, 8))
    optimize(image, lambda x: (stretch * (x - target).square()).sum(), steps=150, optimizer="lbfgs")
    torch.testing.assert_close(image.render().detach(), target, rtol=0, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_same_seed_same_picture_bit_for_bit(optimizer: str) -> None:
    def picture(seed: int) -> Tensor:
        with seeded(seed):
            image = FourierImage.from_noise((2, 3, 16, 16))
            noisy = lambda x: (x + 0.1 * torch.randn(x.shape) - 0.7).square().sum(dim=(1, 2, 3))  # noqa: E731
            optimize(image, noisy, steps=12, learning_rate=0.1, optimizer=optimizer)
            return image.render().detach()

    assert torch.equal(picture(7), picture(7))
    assert not torch.equal(picture(7), picture(8))


def test_seeded_puts_the_random_state_back() -> None:
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[union-attr]
    with seeded(3):
        first = torch.rand(5)
    with seeded(3):
        assert torch.equal(first, torch.rand(5))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[union-attr]


def test_listeners_hear_every_step() -> None:
    heard: list[Step] = []
    pictures: list[Tensor] = []
    run = optimize(
        PixelImage.from_noise((2, 1, 4, 4)),
        lambda x: (x - 1).square().sum(dim=(1, 2, 3)),
        steps=6,
        learning_rate=0.1,
        listeners=[heard.append, lambda step: pictures.append(step.image.clone())],
    )
    assert [step.number for step in heard] == [1, 2, 3, 4, 5, 6]
    assert {step.steps for step in heard} == {6}
    assert torch.equal(torch.stack([step.loss for step in heard]), run.losses)
    assert run.losses.shape == (6, 2)
    assert not heard[0].loss.requires_grad
    assert pictures[-1].mean() > pictures[0].mean()
    assert run.stopped == "finished"


def test_uniform_steps_are_in_proportion_to_the_mean_gradients() -> None:
    torch.manual_seed(0)
    image, factors = PixelImage(torch.rand(2, 3, 4, 5)), 10 ** (2 * torch.rand(2, 3, 4, 5))
    pixels = image.leaf.detach().clone()
    noise = list(torch.randn(3, 2, 3, 4, 5))
    draws = iter(noise)
    optimize(image, lambda x: (x * factors * next(draws)).sum(), steps=3, learning_rate=0.01, optimizer="uniform")
    for number in range(2):
        mean, square = torch.zeros(3, 4, 5), 0.0
        for step in range(3):
            gradient = factors[number] * noise[step][number]
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.99 * square + 0.01 * sum(each**2 for each in gradient.flatten().tolist()) / 60
            root = (square / (1 - 0.99 ** (step + 1))) ** 0.5
            rate = 0.01 * min(1, (3 - step) / 3 / 0.5)
            pixels[number] = (pixels[number] - rate * mean / (1 - 0.9 ** (step + 1)) / root).clamp(0, 1)
    torch.testing.assert_close(image.leaf.detach(), pixels)


NAMES = {
    "adam": {"leaf", "mean", "square", "steps", "losses"},
    "uniform": {"leaf", "mean", "square", "steps", "losses"},
    "lbfgs": {
        *("leaf", "point", "gradient", "accepted", "best", "best_point", "pairs", "valid"),
        *("move_change", "change_change", "scale", "steps", "losses"),
    },
}
"""Names of the tensors in a checkpoint. If a name changes, older checkpoints cannot be resumed."""


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("stop", [1, 7, 11])
def test_from_the_state_of_any_step_it_ends_the_same(optimizer: str, stop: int) -> None:
    states: dict[int, State] = {}

    def keep(step: Step) -> None:
        states[step.number] = {name: tensor.clone() for name, tensor in step.state().items()}

    def run(state: State | None = None) -> tuple[Tensor, Run]:
        image = PixelImage.from_noise((1, 3, 8, 8))
        loss = lambda x: (x - 0.7).pow(4).sum() + x[:, 0].square().sum()  # noqa: E731
        made = optimize(image, loss, steps=12, optimizer=optimizer, history=4, state=state, listeners=[keep])
        return image.render().detach(), made

    with seeded(0):
        whole, unbroken = run()
    assert optimizer in NAMES, f"add the names of the tensors of {optimizer!r} to NAMES in {__file__}"
    assert set(states[stop]) == NAMES[optimizer]
    resumed, rest = run(states[stop])  # from other noise
    assert torch.equal(resumed, whole)
    assert torch.equal(rest.losses, unbroken.losses)


def test_the_state_of_something_else() -> None:
    states: list[State] = []
    loss = lambda x: x.square().sum()  # noqa: E731
    optimize(PixelImage.from_noise((1, 1, 4, 4)), loss, steps=2, listeners=[lambda step: states.append(step.state())])
    for size, optimizer in ((4, "lbfgs"), (5, "adam")):
        with pytest.raises(ValueError, match="different optimizer, to a different image size"):
            optimize(PixelImage.from_noise((1, 1, size, size)), loss, steps=3, optimizer=optimizer, state=states[0])


def test_a_state_of_a_different_shape_is_refused() -> None:
    """Up to 0.1.0, the curvature pairs of L-BFGS had no axis of blocks."""
    image = PixelImage.from_noise((1, 1, 8, 8))
    states: list[State] = []
    optimize(
        image,
        lambda x: x.square().sum(),
        steps=2,
        optimizer="lbfgs",
        listeners=[lambda step: states.append(step.state())],
    )
    state = {**states[-1], "pairs": states[-1]["pairs"][:, 0]}
    with pytest.raises(ValueError, match="an older version of Dreamgram"):
        optimize(image, lambda x: x.square().sum(), steps=3, optimizer="lbfgs", state=state)


class Descent:
    """Plain gradient descent: an optimizer that a user may write."""

    VECTORS_PER_PAIR: ClassVar[int] = 0

    def __init__(self, leaf: Tensor, bounds: tuple[float, float], *, learning_rate: float, **_: Any) -> None:
        self.leaf, self.bounds, self.learning_rate = leaf, bounds, learning_rate
        self.heard: list[float] = []

    @torch.no_grad()
    def step(self, loss: Tensor, gradient: Tensor, remaining: Tensor) -> None:
        self.heard.append(remaining.item())
        self.leaf.sub_(self.learning_rate * gradient).clamp_(*self.bounds)

    def finish(self) -> None:
        pass

    def state(self) -> State:
        return {"leaf": self.leaf.detach()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.leaf.copy_(state["leaf"])


def test_an_optimizer_of_your_own(monkeypatch: pytest.MonkeyPatch) -> None:
    image = PixelImage(torch.full((1, 1, 2, 2), 0.9))
    made: list[Descent] = []

    def factory(leaf: Tensor, bounds: tuple[float, float]) -> Optimizer:
        made.append(Descent(leaf, bounds, learning_rate=0.25))
        return made[0]

    loss = lambda x: (x - 0.1).square().sum()  # noqa: E731
    optimize(image, loss, steps=4, optimizer=factory)
    torch.testing.assert_close(image.render().detach(), torch.full((1, 1, 2, 2), 0.1 + 0.8 / 16))
    assert made[0].heard == [1, 0.75, 0.5, 0.25]
    monkeypatch.setitem(OPTIMIZERS, "descent", Descent)
    again = PixelImage(torch.full((1, 1, 2, 2), 0.9))
    optimize(again, loss, steps=4, learning_rate=0.25, optimizer="descent")
    assert torch.equal(again.render(), image.render())


def test_adam_settles_as_it_is_told() -> None:
    def last_moves(settling: float) -> Tensor:
        pictures: list[Tensor] = []
        optimize(
            PixelImage(torch.full((1, 1, 2, 2), 0.01)),
            lambda x: -x.sum(),
            steps=10,
            optimizer=partial(Adam, learning_rate=0.05, settling=settling),
            listeners=[lambda step: pictures.append(step.image.clone())],
        )
        return torch.stack(pictures).diff(dim=0)[:, 0, 0, 0, 0]

    torch.testing.assert_close(last_moves(1e-9), torch.full((9,), 0.05))
    rates = 0.05 * torch.tensor([1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    torch.testing.assert_close(last_moves(0.5), rates)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_no_number_stops_with_its_step(optimizer: str, bad: float) -> None:
    calls = iter([1.0, 1.0, 1.0, bad, 1.0, 1.0])
    with pytest.raises(NonFiniteLoss, match=r"the loss is (nan|inf) at step 4"):
        optimize(
            PixelImage.from_noise((1, 1, 4, 4)),
            lambda x: (x - 0.2).square().sum() * next(calls),
            steps=6,
            learning_rate=0.1,
            optimizer=optimizer,
        )


def test_the_first_loss_is_no_number() -> None:
    with pytest.raises(NonFiniteLoss, match=r"inf at step 1; a smaller weight may help, or the weights of the network"):
        optimize(PixelImage.from_noise((1, 1, 4, 4)), lambda x: x.sum() * 1e39, steps=2)


def test_an_image_that_is_no_number_after_the_last_step() -> None:
    """The loss before the last step is finite, but its gradient is not."""
    image = PixelImage(torch.full((1, 1, 4, 4), 0.5))
    with pytest.raises(NonFiniteLoss, match="the image is not finite after step 1"):
        optimize(image, lambda x: (x - 0.5).sqrt().sum(), steps=1, optimizer="adam")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_from_a_file_is_checked(optimizer: str) -> None:
    def run(**more: Any) -> None:
        image = PixelImage(torch.full((1, 1, 4, 4), 0.9))
        optimize(image, lambda x: (x - 0.2).square().sum(), steps=4, optimizer=optimizer, **more)

    states: list[State] = []
    run(listeners=[lambda step: states.append({name: tensor.clone() for name, tensor in step.state().items()})])
    state = states[1]
    run(state={name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()})
    for name, tensor in state.items():
        others = {other: each for other, each in state.items() if other != name}
        changed = None, tensor[None], torch.full_like(tensor.double(), torch.nan), tensor.to(torch.complex64)
        for wrong in changed if name != "losses" else (None, torch.full_like(tensor, torch.nan)):
            with pytest.raises(ValueError, match="cannot resume: "):
                run(state=others if wrong is None else {**others, name: wrong})
    for wrong in (torch.zeros(0), torch.zeros(5), torch.tensor(0.5), torch.zeros(2, dtype=torch.long)):
        with pytest.raises(ValueError, match="cannot resume: a run of 4 steps cannot have losses of the shape"):
            run(state={**state, "losses": wrong})
    with pytest.raises(ValueError, match="cannot resume: "):
        run(state={**state, "more": torch.zeros(1)})


def test_it_stops_when_nothing_is_gained() -> None:
    def steps(tolerance: float) -> tuple[int, str]:
        image = PixelImage.from_noise((1, 1, 4, 4))
        run = optimize(
            image, lambda x: 1 + (x - 0.2).square().sum(), steps=400, learning_rate=0.05, tolerance=tolerance
        )
        return len(run.losses), run.stopped

    assert steps(0) == (400, "finished")
    count, stopped = steps(1e-3)
    assert stopped == "converged"
    assert 40 <= count < 200


def test_interrupted_it_keeps_the_picture_so_far() -> None:
    def interrupt(step: Step) -> None:
        if step.number == 3:
            raise KeyboardInterrupt

    image = PixelImage.from_noise((1, 1, 4, 4))
    loss = lambda x: (x - 1).square().sum()  # noqa: E731
    run = optimize(image, loss, steps=100, learning_rate=0.1, listeners=[interrupt])
    assert run.stopped == "interrupted"
    assert len(run.losses) == 3
    assert loss(image.render()) < run.losses[0]

    def at_once(x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(image, at_once, steps=100, learning_rate=0.1)


def test_a_listener_may_stop_the_run() -> None:
    def stop(step: Step) -> None:
        if step.number == 2:
            raise StopRun

    run = optimize(PixelImage.from_noise((1, 1, 4, 4)), lambda x: x.sum(), steps=9, listeners=[stop])
    assert (len(run.losses), run.stopped) == (2, "interrupted")


def test_parts_in_turn() -> None:
    def run(part: object) -> Run:
        if part == "before":
            raise KeyboardInterrupt
        return Run(torch.zeros(1), part)  # type: ignore[arg-type]

    def ran(*parts: str) -> tuple[list[str], str]:
        results, stopped = in_turn(parts, run)
        return [result.stopped for result in results], stopped

    assert ran("finished", "converged") == (["finished", "converged"], "converged")
    assert ran("finished", "interrupted", "finished") == (["finished", "interrupted"], "interrupted")
    assert ran("finished", "before", "finished") == (["finished"], "interrupted")
    with pytest.raises(KeyboardInterrupt):
        ran("before", "finished")


def test_settings_do_not_stick() -> None:
    def run() -> Tensor:
        image = PixelImage(torch.zeros(1, 1, 4, 4))
        optimize(image, lambda x: (x - 1).square().sum(), steps=3, learning_rate=0.01)
        return image.render().detach()

    first = run()
    optimize(PixelImage(torch.zeros(1, 1, 4, 4)), lambda x: x.sum(), steps=2, learning_rate=0.5, optimizer="lbfgs")
    assert torch.equal(first, run())


def test_bad_settings() -> None:
    image = PixelImage.from_noise((1, 1, 4, 4))
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        optimize(image, lambda x: x.sum(), steps=0, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"learning rate must be positive, not -0\.1"):
        optimize(image, lambda x: x.sum(), steps=1, learning_rate=-0.1)
    with pytest.raises(ValueError, match=f"^optimizer {re.escape(must_be('x', OPTIMIZERS))}$"):
        optimize(image, lambda x: x.sum(), steps=1, learning_rate=1, optimizer="x")
    with pytest.raises(ValueError, match=r"not 'bfgs'; did you mean 'lbfgs'\?"):
        optimize(image, lambda x: x.sum(), steps=1, learning_rate=1, optimizer="bfgs")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda image: image.mean().item(), "not float"),
        (lambda image: image.mean((2, 3)), r"for each image, shape \(2,\), not shape \(2, 3\)"),
        (lambda image: image.mean((1, 2, 3))[:1], r"not shape \(1,\)"),
        (lambda image: image.detach().mean(), "does not depend on the image"),
        (lambda image: torch.ones((), requires_grad=True) * 2, "does not depend on the image"),
    ],
)
def test_a_wrong_loss_is_told_at_the_first_step(loss: Callable[[Tensor], Tensor], message: str) -> None:
    calls: list[Tensor] = []

    def counting(image: Tensor) -> Tensor:
        calls.append(image)
        return loss(image)

    with pytest.raises(ValueError, match=message):
        optimize(PixelImage.from_noise((2, 3, 8, 8)), counting, steps=5)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("listeners", "given"), [("text", "str"), (3, "int"), ([print, None], "NoneType"), (torch.rand(2), "Tensor")]
)
def test_wrong_listeners_are_told_before_the_first_step(listeners: Any, given: str) -> None:
    with pytest.raises(TypeError, match=f"listeners must be a function of a Step, or a list of them, not {given}"):
        optimize(PixelImage.from_noise((1, 3, 8, 8)), lambda image: pytest.fail("a step"), steps=5, listeners=listeners)
    seen: list[Step] = []
    optimize(PixelImage.from_noise((1, 3, 8, 8)), lambda image: image.mean(), steps=2, listeners=seen.append)
    assert [step.number for step in seen] == [1, 2]
