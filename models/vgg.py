"""VGG-16 and VGG-19 without their classifier, with the weights of their authors."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from models.loading import network, read_weights

CONFIGURATIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions in each of the five blocks: configurations D and E of Simonyan and Zisserman, arXiv:1409.1556."""

MEAN = (103.939, 116.779, 123.68)
"""Mean of blue, green and red over ImageNet, of 255."""


class VGG(nn.Sequential):
    """Layers ``conv1_1``, ``relu1_1``, ... ``pool1``, ... ``pool5``.

    For images (N, 3, H, W), RGB in [0, 1], of any size from 32 pixels (16 for the layers before pool5) on.
    The original weights want BGR from 0 to 255 with the mean taken off; that is done here. Returns pool5,
    (N, 512, H // 32, W // 32).
    """

    input_shape = (3, 128, 128)
    """At this size filters can be seen for a third of the cost of the 224 it was trained at."""

    def __init__(self, convolutions: tuple[int, ...]) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for block, (count, width) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), 1):
            for number in range(1, count + 1):
                layers[f"conv{block}_{number}"] = nn.Conv2d(channels, width, 3, padding=1)
                layers[f"relu{block}_{number}"] = nn.ReLU(inplace=True)
                channels = width
            layers[f"pool{block}"] = nn.MaxPool2d(2)
        super().__init__(layers)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        mean: Tensor = self.mean  # type: ignore[assignment]
        features: Tensor = super().forward(image.flip(1) * 255 - mean)  # type: ignore[no-untyped-call]
        return features


@network("vgg16", weights="vgg16.fp16.safetensors")
def vgg16(weights: Path) -> VGG:
    """VGG-16's convolutions, ImageNet, exact to float16."""
    return _load("vgg16", weights)


@network("vgg19", weights="vgg19.palette8.safetensors")
def vgg19(weights: Path) -> VGG:
    """VGG-19's convolutions, ImageNet, each layer's weights rounded to 256 levels."""
    return _load("vgg19", weights)


def _load(name: str, weights: Path) -> VGG:
    model = VGG(CONFIGURATIONS[name])
    state = read_weights(weights)
    for key in [key for key in state if key.endswith(".weight_index")]:
        layer = key.removesuffix(".weight_index")
        state[f"{layer}.weight"] = state.pop(f"{layer}.weight_palette")[state.pop(key).long()]
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    return model
