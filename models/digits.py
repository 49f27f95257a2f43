"""Networks that classify handwritten digits, and MNIST digits to compare their images with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from dreamgram.models.registry import WEIGHTS, network, read_weights


class DigitCNN(nn.Module):
    """A convolutional network for digits, from gray images (N, 1, 28, 28) in [0, 1] to logits (N, 10).

    The activations of its layers are *linear*: each ReLU is applied at the input of the next layer.
    ``relu(pool(conv(x)))`` equals ``pool(relu(conv(x)))`` and costs a quarter as much. The layers report
    their activations before the ReLU, so a filter has a gradient even when it is inactive.
    """

    input_shape = (1, 28, 28)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 25, 3)  # -> 25 x 26 x 26
        self.pool1 = nn.MaxPool2d(2)  # -> 25 x 13 x 13
        self.conv2 = nn.Conv2d(25, 50, 3)  # -> 50 x 11 x 11
        self.pool2 = nn.MaxPool2d(2)  # -> 50 x 5 x 5 = 1250
        self.hidden = nn.Linear(1250, 100)
        self.logits = nn.Linear(100, 10)
        for layer in (self.conv1, self.conv2, self.hidden):
            # He's gain for a ReLU. With PyTorch's default, some filters start so small that they are never active.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = relu(self.pool1(self.conv1(image)))
        x = relu(self.pool2(self.conv2(x)))
        x = relu(self.hidden(x.flatten(1)))
        logits: Tensor = self.logits(x)
        return logits


class DigitMLP(nn.Module):
    """A fully connected network for digits, from gray images (N, 1, 28, 28) in [0, 1] to logits (N, 10).

    Its layers have 784-500-500-10 units, with sigmoids between them. The activations of its layers are linear, as in
    :class:`DigitCNN`.
    """

    input_shape = (1, 28, 28)

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(784, 500)
        self.hidden2 = nn.Linear(500, 500)
        self.logits = nn.Linear(500, 10)
        for layer in (self.hidden1, self.hidden2):
            # Glorot's gain for a sigmoid. With PyTorch's default, the second layer starts almost constant.
            nn.init.xavier_uniform_(layer.weight, gain=4.0)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.sigmoid(self.hidden1(image.flatten(1)))
        x = torch.sigmoid(self.hidden2(x))
        logits: Tensor = self.logits(x)
        return logits


@network("digits", weights="digits.safetensors")
def digits(weights: Path) -> DigitCNN:
    """Build the CNN for digits: 25 and 50 filters of 3x3, two poolings, 100 hidden units."""
    model = DigitCNN()
    model.load_state_dict(read_weights(weights))
    return model


@network("digits-robust", weights="digits-robust.safetensors")
def digits_robust(weights: Path) -> DigitCNN:
    """Build the same CNN as :func:`digits`, trained on digits with adversarial noise.

    Images that maximize its units look like digits to people.
    """
    return digits(weights)


@network("digits-mlp", weights="digits-mlp.safetensors")
def digits_mlp(weights: Path) -> DigitMLP:
    """Build the fully connected network of 784-500-500-10 units with sigmoids."""
    model = DigitMLP()
    model.load_state_dict(read_weights(weights))
    return model


def digit_sample() -> tuple[Tensor, Tensor]:
    """Return 1,000 MNIST test digits, 100 of each class in class order.

    The first tensor holds the images, (1000, 1, 28, 28) in [0, 1]; the second holds their labels, (1000,).
    """
    with np.load(WEIGHTS / "mnist-sample.npz") as sample:
        images, labels = sample["images"], sample["labels"]
    return torch.from_numpy(images).unsqueeze(1) / 255.0, torch.from_numpy(labels).long()
