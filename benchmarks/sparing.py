"""Look for empty pictures among those made with the regularizer ``sparing``: ``python -m benchmarks.sparing``.

For each of 20 networks of torchvision and timm with random weights, and for four sizes of the images,
``maximize(logit([1, 2]) - sparing())`` makes two pictures. A picture is called empty if its pixels, which are in [0,
1], differ by less than :data:`LEVEL`. A warning must report each empty picture. For each network, the table shows the
smallest and the largest standard deviation of the pixels of a picture, and the smallest and the largest mean. The
command fails if a picture is empty without a warning.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from typing import Annotated, Any

import typer

import dreamgram as dg
from benchmarks.sweep import _build, _enliven, _list

NETWORKS = [
    *("torchvision:alexnet", "torchvision:convnext_tiny", "torchvision:densenet121", "torchvision:efficientnet_b0"),
    *("torchvision:mnasnet0_5", "torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small"),
    *("torchvision:regnet_y_400mf", "torchvision:resnet18", "torchvision:resnet50", "torchvision:resnext50_32x4d"),
    *("torchvision:shufflenet_v2_x1_0", "torchvision:squeezenet1_1", "torchvision:vgg11_bn", "torchvision:vgg16"),
    *("timm:dla34", "timm:ese_vovnet19b_slim", "timm:lcnet_050", "timm:rexnet_100", "timm:repvit_m1"),
]

SIZES: list[Any] = [64, (64, 96), 128, 224]
"""Sides of square images in pixels, or (H, W)."""

LEVEL = 1 / 255
"""Smallest difference between the highest and the lowest pixel value of a picture that is not empty."""


class _Warnings(logging.Handler):
    """A log handler that collects the warnings of the package."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main(steps: Annotated[int, typer.Option(help="Number of steps for each picture.")] = 24) -> None:
    """Make pictures with the regularizer ``sparing``, and print a table of how much their pixels vary."""
    warnings.simplefilter("ignore")
    told = _Warnings()
    logger = logging.getLogger("dreamgram")
    logger.addHandler(told)
    logger.propagate = False
    untold = 0
    for name in NETWORKS:
        model, _ = _build(name)
        _enliven(model, 224)
        layer = _list(model, [224])[0][-1].name
        deviations, means, empty, silent = [], [], 0, 0
        for size in SIZES:
            told.lines.clear()
            dreams = dg.maximize(model, dg.logit([1, 2], layer) - dg.sparing(), size=size, steps=steps)
            images = dreams.images
            silent += len(dreams.silent)
            low, high = images.flatten(1).aminmax(dim=1)
            some = [unit for unit, is_empty in zip([1, 2], (high - low < LEVEL).tolist(), strict=True) if is_empty]
            empty += len(some)
            named = " ".join(line for line in told.lines if "same value" in line)
            untold += sum(str(unit) not in re.findall(r"\d+", named) for unit in some)
            deviations += images.std((1, 2, 3)).tolist()
            means += images.mean((1, 2, 3)).tolist()
        spread, ink = (f"{min(some):.2f} to {max(some):.2f}" for some in (deviations, means))
        print(f"{name:36s}  deviation {spread}  mean {ink}  empty {empty}, without gradient {silent}", flush=True)
    print(f"{untold} empty pictures without a warning, of {2 * len(SIZES) * len(NETWORKS)}")
    sys.exit(untold > 0)


if __name__ == "__main__":
    typer.run(main)
