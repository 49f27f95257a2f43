"""Features of encoders, compared with slow loops over images and positions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import dreamgram as dg
from dreamgram.activation_maximization.expressions import parse_objective
from dreamgram.models.digits import digit_sample
from dreamgram.models.sparse_autoencoder import SparseAutoencoder

PICTURES = digit_sample()[0][::40]


def slow_mean(encoder: Callable[[Tensor], Tensor], activation: Tensor, unit_axis: int) -> Tensor:
    """Encode the vectors of one image one at a time, and return the mean features."""
    vectors = activation.movedim(unit_axis, -1).reshape(-1, activation.shape[unit_axis])
    with torch.no_grad():
        return torch.stack([encoder(vector[None])[0] for vector in vectors]).mean(0)


@pytest.mark.parametrize(
    "make",
    [
        lambda units: nn.Linear(units, 7),
        lambda units: SparseAutoencoder(units, 7, 3).encode,
        lambda units: lambda x: torch.stack([x.sum(-1), x[..., 0] * x[..., -1], *x[..., :5].unbind(-1)], -1),
    ],
)
def test_a_feature_is_the_mean_over_positions(make: Callable[[int], Any], digits: nn.Module) -> None:
    vit = torchvision.models.VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32).eval()
    colored, tokens = torch.rand(3, 3, 32, 32), "encoder.layers.encoder_layer_0.ln_1"
    cases = [(digits, PICTURES[::10], "conv2", 0), (digits, PICTURES[::10], "hidden", 0), (vit, colored, tokens, 1)]
    for network, images, layer, unit_axis in cases:
        activations = dg.activations(network, images, layer)[layer]
        encoder = make(activations.shape[1 + unit_axis])
        expected = torch.stack([slow_mean(encoder, each, unit_axis) for each in activations])
        found = dg.evaluate(network, dg.feature(layer, encoder, 6), images)
        torch.testing.assert_close(found, expected[:, 6], rtol=1e-4, atol=1e-5)
        several = dg.evaluate(network, dg.feature(layer, encoder, [5, 0, 3]), images)
        torch.testing.assert_close(several, expected[range(3), [5, 0, 3]], rtol=1e-4, atol=1e-5)


def test_an_encoder_can_be_a_part_of_the_network(digits: nn.Module) -> None:
    both = dg.logit(3) - dg.feature("hidden", nn.Sequential(nn.ReLU(), digits.get_submodule("logits")), 3)
    torch.testing.assert_close(dg.evaluate(digits, both, PICTURES), torch.zeros(25), rtol=0, atol=1e-4)


class Probe(nn.Module):
    """A probe with dropout that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.probe = nn.Dropout(0.9), nn.Linear(100, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        answer: Tensor = self.probe(self.dropout(x))
        return answer


def test_the_encoder_is_left_as_it_was(digits: nn.Module) -> None:
    encoder = Probe()
    encoder.probe.bias.requires_grad_(False)
    encoder(torch.rand(3, 100)).sum().backward()
    before, gradient = copy.deepcopy(encoder.state_dict()), encoder.probe.weight.grad
    with torch.no_grad():
        expected = encoder.probe(dg.activations(digits, PICTURES, "hidden")["hidden"])[:, 2]
    for given in (encoder, encoder.forward):
        objective = dg.feature("hidden", given, 2)
        torch.testing.assert_close(dg.evaluate(digits, objective, PICTURES), expected)
        dreams = dg.maximize(digits, objective, steps=8)
        assert dreams.history[-1] > dreams.history[0]
        assert all(module.training for module in encoder.modules())
        assert [parameter.requires_grad for parameter in encoder.parameters()] == [True, False]
        assert encoder.probe.weight.grad is gradient
        assert all(torch.equal(each, before[name]) for name, each in encoder.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_encoder_keeps_its_precision(dtype: torch.dtype, digits: nn.Module) -> None:
    encoder = nn.Linear(100, 5)
    expected = dg.evaluate(digits, dg.feature("hidden", encoder, 1), PICTURES)
    objective = dg.feature("hidden", encoder.to(dtype), 1)
    torch.testing.assert_close(dg.evaluate(digits, objective, PICTURES), expected, rtol=0.02, atol=0.05)
    assert dg.maximize(digits, objective, steps=4, precision="bfloat16").history.isfinite().all()
    assert objective({"hidden": torch.rand(2, 100).to(torch.bfloat16)}).dtype == torch.float32


def test_steps_with_an_encoder_are_not_recorded() -> None:
    encoder = nn.Linear(50, 3)
    assert not (dg.logit(3) - dg.feature("conv2", encoder, 1)).is_recordable
    assert not dg.direction("conv2", torch.ones(3), encoder=encoder).is_recordable
    assert dg.direction("conv2", torch.ones(50)).is_recordable


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (nn.Linear(100, 5), "no unit 7 in layer 'features of hidden': its 5 units are 0-4"),
        (nn.Linear(99, 8), r"the encoder fails for activations \(1, 100\) of layer 'hidden', .*: mat1 and mat2"),
        (lambda x: {}["key"], r"the encoder fails for .*: KeyError: 'key'"),
        (lambda x: x.sum(-1), r"not shape \(1,\)"),
        (lambda x: x.repeat(2, 1), r"must return features \(1, ..., F\) for .* not shape \(2, 100\)"),
        (lambda x: (x, x), "not tuple"),
        (lambda x: x.detach(), "the encoder of layer 'hidden' passes no gradient back"),
        (nn.Linear, "an encoder is a module or a function, .*, not the class Linear"),
    ],
)
def test_a_useless_encoder_is_one_clear_line(encoder: Any, message: str, digits: nn.Module) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        dg.maximize(digits, dg.feature("hidden", encoder, 7), steps=2)
    assert "\n" not in str(raised.value)


def test_an_expression_has_no_encoder() -> None:
    with pytest.raises(ValueError, match=r"direction\(layer, vector, cosine\) has no argument 'encoder'"):
        parse_objective("direction(hidden, encoder=sae)")


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5))


def test_an_image_is_made_for_an_embedding() -> None:
    projection = nn.Linear(16, 8, bias=False)
    tower = nn.Sequential(nn.Conv2d(3, 16, 7, 4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), projection)
    text, images = torch.randn(2, 8), torch.rand(2, 3, 24, 24)
    inside = dg.direction("4", text, cosine=True)
    outside = dg.direction("1", text, cosine=True, encoder=lambda maps: projection(maps.mean((1, 2))))
    for objective in (inside, outside):
        made = dg.maximize(tower, objective, size=24, steps=80, transform="none").images
        for some in (images, made):
            expected = [cosine(mine, theirs) for mine, theirs in zip(tower(some).detach(), text, strict=True)]
            assert dg.evaluate(tower, objective, some).tolist() == pytest.approx(expected, abs=1e-5)
        assert min(expected) > 0.9
    with pytest.raises(ValueError, match="a direction of 8 numbers in layer 'features of 1', which has 5 units"):
        dg.evaluate(tower, dg.direction("1", text, encoder=nn.Linear(16, 5)), images)


def test_examples_of_features_against_a_slow_search(digits: nn.Module) -> None:
    sae = SparseAutoencoder(50, 20, 4)
    with torch.no_grad():
        features = sae.encode(dg.activations(digits, PICTURES, "conv2")["conv2"].movedim(1, -1))  # (25, 11, 11, 20)
    found = dg.top_examples(digits, "conv2", range(20), PICTURES.split(7), count=3, encoder=sae.encode)
    for unit, best in enumerate(found):
        values = features[..., unit].amax((1, 2)).tolist()
        ranked = [number for number in sorted(range(25), key=lambda number: -values[number])[:3] if values[number] > 0]
        assert [example.name for example in best] == [f"#{number}" for number in ranked]
        for example, number in zip(best, ranked, strict=True):
            assert example.activation == pytest.approx(values[number], rel=1e-4)
            row, column = divmod(int(features[number, ..., unit].argmax()), 11)
            assert torch.equal(example.patch, PICTURES[number, :, 2 * row : 2 * row + 8, 2 * column : 2 * column + 8])
    [best] = dg.top_examples(digits, "conv2", [4], PICTURES, count=2, encoder=lambda x: sae.encode(x).amax((1, 2)))
    assert best
    assert [example.activation for example in best] == [example.activation for example in found[4][:2]]
    assert all(torch.equal(example.patch, PICTURES[int(example.name[1:])]) for example in best)
