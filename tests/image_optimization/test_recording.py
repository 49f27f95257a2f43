"""Replayed steps give the same result as ordinary ones. The steps are recorded by a pretended CUDA graph on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dreamgram as dg
from dreamgram.activation_maximization.objectives import Objective
from dreamgram.image_optimization import recording as recorder
from dreamgram.image_optimization.adam import Adam
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.optimize import Run, Step, optimize
from dreamgram.image_optimization.parameterizations import PixelImage
from dreamgram.style_transfer import stylizer
from dreamgram.style_transfer.losses import GramLoss, style_loss
from dreamgram.style_transfer.presets import PRESETS
from dreamgram.style_transfer.tiling import whole
from dreamgram.style_transfer.total_loss import Style, total_loss
from tests.cases import DREAMS, FEW, STEPS, STYLE_TRANSFERS, dreams, style_transfers
from tests.pretended_graph import PretendedGraph


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record steps on the CPU."""
    monkeypatch.setitem(recorder.GRAPHS, "cpu", PretendedGraph)
    monkeypatch.setattr(PretendedGraph, "replays", 0)


@pytest.fixture(scope="module")
def digits() -> nn.Module:
    return dg.load("digits")


def both(run: Callable[[], Any]) -> tuple[Any, Any]:
    """Return the results of ``run`` with and without replayed steps, after checking that a step was replayed."""
    PretendedGraph.replays = 0
    replayed = run()
    assert PretendedGraph.replays
    graph = recorder.GRAPHS.pop("cpu")
    plain = run()
    recorder.GRAPHS["cpu"] = graph
    return replayed, plain


def assert_repeated(tensors: list[Tensor]) -> None:
    """Check that the second half of ``tensors``, from ordinary steps, equals the first half, from replayed steps."""
    half = len(tensors) // 2
    assert half in (FEW, STEPS)
    assert all(map(torch.equal, tensors[:half], tensors[half:]))


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("name", DREAMS)
def test_activation_maximization(name: str, digits: nn.Module) -> None:
    case, shown = dreams(digits)[name], []
    replayed, plain = both(lambda: case(lambda step: shown.append(step.image.clone())))
    assert torch.equal(replayed.images, plain.images)
    assert torch.equal(replayed.history, plain.history)
    assert_repeated(shown)


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("name", STYLE_TRANSFERS)
def test_style_transfer(name: str, vgg16: nn.Module) -> None:
    case, shown, parts = style_transfers(vgg16)[name], [], []

    def listen(step: Step) -> None:
        shown.append(step.image.clone())
        parts.append(torch.stack(list(step.parts.values())))

    replayed, plain = both(lambda: case(listen))
    assert torch.equal(replayed.image, plain.image)
    assert torch.equal(replayed.history[0], plain.history[0])
    assert_repeated(shown)
    assert_repeated(parts)


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_other_precisions(precision: str, vgg16: nn.Module) -> None:
    photo, painting = torch.rand(2, 1, 3, 48, 48)
    replayed, plain = both(
        lambda: dg.stylize(photo, [painting], model=vgg16, size=48, steps=5, precision=precision).image
    )
    assert torch.equal(replayed, plain)


@pytest.mark.usefixtures("recording")
def test_numbers_that_change_between_replays() -> None:
    """A weight, the learning rate, and a target are changed by a listener, as a program that shows the run would."""

    def run(change: bool) -> Tensor:
        weight, target = torch.tensor(1.0), torch.full((1, 3, 4, 4), 0.7)
        image = PixelImage(torch.full((1, 3, 4, 4), 0.5))
        made: list[Adam] = []

        def make(leaf: Tensor, bounds: tuple[float, float]) -> Adam:
            made.append(Adam(leaf, bounds))
            return made[0]

        def steer(step: Step) -> None:
            if change and step.number == 6:
                weight.fill_(-3)
            if change and step.number == 9:
                made[0].learning_rate.fill_(0.01)
            if change and step.number == 12:
                target.fill_(0.1)

        def loss(rendered: Tensor) -> Tensor:
            return weight * (rendered - target).square().sum()

        result: Run = optimize(image, loss, steps=16, optimizer=make, listeners=[steer], record=True)
        return result.losses

    replayed, plain = both(lambda: run(True))
    assert torch.equal(replayed, plain)
    steady, _ = both(lambda: run(False))
    assert torch.equal(replayed[:6], steady[:6])
    assert not torch.isclose(replayed[6:], steady[6:]).any()


@pytest.mark.usefixtures("recording")
def test_weights_of_style_transfer_between_replays(vgg16: nn.Module) -> None:
    photo, painting = torch.rand(2, 1, 3, 48, 48)
    preset = PRESETS["gatys"]
    styles = [Style(painting, 48, [1.0])]

    def run(change: bool) -> Tensor:
        with capture(vgg16, preset.layers) as activations_of:
            loss = total_loss(activations_of, photo, styles, preset, lambda _: [whole(preset.layers)])

            def steer(step: Step) -> None:
                if change and step.number == 5:
                    for term in loss.terms:
                        if term.part == "style":
                            term.weight.mul_(4)

            image = PixelImage.from_image(photo)
            losses: Tensor = optimize(image, loss, steps=8, optimizer="lbfgs", listeners=[steer], record=True).losses
            return losses

    replayed, plain = both(lambda: run(True))
    assert torch.equal(replayed, plain)
    assert replayed[5] > 2 * run(False)[5]


class Gentle(nn.Module):
    """A network of a user's own."""

    input_shape = (1, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(1, 4, 3)
        self.outer = nn.Conv2d(4, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.outer(self.inner(image).relu())
        return result


@pytest.mark.usefixtures("recording")
def test_a_network_of_a_users_own_is_recorded() -> None:
    network = Gentle()
    replayed, plain = both(lambda: dg.maximize(network, dg.channel("outer", [1, 2]), steps=8).images)
    assert torch.equal(replayed, plain)


def test_code_of_others_is_not_recorded(recording: None, digits: nn.Module) -> None:
    mine = Objective("mine", frozenset(["conv2"]), lambda a: a["conv2"].flatten(1).amax(1))
    assert not mine.is_recordable
    assert not (mine - 2 * dg.logit(3)).is_recordable
    assert (dg.logit(3) - 2 * dg.pixel_sum()).is_recordable
    for objective in (dg.logit(3), dg.logit(3) - dg.pixel_sum()):
        assert not replace(objective, value=mine.value).is_recordable
    calls: list[int] = []

    class Own(PixelImage):
        pass

    class Slow(Adam):
        pass

    def transform(images: Tensor) -> Tensor:
        calls.append(1)
        return images.roll(1, 3)

    def make(leaf: Tensor, bounds: tuple[float, float]) -> Slow:
        return Slow(leaf, bounds)

    hooked = dg.load("digits")
    hooked.register_forward_hook(lambda *_: None)
    hooked.conv1.register_forward_pre_hook(lambda *_: calls.append(1))
    logit = dg.logit(3)
    dg.maximize(digits, mine, steps=6)
    dg.maximize(digits, logit, steps=6, transform=transform)
    dg.maximize(digits, logit, steps=6, transform=[dg.robust(), transform])
    dg.maximize(digits, logit, steps=6, parameterization=Own)
    dg.maximize(digits, logit, steps=6, optimizer=make)
    dg.maximize(hooked, logit, steps=6)
    counting = dg.load("digits")
    counting.recordable = False  # type: ignore[assignment]
    dg.maximize(counting, logit, steps=6)
    assert PretendedGraph.replays == 0
    assert len(calls) >= 18
    dg.maximize(digits, Objective("mine", mine.layers, mine.value, recordable=True), steps=6)
    assert PretendedGraph.replays == 5  # the first step is not replayed


def test_a_style_loss_of_others_is_not_recorded(recording: None, vgg16: nn.Module) -> None:
    @style_loss("mine")
    class Mine(GramLoss):
        pass

    try:
        photo, painting = torch.rand(2, 1, 3, 48, 48)
        dg.stylize(photo, [painting], model=vgg16, size=48, steps=5, style_loss="mine")
    finally:
        stylizer.STYLE_LOSSES.pop("mine")
    assert PretendedGraph.replays == 0


def test_a_step_that_cannot_be_recorded(recording: None, caplog: pytest.LogCaptureFixture) -> None:
    """The loss reads a number, which no recording permits: the steps run as usual, and the log says why."""

    def run() -> tuple[Tensor, Tensor]:
        image = PixelImage(torch.full((1, 1, 4, 4), 0.5))

        def loss(rendered: Tensor) -> Tensor:
            return (rendered - 0.7 if rendered.sum().item() > 1 else rendered).square().sum()

        return optimize(image, loss, steps=8, record=True).losses, image.leaf.detach()

    with caplog.at_level(logging.DEBUG, "dreamgram"):
        tried = run()
    assert PretendedGraph.replays == 0
    [message] = caplog.messages
    assert "recording a step failed: aten._local_scalar_dense.default is not permitted" in message
    recorder.GRAPHS.pop("cpu")
    assert all(map(torch.equal, tried, run()))


@pytest.mark.parametrize(("waits", "runs"), [([""], 2), (["copy", ""], 3), (["copy", "copy"], 6)])
def test_a_second_step_runs_first_if_the_first_one_waits(
    monkeypatch: pytest.MonkeyPatch, waits: list[str], runs: int
) -> None:
    """Some steps copy data once, in the first step. A step that waits in the second step, too, is never recorded."""

    class Waiting(PretendedGraph):
        def warm_up(self, step: recorder.StepFunction) -> tuple[Tensor, ...]:
            self.waits = tuple(filter(None, [waits.pop(0)]))
            return super().warm_up(step)

        def record(self, step: recorder.StepFunction) -> tuple[Tensor, ...]:
            if self.waits:
                raise RuntimeError(self.waits[0])
            return super().record(step)

    monkeypatch.setitem(recorder.GRAPHS, "cpu", Waiting)
    ran, total = [], torch.zeros(())

    def step() -> tuple[Tensor, ...]:
        ran.append(1)
        return (total.add_(1),)

    do_step = recorder.replayed(step, torch.device("cpu"))
    assert [do_step()[0].item() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert len(ran) == runs
    assert not waits
