"""Networks that classify handwritten digits, and a sample of the MNIST test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from dreamgram.models.fitting import fill
from dreamgram.models.registry import WEIGHTS, network, read_weights


class DigitCNN(nn.Module):
    """A convolutional network that maps gray images of digits, (N, 1, 28, 28) in [0, 1], to logits (N, 10).

    The layers output their values before the ReLU, so that the output of a filter has a nonzero gradient even where it
    is negative. The ReLU of a convolution is applied after the pooling. ``relu(pool(conv(x)))`` equals
    ``pool(relu(conv(x)))``, but computes the ReLU of only a quarter as many elements.
    """

    input_shape = (1, 28, 28)
    class_names = tuple("0123456789")

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 25, 3)  # -> 25 x 26 x 26
        self.pool1 = nn.MaxPool2d(2)  # -> 25 x 13 x 13
        self.conv2 = nn.Conv2d(25, 50, 3)  # -> 50 x 11 x 11
        self.pool2 = nn.MaxPool2d(2)  # -> 50 x 5 x 5 = 1250
        self.hidden = nn.Linear(1250, 100)
        self.logits = nn.Linear(100, 10)
        for layer in (self.conv1, self.conv2, self.hidden):
            # He initialization for ReLUs. With PyTorch's default, some filters start too small to ever be active.
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
    """A fully connected network that maps gray images of digits, (N, 1, 28, 28) in [0, 1], to logits (N, 10).

    The network has 784 inputs, two hidden layers of 500 units with sigmoids, and 10 outputs. The hidden layers output
    their values before the sigmoid.
    """

    input_shape = (1, 28, 28)
    class_names = tuple("0123456789")

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(784, 500)
        self.hidden2 = nn.Linear(500, 500)
        self.logits = nn.Linear(500, 10)
        for layer in (self.hidden1, self.hidden2):
            # Glorot initialization for a sigmoid. With PyTorch's default, the second layer is almost constant at first.
            nn.init.xavier_uniform_(layer.weight, gain=4.0)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.sigmoid(self.hidden1(image.flatten(1)))
        x = torch.sigmoid(self.hidden2(x))
        logits: Tensor = self.logits(x)
        return logits


@network("digits", weights="digits.safetensors")
def digits(weights: Path) -> DigitCNN:
    """Build the CNN for digits: two convolutions with 25 and 50 filters of 3x3, and a hidden layer of 100 units.

    Each convolution is followed by pooling.
    """
    model = DigitCNN()
    fill(model, read_weights(weights))
    return model


@network("digits-robust", weights="digits-robust.safetensors")
def digits_robust(weights: Path) -> DigitCNN:
    """Build the same CNN as :func:`digits`, trained on digits with adversarial noise.

    People can recognize digits in the images that maximize the activations of its units.
    """
    return digits(weights)


@network("digits-mlp", weights="digits-mlp.safetensors")
def digits_mlp(weights: Path) -> DigitMLP:
    """Build the fully connected network for digits, with two hidden layers of 500 units with sigmoids."""
    model = DigitMLP()
    fill(model, read_weights(weights))
    return model


def digit_sample() -> tuple[Tensor, Tensor]:
    """Return 1,000 digits of the MNIST test set, 100 of each class, sorted by class.

    The first tensor holds the images, (1000, 1, 28, 28) in [0, 1]. The second tensor holds their labels, (1000,).
    """
    with np.load(WEIGHTS / "mnist-sample.npz") as sample:
        images, labels = sample["images"], sample["labels"]
    return torch.from_numpy(images).unsqueeze(1) / 255.0, torch.from_numpy(labels).long()
