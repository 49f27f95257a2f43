"""Pictures in and out of files."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn.functional import interpolate

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""What can be written, by file ending."""

SETTINGS = "dreamgram"
"""The PNG text entry that holds a picture's settings."""

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
"""Share of red, green and blue in the gray of a colour, ITU-R BT.601."""

Array = np.ndarray[Any, np.dtype[Any]]


def load(path: str | os.PathLike[str], channels: int = 3) -> Tensor:
    """The picture in a file, as a person would see it: (1, ``channels``, H, W), sRGB in [0, 1], float32.

    EXIF orientation is applied, an embedded ICC profile is converted to sRGB (in 8 bits; one of 16-bit gray is not
    looked at), 16-bit gray and 16-bit colour PNG keep their precision, transparency is laid over white, and of an
    animation the first frame is taken.

    Args:
        path: PNG, JPEG, WebP, TIFF, or whatever else Pillow reads.
        channels: 3 for colour, 1 for gray.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: it cannot be read.
        ValueError: it is not an image, or a damaged or too large one.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not an image file")
    if not path.exists():
        raise FileNotFoundError(f"no image file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes), not an image")
    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the error at twice that size stays
            pixels = _deep_png(picture, path) if _is_deep_png(picture) else _pixels(picture)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} unpacks to more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: refused") from None
    except PermissionError:
        raise
    except (OSError, SyntaxError, EOFError, ValueError, struct.error) as error:  # Pillow's words for damaged files
        raise ValueError(f"{path} is a damaged image: {error}") from error
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).unsqueeze(0)
    return (image * LUMA).sum(1, keepdim=True) if channels == 1 else image


def _pixels(picture: Image.Image) -> Array:
    """RGB, (H, W, 3) float32 in [0, 1]."""
    picture = ImageOps.exif_transpose(picture)
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        gray = np.asarray(picture, dtype=np.float32)
        # Floats are from 0 to 1, or to 255 where some are larger.
        top = 65535 if picture.mode != "F" else 255 if gray.max() > 1 else 1
        return np.repeat((gray / top).clip(0, 1)[:, :, None], 3, axis=2)
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = np.asarray(picture.getchannel("A"), dtype=np.float32)[:, :, None] / 255
        picture = picture.convert("RGB")
    elif picture.mode not in ("RGB", "L", "CMYK"):
        picture = picture.convert("RGB")
    if profile:
        picture = _to_srgb(picture, profile)
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return pixels if alpha is None else _over_white(pixels, alpha)


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    try:
        converted = ImageCms.profileToProfile(
            picture, BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return picture  # a profile that is broken, or for another number of channels, is better ignored than refused
    return converted or picture


def _is_deep_png(picture: Image.Image) -> bool:
    """Whether this is a PNG of 16-bit colour, which Pillow would cut to 8 bits."""
    tiles = getattr(picture, "tile", None)
    deep = picture.format == "PNG" and bool(tiles) and picture.mode in ("RGB", "RGBA")
    return deep and _tile(picture).args == f"{picture.mode};16B" and not picture.info.get("icc_profile")


def _deep_png(picture: Image.Image, path: Path) -> Array:
    """A PNG of 16-bit colour as RGB, (H, W, 3) float32 in [0, 1].

    Of each number Pillow keeps the byte that it takes for the higher one. So the file is read twice: as it is, and
    as though its bytes came in the other order, which keeps the lower ones.
    """
    with Image.open(path) as lower:
        lower.tile = [_tile(lower)._replace(args=f"{lower.mode};16L")]
        low = np.asarray(ImageOps.exif_transpose(lower), dtype=np.float32)
    high = np.asarray(ImageOps.exif_transpose(picture), dtype=np.float32)
    pixels = (256 * high + low) / 65535
    return _over_white(pixels[:, :, :3], pixels[:, :, 3:]) if pixels.shape[2] == 4 else pixels


def _tile(picture: Image.Image) -> Any:
    """How Pillow is going to decode the picture."""
    return picture.tile[0]  # type: ignore[attr-defined]


def _over_white(pixels: Array, alpha: Array) -> Array:
    blended: Array = pixels * alpha + (1 - alpha)
    return blended


def fit(image: Tensor, size: int) -> Tensor:
    """``image`` (N, C, H, W) in [0, 1] resized so that its longer side is ``size`` pixels."""
    height, width = image.shape[2:]
    scale = size / max(height, width)
    return resize(image, (max(round(height * scale), 1), max(round(width * scale), 1)))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``image`` (N, C, H, W) in [0, 1] resized to (H, W), bicubic and antialiased."""
    if tuple(image.shape[2:]) == size:
        return image
    return interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def refine(image: Tensor, start: Tensor | None, size: tuple[int, int]) -> Tensor:
    """``image`` at a finer ``size``, with the detail of ``start``, if any, that it was too coarse to hold."""
    if start is None:
        return resize(image, size)
    coarse, fine = (image.shape[2], image.shape[3]), resize(start, size)
    return resize(image, size) + fine - resize(resize(fine, coarse), size)


def to_pillow(image: Tensor) -> Image.Image:
    """One image, (C, H, W) or (1, C, H, W) in [0, 1] with 1 or 3 channels, as an 8-bit Pillow image."""
    levels = (image.detach().reshape(image.shape[-3:]).cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).numpy())


def check_output(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """``path``, if a picture can be saved there; meant for before the work begins. Makes the folder.

    Raises:
        ValueError: the file ending is none of ``FORMATS``.
        FileExistsError: there is such a file, and ``overwrite`` is False.
        OSError: the folder cannot be made or written.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot write {path.name!r}: the file name must end in {', '.join(FORMATS)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another output or overwrite it (--overwrite)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise type(error)(f"cannot write into {path.parent}: {error.strerror or error}") from None
    return path


def save(
    image: Tensor | Image.Image,
    path: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``image`` to ``path`` whole or not at all: it is written beside and then renamed.

    Args:
        image: (C, H, W) or (1, C, H, W) in [0, 1], or a Pillow image.
        path: its ending chooses the format, see ``FORMATS``.
        settings: kept in a PNG as JSON, see :func:`read_settings`; other formats have no place for it.
        overwrite: replace an existing file.

    Raises:
        As :func:`check_output`.
    """
    path = check_output(path, overwrite)
    picture = to_pillow(image) if isinstance(image, Tensor) else image
    kind = FORMATS[path.suffix.lower()]
    options: dict[str, Any] = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    if kind == "PNG" and settings is not None:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt(SETTINGS, json.dumps(settings))
    with whole(path) as beside:
        picture.save(beside, kind, **options)
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` when that is done; if it fails, nothing has changed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that :func:`save` kept in a PNG.

    Raises:
        ValueError: it holds none.
    """
    with Image.open(path) as picture:
        text = picture.info.get(SETTINGS)
    if text is None:
        raise ValueError(f"{path} holds no Dreamgram settings")
    settings: dict[str, Any] = json.loads(text)
    return settings
