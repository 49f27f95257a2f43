"""Decode pictures of more than 8 bits per channel if Pillow would reduce them to 8 bits.

TIFF files are decoded in :mod:`dreamgram.image_optimization.image_tiff`.
"""

from __future__ import annotations

import struct
import threading
from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from dreamgram.image_optimization.image_samples import Array, Samples

GRAY_ALPHA, COLOR, COLOR_ALPHA = 4, 2, 6
"""Values of the color type in the header of a PNG: gray with opacity, RGB, and RGB with opacity."""

SRGB_SPACE = 16
"""Number that stands for the color space sRGB in a JPEG 2000 file."""

_OPENCV = threading.Lock()


def stored_bits(picture: ImageFile, data: bytes) -> int:
    """Return the number of bits per channel of ``picture``, which Pillow has opened from the file content ``data``.

    If the pixels are floating-point numbers, the result is 32.
    """
    if picture.mode == "F":
        return 32
    if picture.format == "PNG":
        return int(data[24])
    if picture.format == "JPEG2000":
        return max(_precisions(data))
    if picture.format == "AVIF":
        place = data.find(b"av1C")
        flags = data[place + 6] if 0 <= place < len(data) - 6 else 0
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    if picture.format == "PPM":
        return _largest(picture).bit_length()
    return 16 if picture.mode.startswith("I") else 8


def decode_deep(picture: ImageFile, data: bytes) -> Samples | None:
    """Return the samples (the stored numbers and their range) of a picture of more than 8 bits per channel.

    Pillow has opened ``picture`` from the file content ``data``. A binary PPM or PGM of at most 8 bits per channel is
    decoded, too, unless its white is 255. The samples are not rotated according to the EXIF orientation. The result is
    None if this module does not decode the picture. In that case, the caller lets Pillow decode it.

    Raises:
        Exception: the file is damaged. The decoders raise exceptions of many types.
    """
    bits = stored_bits(picture, data)
    if picture.format == "PNG" and bits == 16 and data[25] in (GRAY_ALPHA, COLOR, COLOR_ALPHA):
        return _decode_png(picture, data)
    if picture.format == "PPM" and picture.tile[0].codec_name != "ppm_plain" and _largest(picture) not in (0, 255):
        return _decode_ppm(picture, data)
    if bits <= 8:
        return None
    if picture.format == "JPEG2000" and picture.mode in ("RGB", "RGBA") and _is_rgb(data):
        return _decode_with_opencv(picture, data, bits)
    if picture.format == "AVIF":
        return _decode_with_opencv(picture, data, bits)
    return None


def largest_gray(picture: Image.Image, data: bytes) -> int:
    """Return the number that stands for white in a gray picture that Pillow decodes to 16-bit numbers."""
    if isinstance(picture, ImageFile) and picture.format == "JPEG2000":
        bits = max(_precisions(data))
        return ((1 << bits) - 1) << (16 - bits)  # Pillow shifts the numbers to the left
    return 65535


def _decode_png(picture: ImageFile, data: bytes) -> Samples:
    """Decode a PNG with several 16-bit channels.

    Pillow decodes a picture in RGB or RGBA twice: first to the high byte of each number, and then to the low byte. It
    decodes a gray picture with opacity once, to the four bytes of each pixel.
    """
    kind, interlaced = data[25], data[28]
    packed = b"".join(body for name, body in _chunks(data) if name == b"IDAT")

    def decode(mode: str, raw: str) -> Array:
        return np.asarray(Image.frombytes(mode, picture.size, packed, "zip", raw, interlaced))

    if kind == GRAY_ALPHA:
        both = decode("RGBA", "RGBA")
        return Samples(np.ascontiguousarray(both).view(">u2").astype(np.uint16), 1, high=65535)
    mode = "RGB" if kind == COLOR else "RGBA"
    values = decode(mode, f"{mode};16B").astype(np.uint16) << 8
    values |= decode(mode, f"{mode};16L")
    transparent = picture.info.get("transparency")
    if kind == COLOR and transparent is not None:
        values = np.concatenate([values, opacity_of(values, transparent, 65535)], axis=2)
    return Samples(values, 3, high=65535)


def opacity_of(values: Array, transparent: Any, opaque: int) -> Array:
    """Return the opacity (H, W, 1) of ``values`` (H, W, C): 0 for the color ``transparent``, otherwise ``opaque``."""
    shown: Array = (values != np.asarray(transparent)).any(axis=2, keepdims=True)
    return np.where(shown, opaque, 0).astype(values.dtype)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG as pairs (name, content). If the file is truncated, the last content is incomplete."""
    found, place = [], 8
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        found.append((name, data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def _largest(picture: ImageFile) -> int:
    """Return the number that stands for white in a PPM or PGM, or 0 for related formats such as PBM and PFM."""
    [tile] = picture.tile
    if isinstance(tile.args, tuple):
        largest: Any = tile.args[-1] if tile.codec_name in ("ppm", "ppm_plain") else 0
        return largest if isinstance(largest, int) else 0
    return {"I;16B": 65535, "L": 255, "RGB": 255}.get(str(tile.args), 0)


def _decode_ppm(picture: ImageFile, data: bytes) -> Samples:
    """Decode a binary PPM or PGM."""
    largest, colors = _largest(picture), len(picture.getbands())
    shape = (picture.height, picture.width, colors)
    kind = ">u2" if largest > 255 else "u1"
    values = np.frombuffer(data, kind, int(np.prod(shape)), picture.tile[0].offset).reshape(shape)
    return Samples(values.astype(kind[-2:]), colors, high=largest)


def _precisions(data: bytes) -> list[int]:
    """Return the number of bits of each channel of a JPEG 2000 picture."""
    place = data.index(b"\xff\x4f\xff\x51") + 4  # the marker SIZ
    [channels] = struct.unpack_from(">H", data, place + 36)
    return [(each & 127) + 1 for each in data[place + 38 : place + 38 + 3 * channels : 3]] or [8]


def _is_rgb(data: bytes) -> bool:
    """Return whether a JPEG 2000 picture is in RGB and has the same number of bits in all channels."""
    place = data.find(b"colr")
    known = place < 0 or data[place + 4] != 1 or data[place + 7 : place + 11] == SRGB_SPACE.to_bytes(4, "big")
    return known and len(set(_precisions(data))) == 1


def _decode_with_opencv(picture: ImageFile, data: bytes, bits: int) -> Samples | None:
    """Decode a picture with OpenCV.

    The result is None if OpenCV fails, or if its result has fewer than 16 bits per channel or an unexpected shape.
    """
    import cv2

    with _OPENCV:  # the log level is a setting of the whole process
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            values = None
        finally:
            cv2.utils.logging.setLogLevel(level)
    channels = len(picture.getbands())
    if values is None or values.dtype != np.uint16 or values.shape != (picture.height, picture.width, channels):
        return None
    return Samples(values[:, :, [2, 1, 0, 3][:channels]], 3, high=2**bits - 1)
