"""Read picture files as an image viewer shows them: upright and in sRGB."""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32, device="cpu").view(3, 1, 1)
"""Weights of red, green and blue in the ITU-R BT.601 conversion to gray, as a tensor (3, 1, 1)."""

PROFILE_TOLERANCE = 4
"""Tolerance, in 8-bit levels, for treating an ICC color profile as sRGB.

A profile is treated as sRGB if converting colors from it to sRGB changes no channel by more than the tolerance.
"""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Picture:
    """The image and the metadata of a picture file."""

    image: Tensor
    """Image (1, C, H, W) in sRGB, float32 in [0, 1]; C is 3 for color and 1 for gray. Transparent parts are composited
    over white."""
    alpha: Tensor | None
    """Opacity (1, 1, H, W) in [0, 1], where 0 is transparent; None if the whole picture is opaque."""
    exif: bytes
    """Encoded EXIF data that describes the picture, such as camera, exposure, author and GPS position; empty if there
    is none. It contains no orientation, because ``image`` is already upright."""
    bits: int
    """Number of bits per channel in the file: 8 or 16."""
    frames: int
    """Number of frames or pages in the file. ``image`` is the first of them."""
    checksum: str
    """First 16 hexadecimal digits of the SHA-256 of the file."""


def load(path: str | os.PathLike[str], channels: int = 3) -> Tensor:
    """Return the image in a picture file, (1, ``channels``, H, W) in [0, 1], without the metadata.

    The image is the same as that of :func:`read`. ``channels`` is 3 for color or 1 for gray.
    """
    return read(path, channels).image


def read(path: str | os.PathLike[str], channels: int = 3) -> Picture:
    """Read the image, (1, ``channels``, H, W) in sRGB, float32 in [0, 1], and the metadata of a picture file.

    The image is turned upright according to its EXIF orientation. If the file has an ICC profile, the colors are
    converted from it to sRGB with 8-bit precision. Two kinds of 16-bit pictures keep their precision: gray pictures,
    whose ICC profile is ignored, and color pictures in PNG or TIFF that have no ICC profile or one that is almost sRGB.
    Transparent parts are composited over white. Only the first frame of an animation is read.

    Args:
        path: a PNG, JPEG, WebP or TIFF, or any other format that Pillow reads.
        channels: number of channels of the image to return: 3 for color, 1 for gray.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: ``path`` does not exist, is a folder, or may not be read.
        ValueError: the file is not an image, is damaged, or has more than twice Pillow's ``MAX_IMAGE_PIXELS``.
    """
    path = Path(path)
    check_file(path)
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path} is empty (0 bytes), not an image")
    with open_image(BytesIO(data), path) as opened:
        frames = getattr(opened, "n_frames", 1) if opened.format in ("GIF", "PNG", "WEBP", "TIFF") else 1
        deep = _is_deep(opened)
        colors, alpha = _deep_pixels(opened, data) if deep and _is_srgb(opened) else _pixels(opened)
        bits = 16 if deep or opened.mode.startswith("I") else 8
        exif = _exif(opened)
    image = _tensor(colors if alpha is None else colors * alpha + (1 - alpha))
    if channels == 1:
        image = (image * LUMA).sum(1, keepdim=True)
    opacity = None if alpha is None or (alpha == 1).all() else _tensor(alpha)
    return Picture(image, opacity, exif, bits, frames, hashlib.sha256(data).hexdigest()[:16])


def check_file(path: Path) -> None:
    """Raise IsADirectoryError if ``path`` is a folder, or FileNotFoundError if it does not exist."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not an image file")
    if not path.exists():
        raise FileNotFoundError(f"no image file {path}")


@contextmanager
def open_image(file: IO[bytes], path: Path) -> Iterator[Image.Image]:
    """Open the image in ``file`` with Pillow for the duration of a ``with`` block.

    If Pillow cannot open the image, or cannot read it within the block, the error becomes a ValueError with ``path`` in
    its message.

    Raises:
        ValueError: the file is not an image, is damaged, or has more than twice Pillow's ``MAX_IMAGE_PIXELS``.
    """
    try:
        with warnings.catch_warnings(), Image.open(file) as opened:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice this size is still an error
            yield opened
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} unpacks to more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: refused") from None
    except (OSError, SyntaxError, EOFError, ValueError, struct.error) as error:  # Pillow raises all of these
        raise ValueError(f"{path} is a damaged image: {error}") from error


CAMERA_TAGS = (
    *("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "Copyright", "HostComputer"),
    *("XPTitle", "XPComment", "XPAuthor", "XPKeywords", "XPSubject", "Rating", "RatingPercent"),
)
"""Names of the EXIF tags that are kept when a picture is read, in addition to the sections for exposure and GPS.

All other tags are dropped, because they describe the layout of the file that was read.
"""


def _exif(picture: Image.Image) -> bytes:
    """Return the EXIF data to keep from ``picture``, encoded; empty if there is no such data or the data is broken."""
    kept = Image.Exif()
    try:
        given = picture.getexif()
        for tag in (ExifTags.Base[name] for name in CAMERA_TAGS):
            if tag in given:
                kept[tag] = given[tag]
        for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if given.get_ifd(part):
                kept[part] = dict(given.get_ifd(part))
        return kept.tobytes() if len(kept) else b""
    except (SyntaxError, OSError, ValueError, TypeError, struct.error):
        return b""


def _tensor(pixels: Array) -> Tensor:
    """Convert pixels (H, W, C) to a tensor (1, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).unsqueeze(0)


def _pixels(picture: Image.Image) -> tuple[Array, Array | None]:
    """Return the colors (H, W, 3) and the opacity (H, W, 1) of ``picture`` as float32 in [0, 1].

    The opacity is None if the picture has no transparency.
    """
    with suppress(SyntaxError, struct.error):  # broken EXIF data is ignored
        picture = ImageOps.exif_transpose(picture)
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        gray = np.asarray(picture, dtype=np.float32)
        if not np.isfinite(gray).all():
            raise ValueError("some pixels are not finite numbers")
        # Float pixels are taken to range from 0 to 1, or from 0 to 255 if any of them is above 1.
        top = 65535 if picture.mode != "F" else 255 if gray.max() > 1 else 1
        return np.repeat((gray / top).clip(0, 1)[:, :, None], 3, axis=2), None
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = np.asarray(picture.getchannel("A"), dtype=np.float32)[:, :, None] / 255
        picture = picture.convert("RGB")
    elif picture.mode not in ("RGB", "L", "CMYK"):
        picture = picture.convert("RGB")
    if profile:
        picture = _to_srgb(picture, profile)
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255, alpha


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Convert the colors of ``picture`` from ``profile`` to sRGB.

    If the profile is broken, or made for a different number of channels, the picture is returned unchanged, because
    its colors are still usable without the conversion.
    """
    try:
        converted = ImageCms.profileToProfile(
            picture, BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return picture
    return converted or picture


def _is_deep(picture: Image.Image) -> bool:
    """Return whether ``picture`` is a PNG or TIFF with several 16-bit channels, which Pillow would reduce to 8 bits."""
    tiles = getattr(picture, "tile", None)
    args = tiles[0].args if tiles else ""  # the raw mode from which Pillow will decode the pixels
    raw = args if isinstance(args, str) else args[0] if args else ""
    return picture.format in ("PNG", "TIFF") and ";16" in raw and picture.mode in ("RGB", "RGBA", "LA")


def _is_srgb(picture: Image.Image) -> bool:
    """Return whether the picture has no color profile, or one that is sRGB within :data:`PROFILE_TOLERANCE`.

    The decision is based on the conversion of sample colors, because the name of a profile may be misleading.
    """
    profile = picture.info.get("icc_profile")
    steps = np.linspace(0, 255, 6, dtype=np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(36, 6, 3)
    if not profile:
        return True
    converted = np.asarray(_to_srgb(Image.fromarray(colors), profile), dtype=int)
    return bool(np.abs(converted - colors).max() <= PROFILE_TOLERANCE)


def _deep_pixels(picture: Image.Image, data: bytes) -> tuple[Array, Array | None]:
    """Decode ``data``, a file with 16-bit channels, and return its colors and opacity as :func:`_pixels` does."""
    import cv2

    channels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if channels is None:
        raise ValueError("its pixels cannot be decoded")
    # OpenCV applies the orientation of a TIFF, but not that of a PNG.
    orientation = picture.getexif().get(ExifTags.Base.Orientation) if picture.format == "PNG" else None
    pixels = (TURNS[orientation](channels) if orientation in TURNS else channels).astype(np.float32) / 65535
    colors, alpha = pixels[:, :, 2::-1], pixels[:, :, 3:]
    return colors, alpha if alpha.size else None


TURNS: dict[int, Callable[[Array], Array]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
"""Functions, by EXIF orientation (2 to 8), that rotate or mirror pixels (H, W, C) so that the picture is upright."""
