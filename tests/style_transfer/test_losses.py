from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from dreamgram.style_transfer.losses import (
    EVERYWHERE,
    STYLE_LOSSES,
    ContentLoss,
    GramLoss,
    NearestLoss,
    Previous,
    StyleLoss,
    TemporalLoss,
    WassersteinLoss,
    Window,
    style_loss,
    total_variation,
    within,
)
from dreamgram.style_transfer.presets import PRESETS
from dreamgram.style_transfer.stylizer import stylize

SAME = torch.tensor(1 / 15, dtype=torch.float64)
"""Weight of each position in a layer of 3 x 5 positions."""


def slow_gram(activation: Tensor) -> Tensor:
    """Compute the Gram matrix from its definition, one number at a time."""
    _, channels, height, width = activation.shape
    gram = torch.zeros(channels, channels, dtype=activation.dtype)
    for i, j, y, x in itertools.product(range(channels), range(channels), range(height), range(width)):
        gram[i, j] += activation[0, i, y, x] * activation[0, j, y, x]
    return gram / (channels * height * width)


def slow_mean_square(a: Tensor, b: Tensor) -> float:
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    return sum((x - y) ** 2 for x, y in pairs) / len(pairs)


def slow_wasserstein(a: Tensor, b: Tensor, noise: float) -> float:
    """Compute the squared Wasserstein distance of two samples (P, C), as normal distributions, with another formula.

    The square root of the product of the covariances has the same trace as the symmetric root in the definition.
    """
    first, second = (torch.cov(each.T, correction=0) + noise * torch.eye(each.shape[1]) for each in (a, b))
    roots = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * roots.sum())


def slow_nearest(a: Tensor, b: Tensor) -> float:
    """Compute the mean, over the rows of ``a``, of the cosine distance to the nearest row of ``b``.

    The mean of ``b`` is subtracted from both first.
    """
    center = b.mean(0)
    distances = []
    for x in (a - center).tolist():
        cosines = [
            sum(p * q for p, q in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))
            for y in (b - center).tolist()
        ]
        distances.append(1 - max(cosines))
    return sum(distances) / len(distances)


def slow_variation(image: Tensor) -> tuple[list[float], list[float]]:
    _, channels, height, width = image.shape
    down = [
        abs(image[0, c, y + 1, x].item() - image[0, c, y, x].item())
        for c, y, x in itertools.product(range(channels), range(height - 1), range(width))
    ]
    across = [
        abs(image[0, c, y, x + 1].item() - image[0, c, y, x].item())
        for c, y, x in itertools.product(range(channels), range(height), range(width - 1))
    ]
    return down, across


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def positions(activation: Tensor) -> Tensor:
    return activation[0].flatten(1).T


def against(kind: type[StyleLoss], painting: Tensor, weight: Tensor = SAME) -> Callable[[Tensor], Tensor]:
    """Return the loss ``kind`` as a function of activations. Its target is given by the activations ``painting``."""
    loss = kind([(1.0, kind.statistic(painting, weight))], weight)
    return lambda activation: loss(loss.measure(activation))


def test_values_against_slow_formulas() -> None:
    a, b = random(1, 4, 3, 5), random(1, 4, 3, 5)
    content = ContentLoss(b)
    assert content(content.measure(a)).item() == pytest.approx(slow_mean_square(a, b))
    torch.testing.assert_close(GramLoss.statistic(a, SAME)[0], slow_gram(a))
    assert against(GramLoss, b)(a).item() == pytest.approx(slow_mean_square(slow_gram(a), slow_gram(b)))
    loss = WassersteinLoss([(1.0, WassersteinLoss.statistic(b, SAME))], SAME)
    expected = slow_wasserstein(positions(a), positions(b), loss.noise[0, 0].item())
    assert loss(loss.measure(a)).item() == pytest.approx(expected, rel=1e-3)
    both = expected / loss.scale + NearestLoss.SHARE * slow_nearest(positions(a), positions(b))
    assert against(NearestLoss, b)(a).item() == pytest.approx(both, rel=1e-3)
    down, across = slow_variation(a)
    assert total_variation(a).item() == pytest.approx(sum(down) + sum(across))
    assert (total_variation(a[:, :, :2], slice(0, 1)) + total_variation(a[:, :, 1:])).item() == pytest.approx(
        sum(down) + sum(across)
    )


def test_the_temporal_loss_is_the_change_of_reliable_pixels() -> None:
    before, image = random(1, 3, 3, 5), random(1, 3, 3, 5)
    reliable = (random(1, 1, 3, 5) > 0.5).double()
    loss = TemporalLoss(Previous(before, reliable))
    slow = sum(
        (image[0, c, y, x] - before[0, c, y, x]).item() ** 2
        for c, y, x in itertools.product(range(3), range(3), range(5))
        if reliable[0, 0, y, x]
    )
    assert loss(image).item() == pytest.approx(slow)
    parts = loss(image[:, :, :2], slice(0, 1)) + loss(image[:, :, 1:], slice(1, 3))
    assert parts.item() == pytest.approx(slow)


@pytest.mark.parametrize("loss", ["content", "variation", "temporal", *STYLE_LOSSES])
def test_gradients_by_finite_differences(loss: str) -> None:
    target, weight = random(1, 3, 3, 5), random(3, 5)
    content = ContentLoss(target)
    functions = {
        "content": lambda image: content(content.measure(image)),
        "variation": total_variation,
        "temporal": TemporalLoss(Previous(target, random(1, 1, 3, 5))),
        **{name: against(kind, target, weight / weight.sum()) for name, kind in STYLE_LOSSES.items()},
    }
    image = random(1, 3, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(functions[loss], (image,))


@pytest.mark.parametrize("kind", STYLE_LOSSES.values())
def test_a_weight_of_a_position_is_how_often_it_counts(kind: type[StyleLoss]) -> None:
    """A position with twice the weight counts like two copies of the position, and weight 0 like none."""
    painting, image = random(1, 4, 1, 6), random(1, 4, 1, 6)
    counts = torch.tensor([2, 0, 1, 2, 0, 1])
    repeated = image.repeat_interleave(counts, dim=3)
    target = [(1.0, kind.statistic(painting, torch.tensor(1 / 6)))]
    weighted, plain = kind(target, (counts / counts.sum())[None]), kind(target, torch.tensor(1 / 6))
    torch.testing.assert_close(weighted(weighted.measure(image)), plain(plain.measure(repeated)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", STYLE_LOSSES.values())
def test_a_picture_has_no_loss_against_itself(kind: type[StyleLoss]) -> None:
    a = random(1, 3, 8, 8)
    scale = kind([(1.0, kind.statistic(a, torch.tensor(1 / 64)))], torch.tensor(1 / 64)).scale
    assert abs(against(kind, a, torch.tensor(1 / 64))(a).item()) < 1e-5 * scale
    assert against(kind, a, torch.tensor(1 / 64))(1 - a).item() > 1e-3 * scale


@pytest.mark.parametrize("kind", STYLE_LOSSES.values())
def test_two_paintings_are_blended(kind: type[StyleLoss]) -> None:
    first, second, image = random(1, 3, 3, 5), random(1, 3, 3, 5) ** 3, random(1, 3, 3, 5)
    targets = [kind.statistic(each, SAME) for each in (first, second)]

    def value(share: float) -> float:
        loss = kind([(share, targets[0]), (1 - share, targets[1])], SAME)
        return loss(loss.measure(image)).item()

    assert value(1) == pytest.approx(against(kind, first)(image).item(), rel=1e-4)
    assert value(0) == pytest.approx(against(kind, second)(image).item(), rel=1e-4)
    assert min(value(0), value(1)) - 0.1 * abs(value(0)) < value(0.5) < max(value(0), value(1))


def test_a_picture_without_content_error_or_variation() -> None:
    a = random(1, 3, 8, 8)
    assert ContentLoss(a).measure(a) == 0
    assert total_variation(torch.full((1, 3, 8, 8), 0.3)) == 0


def test_targets_take_no_gradient() -> None:
    a = random(1, 3, 4, 4).requires_grad_()
    ContentLoss(a).measure(random(1, 3, 4, 4).requires_grad_()).backward()
    assert a.grad is None


def test_second_derivatives_of_the_content_loss() -> None:
    target, activation = torch.rand(2, 1, 3, 4, 5, dtype=torch.float64)
    content = ContentLoss(target)
    assert torch.autograd.gradgradcheck(content.measure, activation.requires_grad_())


def test_losses_mean_the_same_at_every_size() -> None:
    """A repeated texture has the same Gram matrix, and a larger picture of noise has the same mean variation."""
    tile = random(1, 3, 8, 8)
    tiled = tile.repeat(1, 1, 4, 4)
    small, large = (GramLoss.statistic(each, torch.tensor(1 / each[0, 0].numel())) for each in (tile, tiled))
    torch.testing.assert_close(small, large, rtol=1e-5, atol=0)
    small, large = random(1, 3, 64, 64), random(1, 3, 256, 256)
    variations = [PRESETS["default"].pixel_weights(each.numel())[0] * total_variation(each) for each in (small, large)]
    torch.testing.assert_close(*variations, rtol=0.05, atol=0)


def test_a_large_painting_is_known_by_some_of_its_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NearestLoss, "CANDIDATES", 50)
    painting = torch.rand(1, 2, 40, 30)
    _, some = NearestLoss.statistic(painting, torch.tensor(1 / 1200))
    assert 40 <= len(some) <= 60
    left, right = (slice(0, 40), slice(0, 13)), (slice(0, 40), slice(13, 30))
    parts = [NearestLoss.statistic(painting[:, :, :, part[1]], torch.tensor(1 / 1200), part) for part in (left, right)]
    _, joined = NearestLoss.join(parts)
    assert sorted(joined.tolist()) == sorted(some.tolist())  # the sample does not depend on the tiles
    half = torch.zeros(40, 30)
    half[:20] = 1 / 600
    assert all(
        pair in painting[0, :, :20].flatten(1).T.tolist() for pair in NearestLoss.statistic(painting, half)[1].tolist()
    )


def test_a_style_loss_is_one_class(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    """The class defines a statistic and its distance from the target. It is then available by name everywhere."""

    @style_loss("mean of each channel")
    class MeanLoss(StyleLoss):
        LAYERS: ClassVar = {"relu1_1": 1.0}

        @staticmethod
        def statistic(activation: Tensor, weight: Tensor, window: Window = EVERYWHERE) -> Tensor:
            return (activation.float() * within(weight, window)).sum((2, 3))

        def __call__(self, measured: Tensor) -> Tensor:
            return (measured - self.target).square().mean()

    try:
        result = stylize(
            photo, [painting], model=vgg16, size=40, steps=15, style_loss="mean of each channel", style_weight=100
        )
        with pytest.raises(ValueError, match="or 'mean of each channel', not 'meen'"):
            stylize(photo, [painting], model=vgg16, style_loss="meen")
    finally:
        del STYLE_LOSSES["mean of each channel"]
    assert result.history[-1][-1] < 0.1 * result.history[-1][0]
    assert (result.image.mean((2, 3)) - painting.mean((2, 3))).abs().max() < 0.1
