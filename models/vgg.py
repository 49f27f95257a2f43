"""VGG-16 and VGG-19 without their classifiers, with the authors' original weights at reduced precision."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamgram.models.fitting import fill, renamed
from dreamgram.models.registry import network, read_weights

CONFIGURATIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Number of convolutions in each of the five blocks of VGG-16 and VGG-19: configurations D and E of Simonyan and
Zisserman, arXiv:1409.1556."""

MEAN = (103.939, 116.779, 123.68)
"""Mean values of the blue, green and red channels over ImageNet, in [0, 255]."""


TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of the red, green and blue channels, in [0, 1], with which torchvision normalizes
images."""


class VGG(nn.Sequential):
    """The convolutional part of VGG. It maps RGB images (N, 3, H, W) in [0, 1] to features (N, 512, H // 32, W // 32).

    The layers are called ``conv1_1``, ``relu1_1``, ... ``pool1``, ... ``pool5``. Images must be at least 32 pixels wide
    and high, or at least 16 pixels if only layers before ``pool5`` are computed. The original weights expect BGR images
    in [0, 255] from which :data:`MEAN` has been subtracted. :meth:`forward` converts its input to that form.
    """

    input_shape = (3, 128, 128)
    """Default shape (C, H, W) of an input image. Images of 128 x 128 pixels are large enough to show the patterns to
    which filters respond, and need a third of the computation of 224 x 224 pixels, the size used to train VGG."""

    def __init__(self, convolutions: tuple[int, ...]) -> None:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for block, (count, width) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), 1):
            for number in range(1, count + 1):
                modules[f"conv{block}_{number}"] = nn.Conv2d(channels, width, 3, padding=1)
                modules[f"relu{block}_{number}"] = nn.ReLU(inplace=True)
                channels = width
            modules[f"pool{block}"] = nn.MaxPool2d(2)
        super().__init__(modules)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        mean: Tensor = self.mean  # type: ignore[assignment]
        features: Tensor = super().forward(image.flip(1) * 255 - mean)  # type: ignore[no-untyped-call]
        return features


@network("vgg16", weights="vgg16.fp16.safetensors")
def vgg16(weights: Path) -> VGG:
    """Build VGG-16, trained on ImageNet, with weights rounded to float16."""
    return _load("vgg16", weights)


@network("vgg19", weights="vgg19.palette8.safetensors")
def vgg19(weights: Path) -> VGG:
    """Build VGG-19, trained on ImageNet, with the weights of each layer rounded to 256 different values."""
    return _load("vgg19", weights)


def _load(name: str, weights: Path) -> VGG:
    model = VGG(CONFIGURATIONS[name])
    state = read_weights(weights)
    for key in [key for key in state if key.endswith(".weight_index")]:
        layer = key.removesuffix(".weight_index")
        state[f"{layer}.weight"] = state.pop(f"{layer}.weight_palette")[state.pop(key).long()]
    if any(key.endswith("features.0.weight") for key in state):
        _fill_from_torchvision(model, state)
    else:
        fill(model, {key: tensor.float() for key, tensor in state.items()})
    return model


def _fill_from_torchvision(model: VGG, state: Mapping[str, Tensor]) -> None:
    """Fill ``model`` with weights that are named as in torchvision, such as ``features.0.weight``.

    Torchvision's VGG takes RGB images in [0, 1], normalized with :data:`TORCHVISION_MEAN` and :data:`TORCHVISION_STD`.
    The first convolution and the mean of ``model`` are changed so that ``model`` normalizes its input in this way and
    computes the same activations as torchvision's VGG.
    """
    own = {f"features.{place}": layer for place, (layer, _) in enumerate(model.named_children())}
    tensors = {f"{place}.{kind}" for place in own for kind in ("weight", "bias") if own[place].startswith("conv")}
    fitted = renamed(state, tensors)
    convolutional = {key: tensor.float() for key, tensor in fitted.items() if not key.startswith("classifier.")}
    parts = {key: key.rpartition(".") for key in convolutional}
    fill(model, {f"{own.get(place, place)}.{kind}": convolutional[key] for key, (place, _, kind) in parts.items()})
    scale = 255 * torch.tensor(TORCHVISION_STD).flip(0).view(3, 1, 1)
    with torch.no_grad():
        first = model.get_parameter("conv1_1.weight")
        first.copy_(first.flip(1) / scale)
    model.mean = 255 * torch.tensor(TORCHVISION_MEAN).flip(0).view(1, 3, 1, 1)
