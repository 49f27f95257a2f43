"""Tests of compiled networks, at small sizes, because compiling takes seconds."""

from __future__ import annotations

import functools
import logging
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dreamgram as dg
from dreamgram.image_optimization import capture as capturing
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.compilation import compile_for
from dreamgram.style_transfer.budget import Budget


class Straight(torch.autograd.Function):
    """A step function whose backward pass ignores the step, so that autograd's own formula would give 0."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        return (image > 0.5).to(image)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Small(nn.Module):
    """A network with a function that has a backward pass of its own, a buffer, and a head that is not needed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.25))
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.head = nn.Linear(10**6, 1)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(Straight.apply(image) - self.mean))
        return result


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch.compile do everything but generate code, which takes seconds."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def check_compiled(network: nn.Module, layers: list[str], image: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """Check that activations and gradients of a compiled network are right, and that it is compiled."""
    with capture(network, layers, dtype) as activations_of:
        found = []
        for run in (activations_of, activations_of.compiled()):
            seen = run(image)
            assert list(seen) == layers
            loss = torch.stack([activation.square().sum() for activation in seen.values()]).sum()
            found.append([*seen.values(), *torch.autograd.grad(loss, image)])
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(*found, strict=True))
        assert found[0][-1].abs().max() > 0


@pytest.mark.skipif(shutil.which("c++") is None, reason="PyTorch needs a C++ compiler to compile")
def test_compiled_networks_do_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dreamgram")
    image = torch.rand(2, 3, 10, 12, requires_grad=True)
    check_compiled(Small(), ["body.2", "body.0"], image, torch.float16)
    assert "compiling it failed" not in caplog.text


def test_every_network_and_layer_has_a_program_of_its_own(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    """PyTorch would use the program of one network for another with tensors of the same shapes."""
    caplog.set_level(logging.DEBUG, "dreamgram")
    image = torch.rand(1, 3, 12, 12, requires_grad=True)
    one, other = (nn.Sequential(nn.Conv2d(3, 4, 3), kind(), nn.Conv2d(4, 4, 3)) for kind in (nn.ReLU, nn.ELU))
    other.load_state_dict(one.state_dict())
    for network in (one, other):
        for layer in ("0", "1", "2"):
            check_compiled(network, [layer], image)
    one[2].stride = (2, 2)
    check_compiled(one, ["2"], image)
    assert "compiling it failed" not in caplog.text


def test_parts_of_an_image_of_many_shapes(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    """Tiles are parts of an image, which are not dense in memory."""
    caplog.set_level(logging.DEBUG, "dreamgram")
    network, image = Small(), torch.rand(1, 3, 20, 40)
    with capture(network, ["body.0"]) as activations_of:
        compiled = activations_of.compiled()
        for width in range(8, 20):
            part = image[:, :, :, 3 : 3 + width].detach().requires_grad_()
            for _ in range(2):
                assert torch.allclose(compiled(part)["body.0"], activations_of(part)["body.0"], atol=1e-5)
    assert "compiling it failed" not in caplog.text


class Counting(nn.Module):
    """A network that counts its forward passes in a buffer, in place or by a new tensor."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("count", torch.zeros(()))
        self.layer = nn.Conv2d(3, 2, 3)

    def forward(self, image: Tensor) -> Tensor:
        if self.in_place:
            self.count.add_(1)
        else:
            self.count = self.count + 1
        result: Tensor = self.layer(image * self.count)
        return result


@pytest.mark.parametrize("in_place", [False, True])
def test_networks_that_change_run_as_usual(quick: None, caplog: pytest.LogCaptureFixture, in_place: bool) -> None:
    caplog.set_level(logging.DEBUG, "dreamgram")
    network, image = Counting(in_place), torch.rand(1, 3, 8, 8)
    with capture(network, ["layer"]) as activations_of:
        run = activations_of.compiled()
        first = run(image)["layer"]
        # Each pass begins with the network as it was, and leaves it so.
        assert torch.equal(run(image)["layer"], first)
        assert torch.equal(activations_of(image)["layer"], first)
    assert network.count.item() == 0
    hooked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    factor = [1.0]
    hooked[0].register_forward_hook(lambda module, given, output: output * factor[0])
    with capture(hooked, ["1"]) as activations_of:
        run = activations_of.compiled()
        run(image)
        factor[0] = 5.0
        assert torch.equal(run(image)["1"], activations_of(image)["1"])


def test_networks_that_cannot_be_compiled_run_as_usual(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pictures are the same as without compiling, and the log says why."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("there is no compiler")

    digits = dg.load("digits")
    usual = dg.maximize(digits, "logit(3)", steps=3)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    caplog.set_level(logging.DEBUG, "dreamgram")
    assert torch.equal(dg.maximize(digits, "logit(3)", steps=3, compile=True).images, usual.images)
    assert "compiling it failed: there is no compiler" in caplog.text
    assert compile_for(lambda image: [image], torch.rand(1, 1, 2, 2), []) is None


@pytest.mark.parametrize("tiles", [False, True])
def test_every_optimization_uses_the_program(vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch, tiles: bool) -> None:
    """One program is made for each shape of the images, and the pictures are those of the usual network."""
    calls: list[tuple[int, ...]] = []

    def pretended(function: Any, image: Tensor, others: Any) -> Any:
        calls.append(tuple(image.shape))
        return lambda *given: function(*given)

    monkeypatch.setattr(capturing, "compile_for", pretended)
    photo, painting = torch.rand(1, 3, 48, 48), torch.rand(1, 3, 40, 48)
    how: dict[str, Any] = {"model": vgg16, "size": 48, "steps": 2, "scales": [32, 48]}
    if tiles:
        how["plan"] = [Budget(3, 32), Budget(3, 32)]
    usual, compiled = (dg.stylize(photo, [painting], compile=each, **how).image for each in (False, True))
    assert torch.equal(usual, compiled)
    assert calls if tiles else calls == [(1, 3, 32, 32), (1, 3, 48, 48)]
    calls.clear()
    digits = dg.load("digits")
    dreams = [dg.maximize(digits, dg.logit(range(4)), steps=2, batch=2, compile=each).images for each in (False, True)]
    assert torch.equal(*dreams)
    assert calls == [(2, 1, 28, 28)]
