"""The magnitudes of natural photos that ``PhaseImage`` has: ``python -m benchmarks.natural_magnitude PHOTO...``.

Those in the package are of six photos that come with Python packages: ``astronaut.png``, ``chelsea.png``,
``coffee.png`` and ``rocket.jpg`` of scikit-image (public domain and CC0), ``china.jpg`` and ``flower.jpg`` of
scikit-learn (CC BY 2.0, danielbuechele and vultilion).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from image_optimization import images
from image_optimization.parameterizations import NATURAL, _frequency, _spectrum

SIDE = 256
"""Of a crop in pixels. Half of that, in cycles, is the highest frequency that is known."""

CROPS = 128
"""Of every photo, each twice, once mirrored."""


def crops(photo: Tensor) -> Tensor:
    """Random squares of ``photo`` (1, 3, H, W), of its whole shorter side down to 256 pixels, as (N, 3, 256, 256)."""
    cut = []
    for _ in range(CROPS):
        side = int(torch.randint(SIDE, min(photo.shape[2:]) + 1, ()))
        top, left = (int(torch.randint(0, length - side + 1, ())) for length in photo.shape[2:])
        cut.append(images.resize(photo[:, :, top : top + side, left : left + side], (SIDE, SIDE)))
    together = torch.cat(cut).clamp(0, 1)
    return torch.cat([together, together.flip(3)])


def main(photos: Annotated[list[Path], typer.Argument(help="Photos of at least 256 pixels a side.")]) -> None:
    torch.manual_seed(0)
    # A border that does not meet the opposite one would be seen as an edge: it is faded out.
    window = torch.hann_window(SIDE, periodic=True)
    window = window[:, None] * window
    window = window / window.square().mean().sqrt()
    magnitudes = []
    for path in photos:
        logits = torch.fft.irfft2(_spectrum(crops(images.load(path))), s=(SIDE, SIDE), norm="ortho")
        centered = logits - logits.mean((2, 3), keepdim=True)
        magnitudes.append(torch.fft.rfft2(centered * window, norm="ortho").abs().mean(0))
    whitened = torch.stack(magnitudes).mean(0) * _frequency((SIDE, SIDE))
    np.savez_compressed(NATURAL, magnitude=whitened.half().numpy())
    print(NATURAL, NATURAL.stat().st_size, "bytes")


if __name__ == "__main__":
    typer.run(main)
