"""A page for the browser: every unit's dream, its activation and its examples, in one file that needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from torch import Tensor

from activation_maximization.examples import Example
from activation_maximization.grids import short
from image_optimization.images import to_pillow

SMALL = 64
"""Pictures of so few pixels a side are kept exact and shown with square pixels; larger ones are compressed."""

SIDE = 96
"""In which every picture is shown, in pixels."""


@dataclass(frozen=True)
class _Picture:
    source: str
    name: str
    value: str
    small: bool


def page(
    title: str,
    units: Sequence[int],
    dreams: Tensor,
    activations: Sequence[float],
    examples: Sequence[Sequence[Example]] = (),
    settings: Mapping[str, Any] | None = None,
) -> str:
    """The page as HTML.

    Args:
        title: of the page.
        units: their numbers; the page has a box to search them, and the names of the examples.
        dreams: (N, C, H, W) in [0, 1], one for each; after Ctrl-C for the first of them.
        activations: one for each.
        examples: for each its best, or none at all.
        settings: to be shown.
    """
    cards = []
    for index, (unit, dream, activation) in enumerate(zip(units, dreams, activations, strict=False)):
        found = examples[index] if examples else ()
        cards.append(
            {
                "number": unit,
                "names": " ".join([str(unit), *(example.name for example in found)]),
                "dream": _picture(dream, f"{unit}", activation),
                "examples": [_picture(example.patch, example.name, example.activation) for example in found],
            }
        )
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape())
    template = environment.get_template("page.html")
    return template.render(title=title, units=cards, settings=dict(settings or {}), side=SIDE)


def _picture(image: Tensor, name: str, activation: float) -> _Picture:
    small = max(image.shape[1:]) <= SMALL
    kind = "PNG" if small else "WEBP"
    written = io.BytesIO()
    to_pillow(image).save(written, kind, quality=90)
    source = f"data:image/{kind.lower()};base64,{base64.b64encode(written.getvalue()).decode()}"
    return _Picture(source, name, short(activation), small)
