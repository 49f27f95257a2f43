from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.process import PICTURES
from dreamgram.image_optimization import images
from dreamgram.image_optimization.capture import capture
from dreamgram.style_transfer.losses import ContentLoss
from dreamgram.style_transfer.regions import without_margin
from dreamgram.style_transfer.salience import MOST_SALIENCE, PLAIN_WEIGHT, SALIENCE_LAYER, emphasized, salience
from dreamgram.style_transfer.stylizer import stylize
from tests.cases import SHALLOW

FACE = (slice(1, 7), slice(7, 13))
"""Rows and columns of relu5_1, for the photo of the astronaut at 384 pixels, that show her face and hair."""


def astronaut(size: int = 384) -> Tensor:
    return images.fit(images.load(PICTURES / "astronaut.jpg"), size)


def of_photo(model: nn.Module, photo: Tensor, painted: Tensor | None = None) -> Tensor:
    found = salience(model, photo, torch.float32, painted)
    assert found is not None
    return found


def slow_salience(activation: Tensor) -> list[list[float]]:
    """Compute the salience of each position from the definition, one position after another."""
    rows, columns = activation.shape[2:]
    places = list(itertools.product(range(rows), range(columns)))
    mean = sum(activation[0, :, y, x] for y, x in places) / len(places)
    apart = {(y, x): sum((activation[0, :, y, x] - mean) ** 2).item() for y, x in places}

    def around(y: int, x: int) -> float:
        near = [apart[v, u] for v in (y - 1, y, y + 1) for u in (x - 1, x, x + 1) if (v, u) in apart]
        return sum(near) / len(near)

    smooth = [[around(y, x) for x in range(columns)] for y in range(rows)]
    total = sum(map(sum, smooth)) / len(places)
    return [[value / total for value in row] for row in smooth]


def test_the_salience_is_the_distance_from_the_mean_activation(photo: Tensor, vgg16: nn.Module) -> None:
    small = images.fit(photo, 80)
    with torch.no_grad(), capture(vgg16, [SALIENCE_LAYER]) as activations_of:
        activation = activations_of(small)[SALIENCE_LAYER].double()
    found = of_photo(vgg16, small)
    torch.testing.assert_close(
        found[0, 0].double(), torch.tensor(slow_salience(activation), dtype=torch.double), rtol=1e-4, atol=1e-5
    )
    assert found.mean().item() == pytest.approx(1)


def test_a_face_stands_out_and_a_plain_wall_does_not(vgg16: nn.Module) -> None:
    found = of_photo(vgg16, astronaut())[0, 0]
    wall = found[1:7, 13:16]
    assert found[FACE].mean() > 1.5
    assert wall.mean() < 0.75


def test_nothing_stands_out_in_a_picture_of_one_position(vgg16: nn.Module) -> None:
    found = of_photo(vgg16, torch.full((1, 3, 16, 16), 0.4))
    assert found.tolist() == [[[[1.0]]]]


@pytest.mark.parametrize("focus", [0.0, 0.4, 1.0])
def test_the_weights_follow_the_salience_as_far_as_the_focus_says(focus: float) -> None:
    stands_out = torch.tensor([0.0, 0.5, 1.0, 2.5]).view(1, 1, 2, 2)
    weights = emphasized(stands_out, focus)
    assert weights.mean().item() == pytest.approx(1)
    expected = [PLAIN_WEIGHT, PLAIN_WEIGHT + 0.5, PLAIN_WEIGHT + 1, PLAIN_WEIGHT + MOST_SALIENCE]
    mean = sum(expected) / 4
    for weight, value in zip(weights.flatten().tolist(), expected, strict=True):
        assert weight == pytest.approx(1 - focus + focus * value / mean)


def test_the_weight_of_a_position_multiplies_its_squared_difference() -> None:
    target, activation = torch.rand(2, 1, 4, 3, 5, dtype=torch.float64)
    weight = torch.rand(3, 5, dtype=torch.float64)
    loss = ContentLoss(target, weight)
    places = itertools.product(range(4), range(3), range(5))
    slow = sum((weight[y, x] * (activation - target)[0, c, y, x] ** 2).item() for c, y, x in places) / 4
    assert loss(loss.measure(activation)).item() == pytest.approx(slow)
    window = (slice(1, 3), slice(2, 5))
    rest = [(slice(0, 1), slice(0, 5)), (slice(1, 3), slice(0, 2))]
    parts = sum(loss.measure(activation[:, :, rows, columns], (rows, columns)) for rows, columns in [window, *rest])
    assert float(parts) == pytest.approx(slow)
    assert torch.autograd.gradcheck(loss.measure, activation.requires_grad_())


def test_with_focus_a_face_keeps_more_of_the_photo_and_a_wall_less(painting: Tensor, vgg16: nn.Module) -> None:
    photo = astronaut(192)
    layers = {"content_layers": {"relu3_1": 1.0}, "style_layers": {"relu2_1": 1.0, "relu3_1": 1.0}}

    def change(focus: float) -> Tensor:
        result = stylize(photo, painting, model=vgg16, size=192, steps=12, focus=focus, **layers)  # type: ignore[arg-type]
        with torch.no_grad(), capture(vgg16, ["relu3_1"]) as activations_of:
            painted, before = (activations_of(each)["relu3_1"] for each in (result.image, photo))
        return (painted - before).square().sum((0, 1))

    without, with_focus = change(0), change(1)
    face, wall = (slice(8, 20), slice(16, 26)), (slice(2, 20), slice(34, 40))
    assert with_focus[face].sum() < 0.9 * without[face].sum()
    assert with_focus[wall].sum() > 1.1 * without[wall].sum()


def test_a_network_without_the_layer_weights_all_parts_alike(photo: Tensor, painting: Tensor) -> None:
    torch.manual_seed(0)
    names = {"first": nn.Conv2d(3, 4, 3, padding=1), "act": nn.ReLU(), "second": nn.Conv2d(4, 4, 3, padding=1)}
    model = nn.Sequential()
    for name, module in names.items():
        model.add_module(name, module)
    options: dict[str, Any] = {"content_layers": {"second": 1.0}, "style_layers": {"act": 1.0}, "size": 32, "steps": 2}
    with_focus, without = (stylize(photo, painting, model=model, focus=focus, **options) for focus in (1, 0))
    assert torch.equal(with_focus.image, without.image)


def test_a_wrapped_network_shows_the_same(photo: Tensor, vgg16: nn.Module) -> None:
    assert torch.equal(of_photo(nn.DataParallel(vgg16), photo), of_photo(vgg16, photo))


def test_a_layer_that_is_not_reached_shows_nothing(photo: Tensor) -> None:
    model = nn.Sequential()
    model.add_module("act", nn.ReLU())
    model.act.add_module("relu5_1", nn.ReLU())  # the forward pass of the outer module does not call it
    assert salience(model, photo, torch.float32) is None
    assert salience(nn.Sequential(nn.ReLU()), photo, torch.float32) is None


def test_kept_parts_do_not_influence_the_others(vgg16: nn.Module) -> None:
    photo, painted = astronaut(192), torch.ones(1, 1, 192, 192)
    painted[:, :, :96] = 0
    weights = emphasized(of_photo(vgg16, photo, painted), 1.0, painted)
    assert weights[:, :, 7:].mean().item() == pytest.approx(1, abs=0.01)
    assert (weights[:, :, :5] == 1).all()  # one row of positions, and its neighbors, is at the edge of the mask
    nothing = torch.zeros(1, 1, 192, 192)
    assert (emphasized(of_photo(vgg16, photo, nothing), 1.0, nothing) == 1).all()


def test_a_margin_leaves_something_of_the_smallest_painting() -> None:
    for side in (1, 2, 4, 9):
        assert min(without_margin(torch.zeros(1, 3, side, side), 0.4).shape) >= 1


def test_the_margin_of_a_painting_is_left_out(photo: Tensor, painting: Tensor) -> None:
    """A painting in a red frame gives the same picture as the painting without the frame if a margin cuts it off."""
    inner = images.resize(painting, (80, 80))
    framed = torch.zeros(1, 3, 100, 100)
    framed[:, 0] = 1
    framed[:, :, 10:90, 10:90] = inner
    options: dict[str, Any] = {**SHALLOW, "size": 64, "steps": 3}
    expected = stylize(photo, inner, style_margin=0, style_scale=0.8, **options).image
    assert torch.equal(stylize(photo, framed, style_margin=0.1, **options).image, expected)
    assert not torch.equal(stylize(photo, framed, style_margin=0, **options).image, expected)
