from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from dreamgram.models import load
from dreamgram.models.digits import DigitCNN, DigitMLP, digit_sample
from dreamgram.models.registry import WEIGHTS
from dreamgram.models.train_digits import accuracy, attack


def test_the_sample_holds_100_digits_of_each_class() -> None:
    images, labels = digit_sample()
    assert images.shape == (1000, 1, 28, 28)
    assert images.min() == 0
    assert images.max() == 1
    assert labels.bincount().tolist() == [100] * 10


@pytest.mark.parametrize(("name", "least"), [("digits", 0.99), ("digits-mlp", 0.98), ("digits-robust", 0.98)])
def test_shipped_accuracy(name: str, least: float) -> None:
    model = load(name)
    images, labels = digit_sample()
    assert (model(images).argmax(1) == labels).float().mean() >= least


@pytest.mark.parametrize(
    ("file", "least"),
    [("digits.safetensors", 0.993), ("digits-mlp.safetensors", 0.983), ("digits-robust.safetensors", 0.985)],
)
def test_the_weights_tell_their_settings_and_accuracy(file: str, least: float) -> None:
    with safe_open(WEIGHTS / file, "pt") as weights:
        metadata = weights.metadata()
    assert float(metadata["test_accuracy"]) >= least
    assert '"epochs"' in metadata["settings"]


def test_the_robust_network_is_hard_to_mislead() -> None:
    network = load("digits-robust").requires_grad_(False)
    images, labels = (each[::5] for each in digit_sample())
    misleading = attack(network, images, labels, 0.2, steps=20)
    assert accuracy(network, misleading, labels) > 0.9


def test_the_lecture_networks_have_the_lecture_sizes() -> None:
    sizes = {name: tuple(weight.shape) for name, weight in DigitCNN().named_parameters() if name.endswith("weight")}
    assert sizes == {
        "conv1.weight": (25, 1, 3, 3),
        "conv2.weight": (50, 25, 3, 3),
        "hidden.weight": (100, 1250),
        "logits.weight": (10, 100),
    }
    assert [layer.out_features for layer in DigitMLP().modules() if isinstance(layer, nn.Linear)] == [500, 500, 10]


def test_relu_after_pooling_is_relu_before_pooling(digits: nn.Module) -> None:
    assert isinstance(digits, DigitCNN)
    images, _ = digit_sample()
    x = images[::100]
    for conv, pool in ((digits.conv1, digits.pool1), (digits.conv2, digits.pool2)):
        usual = pool(torch.relu(conv(x)))
        torch.testing.assert_close(torch.relu(pool(conv(x))), usual)
        x = usual
    torch.testing.assert_close(digits.logits(torch.relu(digits.hidden(x.flatten(1)))), digits(images[::100]))


def test_a_convolution_is_a_dense_layer_with_weights_removed_and_shared(digits: nn.Module) -> None:
    """Build the dense matrix by hand: one row an output neuron, nine weights in it, the same nine in every row."""
    conv = digits.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    dense = torch.zeros(25, 26, 26, 28, 28)
    for row in range(26):
        for column in range(26):
            dense[:, row, column, row : row + 3, column : column + 3] = conv.weight[:, 0].detach()
    image: Tensor = digit_sample()[0][:5]
    by_hand = image.flatten(1) @ dense.reshape(25 * 26 * 26, 28 * 28).T + conv.bias.repeat_interleave(26 * 26)
    torch.testing.assert_close(conv(image).flatten(1), by_hand, rtol=1e-4, atol=1e-5)
    assert (dense != 0).sum() <= 9 * 25 * 26 * 26  # of 13 million weights, 0.15 million are left
    assert len(dense.unique()) <= 9 * 25 + 1  # of those, 225 different ones and zero
