"""Web pages that show the optimized image, the activation and the examples of each unit.

The examples of a unit are the parts of real pictures that activate the unit most. Each page is one self-contained file.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from torch import Tensor

from dreamgram.activation_maximization.examples import Example
from dreamgram.image_optimization.images import to_pillow
from dreamgram.workbench.sheets import short

SMALL_PICTURE = 64
"""Largest height and width, in pixels, of small pictures.

Small pictures are stored without loss and enlarged with nearest-neighbor interpolation. Larger pictures are stored with
lossy compression.
"""

SIDE = 96
"""Side, in pixels, of the square in which the page shows each picture."""


@dataclass(frozen=True)
class _Picture:
    """A picture on the page, with the left and right parts of the line of text below the picture."""

    data_url: str
    """The picture's file as a data URL."""
    name: str
    """Text at the left end of the line below the picture: the index of the unit, or the name of the example picture."""
    value: str
    """Text at the right end of the line below the picture: the activation as a formatted number."""
    small: bool
    """True if the picture is enlarged with nearest-neighbor interpolation."""


def page(
    title: str,
    units: Sequence[int],
    images: Tensor,
    activation_values: Sequence[float],
    examples: Sequence[Sequence[Example]] = (),
    settings: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
) -> str:
    """Return the HTML of a web page that shows ``units``.

    Args:
        title: title of the page.
        units: indices of the units. The page has a search box for the indices and for the names of units and examples.
        images: optimized images (N, C, H, W) in [0, 1], one for each unit. After Ctrl-C, the images of the last units
            can be missing.
        activation_values: activation of each unit for its image.
        examples: for each unit, the patches of real pictures that activate the unit most; empty if the page shows no
            examples.
        settings: settings to list on the page, by name.
        names: name of each unit, such as that of a class; by default, its index.
    """
    cards = []
    for index, (unit, image, activation) in enumerate(zip(units, images, activation_values, strict=False)):
        found = examples[index] if examples else ()
        name = names[index] if names else f"{unit}"
        cards.append(
            {
                "number": unit,
                "names": " ".join([name, *(example.name for example in found)]),
                "dream": _picture(image, name, activation),
                "examples": [_picture(example.patch, example.name, example.activation) for example in found],
            }
        )
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape())
    template = environment.get_template("page.html")
    return template.render(title=title, units=cards, settings=dict(settings or {}), side=SIDE)


def _picture(image: Tensor, name: str, activation: float) -> _Picture:
    """Encode an image (C, H, W) in [0, 1], and return it with ``name`` and ``activation`` as the text below it."""
    small = max(image.shape[1:]) <= SMALL_PICTURE
    kind = "PNG" if small else "WEBP"
    written = io.BytesIO()
    to_pillow(image).save(written, kind, quality=90)
    data_url = f"data:image/{kind.lower()};base64,{base64.b64encode(written.getvalue()).decode()}"
    return _Picture(data_url, name, short(activation), small)
