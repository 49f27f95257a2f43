from __future__ import annotations

import pytest
import torch

from dreamgram.activation_maximization.objectives import (
    IMAGE,
    NUMBER,
    PHOTO,
    PROGRESS,
    Objective,
    caricature,
    channel,
    deepdream,
    direction,
    diversity,
    log_odds,
    log_probability,
    logit,
    match,
    neuron,
    ramp,
)
from dreamgram.activation_maximization.regularizers import blur, border, l1, l2, pixel_sum, total_variation

ACTIVATIONS = {
    "conv": torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4),
    "logits": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    "tokens": torch.arange(2 * 5 * 3.0).reshape(2, 5, 3),
    IMAGE: torch.full((2, 1, 4, 4), 0.5),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def value(objective: Objective) -> list[float]:
    return objective(ACTIVATIONS).tolist()


def test_channel_is_the_mean_over_positions() -> None:
    conv = ACTIVATIONS["conv"]
    assert value(channel("conv", 1)) == [conv[0, 1].mean(), conv[1, 1].mean()]
    assert value(channel("conv", [0, 2])) == [conv[0, 0].mean(), conv[1, 2].mean()]  # one image for each unit
    assert value(channel("tokens", 2)) == [ACTIVATIONS["tokens"][i, :, 2].mean() for i in range(2)]
    assert value(channel("logits", [2, 0])) == [3, 4]


def test_neuron_is_one_number() -> None:
    conv = ACTIVATIONS["conv"]
    assert value(neuron("logits", 1)) == [2, 5]
    assert value(neuron("conv", 1)) == [conv[0, 1, 2, 2], conv[1, 1, 2, 2]]
    assert value(neuron("conv", [0, 1], position=(0, 3))) == [conv[0, 0, 0, 3], conv[1, 1, 0, 3]]
    assert value(neuron("tokens", 0, position=(4,))) == [12, 27]
    assert value(logit([0, 2])) == [1, 6]


def test_log_probabilities_are_those_of_the_softmax() -> None:
    expected = ACTIVATIONS["logits"].log_softmax(1)
    for unit in range(3):
        assert value(log_probability(unit)) == pytest.approx(expected[:, unit].tolist(), rel=1e-5)
    assert value(log_probability([0, 2])) == [value(log_probability(0))[0], value(log_probability(2))[1]]


def test_log_odds_are_those_of_the_softmax() -> None:
    p = ACTIVATIONS["logits"].double().softmax(1)
    for unit in range(3):
        assert value(log_odds(unit)) == pytest.approx((p[:, unit] / (1 - p[:, unit])).log().tolist(), rel=1e-5)
    assert value(log_odds([0, 2])) == [value(log_odds(0))[0], value(log_odds(2))[1]]
    with pytest.raises(ValueError, match="layer 'conv' has positions"):
        value(log_odds(0, "conv"))


def test_direction_is_a_product_with_every_position() -> None:
    conv = ACTIVATIONS["conv"]
    along = torch.tensor([1.0, -2.0, 0.5])
    products = [[conv[i, :, y, x] @ along for y in range(4) for x in range(4)] for i in range(2)]
    assert value(direction("conv", along)) == pytest.approx([float(sum(each)) / 16 for each in products])
    assert value(direction("conv", torch.eye(3)[1])) == pytest.approx(value(channel("conv", 1)))
    each = direction("conv", torch.eye(3)[[0, 2]])
    assert each.images == 2
    assert value(each) == pytest.approx(value(channel("conv", [0, 2])))
    cosines = [
        sum(
            float(conv[i, :, y, x] @ along / conv[i, :, y, x].norm() / along.norm()) for y in range(4) for x in range(4)
        )
        for i in range(2)
    ]
    assert value(direction("conv", along, cosine=True)) == pytest.approx([each / 16 for each in cosines], rel=1e-5)
    assert value(direction("tokens", torch.eye(3)[1])) == pytest.approx(value(channel("tokens", 1)))
    with pytest.raises(ValueError, match="a direction of 2 numbers in layer 'conv', which has 3 units"):
        value(direction("conv", torch.ones(2)))


def test_deepdream_is_the_mean_square() -> None:
    assert value(deepdream("logits")) == pytest.approx([14 / 3, 77 / 3])


def test_diversity_is_least_for_equal_pictures() -> None:
    different = torch.randn(3, 5, 4, 4, generator=seeded(0))
    alike = different[:1].expand(3, 5, 4, 4)
    objective = diversity("conv", 3)
    assert objective({"conv": alike}).tolist() == pytest.approx([-1, -1, -1])
    grams = [each.flatten(1) @ each.flatten(1).T for each in different]
    cosines = [[float((a * b).sum() / a.norm() / b.norm()) for b in grams] for a in grams]
    expected = [-(sum(row) - 1) / 2 for row in cosines]
    assert objective({"conv": different}).tolist() == pytest.approx(expected, rel=1e-5)
    assert objective.joint
    assert (logit(3) + objective).joint
    with pytest.raises(ValueError, match="the number of images of diversity must be at least 2, not 1"):
        diversity("conv", 1)


PHOTO_IMAGE = torch.rand(1, 1, 4, 4)


def test_match_is_the_share_that_differs() -> None:
    objective, theirs = match("conv", PHOTO_IMAGE), torch.full((1, 3, 4, 4), 2.0)
    assert objective({"conv": theirs, PHOTO + "conv": theirs}).tolist() == [0]
    assert objective({"conv": torch.cat([0 * theirs, 3 * theirs]), PHOTO + "conv": theirs}).tolist() == [-1, -4]


def test_caricature_grows_with_strength_and_falls_with_the_angle() -> None:
    objective, theirs = caricature("conv", PHOTO_IMAGE), torch.randn(1, 3, 4, 4, generator=seeded(0))
    assert objective({"conv": theirs, PHOTO + "conv": theirs}).item() == pytest.approx(1)
    assert objective({"conv": 3 * theirs, PHOTO + "conv": theirs}).item() == pytest.approx(3)
    other = theirs + torch.randn(1, 3, 4, 4, generator=seeded(1))
    cosine = float((other * theirs).sum() / other.norm() / theirs.norm())
    expected = float((other * theirs).sum() / theirs.square().sum()) * cosine**4
    assert objective({"conv": other, PHOTO + "conv": theirs}).item() == pytest.approx(expected, rel=1e-5)


def test_one_photo_is_enough_for_a_sum() -> None:
    both = caricature("conv", PHOTO_IMAGE) + match("logits", PHOTO_IMAGE) - pixel_sum()
    assert both.photo is PHOTO_IMAGE
    with pytest.raises(ValueError, match="compare with different photos"):
        match("conv", PHOTO_IMAGE) + match("conv", torch.rand(1, 1, 4, 4))


def test_regularizers_of_a_picture_by_hand() -> None:
    seen = {IMAGE: torch.tensor([[[[0.0, 0.5], [1.0, 0.5]]]])}
    assert pixel_sum(0.5)(seen).tolist() == [1]
    assert l1(2)(seen).tolist() == [0.5]  # of 0.5, 0, 0.5, 0
    assert l2(4)(seen).tolist() == [0.5]  # of 0.25, 0, 0.25, 0
    assert l2(1, center=0)(seen).tolist() == [(0.25 + 1 + 0.25) / 4]
    assert total_variation(1)(seen).tolist() == [0.5 + 0.5]  # down: 1 and 0; across: 0.5 and 0.5
    assert blur(1)(seen).tolist() == [(0.25 + 0 + 0.25 + 0) / 4]  # the mean around each is 0.5
    white = {IMAGE: torch.ones(1, 1, 3, 5)}  # the columns are at -1, -1/2, 0, 1/2 and 1
    distances = [sum(at**2 for at in (y, x)) ** 2 for y in (-1, 0, 1) for x in (-1, -0.5, 0, 0.5, 1)]
    assert border(2)(white).tolist() == pytest.approx([2 * sum(distances) / 15])
    constant = {IMAGE: torch.full((2, 3, 8, 8), 0.5)}
    for regularizer in (l1(1), l2(1), total_variation(1), blur(1)):
        assert regularizer(constant).tolist() == pytest.approx([0, 0])


def test_a_ramp_weighs_by_the_progress() -> None:
    objective = logit(1) - ramp(0, 4) * pixel_sum(0.5)
    assert [objective({**ACTIVATIONS, PROGRESS: torch.tensor(p)})[0].item() for p in (0.0, 0.5, 1.0)] == [2, -6, -14]


def test_a_part_of_the_images_gets_what_is_its_own() -> None:
    second = {**{name: each[1:] for name, each in ACTIVATIONS.items()}, NUMBER: torch.tensor([1])}
    objectives = [
        channel("conv", [0, 2]),
        log_odds([0, 2]),
        direction("conv", torch.eye(3)[:2]),
        channel("conv", [0, 2]) * logit([1, 0]) - pixel_sum(),
    ]
    for objective in objectives:
        assert objective(second).tolist() == pytest.approx(value(objective)[1:])


def test_objectives_add_subtract_and_multiply() -> None:
    a, b = logit(0), logit(2)
    assert value(a + b) == [4, 10]
    assert value(a - b) == [-2, -2]
    assert value(b - a) == [2, 2]
    assert value(a * b) == [3, 24]
    assert value(2 * a) == value(a * 2) == [2, 8]
    assert value(1 + a) == value(a + 1) == [2, 5]
    assert value(10 - a) == [9, 6]
    assert value(-a) == [-1, -4]
    assert value(sum([a, b])) == [4, 10]  # type: ignore[arg-type]
    assert value((a + b) * 2 - a) == [7, 16]


def test_operators_leave_their_operands_alone() -> None:
    a, b = logit(0), logit([1, 2])
    before = (a.name, a.layers, a.images, value(a))
    combined = 3 * a - b + pixel_sum()
    assert (a.name, a.layers, a.images, value(a)) == before
    assert combined.layers == {"logits"}
    assert combined.images == 2
    assert str(combined) == "(((3 * logits:0) - logits:1,2) + 0.08 pixel sum)"


def test_units_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="no unit 3 in layer 'conv': its 3 units are 0-2"):
        value(channel("conv", 3))
    with pytest.raises(ValueError, match="no unit -1 in layer 'logits'"):
        value(neuron("logits", -1))
    with pytest.raises(ValueError, match=r"no position \(4, 0\) in layer 'conv': it has 4 x 4"):
        value(neuron("conv", 0, position=(4, 0)))
    with pytest.raises(ValueError, match=r"no position \(1,\) in layer 'logits': it has none"):
        value(neuron("logits", 0, position=(1,)))
    with pytest.raises(ValueError, match="no units given"):
        channel("conv", [])
    with pytest.raises(ValueError, match="3 units of layer 'logits' need as many images, not 2"):
        value(logit([0, 1, 2]))
    with pytest.raises(ValueError, match=r"is for 2 images and .* for 3: they cannot be combined"):
        logit([0, 1]) + logit([0, 1, 2])
