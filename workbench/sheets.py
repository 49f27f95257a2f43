"""Contact sheets: pictures that show many small pictures, each with a caption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad

from dreamgram.image_optimization.images import ImageLike, as_image, as_images, resize, to_pillow

TILE = 112
"""Minimum length, in pixels, of the longer side of each picture on the sheet. Smaller pictures are enlarged."""

MARGIN, GAP, TEXT = 24, 12, 14
"""Margin of the sheet, gap between the pictures and height of the text, in pixels."""

PAPER, TEXT_COLOR, VALUE_COLOR = "#ffffff", "#1a1a1a", "#6b6b6b"
"""Colors of the background, of the text, and of the part of a caption that is aligned to the right."""


def default_columns(count: int) -> int:
    """Return the default number of columns of a sheet of ``count`` images: about as many as there are rows."""
    return math.ceil(math.sqrt(count))


@dataclass(frozen=True)
class Layout:
    """The sizes of a contact sheet and of its parts, in pixels. Each size is (H, W)."""

    size: tuple[int, int]
    """Size of the whole sheet."""
    columns: int
    """Number of pictures in a row."""
    tile_size: tuple[int, int]
    """Size of each picture on the sheet."""
    pitch: tuple[int, int]
    """Vertical distance from a picture to the picture below, and horizontal distance to the next picture in the row.

    The distances are measured between the top left corners of the pictures.
    """
    head: int
    """Height of the title, including the gap below the title; 0 without a title."""
    label_height: int
    """Height of the heading of a row, including the gap below the heading; 0 without headings."""


class Look(TypedDict, total=False):
    """The arguments of :func:`contact_sheet` that a picture and all frames of its animation have in common."""

    columns: int | None
    title: str
    rows: Sequence[str]


def lay_out(
    count: int, size: tuple[int, int], *, columns: int | None = None, title: str = "", rows: Sequence[str] = ()
) -> Layout:
    """Return the layout of a contact sheet of ``count`` images, each of ``size`` (H, W).

    The other arguments have the same meaning as for :func:`contact_sheet`.

    Raises:
        ValueError: ``columns`` is less than 1.
    """
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    columns = min(columns or default_columns(count), count)
    factor = max(1, math.ceil(TILE / max(size)))
    tile_size = (size[0] * factor, size[1] * factor)
    head = 2 * TEXT + GAP if title else 0
    label_height = TEXT + GAP if rows else 0
    pitch = (label_height + tile_size[0] + TEXT + 2 * GAP, tile_size[1] + GAP)
    height = 2 * MARGIN + head + math.ceil(count / columns) * pitch[0] - GAP
    # A sheet with few narrow images must still be as wide as its title and the headings of its rows.
    font, title_font = _fonts()
    text = math.ceil(max(title_font.getlength(title), *map(font.getlength, rows), 0))
    width = 2 * MARGIN + max(columns * pitch[1] - GAP, text)
    return Layout((height, width), columns, tile_size, pitch, head, label_height)


def _fonts() -> tuple[Any, Any]:
    """Return two fonts: the font of the captions and headings, and the font of the title."""
    return ImageFont.load_default(TEXT), ImageFont.load_default(TEXT + 4)


def contact_sheet(
    images: ImageLike | Sequence[ImageLike],
    captions: Sequence[object],
    *,
    columns: int | None = None,
    title: str = "",
    rows: Sequence[str] = (),
) -> Image.Image:
    """Draw ``images`` in a grid, row by row, each image above its caption.

    Args:
        images: gray or RGB images (N, C, H, W) in [0, 1], or a list of images (C, H, W). Other forms that
            :func:`dreamgram.image_optimization.images.as_images` accepts can be used, too. All images are shown at the
            size of the first image. Small images are enlarged by an integer factor with nearest-neighbor interpolation.
        captions: one caption for each image. The text after a tab character is printed in gray, aligned to the right. A
            caption that would run into this text or into the next caption is cut.
        columns: number of images in a row. By default, there are about as many columns as rows.
        title: title above the whole sheet.
        rows: headings of the rows, from the top row down. If there are fewer headings than rows, the last rows have no
            headings.

    Raises:
        ValueError: there are no images, the numbers of images and captions differ, or ``columns`` is less than 1.
    """
    images = _as_list(images)
    texts = [str(caption) for caption in captions]
    if len(images) == 0 or len(images) != len(captions):
        raise ValueError(
            f"a sheet needs images and as many captions, not {len(images)} images and {len(captions)} captions"
        )
    height, width = images[0].shape[1:]
    layout = lay_out(len(images), (height, width), columns=columns, title=title, rows=rows)
    font, title_font = _fonts()
    tile = layout.tile_size[::-1]  # Pillow gives the width first.
    sheet = Image.new("RGB", layout.size[::-1], PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, TEXT_COLOR, title_font)
    for index, (image, caption) in enumerate(zip(images, texts, strict=True)):
        row, column = divmod(index, layout.columns)
        x, y = MARGIN + column * layout.pitch[1], MARGIN + layout.head + row * layout.pitch[0]
        if column == 0 and row < len(rows):
            draw.text((x, y), rows[row], TEXT_COLOR, font)
        picture = to_pillow(image)
        whole = tile[0] % picture.width == 0 == tile[1] % picture.height
        resampling = Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC
        sheet.paste(picture.resize(tile, resampling), (x, y + layout.label_height))
        name, _, value = caption.partition("\t")
        below = y + layout.label_height + tile[1] + GAP // 2
        if value:
            right = x + tile[0] - font.getlength(value) - GAP // 2
        else:  # up to the next caption in the row
            others = texts[index + 1 : index + layout.columns - column]
            free = next((number for number, text in enumerate(others) if text), None)
            right = sheet.width if free is None else x + (free + 1) * layout.pitch[1] - GAP // 2
        draw.text((x, below), _cut(name, right - x, font), TEXT_COLOR, font)
        draw.text((x + tile[0], below), value, VALUE_COLOR, font, anchor="ra")
    return sheet


def _cut(text: str, width: float, font: Any) -> str:
    """Return ``text``, or its beginning followed by dots if the whole text is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    lengths = (end for end in range(len(text) - 1, 0, -1) if font.getlength(f"{text[:end]}...") <= width)
    return f"{text[: next(lengths, 0)].rstrip()}..."


def same_size(images: Sequence[Tensor]) -> list[Tensor]:
    """Enlarge images (C, H, W) in [0, 1] to the largest height and the largest width among them.

    The proportions stay the same, and any space that is left at the right or at the bottom is white, like the contact
    sheet. If the enlargement factor is a whole number, the pixels are repeated, so that small images stay sharp.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    enlarged = []
    for image in images:
        factor = min(height / image.shape[1], width / image.shape[2])
        if factor.is_integer():
            large = image.repeat_interleave(int(factor), 1).repeat_interleave(int(factor), 2)
        else:
            large = resize(image[None], (round(factor * image.shape[1]), round(factor * image.shape[2])))[0]
        enlarged.append(pad(large, (0, width - large.shape[2], 0, height - large.shape[1]), value=1.0))
    return enlarged


def _as_list(images: Any) -> list[Tensor]:
    """Convert ``images`` to a list of images (C, H, W)."""
    if not isinstance(images, list | tuple):
        return list(as_images(images, "images"))
    own = (isinstance(image, Tensor) and image.ndim == 3 and image.is_floating_point() for image in images)
    return [
        image if is_own else as_image(image, f"image {number}")[0]
        for number, (image, is_own) in enumerate(zip(images, own, strict=True))
    ]


def short(value: float) -> str:
    """Format ``value`` for a caption.

    The result has three significant digits, or is a whole number if the absolute value is at least 1000.
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
