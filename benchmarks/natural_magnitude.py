"""Compute the Fourier magnitudes of photos for ``PhaseImage``: ``python -m benchmarks.natural_magnitude PHOTO...``.

The file of magnitudes that comes with Dreamgram was made from six photos that come with Python packages:
``astronaut.png``, ``chelsea.png``, ``coffee.png`` and ``rocket.jpg`` of scikit-image (public domain and CC0), and
``china.jpg`` and ``flower.jpg`` of scikit-learn (CC BY 2.0, danielbuechele and vultilion).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from dreamgram.image_optimization import images
from dreamgram.image_optimization.parameterizations import NATURAL, frequencies, spectrum_of

SIDE = 256
"""Side of a crop in pixels. The highest frequency in the file of magnitudes is half this number, in cycles per side."""

CROPS = 128
"""Number of random crops from each photo. Each crop is used twice: as it is and mirrored."""


def crops(photo: Tensor) -> Tensor:
    """Return random square crops of ``photo`` (1, 3, H, W), resized to (N, 3, 256, 256), and their mirror images.

    The sides of the squares range from 256 pixels to the shorter side of the photo.
    """
    cut = []
    for _ in range(CROPS):
        side = int(torch.randint(SIDE, min(photo.shape[2:]) + 1, ()))
        top, left = (int(torch.randint(0, length - side + 1, ())) for length in photo.shape[2:])
        cut.append(images.resize(photo[:, :, top : top + side, left : left + side], (SIDE, SIDE)))
    together = torch.cat(cut).clamp(0, 1)
    return torch.cat([together, together.flip(3)])


def main(photos: Annotated[list[Path], typer.Argument(help="Photos of at least 256 pixels a side.")]) -> None:
    """Compute the mean Fourier magnitudes of ``photos``, and save them in Dreamgram's file of magnitudes."""
    torch.manual_seed(0)
    # If opposite borders do not match, the Fourier transform sees an edge there. Therefore, the borders are faded out.
    window = torch.hann_window(SIDE, periodic=True)
    window = window[:, None] * window
    window = window / window.square().mean().sqrt()
    magnitudes = []
    for path in photos:
        logits = torch.fft.irfft2(spectrum_of(crops(images.load(path))), s=(SIDE, SIDE), norm="ortho")
        centered = logits - logits.mean((2, 3), keepdim=True)
        magnitudes.append(torch.fft.rfft2(centered * window, norm="ortho").abs().mean(0))
    whitened = torch.stack(magnitudes).mean(0) * frequencies((SIDE, SIDE))
    np.savez_compressed(NATURAL, magnitude=whitened.half().numpy())
    print(NATURAL, NATURAL.stat().st_size, "bytes")


if __name__ == "__main__":
    typer.run(main)
