"""Every kind of picture is read with the values that its format defines, compared with numbers worked out by hand."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from dreamgram.image_optimization import images
from tests.files import png16

Values = np.ndarray[Any, np.dtype[Any]]

HEIGHT, WIDTH = 5, 21
"""Size of the pictures in this file. The width is not a multiple of 16, so that the last tile is cut off."""


def numbers(channels: int, kind: str, most: float, least: float = 0) -> Values:
    """Return random numbers (H, W, C) from ``least`` to ``most``, both of which occur."""
    random = np.random.default_rng(channels).random((HEIGHT, WIDTH, channels))
    random[0, 0], random[-1, -1] = 0, 1
    made = least + random * (most - least)
    return (made if kind.startswith("f") else made.round()).astype(kind)


def expected(values: Values, low: float, high: float) -> Values:
    """Return the fraction of the way from ``low`` to ``high``, one number at a time, as three channels (H, W, 3)."""
    made = np.empty((*values.shape[:2], 3))
    for row, column, channel in np.ndindex(*made.shape):
        number = float(values[row, column, channel if values.shape[2] >= 3 else 0])
        made[row, column, channel] = min(max((number - low) / (high - low), 0), 1)
    return made


def over_white(colors: Values, alpha: Values) -> Values:
    """Composite ``colors`` (H, W, 3), not premultiplied, over white."""
    return np.asarray(colors * alpha + (1 - alpha))


def check(path: Path, wanted: Values, tolerance: float = 1e-6) -> images.Picture:
    """Check the image in ``path`` against ``wanted`` (H, W, 3), and return what was read."""
    found = images.read(path)
    assert found.image.shape == (1, 3, *wanted.shape[:2])
    np.testing.assert_allclose(found.image[0].permute(1, 2, 0).numpy(), wanted, rtol=0, atol=tolerance)
    gray = images.load(path, channels=1)[0, 0].numpy()
    np.testing.assert_allclose(gray, wanted @ [0.299, 0.587, 0.114], rtol=0, atol=tolerance + 1e-6)
    return found


def squeezed(values: Values) -> Values:
    """Return a picture of a single channel as (H, W), which tifffile and imagecodecs expect."""
    return np.ascontiguousarray(values[:, :, 0] if values.shape[2] == 1 else values)


LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "big-endian": {"byteorder": ">"},
    "one row a strip": {"rowsperstrip": 1},
    "lzw": {"compression": "lzw"},
    "lzw with differences": {"compression": "lzw", "predictor": 2},
    "big-endian deflate with differences": {"compression": "zlib", "predictor": 2, "byteorder": ">"},
    "packbits": {"compression": "packbits"},
    "zstd": {"compression": "zstd"},
    "tiles": {"tile": (16, 16)},
    "tiles of lzw with differences": {"compression": "lzw", "predictor": 2, "tile": (16, 16)},
    "bigtiff": {"bigtiff": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i1", "i2"])
def test_integers_in_tiff(kind: str, planar: str, layout: str, tmp_path: Path) -> None:
    bits = int(kind[1]) * 8
    low, high = (0, 2**bits - 1) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for channels, color in ((1, "minisblack"), (3, "rgb")):
        if channels == 1 and planar == "separate":
            continue
        values = numbers(channels, kind, high, low)
        how = {"photometric": color, **LAYOUTS[layout]} | ({"planarconfig": planar} if channels > 1 else {})
        stored = np.moveaxis(values, 2, 0) if planar == "separate" else squeezed(values)
        tifffile.imwrite(tmp_path / f"{channels}.tif", np.ascontiguousarray(stored), **how)
        found = check(tmp_path / f"{channels}.tif", expected(values, low, high))
        assert found.bits == (8 if bits == 8 else 16)
        assert bool(found.notice) == (kind[0] == "i" or bits == 32)


FLOAT_LAYOUTS: dict[str, dict[str, Any]] = {
    **{
        layout: how for layout, how in LAYOUTS.items() if how.get("predictor") != 2
    },  # these differences are of integers
    "differences of floats": {"compression": "zlib", "predictor": 3},
    "big-endian differences of floats in tiles": {
        **{"compression": "lzw", "predictor": 3, "tile": (16, 16), "byteorder": ">"}
    },
}


@pytest.mark.parametrize("layout", FLOAT_LAYOUTS)
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_floats_in_tiff(kind: str, layout: str, tmp_path: Path) -> None:
    """Fractions range from 0 to 1, even if some of them are outside; nothing is guessed from the numbers."""
    how = FLOAT_LAYOUTS[layout]
    for channels, color in ((1, "minisblack"), (3, "rgb")):
        values = numbers(channels, kind, 1.5, -0.25)
        tifffile.imwrite(tmp_path / f"{channels}.tif", squeezed(values), photometric=color, **how)
        found = check(tmp_path / f"{channels}.tif", expected(values, 0, 1))
        assert found.bits == 16
        assert found.notice == (
            f"{tmp_path / f'{channels}.tif'} does not say what its darkest and brightest numbers are: they are taken "
            "to be 0 and 1"
        )


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14, 24])
def test_packed_integers_in_tiff(bits: int, deflated: bool, tmp_path: Path) -> None:
    for channels in (1, 3):
        values = numbers(channels, "u4", 2**bits - 1)
        pixels = b"".join(pack(row, bits) for row in values)
        pixels = zlib.compress(pixels) if deflated else pixels
        tags = {256: [WIDTH], 257: [HEIGHT], 258: [bits] * channels, 259: [8 if deflated else 1], 273: [8]}
        tags |= {262: [2 if channels == 3 else 1], 277: [channels], 278: [HEIGHT], 279: [len(pixels)]}
        (tmp_path / "a.tif").write_bytes(tiff(tags, pixels))
        check(tmp_path / "a.tif", expected(values, 0, 2**bits - 1))


def pack(numbers: Values, bits: int) -> bytes:
    """Return whole numbers as bytes, each number in ``bits`` bits, most significant bit first."""
    digits = "".join(f"{number:0{bits}b}" for number in numbers.ravel())
    digits += "0" * (-len(digits) % 8)
    return bytes(int(digits[place : place + 8], 2) for place in range(0, len(digits), 8))


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_white_is_zero(kind: str, tmp_path: Path) -> None:
    top = 1 if kind == "f4" else 2 ** (8 * int(kind[1])) - 1
    values = numbers(1, kind, top)
    for compression in (None, "lzw"):
        tifffile.imwrite(
            tmp_path / f"{compression}.tif", values[..., 0], photometric="miniswhite", compression=compression
        )
        check(tmp_path / f"{compression}.tif", 1 - expected(values, 0, top))
    if kind == "u1":
        tifffile.imwrite(tmp_path / "1.tif", values[..., 0] > 128, photometric="miniswhite")
        check(tmp_path / "1.tif", 1 - expected(values > 128, 0, 1))


def test_the_range_that_a_tiff_states(tmp_path: Path) -> None:
    """Twelve bits in numbers of sixteen, temperatures in kelvin, and gray from -1 to 1."""
    for kind, low, high in (("u2", 0, 4095), ("f4", 250, 320), ("f4", -1, 1), ("i2", -100, 1000), ("u1", 16, 235)):
        values = numbers(3, kind, high, low)
        code = {"u2": "H", "f4": "f", "i2": "h", "u1": "B"}[kind]
        tags = [(340, code, 3, (low,) * 3, True), (341, code, 3, (high,) * 3, True)]
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=tags)
        assert not check(tmp_path / "a.tif", expected(values, low, high)).notice
    # A range without any width is not a range.
    tags = [(340, "H", 3, (7,) * 3, True), (341, "H", 3, (7,) * 3, True)]
    values = numbers(3, "u2", 65535)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=tags)
    check(tmp_path / "a.tif", expected(values, 0, 65535))


def test_numbers_that_are_probably_of_fewer_bits(tmp_path: Path) -> None:
    """The values come from the format: a picture is dark, not brightened, but the user is told."""
    values = numbers(3, "u2", 4095)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    png16(tmp_path / "a.png", values)
    for name in ("a.tif", "a.png"):
        found = check(tmp_path / name, expected(values, 0, 65535))
        assert (
            found.notice == f"{tmp_path / name} is very dark: its numbers may be up to 65535, and the largest is 4095"
        )


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_opacity_in_tiff(kind: str, planar: str, tmp_path: Path) -> None:
    top = 1 if kind == "f4" else 2 ** (8 * int(kind[1])) - 1
    values = numbers(4, kind, top)
    alpha = expected(values[:, :, 3:], 0, top)[:, :, :1]
    straight = over_white(expected(values, 0, top), alpha)
    premultiplied = values.copy()
    premultiplied[:, :, :3] = np.minimum(values[:, :, :3], values[:, :, 3:])
    multiplied = expected(premultiplied, 0, top) + 1 - alpha
    cases = {"unassalpha": (values, straight), "assocalpha": (premultiplied, multiplied)}
    cases["unspecified"] = values, expected(values, 0, top)
    for extra, (stored, wanted) in cases.items():
        stored = np.ascontiguousarray(np.moveaxis(stored, 2, 0) if planar == "separate" else stored)
        path = tmp_path / f"{extra}.tif"
        tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar, extrasamples=[extra])
        found = check(path, wanted, 1e-6)
        assert (found.alpha is None) == (extra == "unspecified")
        if found.alpha is not None:
            np.testing.assert_allclose(found.alpha[0, 0].numpy(), alpha[:, :, 0], rtol=0, atol=1e-6)
    gray = np.ascontiguousarray(values[:, :, [0, 3]])
    if planar == "contig":
        tifffile.imwrite(tmp_path / "gray.tif", gray, photometric="minisblack", extrasamples=["unassalpha"])
        check(tmp_path / "gray.tif", over_white(expected(gray[:, :, :1], 0, top), alpha))


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_palettes_in_tiff(kind: str, tmp_path: Path) -> None:
    most = 2 ** (8 * int(kind[1])) - 1
    table = np.random.default_rng(0).integers(0, 256, (3, most + 1), dtype=np.uint16) * 257
    values = numbers(1, kind, most)[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="palette", colormap=table)
    check(tmp_path / "a.tif", np.moveaxis(table[:, values], 0, 2) / 65535)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_ink_in_tiff(kind: str, planar: str, tmp_path: Path) -> None:
    top = 2 ** (8 * int(kind[1])) - 1
    values = numbers(4, kind, top)
    stored = np.ascontiguousarray(np.moveaxis(values, 2, 0) if planar == "separate" else values)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="separated", planarconfig=planar)
    ink = values / top
    check(tmp_path / "a.tif", (1 - ink[:, :, :3]) * (1 - ink[:, :, 3:]), 2.1 / 255)


@pytest.mark.parametrize("kind", ["i1", "i2"])
def test_lab_in_tiff(kind: str, tmp_path: Path) -> None:
    """Colors of sRGB, converted to L*a*b* (D50) by the formulas of the ICC, come back.

    With 8 bits, a* and b* are whole numbers, which changes dark channels by several levels.
    """
    colors = np.array([[0, 0, 0], [255, 255, 255], [128, 128, 128], [200, 30, 60], [20, 180, 90], [40, 60, 220]]) / 255
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    )
    xyz = linear @ to_xyz.T / [0.9642, 1, 0.8249]
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)
    scale = np.array([255 / 100, 1, 1]) if kind == "i1" else np.array([65535 / 100, 256, 256])
    stored = (lab * scale).round().astype(np.int64)
    values = stored.astype(f"u{kind[1]}").reshape(1, -1, 3)  # two's complement
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="cielab")
    check(tmp_path / "a.tif", colors.reshape(1, -1, 3), 10 / 255 if kind == "i1" else 0.3 / 255)


def test_ycbcr_in_tiff(tmp_path: Path) -> None:
    """The formulas of ITU-R BT.601; colors of half the resolution, which Pillow alone reads as noise."""
    x = np.mgrid[0:16, 0:16][1]
    levels = np.stack([x * 16, 128 + 0 * x, 128 + 0 * x], axis=2).astype(np.uint8)
    levels[:8, :, 2], levels[8:, :, 1] = 160, 90
    brightness, blue, red = (levels[..., number].astype(float) for number in range(3))
    wanted = np.stack(
        [
            brightness + 1.402 * (red - 128),
            brightness - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
            brightness + 1.772 * (blue - 128),
        ],
        axis=2,
    ).clip(0, 255)
    for planar in ("contig", "separate"):
        stored = np.ascontiguousarray(np.moveaxis(levels, 2, 0) if planar == "separate" else levels)
        tags = [(530, "H", 2, (1, 1), True)]
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="ycbcr", planarconfig=planar, extratags=tags)
        check(tmp_path / "a.tif", wanted / 255, 2 / 255)
    blocks = levels.reshape(8, 2, 8, 2, 3)
    units = [blocks[:, 0, :, 0, 0], blocks[:, 0, :, 1, 0], blocks[:, 1, :, 0, 0], blocks[:, 1, :, 1, 0]]
    packed = np.stack([*units, blocks[:, 0, :, 0, 1], blocks[:, 0, :, 0, 2]], axis=2).tobytes()
    tags = {256: [16], 257: [16], 258: [8, 8, 8], 259: [1], 262: [6], 273: [8], 277: [3], 278: [16], 279: [len(packed)]}
    (tmp_path / "b.tif").write_bytes(tiff(tags | {530: [2, 2]}, packed))
    check(tmp_path / "b.tif", wanted / 255, 2 / 255)


def tiff(tags: dict[int, list[int]], pixels: bytes) -> bytes:
    """Return a TIFF with ``tags`` of short whole numbers, whose pixels begin at byte 8."""
    start = 8 + len(pixels)
    place = start + 2 + 12 * len(tags) + 4
    entries, long = b"", b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, long = struct.pack("<I", place + len(long)), long + packed
        entries += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", start) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4) + long


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_orientation_of_tiff(kind: str, orientation: int, tmp_path: Path) -> None:
    """The first row and column of the file, by the table of TIFF 6.0: top, bottom, left or right."""
    top = 1 if kind == "f4" else 2 ** (8 * int(kind[1])) - 1
    values = numbers(3, kind, top)
    upright = expected(values, 0, top)
    rows, columns = {
        **{1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left")},
        **{5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom")},
    }[orientation]
    stored = values
    if rows in ("left", "right"):
        stored = stored.swapaxes(0, 1)
    stored = stored[::-1] if rows in ("bottom", "right") else stored
    stored = stored[:, ::-1] if columns in ("right", "bottom") else stored
    tag = [(274, "H", 1, orientation, True), (271, "s", 0, "Brand", True)]
    tifffile.imwrite(tmp_path / "a.tif", np.ascontiguousarray(stored), photometric="rgb", extratags=tag)
    found = check(tmp_path / "a.tif", upright)
    assert b"Brand" in found.exif


def png(header: tuple[int, int], rows: bytes, *chunks: tuple[bytes, bytes], width: int = WIDTH) -> bytes:
    """Return a PNG of HEIGHT rows, each with a filter byte. ``header`` holds the bits and the type of the colors."""
    body = [(b"IHDR", struct.pack(">IIBBBBB", width, HEIGHT, *header, 0, 0, 0)), *chunks]
    body += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    made = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in body
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_in_png_and_the_gray_that_is_transparent(bits: int, tmp_path: Path) -> None:
    values = numbers(1, "u2", 2**bits - 1)
    rows = b"".join(b"\0" + pack(row, bits) for row in values)
    (tmp_path / "a.png").write_bytes(png((bits, 0), rows))
    wanted = expected(values, 0, 2**bits - 1)
    check(tmp_path / "a.png", wanted)
    transparent = int(values[2, 3, 0])
    (tmp_path / "b.png").write_bytes(png((bits, 0), rows, (b"tRNS", struct.pack(">H", transparent))))
    hidden = values[..., 0] == transparent
    found = check(tmp_path / "b.png", np.where(hidden[..., None], 1, wanted))
    assert found.alpha is not None
    assert torch.equal(found.alpha[0, 0], torch.from_numpy(~hidden).float())
    if bits < 16:
        opened = Image.open(tmp_path / "b.png")
        for _ in range(2):  # the second time, Pillow has decoded it already
            torch.testing.assert_close(images.as_images(opened, "it", 3), found.image)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_color_that_is_transparent_in_png(bits: int, tmp_path: Path) -> None:
    values = numbers(3, "u2", 2**bits - 1)
    values[1, 1] = values[2, 3]
    values[3, 3] = values[2, 3]
    values[3, 3, 1] ^= 1  # almost the color, and the same in the high byte
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values)
    chunk = struct.pack(">3H", *values[2, 3])
    (tmp_path / "a.png").write_bytes(png((bits, 2), rows, (b"tRNS", chunk)))
    hidden = (values == values[2, 3]).all(2)
    assert hidden.sum() == 2
    check(tmp_path / "a.png", np.where(hidden[..., None], 1, expected(values, 0, 2**bits - 1)))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bits_in_png(channels: int, tmp_path: Path) -> None:
    values = numbers(channels, "u2", 65535)
    wanted = expected(values, 0, 65535)
    if channels in (2, 4):
        wanted = over_white(wanted, values[:, :, -1:] / 65535)
    check(png16(tmp_path / "a.png", values), wanted)
    if channels != 2:
        filtered = imagecodecs.png_encode(np.ascontiguousarray(values), strategy=3, filter=4)  # Paeth's filter
        (tmp_path / "b.png").write_bytes(filtered)
        check(tmp_path / "b.png", wanted)


@pytest.mark.parametrize("most", [1, 7, 100, 255, 1000, 4095, 65535])
def test_the_largest_number_of_a_ppm(most: int, tmp_path: Path) -> None:
    for channels, kind in ((1, "P5"), (3, "P6")):
        values = numbers(channels, "u2", most)
        body = values.astype(">u2" if most > 255 else "u1").tobytes()
        path = tmp_path / f"{channels}.ppm"
        path.write_bytes(f"{kind}\n# a comment\n{WIDTH} {HEIGHT}\n{most}\n".encode() + body)
        check(path, expected(values, 0, most))
        plain = " ".join(map(str, values.ravel())).encode()
        path.write_bytes(f"P{int(kind[1]) - 3}\n{WIDTH} {HEIGHT}\n{most}\n".encode() + plain)
        check(path, expected(values, 0, most), 0.51 / 255)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("form", ["jp2", "j2k"])
def test_jpeg_2000(form: str, bits: int, tmp_path: Path) -> None:
    for channels in (1, 3, 4):
        values = numbers(channels, "u1" if bits == 8 else "u2", 2**bits - 1)
        data = imagecodecs.jpeg2k_encode(squeezed(values), bitspersample=bits, level=0, codecformat=form)
        (tmp_path / "a.jp2").write_bytes(data)
        wanted = expected(values, 0, 2**bits - 1)
        if channels == 4:
            wanted = over_white(wanted, values[:, :, 3:] / (2**bits - 1))
        assert check(tmp_path / "a.jp2", wanted).bits == (8 if bits == 8 else 16)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif(bits: int, tmp_path: Path) -> None:
    values = np.tile(numbers(3, "u2", 2**bits - 1)[:1, :1] // 2, (16, 24, 1))
    values[:, :12] = [2**bits // 4, 2**bits // 2, 2**bits - 1]
    stored = values.astype("u1" if bits == 8 else "u2")
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(stored, bitspersample=bits, level=100))
    assert check(tmp_path / "a.avif", expected(values, 0, 2**bits - 1)).bits == (8 if bits == 8 else 16)


def gray_profile(gamma: float) -> bytes:
    """Return an ICC profile of gray whose brightness is the number to the power of ``gamma``."""
    description = b"desc" + bytes(4) + struct.pack(">I", 2) + b"a\0" + bytes(78)
    tags = {b"desc": description, b"wtpt": b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)}
    tags[b"kTRC"] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags[b"cprt"] = b"text" + bytes(4) + b"a\0\0\0"
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"\0" * 4, 0x02400000, b"mntr", b"GRAY", b"XYZ ") + bytes(12)
    head += b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


@pytest.mark.parametrize("form", ["8-bit PNG", "16-bit PNG", "16-bit TIFF", "float TIFF"])
def test_gray_with_a_profile(form: str, tmp_path: Path) -> None:
    """The profile says that the numbers are linear light; IEC 61966-2-1 says which levels of sRGB these are."""
    values = numbers(1, "u1" if form[0] == "8" else "f4" if form[0] == "f" else "u2", 255 if form[0] == "8" else 65535)
    values = values / values.dtype.type(65535) if form[0] == "f" else values
    light = values.astype(float) / (1 if form[0] == "f" else np.iinfo(values.dtype).max)
    wanted = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    path = tmp_path / ("a.png" if "PNG" in form else "a.tif")
    if "PNG" in form:
        Image.fromarray(values[..., 0]).save(path, icc_profile=gray_profile(1))
    else:
        tifffile.imwrite(path, values[..., 0], photometric="minisblack", iccprofile=gray_profile(1))
    dark = light[..., 0] < 0.05  # where one level of 8 bits is many levels of sRGB
    found = images.read(path).image[0, 0].numpy()
    np.testing.assert_allclose(found[~dark], wanted[..., 0][~dark], rtol=0, atol=2.5 / 255)
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if form != "8-bit PNG":  # a profile for other colors is ignored
        tifffile.imwrite(tmp_path / "b.tif", values[..., 0], photometric="minisblack", iccprofile=same)
        check(tmp_path / "b.tif", np.repeat(light, 3, axis=2))


def test_what_is_not_supported_is_refused_in_a_line(tmp_path: Path) -> None:
    values = numbers(3, "u2", 65535)
    tifffile.imwrite(tmp_path / "complex.tif", values[..., 0].astype("c8"))
    tifffile.imwrite(tmp_path / "jpeg.tif", values, photometric="rgb", compression="jpeg2000")
    tifffile.imwrite(tmp_path / "nan.tif", np.full((4, 4), np.nan, "f4"))
    for name, message in (
        ("complex.tif", r"complex\.tif is a TIFF with numbers of 64 bits of a type that cannot be read"),
        ("jpeg.tif", r"jpeg\.tif is "),
        ("nan.tif", r"nan\.tif is a damaged image: some pixels are not finite numbers"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            images.read(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    y, x = np.mgrid[0:64, 0:64]
    levels = np.stack([x * 4, y * 4, 0 * x + 90], axis=2).astype(np.uint8)
    made = BytesIO()
    pillow_heif.from_pillow(Image.fromarray(levels)).save(made, quality=-1, chroma=444)
    (tmp_path / "a.jpg").write_bytes(made.getvalue())
    check(tmp_path / "a.jpg", levels / 255, 3 / 255)
    assert "HEIF" not in Image.OPEN  # other users of Pillow notice nothing
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(
        ValueError, match=r"a\.jpg is an HEIC image, which needs pillow-heif: pip install 'dreamgram\[heif\]'"
    ):
        images.read(tmp_path / "a.jpg")
