"""Compare how much our images, lucent's images and photos activate filters: ``python -m benchmarks.activation``.

This takes three minutes. Our images are made for every eighth unit of VGG-16's relu4_1, 64 in all, with the default
settings at 128 pixels. The activations that lucent's pictures reached with its default settings are in ``peers.json``.
For each unit, 200 patches of photos are tried, and the largest of their activations counts. The patches are random
squares from three photos, with sides from 128 pixels to the shorter side of the photo. All activations are measured
without the random transforms of the optimization.
"""

from __future__ import annotations

import json

import torch
from matplotlib.cbook import get_sample_data
from torch import Tensor

from benchmarks.peers import LAYER, REACHED, UNITS
from benchmarks.process import PHOTO, PICTURES
from dreamgram.activation_maximization.gradient_ascent import activations, maximize
from dreamgram.activation_maximization.objectives import channel
from dreamgram.image_optimization import images
from dreamgram.image_optimization.memory import keep_freed_memory
from dreamgram.models import load

SIZE = 128
"""Side of the images in pixels."""

PATCHES = 200
"""Number of photo patches to try."""


def main() -> None:
    """Print the table of activations for docs/benchmarks.md."""
    keep_freed_memory()
    lucent = json.loads(REACHED.read_text())["lucent"]
    theirs = torch.tensor([lucent[str(unit)][str(SIZE)] for unit in UNITS])
    photos = best_patches()
    dreams = maximize(load("vgg16"), channel(LAYER, UNITS), size=SIZE)
    print(f"{len(UNITS)} units of {LAYER}; silent: {len(dreams.silent)}\n")
    print("| | mean activation | relative to lucent: median, range | relative to the best patch: median, range |")
    print("|---|---|---|---|")
    for name, values in {"ours": dreams.activations, "lucent": theirs, f"best of {PATCHES} patches": photos}.items():
        print(f"| {name} | {values.mean():.0f} | {_ratios(values, theirs)} | {_ratios(values, photos)} |")


def best_patches() -> Tensor:
    """Return the largest mean activation of each unit over all patches, as a tensor (number of units,)."""
    torch.manual_seed(0)
    network = load("vgg16")
    paths = [PHOTO, PICTURES / "chelsea.jpg", get_sample_data("grace_hopper.jpg", asfileobj=False)]
    photos = [images.load(path) for path in paths]
    best = torch.zeros(len(UNITS))
    for number in range(PATCHES):
        photo = photos[number % len(photos)]
        side = int(torch.randint(SIZE, min(photo.shape[2:]) + 1, ()))
        top, left = (int(torch.randint(0, length - side + 1, ())) for length in photo.shape[2:])
        patch = images.resize(photo[:, :, top : top + side, left : left + side], (SIZE, SIZE))
        best = torch.maximum(best, activations(network, patch, [LAYER])[LAYER].mean((2, 3))[0, list(UNITS)])
    return best


def _ratios(values: Tensor, others: Tensor) -> str:
    """Return the median and the range of the ratios ``values / others``, as text."""
    ratios = values / others
    return f"{ratios.median():.2f}, {ratios.min():.2f} to {ratios.max():.2f}"


if __name__ == "__main__":
    main()
