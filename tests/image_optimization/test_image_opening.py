"""Files from anybody: each is read, or refused with one error of one line, quickly and quietly."""

from __future__ import annotations

import itertools
import os
import random
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from benchmarks.hostile import mutate, odd_contents, sources
from dreamgram.image_optimization import images
from dreamgram.image_optimization.errors import TooLargeError
from dreamgram.image_optimization.image_opening import READ_FORMATS
from dreamgram.image_optimization.limits import MOST_PIXELS, check_limits
from tests.conftest import Command

SOURCES = sources()
"""Small valid pictures in every format, by name."""

FEW = ("--size", 16, "--steps", 1, "--content-layers", "relu1_1", "--style-layers", "relu1_1", "--style")
"""Options for a tiny painting, except for the name of the style."""


def refusal(path: Path) -> str:
    """Return the error that is raised if ``path`` is read as a picture, or "" if it can be read."""
    try:
        images.read(path)
        images.read_note(path)
    except ValueError as error:
        return str(error)
    return ""


def check_refusal(path: Path) -> None:
    """Check that a picture is read, or refused in a line that names it."""
    problem = refusal(path)
    assert not problem or problem.startswith(f"{path} ")
    assert "\n" not in problem
    assert len(problem) < len(str(path)) + 300


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_a_valid_picture(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(SOURCES[name])
    assert not refusal(path)


FIXED = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("ending", sorted({name.split(".")[-1] for name in SOURCES}))
def test_damaged_files(ending: str, tmp_path: Path) -> None:
    names = sorted(name for name in SOURCES if name.endswith(f".{ending}"))
    others = list(SOURCES.values())

    @settings(FIXED, max_examples=150 if len(names) > 4 else 60)
    @given(name=st.sampled_from(names), seed=st.integers(0, 2**32))
    def check(name: str, seed: int) -> None:
        path = tmp_path / name
        path.write_bytes(mutate(SOURCES[name], others, random.Random(seed)))
        check_refusal(path)

    check()


def test_odd_files(tmp_path: Path) -> None:
    for name, data in itertools.islice(odd_contents(SOURCES, random.Random(0)), 1, 100):  # the first is tested below
        (tmp_path / name).write_bytes(data)
        check_refusal(tmp_path / name)


@settings(FIXED, max_examples=150)
@given(
    kind=st.sampled_from(["u1", "u2", "u4", "i1", "i2", "f2", "f4"]),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4])),
    planar=st.sampled_from(["contig", "separate"]),
    order=st.sampled_from("<>"),
    packed=st.sampled_from(
        [(None, None), ("zlib", None), ("zlib", "differences"), ("lzw", None), ("lzw", "differences")]
    ),
    parts=st.sampled_from([{}, {"tile": (16, 16)}, {"tile": (16, 48)}, {"rowsperstrip": 3}]),
    seed=st.integers(0, 1000),
)
def test_every_layout_of_a_tiff_has_the_same_values(
    kind: str,
    shape: tuple[int, int, int],
    planar: str,
    order: str,
    packed: tuple[str | None, str | None],
    parts: dict[str, object],
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    bits = 8 * int(kind[1])
    low, high = {"u": (0, 2**bits - 1), "i": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), "f": (0, 1)}[kind[0]]
    values = low + np.random.default_rng(seed).random(shape) * (high - low)
    values = (values if kind[0] == "f" else values.round()).astype(kind)
    compression, predictor = packed
    how = {"photometric": "minisblack" if shape[2] == 1 else "rgb", "byteorder": order, "compression": compression}
    how |= {"predictor": (3 if kind[0] == "f" else 2) if predictor else None, **parts}
    stored = values[:, :, 0] if shape[2] == 1 else values
    if shape[2] > 1:
        how["planarconfig"] = planar
        stored = np.moveaxis(values, 2, 0) if planar == "separate" else values
    if shape[2] == 4:
        how["extrasamples"] = ["unassalpha"]
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    tifffile.imwrite(path, np.ascontiguousarray(stored), **how)
    fractions = (values.astype(np.float64) - low) / (high - low)
    if shape[2] == 4:
        fractions = fractions[:, :, :3] * fractions[:, :, 3:] + 1 - fractions[:, :, 3:]
    wanted = np.broadcast_to(fractions, (*shape[:2], 3))
    found = images.read(path).image[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


def header(width: int, height: int, bits: int = 8, kind: int = 0) -> bytes:
    """Return a PNG without pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    size = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "bits", "kind", "limit", "message"),
    [
        ((15000, 12000), 8, 0, MOST_PIXELS, "truncated"),  # decoded, so not refused for its size
        ((15000, 12001), 8, 0, MOST_PIXELS, r"has 180 megapixels, and the limit is 180"),
        ((13000, 13000), 16, 6, MOST_PIXELS, r"unpacks to 1.35 GB, and the limit is 1 GB"),
        ((13000, 13000), 16, 2, MOST_PIXELS, r"unpacks to 1.01 GB, and the limit is 1 GB"),
        ((11900, 7000), 8, 2, MOST_PIXELS, "truncated"),
        ((13000, 13000), 8, 2, MOST_PIXELS, r"2.54 GB of memory, and the limit is 1.25 GB"),
        ((13000, 13000), 8, 3, MOST_PIXELS, r"2.54 GB of memory, and the limit is 1.25 GB"),
        ((10000, 10000), 8, 6, MOST_PIXELS, r"2 GB of memory, and the limit is 1.25 GB"),
        ((13000, 13000), 8, 2, 370_000_000, "truncated"),
        ((20, 10), 8, 0, 199, r"has 0.0002 megapixels, and the limit is 0.000199"),
        ((20, 10), 8, 0, 200, "truncated"),
        ((20000, 15000), 1, 0, MOST_PIXELS, r"has 300 megapixels, and the limit is 180"),
    ],
)
def test_the_limits(
    size: tuple[int, int],
    bits: int,
    kind: int,
    limit: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(header(*size, bits, kind))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's limit does not matter
    if message != "truncated":
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(TooLargeError if message != "truncated" else ValueError, match=message):
        images.load(path, max_pixels=limit)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize(("pixel", "needed"), [(1, 0), (3, 15), (8, 24), (12, 24)])
@pytest.mark.parametrize(
    ("size", "max_pixels"), [((20, 10), 100), ((11400, 9000), 10**8), ((16000, 15000), MOST_PIXELS)]
)
def test_the_advised_limit_is_the_smallest_that_suffices(
    size: tuple[int, int], max_pixels: int, pixel: int, needed: int
) -> None:
    with pytest.raises(TooLargeError) as caught:
        check_limits(size, pixel, max_pixels, needed)
    enough = caught.value.enough
    check_limits(size, pixel, enough, needed)
    with pytest.raises(TooLargeError):
        check_limits(size, pixel, enough - (10**6 if enough > 10**6 else 1), needed)
    assert str(caught.value).endswith(f" (max_pixels={enough:_})")


@pytest.mark.parametrize("ending", ["gif", "bmp", "psd", "webp", "jp2", "jpg", "tif", "ppm"])
def test_sizes_are_checked_in_every_format(ending: str, tmp_path: Path) -> None:
    [name, *_] = sorted(name for name in SOURCES if name.endswith(f".{ending}"))
    path = tmp_path / name
    path.write_bytes(SOURCES[name])
    height, width = images.read(path).image.shape[2:]
    with pytest.raises(TooLargeError, match=r"megapixels, and the limit is"):
        images.read(path, max_pixels=height * width - 1)
    images.read(path, max_pixels=height * width)


def test_a_small_file_of_a_large_picture_takes_little_memory(tmp_path: Path) -> None:
    """The picture itself, with one channel in float32, takes 144 MB; PyTorch takes about 500 MB."""
    Image.new("1", (6000, 6000)).save(tmp_path / "a.png")
    code = (
        "import sys; from dreamgram.image_optimization import images; picture = images.read(sys.argv[1]); "
        "assert picture.image.shape == (1, 3, 6000, 6000); "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True, check=True
    )
    if sys.platform == "linux":
        assert int(run.stdout) < 850_000


def test_a_tiff_without_some_of_its_pixels(tmp_path: Path) -> None:
    """The rest of the picture would be black."""
    for name in ("RGB-raw.tif", "L-tiff_lzw.tif", "u2-plain.tif", "u2-lzw.tif"):
        data = bytearray(SOURCES[name])
        order = "<" if data[:2] == b"II" else ">"
        [place] = struct.unpack_from(f"{order}I", data, 4)
        [count] = struct.unpack_from(f"{order}H", data, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            if struct.unpack_from(f"{order}H", data, entry)[0] == 257:  # ImageLength
                struct.pack_into(f"{order}HHII", data, entry, 257, 4, 1, 4000)
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="is a damaged image"):
            images.read(tmp_path / name)


def test_only_listed_formats_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {kind.format for kind in READ_FORMATS}.isdisjoint({"EPS", "WMF", "FPX", "MIC", "MPEG", "PCD"})
    for ending in ("jpg", "png", "eps"):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
        monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
        with pytest.raises(ValueError, match=rf"a\.{ending} is not an image that can be read$"):
            images.read(path)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.dds")
    with pytest.raises(ValueError, match=r"a\.dds is not an image that can be read$"):
        images.read(tmp_path / "a.dds")


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    for name in ("RGB.png", "RGB.jpg", "RGB-raw.tif", "rgb.avif"):
        (tmp_path / name).write_bytes(SOURCES[name])
        (tmp_path / "a.gif").write_bytes(SOURCES[name])
        assert images.load(tmp_path / "a.gif").equal(images.load(tmp_path / name))


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "device.png"):
        for read in (images.read, images.read_note):
            with pytest.raises(ValueError, match=f"{name} is not a regular file"):
                read(tmp_path / name)
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(5_000_000_000)
    with pytest.raises(TooLargeError, match=r"sparse\.png is a file of 5 GB, .* 1 GB \(max_pixels=900_000_000\)$"):
        images.read(tmp_path / "sparse.png")


NOISY = """
import sys
from dreamgram.image_optimization import images
for path in sys.argv[1:]:
    for read in (images.read, images.read_note):
        try:
            read(path)
        except ValueError as error:
            pass
"""


def test_nothing_is_printed(tmp_path: Path) -> None:
    """Warnings of Python, messages of its logging module, and what libraries in C print themselves."""
    dice = random.Random(3)
    paths = []
    for number in range(150):
        name = dice.choice([name for name in SOURCES if name.endswith((".tif", ".jp2", ".avif", ".jpg"))])
        paths.append(tmp_path / f"{number}-{name}")
        paths[-1].write_bytes(mutate(SOURCES[name], list(SOURCES.values()), dice))
    run = subprocess.run([sys.executable, "-c", NOISY, *map(str, paths)], capture_output=True, text=True, check=True)
    assert run.stderr == ""


def test_messages_of_other_users_of_pillow_stay(tmp_path: Path) -> None:
    """Several threads read pictures; afterwards, warnings and the messages of libtiff are as they were."""
    before = list(warnings.filters)
    (tmp_path / "a.tif").write_bytes(SOURCES["u2-lzw.tif"])
    threads = [threading.Thread(target=images.read, args=(tmp_path / "a.tif",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    code = (
        "import sys; from PIL import Image; from dreamgram.image_optimization import images; images.read(sys.argv[1])\n"
        "try:\n    Image.open(sys.argv[2]).load()\nexcept OSError:\n    pass"
    )
    data = bytearray(SOURCES["RGB-tiff_lzw.tif"])
    [place] = tifffile.TiffFile(BytesIO(data)).pages[0].dataoffsets
    data[place : place + 50] = bytes([255]) * 50
    (tmp_path / "b.tif").write_bytes(data)
    command = [sys.executable, "-c", code, str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]
    assert "code not yet in table" in subprocess.run(command, capture_output=True, text=True, check=True).stderr


def damaged(folder: Path) -> dict[str, Path]:
    """Write pictures whose reading ends in errors of many types in Pillow, and one good picture."""
    folder.mkdir()
    changed = bytearray(SOURCES["rgb.avif"])
    dice = random.Random(5)
    changed[dice.randrange(300, len(changed))] ^= 1 << dice.randrange(8)
    contents = {
        "cut.gif": SOURCES["animated.gif"][: len(SOURCES["animated.gif"]) * 84 // 100],
        "half.tif": SOURCES["animated.tif"][: len(SOURCES["animated.tif"]) // 2],
        "changed.avif": bytes(changed),
        "half.webp": SOURCES["lossless.webp"][:60],
        "words.dds": b"DDS " + bytes(120),
        "good.png": SOURCES["RGB.png"],
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to("nothing")
    (folder / "two\nlines.png").write_bytes(b"a")
    return {name: folder / name for name in contents}


def test_a_folder_with_damaged_files(command: Command, tmp_path: Path) -> None:
    files = damaged(tmp_path / "photos")
    run = command("stylize", tmp_path / "photos", *FEW, files["good.png"], "-o", tmp_path / "out")
    assert run.code == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]
    told = [line for line in run.err.splitlines() if line.startswith("failed: ")]
    assert len(told) == 7
    assert len(run.err.splitlines()) == 8  # words.dds is skipped
    assert sum(str(files["half.tif"]) in line for line in told) == 1
    assert "7 failed, 1 painted" in run.out


def test_examples_from_a_folder_with_damaged_files(command: Command, tmp_path: Path) -> None:
    damaged(tmp_path / "photos")
    tiny = ("--units", "0", "--steps", 1, "--top", 1, "--size", 28)
    run = command("dream", "examples", "--data", tmp_path / "photos", *tiny)
    assert run.code == 0, run.err
    assert all(line.startswith("skipped: ") for line in run.err.splitlines())
    assert len(run.err.splitlines()) == 7


def test_every_input_is_refused_in_one_line(command: Command, tmp_path: Path) -> None:
    files = damaged(tmp_path / "photos")
    good, bad = files["good.png"], files["half.tif"]
    message = f"error: {bad} is a damaged image: the file ends within page 3\n"
    tiny = ("--layer", "relu1_1", "--steps", 1)
    for arguments in (
        ("stylize", bad, *FEW, good),
        ("stylize", good, *FEW, bad),
        ("stylize", good, *FEW, good, "--init", bad),
        ("stylize", good, *FEW, good, "--content-mask", bad),
        ("dream", "amplify", bad, *tiny, "--size", 16),
        ("dream", "invert", bad, *tiny, "--size", 16),
        ("dream", "maximize", "channel(conv1, 0)", "--init", bad, "--steps", 1),
        ("dream", "replay", bad),
    ):
        run = command(*arguments)
        assert run.code == 2
        if arguments[1] == "replay":  # the recipe is on the first page
            assert run.err == f"error: {bad} holds no recipe of Dreamgram\n"
        else:
            assert run.err == message


def test_the_option_for_larger_pictures(command: Command, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(SOURCES["RGB.png"])
    few = (*FEW, tmp_path / "a.png")
    run = command("stylize", tmp_path / "a.png", *few, "--max-pixels", "2k")
    assert run.code == 2
    assert (
        run.err == f"error: {tmp_path / 'a.png'} has 0.00224 megapixels, and the limit is 0.002 (--max-pixels 2240)\n"
    )
    assert command("stylize", tmp_path / "a.png", *few, "--max-pixels", "2.24kP", "-o", "b.png").code == 0
    assert images.read("b.png").image.shape[2:] == (16, 11)
    run = command("dream", "amplify", tmp_path / "a.png", "--max-pixels", "300")
    assert run.err == "error: --max-pixels must be a number of pixels such as 180M or 1G, not '300'\n"
    replayed = command("stylize", "replay", "b.png", "--max-pixels", "1k")
    assert replayed.err.endswith("and the limit is 0.001 (--max-pixels 2240)\n")


def test_a_picture_of_uncertain_range_is_told_once(command: Command, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).random((20, 20, 3), np.float32), photometric="rgb")
    (tmp_path / "style.png").write_bytes(SOURCES["RGB.png"])
    run = command("stylize", tmp_path / "a.tif", *FEW, tmp_path / "style.png", "-o", "a.png")
    wanted = "does not say what its darkest and brightest numbers are: they are taken to be 0 and 1"
    assert run.err == f"{tmp_path / 'a.tif'} {wanted}\n"
    assert images.read("a.png").bits == 16
    assert images.read(tmp_path / "a.tif").notice == f"{tmp_path / 'a.tif'} {wanted}"
