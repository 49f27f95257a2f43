"""Drawn styles: paintings that the program draws itself, so that a style transfer needs no file of a painting.

To add a style, write a function that takes a side length in pixels and a NumPy random generator. The function returns a
square RGB picture with this side length. Decorate the function with :func:`drawn_style`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dreamgram.image_optimization.image_samples import Array

Draw = Callable[[int, np.random.Generator], Image.Image]

DRAWN_STYLES: dict[str, Draw] = {}
"""The functions that draw the styles, by the name of the style.

The first line of a function's docstring is the description of the style that users see."""


def drawn_style(name: str) -> Callable[[Draw], Draw]:
    """Return a decorator that registers a function as the drawn style called ``name``."""

    def register(function: Draw) -> Draw:
        DRAWN_STYLES[name] = function
        return function

    return register


def draw_style(name: str, size: int = 512, seed: int = 0) -> Tensor:
    """Draw the style ``name``, a key of :data:`DRAWN_STYLES`, and return it as (1, 3, size, size), RGB in [0, 1].

    Calls with the same name, size and seed return the same picture.
    """
    # The picture is drawn at twice the size and then reduced, which smooths the edges of its shapes.
    picture = DRAWN_STYLES[name](2 * size, np.random.default_rng(seed)).resize((size, size), Image.Resampling.LANCZOS)
    painting = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return painting.unsqueeze(0) / 255


@drawn_style("stained-glass")
def stained_glass(size: int, rng: np.random.Generator) -> Image.Image:
    """Panes of jewel colors in lead, lit from behind"""
    palette = _colors("#0b3c8c #1565c0 #c62828 #8e1b3a #f9a825 #ffca28 #2e7d32 #00796b #6a1b9a #f4e3b2 #e65100")
    count = 130
    sites = (np.indices((12, 12)).reshape(2, -1).T + rng.uniform(0, 1, (144, 2)))[:count] * size / 11.5
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    x, y = x + size / 150 * _noise(size, size / 12, rng), y + size / 150 * _noise(size, size / 12, rng)
    nearest = np.full((2, size, size), np.inf, dtype=np.float32)
    pane = np.zeros((size, size), dtype=int)
    for index, (cy, cx) in enumerate(sites):
        distance = np.hypot(x - cx, y - cy)
        closer = distance < nearest[0]
        nearest[1] = np.where(closer, nearest[0], np.minimum(nearest[1], distance))
        nearest[0] = np.where(closer, distance, nearest[0])
        pane[closer] = index
    tint = palette[rng.integers(0, len(palette), count)] * rng.uniform(0.75, 1.15, (count, 1))
    glass = tint[pane] * (1 + 0.09 * _noise(size, size / 30, rng) + 0.05 * _noise(size, size / 200, rng))[..., None]
    edge = nearest[1] - nearest[0]  # about twice the distance to the border of the pane, in pixels
    glass *= np.clip(0.65 + edge / (size / 14), 0, 1.15)[..., None]
    lead = np.clip((edge - size / 110) / (size / 300), 0, 1)[..., None]
    metal = (0.10 + 0.05 * _noise(size, size / 250, rng))[..., None] * np.array([1.0, 1.0, 1.1])
    return _picture(glass * lead + metal * (1 - lead))


@drawn_style("brushwork")
def brushwork(size: int, rng: np.random.Generator) -> Image.Image:
    """Thick curling strokes of blue and gold, after the night skies of van Gogh"""
    palette = _colors("#0d1b4c #15317e #1f4fa3 #2f74c0 #5ba3d9 #9cc9e3 #e8d27a #f2b632 #f7e9b0 #22324a")
    whorls = [
        (rng.uniform(0, size), rng.uniform(0, size), rng.choice([-1, 1]), rng.uniform(0.08, 0.2) * size)
        for _ in range(9)
    ]
    warmth = _noise(size, size / 9, rng)
    canvas = Image.new("RGB", (size, size), "#15317e")
    draw = ImageDraw.Draw(canvas)
    for width, strokes in ((size // 34, 2600), (size // 60, 9000), (size // 110, 9000)):
        for x, y in rng.uniform(0, size, (strokes, 2)):
            tone = warmth[int(y), int(x)] + rng.normal(0, 0.55)
            color = palette[int(np.clip((tone + 2) / 4 * 9.99, 0, 9))] * rng.uniform(0.82, 1.15)
            path = _follow(x, y, whorls, size, steps=7, step=width * 0.9)
            lit = tuple(np.clip(color * 255, 0, 255).astype(int))
            dark = tuple(np.clip(color * 160, 0, 255).astype(int))
            draw.line([(px + width / 5, py + width / 5) for px, py in path], fill=dark, width=width, joint="curve")
            draw.line(path, fill=lit, width=max(width - width // 4, 1), joint="curve")
    return canvas


@drawn_style("marbling")
def marbling(size: int, rng: np.random.Generator) -> Image.Image:
    """Combed inks on water, as on the endpapers of old books"""
    palette = _colors("#f4ecd8 #b3261e #1d3b66 #f4ecd8 #d9a441 #20635a #f4ecd8 #5b1a2b #7fa8b8")
    y, x = np.mgrid[0:size, 0:size] / size
    for _ in range(5):  # swirls by a stylus
        cx, cy, turn, reach = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(-2.4, 2.4), rng.uniform(0.1, 0.28)
        angle = turn * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / reach**2)
        dx, dy = x - cx, y - cy
        x, y = cx + dx * np.cos(angle) - dy * np.sin(angle), cy + dx * np.sin(angle) + dy * np.cos(angle)
    for teeth, depth in ((7, 0.085), (19, 0.03)):  # combs, up and down
        y = y + depth * np.abs(np.sin(np.pi * teeth * x)) ** 0.6 * np.sign(np.sin(np.pi * teeth * x))
        x = x + 0.012 * np.sin(2 * np.pi * 2.3 * y + rng.uniform(0, 6))
    bands = 4.2 * y + 0.16 * _noise(size, size / 14, rng)
    position = (bands % 1) * len(palette)
    index = position.astype(int) % len(palette)
    inks = palette[index]
    rim = np.clip(np.abs(position - np.round(position)) / 0.07, 0, 1)[..., None]  # a darker edge where inks meet
    grain = (1 + 0.03 * _noise(size, size / 340, rng))[..., None]
    return _picture(inks * (0.6 + 0.4 * rim) * grain)


@drawn_style("pointillism")
def pointillism(size: int, rng: np.random.Generator) -> Image.Image:
    """Dots of unmixed color side by side, after Seurat"""
    ramps = [
        _colors("#1b2a6b #2f4da0 #4c7cc4 #8fb4dc #f0a04b #e4572e"),
        _colors("#1f4d2b #3d7a3a #7aa93c #c3cf5a #d94f70 #f3e08b"),
        _colors("#e9b44c #f4d58d #f7ead0 #e07a5f #8d6cab #b98bc4"),
    ]
    fields = [_noise(size, size / 7, rng) for _ in ramps]
    shade = _noise(size, size / 5, rng)
    canvas = Image.new("RGB", (size, size), "#efe3c8")
    draw = ImageDraw.Draw(canvas)
    for x, y in rng.uniform(0, size, (26000, 2)):
        row, column = int(y), int(x)
        ramp = ramps[int(np.argmax([field[row, column] for field in fields]))]
        tone = np.clip((shade[row, column] + 1.6) / 3.2, 0, 0.999)
        # One dot in five takes a color from the complementary end of the ramp. Neighboring dots mix in the eye.
        index = int(tone * 4) if rng.random() > 0.2 else 4 + int(rng.random() * 2)
        color = np.clip(ramp[index] * rng.uniform(0.9, 1.1, 3) * 255, 0, 255).astype(int)
        r = size / 150 * rng.uniform(0.6, 1.2)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(color))
    return canvas


def _colors(codes: str) -> Array:
    """Convert hexadecimal color codes, separated by spaces, to an array (n, 3) in [0, 1]."""
    return np.array([[int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)] for code in codes.split()])


def _noise(size: int, grain: float, rng: np.random.Generator) -> Array:
    """Return smooth noise (size, size) with mean 0, standard deviation 1 and spots about ``grain`` pixels wide."""
    cells = max(int(size / grain), 2)
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    field = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    normal: Array = (field - field.mean()) / field.std()
    return normal


def _follow(x: float, y: float, whorls: list[Any], size: int, steps: int, step: float) -> list[tuple[float, float]]:
    """Return the points of a brush stroke that begins at (x, y) and follows a flow around the whorls.

    The stroke has ``steps`` segments, each of which is ``step`` pixels long. Each whorl is a tuple (center x, center y,
    direction, reach). The center and the reach are in pixels. The direction of rotation is 1 for clockwise and -1 for
    counterclockwise. The angular speed of the flow around a whorl decreases with the distance from the center like a
    Gaussian whose standard deviation is the reach.
    """
    path = [(x, y)]
    for _ in range(steps):
        vx, vy = 0.35, 0.12 * np.sin(6 * x / size)
        for wx, wy, sense, reach in whorls:
            dx, dy = x - wx, y - wy
            pull = sense * np.exp(-(dx * dx + dy * dy) / (2 * reach * reach)) * 2 / reach
            vx, vy = vx - dy * pull, vy + dx * pull
        length = max(np.hypot(vx, vy), 1e-6)
        x, y = x + step * vx / length, y + step * vy / length
        path.append((x, y))
    return path


def _picture(pixels: Array) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
