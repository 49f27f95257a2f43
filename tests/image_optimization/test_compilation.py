"""Tests of compiled networks, at small sizes, because compiling takes seconds."""

from __future__ import annotations

import gc
import logging
import shutil
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dreamgram as dg
from dreamgram.image_optimization import capture as capturing
from dreamgram.image_optimization.capture import PROGRAMS, capture
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


@pytest.mark.skipif(shutil.which("c++") is None, reason="PyTorch needs a C++ compiler to compile")
def test_compiled_networks_do_the_same() -> None:
    """Activations and gradients are the same, hooks run, and a later capture uses the program again."""
    network = Small()
    image = torch.rand(2, 3, 10, 12, requires_grad=True)
    for _ in range(2):
        with capture(network, ["body.2", "body.0"], torch.float16) as activations_of:
            found = []
            for run in (activations_of, activations_of.compiled()):
                seen = run(image)
                assert list(seen) == ["body.2", "body.0"]
                loss = torch.stack([activation.square().sum() for activation in seen.values()]).sum()
                found.append([*seen.values(), *torch.autograd.grad(loss, image)])
            assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(*found, strict=True))
            assert found[0][-1].abs().max() > 0
        [program] = PROGRAMS[network].values()
        assert program is not None


def test_programs_do_not_keep_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that nobody needs any more is freed, although it was compiled."""
    monkeypatch.setattr(capturing, "compile_for", lambda function, *_: function)
    network = Small()
    image = torch.rand(1, 3, 8, 8)
    with capture(network, ["body.0"]) as activations_of:
        activations_of.compiled()(image)
    gone = weakref.ref(network)
    del network, activations_of
    gc.collect()
    assert gone() is None


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
    monkeypatch.setattr(capturing, "PROGRAMS", weakref.WeakKeyDictionary())
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
