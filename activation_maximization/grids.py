"""Contact sheets: many pictures on one, each with its caption."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from image_optimization.images import to_pillow

TILE = 112
"""Small pictures are enlarged to at least this many pixels a side."""
MARGIN, GAP, TEXT = 24, 12, 14
PAPER, INK, FAINT = "#ffffff", "#1a1a1a", "#6b6b6b"


def contact_sheet(
    images: Tensor | Sequence[Tensor],
    captions: Sequence[str],
    *,
    columns: int | None = None,
    title: str = "",
    rows: Sequence[str] = (),
) -> Image.Image:
    """The images side by side, row by row, each above its caption.

    Args:
        images: (N, C, H, W) in [0, 1], gray or RGB, or a list of (C, H, W): all are shown in the size of the first.
            Small ones are enlarged by a whole factor, pixels kept square.
        captions: one a picture; a part after a tab is set in gray to the right.
        columns: pictures a row; by default about as many as rows.
        title: above the whole sheet.
        rows: names of the rows, above each.

    Raises:
        ValueError: no images, not as many captions as images, or fewer than one column.
    """
    if len(images) == 0 or len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions do not make a sheet")
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    height, width = images[0].shape[1:]
    factor = max(1, math.ceil(TILE / max(height, width)))
    tile = (width * factor, height * factor)
    font, title_font = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT + 4)
    head = 2 * TEXT + GAP if title else 0
    label = TEXT + GAP if rows else 0
    pitch = (tile[0] + GAP, label + tile[1] + TEXT + 2 * GAP)
    lines = math.ceil(len(images) / columns)
    size = (2 * MARGIN + columns * pitch[0] - GAP, 2 * MARGIN + head + lines * pitch[1] - GAP)
    # A sheet of few narrow pictures is still as wide as its title and the names of its rows.
    texts = [title_font.getlength(title), *map(font.getlength, rows)]
    size = (max(size[0], math.ceil(max(texts)) + 2 * MARGIN), size[1])
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, title_font)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, columns)
        x, y = MARGIN + column * pitch[0], MARGIN + head + row * pitch[1]
        if column == 0 and row < len(rows):
            draw.text((x, y), rows[row], INK, font)
        picture = to_pillow(image)
        whole = tile[0] % picture.width == 0 == tile[1] % picture.height
        sheet.paste(
            picture.resize(tile, Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC), (x, y + label)
        )
        name, _, value = caption.partition("\t")
        below = y + label + tile[1] + GAP // 2
        draw.text((x, below), name, INK, font)
        draw.text((x + tile[0], below), value, FAINT, font, anchor="ra")
    return sheet


def short(value: float) -> str:
    """``value`` in few characters, for a caption."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
