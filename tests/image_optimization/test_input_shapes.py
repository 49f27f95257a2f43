"""The shape of the images that a network takes: where it is declared, or what the first layers to run show."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import conv2d, unfold

import dreamgram as dg
from dreamgram.image_optimization.input_shapes import SIDES, default_shape, find_shape
from tests.same_model import differences, portrait


class HeadFirst(nn.Module):
    """A network that registers its layers in another order than it calls them in."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(64, 5, 1)
        self.stem = nn.Conv2d(4, 64, 3)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.stem(image))
        return scores


class Functional(nn.Module):
    """A network without modules, whose preprocessing fits one number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3, 3, 3))
        self.register_buffer("mean", torch.zeros(1, 6, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return conv2d(image - self.mean, self.weight, groups=2)


class Grouped(Functional):
    def forward(self, image: Tensor) -> Tensor:
        return conv2d(image[:, :6], self.weight, None, 1, 0, 1, 2)


class Valued(nn.Module):
    """A network whose shapes depend on values, and which takes images of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 2, 3), nn.Linear(2 * 30 * 30, 3)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.conv(image)
        if features.mean().item() > 1e9:
            return features
        scores: Tensor = self.head(features.flatten(1))
        return scores


class Patches(nn.Module):
    """A network that embeds patches of 8 x 8 pixels, of which it takes at most 64."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(3 * 8 * 8, 4), nn.Parameter(torch.rand(64, 4))

    def forward(self, image: Tensor) -> Tensor:
        patches = unfold(image, 8, stride=8).mT
        embedded: Tensor = self.embed(patches) + self.position[: patches.shape[1]]
        return embedded


class Multiples(nn.Module):
    """A network that checks the side of its images itself, and says so in words of its own."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.conv, self.error = nn.Conv2d(3, 2, 3), error

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[2] % 40:
            raise self.error("the input must be divisible by 40")
        features: Tensor = self.conv(image)
        return features


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        features: Tensor = self.conv(image) + other
        return features


class Configured(nn.Sequential):
    """A network with a configuration, as those of transformers."""

    def __init__(self, config: object, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.config = config


def with_head(channels: int, side: int) -> nn.Module:
    """Return a network with a fully connected head, so that it takes images of one size."""
    return nn.Sequential(nn.Conv2d(channels, 2, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(side**2 // 2, 3))


def fully_connected(features: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 3))


@pytest.mark.parametrize(
    ("make", "shape", "origin"),
    [
        (HeadFirst, (4, 224, 224), "guessed"),
        (Functional, (6, 224, 224), "guessed"),
        (Grouped, (6, 224, 224), "guessed"),
        (Valued, (2, 32, 32), "found"),
        (TwoInputs, (2, 224, 224), "guessed"),
        (lambda: Multiples(ValueError), (3, 160, 160), "guessed"),
        (lambda: Multiples(RuntimeError), (3, 160, 160), "guessed"),
        (lambda: Multiples(AssertionError), (3, 160, 160), "guessed"),
        (Patches, (3, 28, 28), "guessed"),
        (lambda: nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 3)), (3, 224, 224), "guessed"),
        (lambda: nn.DataParallel(nn.Conv2d(5, 2, 3)), (5, 224, 224), "guessed"),
        (lambda: fully_connected(784), (1, 28, 28), "found"),
        (lambda: fully_connected(3072), (3, 32, 32), "found"),
        (lambda: fully_connected(150528), (3, 224, 224), "found"),
        (lambda: nn.Sequential(nn.AvgPool2d(4), fully_connected(49)), (1, 28, 28), "found"),
        (lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Flatten(3), nn.Linear(48**2, 8)), (3, 48, 48), "found"),
        (lambda: with_head(3, 32), (3, 32, 32), "found"),
        (lambda: with_head(1, 28), (1, 28, 28), "found"),
        (lambda: with_head(3, 224), (3, 224, 224), "found"),
        (lambda: with_head(3, 512), (3, 512, 512), "found"),
        (lambda: torchvision.models.squeezenet1_1(), (3, 224, 224), "guessed"),
        (lambda: torchvision.models.VisionTransformer(64, 16, 1, 2, 8, 8), (3, 64, 64), "declared"),
        (lambda: timm.create_model("test_vit"), (3, 160, 160), "declared"),
        (lambda: timm.create_model("vit_tiny_patch16_224", depth=1, img_size=96, in_chans=1), (1, 96, 96), "found"),
        (lambda: timm.create_model("test_resnet", in_chans=1), (1, 160, 160), "declared"),
        (
            lambda: Configured(SimpleNamespace(image_size=(40, 48), num_channels=2), nn.Conv2d(2, 2, 3)),
            (2, 40, 48),
            "declared",
        ),
        (lambda: Configured(SimpleNamespace(image_size=40), nn.Conv2d(2, 2, 3)), (2, 40, 40), "declared"),
        (lambda: Configured({"image_size": "large"}, nn.Conv2d(2, 2, 3)), (2, 224, 224), "guessed"),
        (lambda: Configured(SimpleNamespace(image_size=40), with_head(2, 64)), (2, 64, 64), "found"),
    ],
)
def test_the_shape_is_found_without_a_trace(make: Callable[[], nn.Module], shape: Any, origin: str) -> None:
    network = make().train()
    before = portrait(network)
    found = find_shape(network)
    assert (found.shape, found.origin) == (shape, origin)
    assert not differences(before, portrait(network))
    assert find_shape(network) is found or origin == "declared"


def test_a_declared_shape_is_used_without_a_trial() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3))
    network.forward = None  # type: ignore[assignment]
    network.input_shape = (3, 64, 96)  # type: ignore[assignment]
    found = find_shape(network)
    assert (found.shape, found.origin) == ((3, 64, 96), "declared")
    found = find_shape(network, (8, 10))
    assert (found.shape, found.origin) == ((3, 8, 10), "given")
    network.input_shape = torch.Size([3, 8, 8])  # type: ignore[assignment]
    assert default_shape(network) == (3, 8, 8)
    assert default_shape(network, 40) == (3, 40, 40)
    network.input_shape = np.array([3, 8, 10])  # type: ignore[assignment]
    assert default_shape(network) == (3, 8, 10)
    with pytest.raises(ValueError, match=r"^size must be at most 2147483647 pixels in all, not 60000 x 40000$"):
        default_shape(network, (60_000, 40_000))


@pytest.mark.parametrize("wrong", [(64, 96), 64, "3x64x96", (3, 64, 0), (1, 3, 64, 96), (3, 64, 96.5), np.ones((1, 3))])
def test_a_declared_shape_that_is_not_one(wrong: object) -> None:
    network = nn.Conv2d(3, 2, 3)
    network.input_shape = wrong  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"input_shape of Conv2d must be \(channels, height, width\), not "):
        default_shape(network)
    network.input_shape = (3, 10**9, 10**9)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"\(channels, height, width\) with at most 2147483647 elements, not \(3, "):
        default_shape(network)


def test_networks_that_do_not_show_what_they_take() -> None:
    for network in (nn.Linear(3, 3), fully_connected(1000)):
        with pytest.raises(ValueError, match=r"does not say what images it takes: set its input_shape = \(C, H, W\)"):
            default_shape(network)
    with pytest.raises(ValueError, match="size must be at least 1 pixel, not -4"):
        default_shape(nn.Conv2d(3, 2, 3), -4)


def test_a_given_size_shows_the_channels() -> None:
    """The images of other sizes do not pass, and the first layer has other channels than they."""
    network = nn.Sequential(
        nn.PixelUnshuffle(2), nn.Conv2d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 32 * 48, 3)
    )
    assert default_shape(network, (64, 96)) == (1, 64, 96)
    assert default_shape(fully_connected(784), 28) == (1, 28, 28)
    assert default_shape(nn.Conv2d(5, 2, 3), (7, 9)) == (5, 7, 9)
    assert default_shape(with_head(4, 32), 30) == (4, 30, 30)  # the convolution still runs


def test_the_first_layer_may_be_replaced() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3))
    assert default_shape(network)[0] == 3
    network[0] = nn.Conv2d(1, 2, 3)
    assert default_shape(network)[0] == 1
    network.input_shape = (1, 8, 8)  # type: ignore[assignment]
    assert default_shape(network) == (1, 8, 8)


def test_a_guess_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    network = HeadFirst()
    objective = dg.channel("stem", 3)
    with caplog.at_level(logging.WARNING):
        for size in (8, (8, 10)):
            dg.maximize(network, "channel(stem, 3)", size=size, steps=1, transform="none")
        dg.maximize(network, "channel(stem, 3)", init=torch.rand(1, 4, 8, 10), steps=1, transform="none")
        for known in (fully_connected(784), with_head(3, 32)):
            default_shape(known)
        assert not caplog.messages
        for _ in range(2):
            dg.maximize(network, objective, steps=1, transform="none")
    assert caplog.messages == [
        "HeadFirst does not say what images it takes: 4x224x224 (channels x height x width) is a guess; "
        "give a size, or set its input_shape = (C, H, W)"
    ]


def test_few_passes_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that does not run at all gets no images of other sizes, and a guess takes two passes."""
    from dreamgram.image_optimization import trial

    tried: list[tuple[int, ...]] = []
    real = trial.try_out
    monkeypatch.setattr(
        trial, "try_out", lambda model, image, *how: tried.append(tuple(image.shape)) or real(model, image, *how)
    )
    find_shape(nn.Sequential(nn.Conv2d(3, 2, 3)))
    assert tried == [(2, 3, 224, 224), (2, 3, 256, 256)]
    tried.clear()
    find_shape(TwoInputs())
    assert {shape[2] for shape in tried} == {224}
    assert not {224, 0} & set(SIDES)
