"""Read picture files as an image viewer shows them: upright and in sRGB."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms
from torch import Tensor

from dreamgram.image_optimization.image_deep import decode_deep, largest_gray, opacity_of, stored_bits
from dreamgram.image_optimization.image_opening import open_file, open_image, reading
from dreamgram.image_optimization.image_samples import Array, Samples
from dreamgram.image_optimization.image_tiff import (
    bits_of,
    channels_of,
    check_parts,
    count_pages,
    decode_tiff,
    is_plain,
    is_tiff,
    read_tags,
    size_of,
)
from dreamgram.image_optimization.limits import MOST_PIXELS, check_limits
from dreamgram.image_optimization.memory import release_kept_memory

PROFILE_TOLERANCE = 4
"""Tolerance, in 8-bit levels, for treating an ICC color profile as sRGB.

A profile is treated as sRGB if converting colors from it to sRGB changes no channel by more than the tolerance.
"""

LARGE = 50_000_000
"""Number of bytes above which a decoded picture counts as large."""

FLOAT_BYTES = 4
"""Number of bytes of a floating-point number in an image."""

WEBP_BYTES = 12
"""Number of bytes per pixel that the WebP decoder needs, because it keeps three RGBA copies of the picture."""

DECODING = {"WEBP": 24, "JPEG2000": 20}
"""Bytes per pixel that are needed while a picture is decoded, for the formats that need more memory then than later,
when the image is made."""

ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats, other than TIFF, whose files can have several frames. In these formats, the frames are counted."""


@dataclass(frozen=True)
class Picture:
    """The image and the metadata of a picture file."""

    image: Tensor
    """Image (1, C, H, W) in sRGB, float32 in [0, 1]. C is the argument ``channels`` of :func:`read`: 3 for color or 1
    for gray. Transparent parts are composited over white. If the file is gray and C is 3, the channels share the same
    memory: clone the tensor before you change it in place."""
    alpha: Tensor | None
    """Opacity (1, 1, H, W) from 0 for transparent to 1 for opaque; None if the whole picture is opaque."""
    exif: bytes
    """Encoded EXIF data that describes the picture, such as camera, exposure, author and GPS position; empty if there
    is none. It contains no orientation, because ``image`` is already upright."""
    bits: int
    """Number of bits per channel: 8, or 16 if the file has more than 8."""
    frames: int
    """Number of frames or pages in the file. ``image`` is the first of them."""
    checksum: str
    """First 16 hexadecimal digits of the SHA-256 hash of the file."""
    notice: str = ""
    """Remark for the user if it is uncertain which numbers in the file stand for black and white; otherwise empty. It
    begins with the path of the file."""


def load(path: str | os.PathLike[str], channels: int = 3, *, max_pixels: int = MOST_PIXELS) -> Tensor:
    """Return the image in a picture file, (1, ``channels``, H, W) in [0, 1], without the metadata.

    The arguments and the image are the same as in :func:`read`. ``channels`` is 3 for color or 1 for gray.
    """
    return read(path, channels, max_pixels=max_pixels).image


def read(path: str | os.PathLike[str], channels: int = 3, *, max_pixels: int = MOST_PIXELS) -> Picture:
    """Read the image and the metadata of a picture file.

    The image is a float32 tensor (1, ``channels``, H, W) in [0, 1]. It is turned upright according to its EXIF
    orientation, and transparent parts are composited over white. If the file has an ICC profile, the colors are
    converted from the profile to sRGB. This conversion rounds color pictures of more than 8 bits per channel to 8 bits.
    It is skipped for these pictures if the profile is almost sRGB. The conversion does not reduce the precision of gray
    pictures. Only the first frame of an animation is read.

    The file format and the metadata determine which numbers stand for black and white. The pixel values of the picture
    have no influence. In a TIFF, black and white are the numbers in the tags SMinSampleValue and SMaxSampleValue.
    Without these tags, they are 0 and 1 for floating-point pixels, and otherwise the smallest and the largest number of
    the data type of the pixels. If these tags are missing and the pixels are signed or floating-point numbers or have
    more than 16 bits, :attr:`Picture.notice` says which range is assumed.

    Args:
        path: a PNG, JPEG, WebP, TIFF, GIF, BMP, PPM, JPEG 2000, AVIF or PSD file, or an HEIC file if pillow-heif is
            installed. The format is recognized by the content of the file, not by its name.
        channels: number of channels of the image to return: 3 for color, 1 for gray.
        max_pixels: largest allowed number of pixels in the picture. In addition, the file and the decoded picture are
            limited to 1 GB each, and the memory for the decoded picture and the image together to 1.25 GB. If
            ``max_pixels`` is larger than its default, these limits grow in proportion.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: ``path`` does not exist, is a folder, or is not readable.
        TooLargeError: the picture is too large. It is refused before it is decoded.
        ValueError: the file is not an image, or is damaged.
    """
    path = Path(path)
    with open_file(path, max_pixels) as file:
        data = file.read()
    with reading(path):
        decoded = (_decode_tiff if is_tiff(BytesIO(data)) else _decode)(data, channels, max_pixels)
        checksum = hashlib.sha256(data).hexdigest()[:16]
        del data  # frees memory: only the samples are needed from here on
        samples = decoded.samples
        if samples.values.nbytes > LARGE:
            release_kept_memory()  # memory that the decoder has freed could be too small for the image
        remark = samples.remark()
        image, alpha = samples.to_tensors(channels)
    return Picture(
        image,
        alpha,
        decoded.exif,
        decoded.bits,
        decoded.frames,
        checksum,
        " ".join(f"{path} {remark}".split()) if remark else "",
    )


def read_pillow(picture: Image.Image) -> Samples:
    """Return the samples (the pixel values and their range) of an image that Pillow has opened or made.

    The image has at most 8 bits per channel. As in :func:`read`, the samples are turned upright according to the EXIF
    orientation of the image, and converted from its ICC profile to sRGB.
    """
    samples = _from_pillow(picture, picture.info.get("icc_profile"), b"")
    with suppress(Exception):  # broken EXIF data is ignored
        samples = _turned(samples, picture.getexif().get(ExifTags.Base.Orientation, 1))
    return samples


@dataclass
class _Decoded:
    """The decoded content of a picture file: upright samples in sRGB, and the metadata."""

    samples: Samples
    exif: bytes
    bits: int
    frames: int


def _decode(data: bytes, channels: int, max_pixels: int) -> _Decoded:
    """Decode a picture in any format except TIFF. ``channels`` is the number of channels of the image to make."""
    with open_image(BytesIO(data)) as picture:
        bits = stored_bits(picture, data)
        pixel = WEBP_BYTES if picture.format == "WEBP" else len(picture.getbands()) * -(-bits // 8)
        colors, alpha = _count_channels(picture)
        needed = (colors + alpha) * -(-bits // 8) + FLOAT_BYTES * (min(colors, channels) + alpha)
        needed = max(needed, DECODING.get(picture.format or "", 0))
        check_limits(picture.size, pixel, max_pixels, needed)
        frames = getattr(picture, "n_frames", 1) if picture.format in ANIMATED else 1
        profile = picture.info.get("icc_profile")
        samples = decode_deep(picture, data)
        samples = _from_pillow(picture, profile, data) if samples is None else _to_srgb(samples, profile)
        with suppress(Exception):  # broken EXIF data is ignored
            samples = _turned(samples, picture.getexif().get(ExifTags.Base.Orientation, 1))
        return _Decoded(samples, _kept_exif(picture.getexif), 8 if bits <= 8 else 16, frames)


def _count_channels(picture: Image.Image) -> tuple[int, int]:
    """Return the number of color channels of ``picture``, 1 or 3, and whether it is transparent, 1 or 0."""
    gray = picture.mode in ("1", "L", "LA", "La", "F") or picture.mode.startswith("I")
    alpha = picture.mode.endswith(("A", "a")) or "transparency" in picture.info
    return 1 if gray else 3, int(alpha)


def _decode_tiff(data: bytes, channels: int, max_pixels: int) -> _Decoded:
    """Decode the first page of a TIFF. ``channels`` is the number of channels of the image to make."""
    tags = read_tags(BytesIO(data))
    bits = bits_of(tags)
    pixel, (colors, alpha) = -(-sum(bits) // 8), channels_of(tags)
    needed = max(pixel, colors) + FLOAT_BYTES * (min(colors, channels) + alpha)
    check_limits(size_of(tags), pixel, max_pixels, needed)
    frames = count_pages(data)
    if is_plain(tags):
        check_parts(tags)
        with open_image(BytesIO(data)) as picture:  # Pillow turns the picture upright when it decodes a TIFF
            samples = _from_pillow(picture, picture.info.get("icc_profile"), data)
            return _Decoded(samples, _kept_exif(picture.getexif), 8, frames)

    def read_exif() -> Image.Exif:
        exif = Image.Exif()
        exif.load_from_fp(BytesIO(data))
        return exif

    profile = tags.get(ExifTags.Base.InterColorProfile)
    decoded = decode_tiff(data, tags)
    samples = _to_srgb(decoded, profile) if isinstance(decoded, Samples) else _from_pillow(decoded, profile, data)
    samples = _turned(samples, tags.get(ExifTags.Base.Orientation, 1))
    return _Decoded(samples, _kept_exif(read_exif), 8 if max(bits) <= 8 else 16, frames)


CAMERA_TAGS = (
    *("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "Copyright", "HostComputer"),
    *("XPTitle", "XPComment", "XPAuthor", "XPKeywords", "XPSubject", "Rating", "RatingPercent"),
)
"""Names of the EXIF tags that are kept when a picture is read, in addition to the sections for exposure and GPS.

All other tags are dropped, because most of them describe the layout of the file that was read.
"""


def _kept_exif(read_exif: Callable[[], Image.Exif]) -> bytes:
    """Return the encoded EXIF data, reduced to :data:`CAMERA_TAGS` and the sections for exposure and GPS.

    ``read_exif`` is a function that reads the EXIF data of the file. The result is empty if no tags are left or the
    data is broken.
    """
    reduced = Image.Exif()
    with suppress(Exception):  # Pillow raises errors of many types for broken data
        given = read_exif()
        for tag in (ExifTags.Base[name] for name in CAMERA_TAGS):
            if tag in given:
                reduced[tag] = given[tag]
        for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if given.get_ifd(part):
                reduced[part] = dict(given.get_ifd(part))
        return reduced.tobytes() if len(reduced) else b""
    return b""


def _from_pillow(picture: Image.Image, profile: bytes | None, data: bytes) -> Samples:
    """Return the samples of ``picture``, converted from its ICC profile ``profile`` to sRGB.

    ``data`` is the content of the file; empty if the picture is not from a file. The picture is not turned upright.
    """
    scale = 1 if picture.mode != "L" else SMALL_GRAYS.get(_raw_mode(picture), 1)
    picture.load()
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return _to_srgb(_deep_gray(picture, data), profile)
    alpha: list[Array] = []
    if picture.has_transparency_data:
        if scale > 1:
            picture.info["transparency"] *= scale
        picture = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        if not profile:
            return Samples(np.asarray(picture), 3)
        alpha = [np.asarray(picture.getchannel("A"))[:, :, None]]
        picture = picture.convert("RGB")
    elif picture.mode == "1" and not profile:
        return Samples(np.asarray(picture).view(np.uint8)[:, :, None], 1)  # Pillow gives 255 for white
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("RGB", "L", "CMYK"):
        picture = picture.convert("RGB")
    if profile:
        picture = _convert(picture, profile)
    levels: Array = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    values: Array = levels.reshape(*levels.shape[:2], -1)
    return Samples(np.concatenate([values, *alpha], axis=2) if alpha else values, values.shape[2])


def _deep_gray(picture: Image.Image, data: bytes) -> Samples:
    """Return the samples of a gray picture that Pillow has decoded with more than 8 bits per pixel."""
    values = np.asarray(picture)[:, :, None]
    if picture.mode == "F":
        notice = "does not say what its darkest and brightest numbers are: they are taken to be 0 and 1"
        return Samples(values, 1, high=1, notice=notice)
    top = largest_gray(picture, data)
    values = values.astype(np.uint16)
    if isinstance(picture.info.get("transparency"), int):
        values = np.concatenate([values, opacity_of(values, picture.info["transparency"], top)], axis=2)
    return Samples(values, 1, high=top)


SMALL_GRAYS = {"L;2": 85, "L;4": 17}
"""Pillow's names for gray pixels of 2 and 4 bits, and the factors with which Pillow scales such pixels to 8 bits.

In a PNG, a gray level can be declared transparent. Pillow does not scale this level.
"""


def _raw_mode(picture: Image.Image) -> str:
    """Return Pillow's name for the pixels in the file of ``picture``, or "" if the picture has been decoded already."""
    tile = getattr(picture, "tile", ())
    given = tile[0][3] if tile and getattr(picture, "format", "") == "PNG" else ""
    return str(given[0] if isinstance(given, tuple) and given else given)


def _convert(picture: Image.Image, profile: bytes) -> Image.Image:
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


def _to_srgb(samples: Samples, profile: bytes | None) -> Samples:
    """Convert the colors of ``samples`` from ``profile`` to sRGB, unless the profile is almost sRGB.

    Gray pictures keep their precision. Color pictures are rounded to 8 bits per channel when they are converted.
    """
    if not profile:
        return samples
    steps = np.linspace(0, 255, 6, dtype=np.uint8)
    colors: Array = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(36, 6, 3)
    if samples.colors == 1:
        colors = np.arange(256, dtype=np.uint8).reshape(16, 16)
    # Converted test colors show whether the profile is almost sRGB. Its name might be misleading.
    converted = np.asarray(_convert(Image.fromarray(colors), profile))
    expected = colors if converted.ndim == colors.ndim else np.repeat(colors[:, :, None], 3, axis=2)
    if np.abs(converted.astype(int) - expected).max() <= PROFILE_TOLERANCE:
        return samples
    if samples.colors == 1:
        curve = converted[:, :, 1].ravel() / 255
        values = np.empty(samples.values.shape, np.float32)
        for rows, block in samples.blocks():
            values[rows] = block
            values[rows, :, :1] = np.interp(block[:, :, :1] * 255, np.arange(256), curve)
        return Samples(values, 1, high=1, notice=samples.notice)
    levels = samples.to_levels()
    made = np.asarray(_convert(Image.fromarray(np.ascontiguousarray(levels[:, :, :3])), profile))
    return Samples(np.concatenate([made, levels[:, :, 3:]], axis=2), 3, notice=samples.notice)


def _turned(samples: Samples, orientation: object) -> Samples:
    """Return ``samples`` rotated or mirrored according to the EXIF ``orientation`` of the picture."""
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return samples if turn is None else replace(samples, values=turn(samples.values))


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
