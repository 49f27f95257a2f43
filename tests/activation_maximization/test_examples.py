from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from activation_maximization.examples import top_examples
from models.digits import DigitCNN, digit_sample


def digits_by_name() -> list[tuple[str, Tensor]]:
    return [(str(number), digit[None]) for number, digit in enumerate(digit_sample()[0][::20])]


def test_a_patch_alone_excites_the_unit_as_much(digits: nn.Module) -> None:
    """Independent of how patches are cut: conv2's filters see 8 x 8 pixels, and give one number for just that patch."""
    assert isinstance(digits, DigitCNN)
    found = top_examples(digits, "conv2", [3, 30], digits_by_name(), count=4)
    for unit, best in zip([3, 30], found, strict=True):
        assert len(best) == 4
        for example in best:
            assert example.patch.shape == (1, 8, 8)
            alone = digits.conv2(torch.relu(digits.pool1(digits.conv1(example.patch[None]))))
            assert alone.shape == (1, 50, 1, 1)
            assert alone[0, unit].item() == pytest.approx(example.activation, rel=1e-4)


def test_the_best_are_found_among_all(digits: nn.Module) -> None:
    assert isinstance(digits, DigitCNN)
    pictures = digits_by_name()
    batch = torch.cat([picture for _, picture in pictures])
    answers = digits.conv2(torch.relu(digits.pool1(digits.conv1(batch)))).detach()
    values, order = answers[:, 7].flatten(1).max(1).values.sort(descending=True)
    [best] = top_examples(digits, "conv2", [7], pictures, count=5)
    assert [example.name for example in best] == [str(number) for number in order[:5].tolist()]
    assert [example.activation for example in best] == pytest.approx(values[:5].tolist(), rel=1e-4)


def test_neurons_see_whole_pictures(digits: nn.Module) -> None:
    pictures = digits_by_name()
    found = top_examples(digits, "logits", range(10), pictures, count=3)
    labels = digit_sample()[1][::20]
    for unit, best in enumerate(found):
        assert all(labels[int(example.name)] == unit for example in best)
        assert torch.equal(best[0].patch, dict(pictures)[best[0].name][0])


def test_a_patch_at_the_border_is_gray_outside() -> None:
    """The unit fires in the top left corner, where padding is half of what it sees."""
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    nn.init.ones_(network[0].weight)
    picture = torch.zeros(1, 1, 9, 9)
    picture[:, :, 0, 0] = 1
    picture[:, :, 1, 1] = 0.5
    [[example]] = top_examples(network, "0", [0], [("corner", picture)], count=9)
    half = [[0.5, 0.5, 0.5], [0.5, 1.0, 0.0], [0.5, 0.0, 0.5]]
    assert example.patch.tolist() == [half]


def test_tokens_are_not_cropped() -> None:
    network = torchvision.models.VisionTransformer(64, 32, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)
    pictures = [(str(number), torch.rand(1, 3, 64, 64)) for number in range(3)]
    [best] = top_examples(network, "encoder.layers.encoder_layer_0.ln_1", [7], pictures)
    assert torch.equal(best[0].patch, dict(pictures)[best[0].name][0])


def test_errors(digits: nn.Module) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        top_examples(digits, "conv2", [0], [])
    with pytest.raises(ValueError, match="no unit 50 in layer 'conv2'"):
        top_examples(digits, "conv2", [50], digits_by_name())
    with pytest.raises(ValueError, match="did you mean 'conv2'"):
        top_examples(digits, "conv3", [0], digits_by_name())
