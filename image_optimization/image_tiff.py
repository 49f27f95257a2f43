"""Decode TIFF files that Pillow cannot open or would reduce to 8 bits per channel.

Pillow only decompresses the pixel data: it receives a TIFF that contains the compressed data of the original file, but
declares it to be an 8-bit gray picture. This module decodes the decompressed bytes according to the TIFF 6.0
specification. The package tifffile is not used, because it needs the package imagecodecs for LZW, JPEG and CCITT data.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2, TiffImageFile

from dreamgram.image_optimization.image_opening import RefusedError
from dreamgram.image_optimization.image_samples import Array, Samples

Tag = ExifTags.Base
"""Numbers of TIFF tags, by name."""

PREDICTOR, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTE_COUNTS = 317, 322, 323, 324, 325
SAMPLE_FORMAT, SMALLEST_SAMPLE, LARGEST_SAMPLE, EXTRA_SAMPLES, SUBSAMPLING = 339, 340, 341, 338, 530
"""Numbers of the TIFF tags Predictor, TileWidth, TileLength, TileOffsets, TileByteCounts, SampleFormat,
SMinSampleValue, SMaxSampleValue, ExtraSamples and YCbCrSubSampling."""

WHITE_IS_ZERO, GRAY, RGB, PALETTE, CMYK, YCBCR, CIE_LAB = 0, 1, 2, 3, 5, 6, 8
"""Values of the tag PhotometricInterpretation."""

ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
"""Values of the tag ExtraSamples: an opacity by which the stored colors have been multiplied, and any other opacity."""

UNCOMPRESSED, DEFLATE = 1, 8
"""Values of the tag Compression."""

BYTEWISE = {UNCOMPRESSED, 5, DEFLATE, 32773, 32946, 34925, 50000}
"""Values of the tag Compression for methods that compress bytes regardless of their meaning: no compression, LZW,
Deflate, PackBits, Deflate (its old number), LZMA and Zstandard."""

DIFFERENCES, FLOAT_DIFFERENCES = 2, 3
"""Values of the tag Predictor: differences of neighboring numbers, and bytewise differences of floating-point ones."""

MOST_SEGMENTS = 1_000_000
"""Largest number of strips or tiles that a picture may have."""

LARGEST_TILE = 2**26
"""Limit for large tiles, in pixels. All tiles of a picture together may have at most twice as many pixels as the
picture, plus this number."""

Tags = ImageFileDirectory_v2


def is_tiff(file: IO[bytes]) -> bool:
    """Return whether ``file`` begins with the signature of a TIFF, and set its position back to the beginning."""
    start = file.read(4)
    file.seek(0)
    return start in PREFIXES


def read_tags(file: IO[bytes]) -> Tags:
    """Return the tags of the first page of a TIFF.

    Raises:
        RefusedError: the file is a big-endian BigTIFF, which Pillow cannot read.
    """
    header = file.read(8)
    if header.startswith(b"MM\0+"):
        raise RefusedError("is a big-endian BigTIFF, which cannot be read")
    if header[2:3] == b"+":  # BigTIFF
        header += file.read(8)
    tags = ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    return tags


def count_pages(data: bytes) -> int:
    """Return the number of pages of a TIFF.

    Raises:
        ValueError: the file ends before its last page.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:3] == b"+"
    count, entry, link = ("Q", 20, "Q") if big else ("H", 12, "I")
    [page] = struct.unpack_from(order + link, data, 8 if big else 4)
    found: set[int] = set()
    while page and page not in found:
        found.add(page)
        try:
            [entries] = struct.unpack_from(order + count, data, page)
            [page] = struct.unpack_from(order + link, data, page + struct.calcsize(count) + entry * entries)
        except struct.error:
            raise ValueError(f"the file ends within page {len(found)}") from None
    return len(found)


def size_of(tags: Tags) -> tuple[int, int]:
    """Return the width and height of the picture, in pixels, as stated in ``tags``.

    Raises:
        ValueError: the width or the height is missing or not a positive whole number.
    """
    width, height = tags.get(Tag.ImageWidth), tags.get(Tag.ImageLength)
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        raise ValueError("its size is missing")
    return width, height


def bits_of(tags: Tags) -> tuple[int, ...]:
    """Return the number of bits of each channel, as stated in ``tags``."""
    bits, channels = _all(tags, Tag.BitsPerSample, 1), int(tags.get(Tag.SamplesPerPixel, 1))
    return bits * channels if len(bits) == 1 and 0 < channels < 100 else bits


def channels_of(tags: Tags) -> tuple[int, int]:
    """Return the number of color channels of the picture, 1 or 3, and whether it has an opacity, 1 or 0."""
    kind = tags.get(Tag.PhotometricInterpretation, RGB if len(bits_of(tags)) >= 3 else GRAY)
    return 1 if kind in (WHITE_IS_ZERO, GRAY) else 3, int(EXTRA_SAMPLES in tags)


def is_plain(tags: Tags) -> bool:
    """Return whether a file is plain, which means that Pillow decodes it instead of this module.

    A file is plain if its compression is not in :data:`BYTEWISE`, or if Pillow decodes it exactly. Pillow decodes a
    file exactly if its numbers are unsigned integers of 8 bits, or of 1, 2 or 4 bits in a single channel, and if all of
    the following conditions are met: the channels are interleaved, there is no chroma subsampling, no tags state the
    range of the numbers, and the colors have not been multiplied by the opacity. Pillow would round colors when it
    divides them by the opacity.
    """
    bits = bits_of(tags)
    lossy = tags.get(Tag.Compression, 1) not in BYTEWISE
    whole = set(_all(tags, SAMPLE_FORMAT, 1)) <= {1, 4} and not {SMALLEST_SAMPLE, LARGEST_SAMPLE} & set(tags)
    whole = whole and ASSOCIATED_ALPHA not in _all(tags, EXTRA_SAMPLES, UNASSOCIATED_ALPHA)
    small = set(bits) == {8} or (len(bits) == 1 and bits[0] in (1, 2, 4))
    return lossy or (small and whole and tags.get(Tag.PlanarConfiguration, 1) != 2 and not _is_subsampled(tags))


def check_parts(tags: Tags) -> None:
    """Check that the strips or tiles of an uncompressed picture cover all of it.

    Pillow would report no error and leave the area of the missing strips or tiles black.

    Raises:
        ValueError: some strips or tiles are missing.
    """
    if tags.get(Tag.Compression, UNCOMPRESSED) == UNCOMPRESSED:
        parts = _all(tags, TILE_OFFSETS if TILE_OFFSETS in tags else Tag.StripOffsets, 0)
        _, _, pieces, rows = _grid(tags)
        if len(parts) < pieces * rows:
            raise ValueError("some of its parts are missing")


def _grid(tags: Tags) -> tuple[int, int, int, int]:
    """Return the width and height of the strips or tiles, in pixels, and how many columns and rows they form."""
    width, height = size_of(tags)
    if TILE_OFFSETS in tags:
        across, down = tags.get(TILE_WIDTH), tags.get(TILE_LENGTH)
    else:
        across, down = width, tags.get(Tag.RowsPerStrip, height)
    if not isinstance(across, int) or not isinstance(down, int) or min(across, down) < 1:
        raise ValueError("the size of its parts is damaged")
    if TILE_OFFSETS not in tags:
        down = min(down, height)
    return across, down, -(-width // across), -(-height // down)


def _is_subsampled(tags: Tags) -> bool:
    """Return whether the file is an uncompressed YCbCr picture with chroma subsampling."""
    colored = tags.get(Tag.PhotometricInterpretation) == YCBCR and tags.get(Tag.Compression, 1) == UNCOMPRESSED
    return colored and len(bits_of(tags)) == 3 and _all(tags, SUBSAMPLING, 2) != (1, 1)


def decode_tiff(data: bytes, tags: Tags) -> Samples | Image.Image:
    """Return the samples of the first page of a TIFF that is not plain, as defined in :func:`is_plain`.

    If the page is in a color space that Pillow converts to RGB, such as CMYK or 8-bit Lab, return an 8-bit Pillow image
    instead.

    Raises:
        RefusedError: the colors, the compression or the data type of the numbers are not supported.
        Exception: the file is damaged.
    """
    if _is_subsampled(tags):
        return _compress(data, tags)
    values = _decode(data, tags)
    kind = int(tags.get(Tag.PhotometricInterpretation, RGB if values.shape[2] >= 3 else GRAY))
    if kind == PALETTE:
        table = np.array(tags[Tag.ColorMap], np.uint16).reshape(3, -1).T
        return Samples(table[np.minimum(values[:, :, 0], len(table) - 1)], 3, high=65535)
    low, high, notice = _range(tags, values)
    if kind == CIE_LAB and values.dtype == np.uint16:
        return Samples(_from_lab(values), 3, high=1)
    if kind in (CMYK, YCBCR, CIE_LAB):
        return _to_pillow(values, kind, low, high)
    if kind not in (WHITE_IS_ZERO, GRAY, RGB):
        raise RefusedError(f"is a TIFF with colors of kind {kind}, which cannot be read")
    colors = 3 if kind == RGB else 1
    if values.shape[2] < colors:
        raise ValueError(f"{values.shape[2]} channels are too few for RGB")
    # Some programs store an opacity without the tag ExtraSamples.
    extra = _all(tags, EXTRA_SAMPLES, UNASSOCIATED_ALPHA)[0] if values.shape[2] > colors else 0
    channel_count = colors + (extra in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA))
    low, high = (np.broadcast_to(each, values.shape[2])[:channel_count].copy() for each in (low, high))
    if kind == WHITE_IS_ZERO:
        low[:1], high[:1] = high[:1].copy(), low[:1].copy()
    return Samples(values[:, :, :channel_count], colors, low, high, extra == ASSOCIATED_ALPHA, notice)


def _range(tags: Tags, values: Array) -> tuple[Array, Array, str]:
    """Return the numbers for black and white, each (C,) or (1,), and a remark for the user.

    By the specification, black and white are the smallest and the largest number of the data type, unless tags state
    other numbers. For floating-point numbers, black is 0 and white is 1 by convention. The remark says that the file
    does not state black and white. It is "" if tags state them, or if the pixels are unsigned integers of at most 16
    bits.
    """
    bits = bits_of(tags)[0]
    signed, real = values.dtype.kind == "i", values.dtype.kind == "f"
    low, high = (
        (0.0, 1.0) if real else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    )
    lows = np.array(_all(tags, SMALLEST_SAMPLE, low), float)
    highs = np.array(_all(tags, LARGEST_SAMPLE, high), float)
    fits = all(len(each) in (1, values.shape[2]) and np.isfinite(each).all() for each in (lows, highs))
    if not fits or not (highs > lows).all():
        lows, highs = np.array([low]), np.array([high])
    elif LARGEST_SAMPLE in tags or SMALLEST_SAMPLE in tags:
        return lows, highs, ""
    assumed = f"does not say what its darkest and brightest numbers are: they are taken to be {low:.0f} and {high:.0f}"
    return lows, highs, assumed if real or signed or bits > 16 else ""


def _all(tags: Tags, tag: int, default: float) -> tuple[Any, ...]:
    """Return all numbers of a tag as a tuple, or ``(default,)`` if the file does not have the tag."""
    found = tags.get(tag, default)
    return tuple(found) if isinstance(found, tuple | bytes) and found else (found,)


def _to_pillow(values: Array, kind: int, low: Array, high: Array) -> Image.Image:
    """Convert a picture in CMYK, Lab or YCbCr to an 8-bit Pillow image in the same color space."""
    count, mode = {CMYK: (4, "CMYK"), CIE_LAB: (3, "LAB"), YCBCR: (3, "YCbCr")}[kind]
    if values.shape[2] < count:
        raise ValueError(f"{values.shape[2]} channels are too few for {mode}")
    if values.dtype.kind != "u" or values.dtype.itemsize > 2:
        raise RefusedError(f"is a TIFF in {mode} with {values.dtype} numbers, which cannot be read")
    low, high = (np.broadcast_to(each, values.shape[2])[:count] for each in (low, high))
    levels = Samples(values[:, :, :count], count, low, high).to_levels()
    return Image.frombytes(mode, (values.shape[1], values.shape[0]), levels.tobytes())


TO_LINEAR_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)
"""Matrix from CIE XYZ with the white point D50 to linear sRGB."""

WHITE_D50 = np.array([0.9642, 1, 0.8249])
"""The white point D50 in CIE XYZ."""


def _from_lab(values: Array) -> Array:
    """Convert 16-bit CIE L*a*b* (H, W, C) with the white point D50 to sRGB, (H, W, 3) in [0, 1]."""
    made = np.empty((*values.shape[:2], 3), np.float32)
    for row, given in enumerate(values):
        lightness = given[:, 0] * (100 / 65535)
        a, b = (given[:, channel].astype(np.int16) / 256 for channel in (1, 2))  # a* and b* are signed
        middle = (lightness + 16) / 116
        roots = np.stack([middle + a / 500, middle, middle - b / 200], axis=1)
        xyz = WHITE_D50 * np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29))
        light = (xyz @ TO_LINEAR_SRGB.T).clip(0, 1)
        made[row] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    return made


def _decode(data: bytes, tags: Tags) -> Array:
    """Return the numbers, (H, W, C), of the first page of a TIFF. All channels have the same data type."""
    if tags.get(Tag.Compression, 1) not in BYTEWISE:
        raise RefusedError(f"is a TIFF with compression {tags.get(Tag.Compression)}, which cannot be read")
    bits, formats = bits_of(tags), set(_all(tags, SAMPLE_FORMAT, 1))
    channels = len(bits)
    if len(set(bits)) > 1 or len(formats) > 1 or channels != int(tags.get(Tag.SamplesPerPixel, 1)):
        raise RefusedError("is a TIFF whose channels have different types, which cannot be read")
    kind = {1: "u", 2: "i", 3: "f", 4: "u"}.get(formats.pop(), "")
    if not kind or not 1 <= bits[0] <= 64 or (kind == "f" and bits[0] not in (16, 32, 64)):
        raise RefusedError(f"is a TIFF with numbers of {bits[0]} bits of a type that cannot be read")
    separate = tags.get(Tag.PlanarConfiguration, 1) == 2 and channels > 1
    offsets, counts = _segments(data, tags)
    planes = channels if separate else 1
    if len(offsets) % planes or len(offsets) != len(counts):
        raise ValueError("the list of its parts is damaged")
    each = len(offsets) // planes
    parts = [slice(plane * each, (plane + 1) * each) for plane in range(planes)]
    decoded = [_decode_plane(data, tags, offsets[part], counts[part], channels // planes, kind) for part in parts]
    return decoded[0] if planes == 1 else np.concatenate(decoded, axis=2)


def _segments(data: bytes, tags: Tags) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where in the file the strips or tiles of the first page start, and their lengths, both in bytes."""
    tiled = TILE_OFFSETS in tags
    offsets = _all(tags, TILE_OFFSETS if tiled else Tag.StripOffsets, -1)
    counts = _all(tags, TILE_BYTE_COUNTS if tiled else Tag.StripByteCounts, -1)
    if counts == (-1,):  # some old files do not state the lengths
        counts = tuple(len(data) - offset for offset in offsets)
    if len(offsets) > MOST_SEGMENTS or not all(0 < offset <= len(data) for offset in offsets):
        raise ValueError("the list of its parts is damaged")
    return offsets, counts


def _decode_plane(
    data: bytes, tags: Tags, offsets: Sequence[int], counts: Sequence[int], channels: int, kind: str
) -> Array:
    """Return the numbers (H, W, ``channels``) in the strips or tiles that begin at ``offsets`` and cover the picture.

    ``counts`` holds the lengths of the strips or tiles in bytes. ``kind`` is NumPy's character for the type of the
    numbers: ``u``, ``i`` or ``f``.
    """
    (width, height), bits = size_of(tags), bits_of(tags)[0]
    tiled = TILE_OFFSETS in tags
    across, down, pieces, rows = _grid(tags)
    row = -(-across * channels * bits // 8)  # bytes in a row of a strip or tile
    if len(offsets) != pieces * rows:
        raise ValueError("some of its parts are missing")
    if pieces * across * max(height, down) > 2 * width * height + LARGEST_TILE:
        raise ValueError("its tiles are much larger than the picture")
    layout: dict[int, Sequence[int]] = {
        Tag.ImageWidth: [pieces * row],
        Tag.ImageLength: [height],
        Tag.BitsPerSample: [8],
        Tag.Compression: [tags.get(Tag.Compression, 1)],
        Tag.PhotometricInterpretation: [1],
        Tag.FillOrder: [tags.get(Tag.FillOrder, 1)],
        TILE_OFFSETS if tiled else Tag.StripOffsets: offsets,
        TILE_BYTE_COUNTS if tiled else Tag.StripByteCounts: counts,
    }
    layout |= {TILE_WIDTH: [row], TILE_LENGTH: [down]} if tiled else {Tag.RowsPerStrip: [down]}
    with TiffImageFile(BytesIO(_wrap(layout, data))) as wrapped:
        stored = np.array(wrapped).reshape(height, pieces, row)
    numbers = _to_numbers(stored, channels, bits, kind, ">" if tags.prefix == b"MM" else "<", tags.get(PREDICTOR, 1))
    return numbers.reshape(height, -1, channels)[:, :width]


def _to_numbers(stored: Array, channels: int, bits: int, kind: str, order: str, predictor: int) -> Array:
    """Decode the bytes ``stored``, (H, pieces, bytes), and return their numbers, (H, pieces, numbers).

    Each row of the picture is divided into pieces: one piece for each tile that the row crosses, or a single piece if
    the picture is stored in strips. The last axis holds the bytes or the numbers of one piece. ``order`` is NumPy's
    character for the byte order, ``<`` or ``>``, and ``predictor`` is the value of the tag Predictor.
    """
    height, pieces, _ = stored.shape
    if bits not in (8, 16, 32, 64):
        if predictor != 1:
            raise RefusedError(f"is a TIFF with differences of {bits}-bit numbers, which cannot be read")
        unpacked = _unpack(stored, bits)
        unpacked = unpacked[..., : unpacked.shape[2] // channels * channels]
        return _signed(unpacked, bits) if kind == "i" else unpacked
    if predictor == FLOAT_DIFFERENCES:  # stored with the most significant bytes of all numbers first
        bytes_of = np.cumsum(stored.reshape(height, pieces, -1, channels), axis=2, dtype=np.uint8)
        ordered = bytes_of.reshape(height, pieces, bits // 8, -1).swapaxes(2, 3)
        return np.ascontiguousarray(ordered).view(f">f{bits // 8}")[..., 0].astype(f"f{bits // 8}")
    numbers = stored.view(f"{order}u{bits // 8}").astype(f"u{bits // 8}", copy=False)
    if predictor == DIFFERENCES:
        rows = numbers.reshape(height, pieces, -1, channels)
        numbers = np.cumsum(rows, axis=2, dtype=numbers.dtype).reshape(height, pieces, -1)
    return numbers.view(f"{kind}{bits // 8}")


def _unpack(stored: Array, bits: int) -> Array:
    """Return the unsigned numbers of ``bits`` bits each that the bytes along the last axis of ``stored`` contain.

    The most significant bit of each number comes first.
    """
    count = stored.shape[2] * 8 // bits
    numbers = np.empty((*stored.shape[:2], count), np.uint8 if bits < 8 else np.uint16 if bits < 16 else np.uint32)
    if bits > 32:
        raise RefusedError(f"is a TIFF with numbers of {bits} bits, which cannot be read")
    for row in range(len(stored)):  # one row at a time, because each bit takes a byte of memory
        single = np.unpackbits(stored[row], axis=-1)[:, : count * bits].reshape(-1, count, bits)
        found = np.zeros(single.shape[:2], np.uint32)
        for place in range(bits):
            found = found << 1 | single[:, :, place]
        numbers[row] = found
    return numbers


def _signed(numbers: Array, bits: int) -> Array:
    """Return the signed integers that the unsigned ``numbers`` represent as two's complement with ``bits`` bits."""
    wide = numbers.astype(np.int64)
    return np.where(wide < 2 ** (bits - 1), wide, wide - 2**bits).astype(np.int16 if bits <= 16 else np.int32)


def _compress(data: bytes, tags: Tags) -> ImageFile:
    """Compress an uncompressed TIFF, and open the result with Pillow.

    Pillow decodes a compressed TIFF with libtiff, which supports chroma subsampling.
    """
    offsets, counts = _segments(data, tags)
    parts = [zlib.compress(data[place : place + count], 1) for place, count in zip(offsets, counts, strict=True)]
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    copied: list[int] = [Tag.ImageWidth, Tag.ImageLength, Tag.BitsPerSample, Tag.PhotometricInterpretation]
    copied += [Tag.SamplesPerPixel, Tag.RowsPerStrip, TILE_WIDTH, TILE_LENGTH, SUBSAMPLING]
    layout = {tag: _all(tags, tag, 0) for tag in copied if tag in tags}
    layout[Tag.Compression] = (DEFLATE,)
    tiled = TILE_OFFSETS in tags
    layout[TILE_OFFSETS if tiled else Tag.StripOffsets] = tuple(ends[:-1])
    layout[TILE_BYTE_COUNTS if tiled else Tag.StripByteCounts] = tuple(map(len, parts))
    return TiffImageFile(BytesIO(_wrap(layout, b"".join(parts))))


def _wrap(layout: Mapping[int, Sequence[int]], content: bytes) -> bytes:
    """Return the bytes of a TIFF with the tags ``layout`` and the pixel data ``content``.

    ``layout`` maps the number of a tag to its values, which are whole numbers. In ``layout``, the offsets of strips or
    tiles are relative to the start of ``content``.
    """
    start = 8
    end = start + len(content)
    beyond = end + 2 + 12 * len(layout) + 4
    entries, long = b"", b""
    for tag, values in sorted(layout.items()):
        numbers = [value + start for value in values] if tag in (Tag.StripOffsets, TILE_OFFSETS) else values
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        entries += struct.pack("<HHI", tag, 4, len(numbers))
        entries += packed if len(numbers) == 1 else struct.pack("<I", beyond + len(long))
        long += packed if len(numbers) > 1 else b""
    directory = struct.pack("<H", len(layout)) + entries + bytes(4)
    return b"".join([b"II*\0", struct.pack("<I", end), content, directory, long])
