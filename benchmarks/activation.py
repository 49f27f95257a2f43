"""How far dreams excite a filter beyond anything natural: ``python -m benchmarks.activation`` (three minutes).

64 units of VGG-16's relu4_1, every eighth, at 128 pixels with our defaults, against the best of 200 patches for each:
random squares of three photos, of any size from 128 pixels to the whole photo. The activation is that of the picture as
it is, without transforms.
"""

from __future__ import annotations

import statistics

import torch
from matplotlib.cbook import get_sample_data

from activation_maximization import activations, channel, maximize
from benchmarks.process import PHOTO, PICTURES
from image_optimization import images
from image_optimization.memory import keep_freed_memory
from models import load

LAYER, UNITS, SIZE, PATCHES = "relu4_1", range(0, 512, 8), 128, 200


def main() -> None:
    keep_freed_memory()
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
    dreams = maximize(network, channel(LAYER, UNITS), size=SIZE)
    ratios = (dreams.activations / best).tolist()
    print(f"times the best of {PATCHES} patches: {statistics.median(ratios):.1f} (median), {min(ratios):.1f} (least)")
    print(f"mean activation {dreams.activations.mean():.0f}; silent: {len(dreams.silent)} of {len(UNITS)}")


if __name__ == "__main__":
    main()
