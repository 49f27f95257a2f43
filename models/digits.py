"""The lecture's two digit networks, and real digits to compare their dreams with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from models.loading import WEIGHTS, network, read_weights


class DigitCNN(nn.Module):
    """The convolutional network of the lecture, for gray images (N, 1, 28, 28) in [0, 1].

    Every stage is a layer of its own and reports its *linear* response: the ReLU is applied on the way into the
    next stage. ``relu(pool(conv(x)))`` equals ``pool(relu(conv(x)))``, costs a quarter as much, and leaves each
    filter a gradient even where it does not fire, so that no dream can start in the flat part of a ReLU.

    Returns the logits, (N, 10).
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
            # He's gain for a ReLU; with the default, filters start so small that some never fire again.
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
    """The fully connected network of the lecture, 784-500-500-10 with sigmoids.

    For gray images (N, 1, 28, 28) in [0, 1]. Like :class:`DigitCNN` its layers report their linear response.
    Returns the logits, (N, 10).
    """

    input_shape = (1, 28, 28)

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(784, 500)
        self.hidden2 = nn.Linear(500, 500)
        self.logits = nn.Linear(500, 10)
        for layer in (self.hidden1, self.hidden2):
            # Glorot's gain for a sigmoid; with the default initialization the second layer starts almost constant.
            nn.init.xavier_uniform_(layer.weight, gain=4.0)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.sigmoid(self.hidden1(image.flatten(1)))
        x = torch.sigmoid(self.hidden2(x))
        logits: Tensor = self.logits(x)
        return logits


@network("digits", weights="digits.safetensors")
def digits(weights: Path) -> DigitCNN:
    """The lecture's CNN: 25 and 50 filters of 3x3, two poolings, 100 hidden units."""
    model = DigitCNN()
    model.load_state_dict(read_weights(weights))
    return model


@network("digits-robust", weights="digits-robust.safetensors")
def digits_robust(weights: Path) -> DigitCNN:
    """The same CNN, trained against noise that is made to mislead it: its dreams look like digits to us, too."""
    return digits(weights)


@network("digits-mlp", weights="digits-mlp.safetensors")
def digits_mlp(weights: Path) -> DigitMLP:
    """The fully connected network 784-500-500-10 with sigmoids."""
    model = DigitMLP()
    model.load_state_dict(read_weights(weights))
    return model


def digit_sample() -> tuple[Tensor, Tensor]:
    """1,000 MNIST test digits, 100 of each class in class order.

    Returns the images (1000, 1, 28, 28) in [0, 1] and their labels (1000,).
    """
    with np.load(WEIGHTS / "mnist-sample.npz") as sample:
        images, labels = sample["images"], sample["labels"]
    return torch.from_numpy(images).unsqueeze(1) / 255.0, torch.from_numpy(labels).long()
