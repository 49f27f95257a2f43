"""Contact sheets: pictures that show many small pictures, each with a caption."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dreamgram.image_optimization.images import to_pillow

TILE = 112
"""Minimum length, in pixels, of the longer side of each picture on the sheet. Smaller pictures are enlarged."""

MARGIN, GAP, TEXT = 24, 12, 14
"""Margin of the sheet, gap between the pictures and height of the text, in pixels."""

PAPER, TEXT_COLOR, VALUE_COLOR = "#ffffff", "#1a1a1a", "#6b6b6b"
"""Colors of the background, of the text, and of the part of a caption that is aligned to the right."""


def contact_sheet(
    images: Tensor | Sequence[Tensor],
    captions: Sequence[str],
    *,
    columns: int | None = None,
    title: str = "",
    rows: Sequence[str] = (),
) -> Image.Image:
    """Draw ``images`` in a grid, row by row, each image above its caption.

    Args:
        images: (N, C, H, W) in [0, 1], gray or RGB, or a list of (C, H, W). All images are shown at the size of the
            first one. Small images are enlarged by an integer factor with nearest-neighbor interpolation.
        captions: one caption for each image. The part after a tab is printed in gray, aligned to the right.
        columns: number of images in a row. By default, there are about as many columns as rows.
        title: title above the whole sheet.
        rows: headings of the rows, from the top row down. If there are fewer headings than rows, the last rows have
            none.

    Raises:
        ValueError: there are no images, the numbers of images and captions differ, or ``columns`` is less than 1.
    """
    if len(images) == 0 or len(images) != len(captions):
        raise ValueError(
            f"a sheet needs images and as many captions, not {len(images)} images and {len(captions)} captions"
        )
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
    # A sheet with few narrow images must still be as wide as its title and the headings of its rows.
    texts = [title_font.getlength(title), *map(font.getlength, rows)]
    size = (max(size[0], math.ceil(max(texts)) + 2 * MARGIN), size[1])
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, TEXT_COLOR, title_font)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, columns)
        x, y = MARGIN + column * pitch[0], MARGIN + head + row * pitch[1]
        if column == 0 and row < len(rows):
            draw.text((x, y), rows[row], TEXT_COLOR, font)
        picture = to_pillow(image)
        whole = tile[0] % picture.width == 0 == tile[1] % picture.height
        sheet.paste(
            picture.resize(tile, Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC), (x, y + label)
        )
        name, _, value = caption.partition("\t")
        below = y + label + tile[1] + GAP // 2
        draw.text((x, below), name, TEXT_COLOR, font)
        draw.text((x + tile[0], below), value, VALUE_COLOR, font, anchor="ra")
    return sheet


def short(value: float) -> str:
    """Format ``value`` for a caption.

    The result has three significant digits, or is a whole number if the absolute value is at least 1000.
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
