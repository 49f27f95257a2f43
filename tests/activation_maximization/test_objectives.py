from __future__ import annotations

import pytest
import torch

from activation_maximization import Objective, channel, logit, neuron, pixel_sum
from activation_maximization.objectives import IMAGE

ACTIVATIONS = {
    "conv": torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4),
    "logits": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    "tokens": torch.arange(2 * 5 * 3.0).reshape(2, 5, 3),
    IMAGE: torch.full((2, 1, 4, 4), 0.5),
}


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


def test_pixel_sum() -> None:
    assert value(pixel_sum(0.5)) == [4, 4]


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
    assert combined.layers == {"logits", IMAGE}
    assert combined.images == 2
    assert str(combined) == "(((3 * logits:0) - logits:1,2) + 0.08 pixel sum)"


def test_units_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="no unit 3 in layer 'conv': its 3 units are 0-2"):
        value(channel("conv", 3))
    with pytest.raises(ValueError, match="no unit -1 in layer 'logits'"):
        value(neuron("logits", -1))
    with pytest.raises(ValueError, match="no units given"):
        channel("conv", [])
    with pytest.raises(ValueError, match="3 units of layer 'logits' need as many images, not 2"):
        value(logit([0, 1, 2]))
    with pytest.raises(ValueError, match=r"is for 2 images and .* for 3: they do not go together"):
        logit([0, 1]) + logit([0, 1, 2])
