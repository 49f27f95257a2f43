"""How strongly dreams excite a filter, beside lucent's and beside photos: ``python -m benchmarks.activation``.

64 units of VGG-16's relu4_1, every eighth, at 128 pixels with our defaults, in three minutes; what lucent reached with
its own is in ``peers.json``. The best of 200 patches for each: random squares of three photos, of any size from 128
pixels to the whole photo. The activation is that of the picture as it is, without transforms.
"""

from __future__ import annotations

import json

import torch
from matplotlib.cbook import get_sample_data
from torch import Tensor

from activation_maximization import activations, channel, maximize
from benchmarks.peers import LAYER, REACHED, UNITS
from benchmarks.process import PHOTO, PICTURES
from image_optimization import images
from image_optimization.memory import keep_freed_memory
from models import load

SIZE, PATCHES = 128, 200


def main() -> None:
    keep_freed_memory()
    lucent = json.loads(REACHED.read_text())["lucent"]
    theirs = torch.tensor([lucent[str(unit)][str(SIZE)] for unit in UNITS])
    photos = best_patches()
    dreams = maximize(load("vgg16"), channel(LAYER, UNITS), size=SIZE)
    print(f"{len(UNITS)} units of {LAYER}; silent: {len(dreams.silent)}\n")
    print("| | mean activation | of lucent's: median, range | of the best patch's: median, range |\n|---|---|---|---|")
    for name, values in {"ours": dreams.activations, "lucent": theirs, f"best of {PATCHES} patches": photos}.items():
        print(f"| {name} | {values.mean():.0f} | {_ratios(values, theirs)} | {_ratios(values, photos)} |")


def best_patches() -> Tensor:
    """The activation of each unit in the patch that excites it most, (units,)."""
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
    ratios = values / others
    return f"{ratios.median():.2f}, {ratios.min():.2f} to {ratios.max():.2f}"


if __name__ == "__main__":
    main()
