"""Read thousands of damaged and odd pictures, and report each that is neither read nor properly refused.

The pictures are made in this script: valid ones in every format, mutated copies of them, and odd files. A separate
process reads the pictures one after another. Reading a picture must follow these rules: it takes at most 10 seconds and
2 GB, prints at most one line, and either succeeds or raises an error with a message of one line. Some of the pictures
are also put into a folder, on which `stylize` is run. Files that break a rule are kept in outputs/hostile/. The script
runs only on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from dreamgram.image_optimization import images
from dreamgram.image_optimization.image_opening import READABLE

MOST_SECONDS = 10
"""Largest allowed processor time for reading one file, in seconds."""

LARGEST = 2e9
"""Largest allowed peak memory of a process while it reads a file, in bytes."""

SAMPLE = 150
"""Number of mutated files, and also number of files with odd contents, in the folder that `stylize` paints."""

KEPT = Path("outputs", "hostile")
"""Folder for the files that break a rule."""


def sources() -> dict[str, bytes]:
    """Return small valid pictures in every format: the bytes of each file by its name."""
    y, x = np.mgrid[0:40, 0:56]
    levels = np.stack([x * 4, y * 6, (x * y) % 256, 255 - x], axis=2).astype(np.uint8)
    colored = Image.fromarray(levels[:, :, :3])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    made: dict[str, bytes] = {}

    def add(name: str, picture: Image.Image, **how: Any) -> None:
        file = BytesIO()
        kind = Image.registered_extensions()[f".{name.split('.')[-1]}"]
        picture.save(file, kind, **how)
        made[name] = file.getvalue()

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        picture = (
            Image.fromarray(levels).convert(mode) if mode != "I;16" else colored.convert("L").convert("I").convert(mode)
        )
        add(f"{mode.replace(';', '')}.png", picture, exif=exif)
    for mode in ("L", "RGB", "CMYK"):
        add(f"{mode}.jpg", colored.convert(mode), exif=exif)
    add("progressive.jpg", colored, progressive=True, icc_profile=b"\0" * 200)
    frames = [colored.rotate(90 * turn) for turn in range(4)]
    for kind in ("gif", "png", "webp", "tif", "avif"):
        add(f"animated.{kind}", frames[0], save_all=True, append_images=frames[1:])
    add("P.gif", colored.convert("P"), transparency=3)
    for name, how in {"lossy": {}, "lossless": {"lossless": True}}.items():
        add(f"{name}.webp", Image.fromarray(levels), **how)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        add(f"{mode}.bmp", Image.fromarray(levels).convert(mode))
    for mode, kind in {"1": "pbm", "L": "pgm", "RGB": "ppm"}.items():
        add(f"{mode}.{kind}", colored.convert(mode))
    made["plain.ppm"] = b"P3\n2 2\n1000\n" + b" ".join(str(number * 80).encode() for number in range(12))
    made["deep.pgm"] = b"P5\n56 40\n4095\n" + (x * 70).astype(">u2").tobytes()
    made["float.pfm"] = b"Pf\n56 40\n-1.0\n" + (x / 56).astype("<f4").tobytes()
    for mode in ("L", "RGB", "RGBA"):
        add(f"{mode}.jp2", Image.fromarray(levels).convert(mode))
    add("rgb.avif", colored)
    made["rgb.psd"] = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 40, 56, 8, 3) + bytes(12) + b"\0\0"
    made["rgb.psd"] += levels[:, :, :3].transpose(2, 0, 1).tobytes()
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        for mode in ("1",) if compression == "group4" else ("L", "RGB"):
            add(f"{mode}-{compression}.tif", colored.convert(mode), compression=compression, exif=exif)
    for mode in ("P", "CMYK", "LAB", "RGBA", "I;16", "F"):
        picture = (
            colored.convert("L").convert(mode)
            if mode in ("I;16", "F")
            else Image.new("LAB", (56, 40))
            if mode == "LAB"
            else colored.convert(mode)
        )
        add(f"{mode.replace(';', '')}.tif", picture)
    return made | _deep_sources(levels, made["RGBA.png"])


def _deep_sources(levels: NDArray[np.uint8], png: bytes) -> dict[str, bytes]:
    """Return pictures with more than 8 bits per channel, made from ``levels`` (H, W, 4) and from an RGBA PNG file."""
    made: dict[str, bytes] = {}
    for kind in ("u2", "i2", "u4", "f2", "f4"):
        for name, how in _layouts(kind).items():
            file = BytesIO()
            tifffile.imwrite(file, (levels[:, :, :3] / 255 * (1 if kind[0] == "f" else 30000)).astype(kind), **how)
            made[f"{kind}-{name}.tif"] = file.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("png", "tif"):
            image = images.read(_write(Path(folder, "a.png"), png))
            path = images.save(image.image, Path(folder, f"deep.{ending}"), "a note", alpha=image.alpha, bits=16)
            made[f"deep.{ending}"] = path.read_bytes()
    return made


def _layouts(kind: str) -> dict[str, dict[str, Any]]:
    rgb: dict[str, Any] = {"photometric": "rgb"}
    return {
        "plain": rgb,
        "tiles": rgb | {"tile": (16, 16), "compression": "zlib", "predictor": 3 if kind[0] == "f" else 2},
        "lzw": rgb | {"compression": "lzw", "byteorder": ">"},
        "bigtiff": rgb | {"bigtiff": True},
    }


def mutate(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """Return ``data`` after one to three random changes, some of which copy bytes from one of ``others``."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        place, length = dice.randrange(len(changed) + 1), dice.choice((1, 2, 4, 16, 100))
        other = dice.choice(others)
        kind = dice.randrange(8)
        if kind == 0:
            for _ in range(dice.randint(1, 20)):
                if changed:
                    changed[dice.randrange(min(len(changed), dice.choice((64, 512, 10**6))))] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            start = dice.randrange(len(other))
            changed[place : place + length] = other[start : start + length]
        elif kind == 3:
            start = dice.choice((4, 8, 16, 32, 64))
            changed[:start] = other[:start]
        elif kind == 4:
            del changed[place : place + length]
        elif kind == 5:
            changed[place:place] = changed[place : place + length] * dice.randint(1, 9)
        elif kind == 6:
            number = dice.choice((0, 1, 255, 256, 32767, 65535, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1))
            place = dice.randrange(min(len(changed), 300) + 1)
            changed[place : place + 4] = struct.pack(dice.choice("<>") + "I", number)
        else:
            changed[place : place + length] = dice.randbytes(length)
    return with_checksums(bytes(changed)) if dice.random() < 0.7 else bytes(changed)


def with_checksums(data: bytes) -> bytes:
    """Return the file ``data``; if it is a PNG, its chunks get correct checksums, so that readers decode them."""
    if not data.startswith(b"\x89PNG"):
        return data
    made, place = [data[:8]], 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        made += [data[place:end], struct.pack(">I", zlib.crc32(data[place + 4 : end]))]
        place = end + 4
    return b"".join(made)


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG file, with its length and its checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, kind: int, *chunks: bytes) -> bytes:
    """Return a PNG file that consists of a header, ``chunks`` and an end. ``kind`` is the color type."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def odd_contents(valid: dict[str, bytes], dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the contents of one odd file after another, without end."""
    pixels = [chunk(b"IDAT", zlib.compress(bytes(100_000)))]
    bomb = zlib.compress(bytes(20_000_000))
    yield "large.png", png(13000, 13000, 1, 0, chunk(b"IDAT", zlib.compress(bytes(13000 * 1626))))
    yield "text.png", png(8, 8, 8, 0, chunk(b"zTXt", b"a\0\0" + bomb), chunk(b"iTXt", b"a\0\1\0\0\0" + bomb), *pixels)
    yield "profile.png", png(8, 8, 8, 0, chunk(b"iCCP", b"a\0\0" + bomb), *pixels)
    yield "frames.gif", valid["P.gif"][:-1] + b"\x2c" + bytes(4) + struct.pack("<HHB", 1, 1, 0) * 9 + b"\2\2\x4c\1\0;"
    yield "words.gif", valid["animated.gif"][:-1] * 50
    pages = b"".join(struct.pack("<HI", 0, 8 + 6 * (number + 1)) for number in range(100_000))
    yield "pages.tif", b"II*\0\x08\0\0\0" + pages
    yield "loop.tif", b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8)
    for ending in ("eps", "jpg", "png"):
        yield f"script.{ending}", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/written) (w) file\n"
    yield "web.png", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield "nested.png", b"[" * 100_000
    huge = (1, 9, 16383, 65535, 65536, 2**24, 2**31 - 1, 2**32 - 1)
    while True:
        width, height = dice.choice(huge), dice.choice(huge)
        bits, kind = dice.choice(((1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (16, 4), (16, 6), (3, 1)))
        yield "size.png", png(width, height, bits, kind, *pixels)
        yield (
            "size.ppm",
            f"P{dice.randint(1, 7)}\n{width} {height}\n{dice.choice((0, 1, 255, 65535))}\n".encode() + bytes(99),
        )
        side = struct.pack("<HH", width % 65536, height % 65536)
        yield "size.gif", b"GIF89a" + side + valid["P.gif"][10:]
        yield "size.bmp", valid["RGB.bmp"][:18] + struct.pack("<II", width, height) + valid["RGB.bmp"][26:]
        yield "size.psd", valid["rgb.psd"][:14] + struct.pack(">II", height, width) + valid["rgb.psd"][22:]
        webp = bytearray(valid["animated.webp"])
        webp[24:30] = struct.pack("<I", width)[:3] + struct.pack("<I", height)[:3]
        yield "size.webp", bytes(webp)
        place = valid["RGB.jp2"].index(b"\xff\x4f\xff\x51") + 8
        yield "size.jp2", valid["RGB.jp2"][:place] + struct.pack(">II", width, height) + valid["RGB.jp2"][place + 8 :]
        place = valid["RGB.jpg"].index(b"\xff\xc0") + 5
        sides = struct.pack(">HH", height % 65536, width % 65536)
        yield "size.jpg", valid["RGB.jpg"][:place] + sides + valid["RGB.jpg"][place + 4 :]
        yield "size.tif", _with_tags(valid[dice.choice(["RGB-raw.tif", "L-tiff_lzw.tif"])], {256: width, 257: height})
        name = dice.choice([name for name in valid if name.endswith(".tif")])
        tag = dice.choice(
            (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339)
        )
        yield (
            "tag.tif",
            _with_tags(valid[name], {tag: dice.choice((0, 1, 2, 3, 5, 8, 9, 16, 33, 65535, 2**31, 2**32 - 1))}),
        )
        thin = Image.new(dice.choice(("1", "L", "RGB")), dice.choice(((1, 1), (1, 5000), (5000, 1), (1, 65000))))
        file = BytesIO()
        thin.save(file, dice.choice(("PNG", "TIFF", "BMP")))
        yield "thin.png", file.getvalue()
        name = dice.choice(list(valid))
        yield f"wrong{dice.choice(READABLE)}", valid[name]
        yield f"noise{dice.choice(READABLE)}", dice.randbytes(dice.choice((1, 2, 15, 100, 10_000)))
        yield f"zeros{dice.choice(READABLE)}", bytes(dice.choice((0, 1, 100, 10_000)))
        yield f"start{dice.choice(READABLE)}", valid[name][: dice.choice((2, 4, 8, 12, 16, 33))]


def _with_tags(data: bytes, changes: dict[int, int]) -> bytes:
    """Return the TIFF file ``data`` after ``changes``, a mapping from tags to their new values.

    Big-endian files and BigTIFF files are returned unchanged.
    """
    made = bytearray(data)
    if data[:4] != b"II*\0":
        return data
    [place] = struct.unpack_from("<I", data, 4)
    [count] = struct.unpack_from("<H", data, place)
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        tag = struct.unpack_from("<H", data, entry)[0]
        if tag in changes:
            struct.pack_into("<HHII", made, entry, tag, 4, 1, changes[tag])
    return bytes(made)


def odd_files(folder: Path) -> None:
    """Create odd entries in ``folder``, such as pipes, broken links, and files with unusual names."""
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "broken.png").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "locked.png").write_bytes(b"a")
    (folder / "locked.png").chmod(0)
    (folder / ("n" * 250 + ".png")).write_bytes(b"a")
    (folder / "two\nlines.png").write_bytes(b"a")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(b"a")
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(50_000_000_000)


class Reader:
    """A process that reads pictures, one after another, and reports the outcome of each."""

    def __init__(self, errors: Path) -> None:
        self.errors = errors
        self.start()

    def start(self) -> None:
        """Start the process."""
        command = [sys.executable, "-m", "benchmarks.hostile", "--reader"]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        self._answer(600)

    def read(self, path: Path) -> tuple[str, str]:
        """Return the outcome of reading a file ("read", "refused" or the rule that was broken), and a remark."""
        before = self.errors.stat().st_size
        assert self.process.stdin is not None
        self.process.stdin.write(os.fsencode(path).hex().encode() + b"\n")
        self.process.stdin.flush()
        found = self._answer(6 * MOST_SECONDS)  # other programs may need the processor, too
        if found is None:
            self.close()
            self.start()
            return "more than 10 s", "or a crash"
        lines = self.errors.read_bytes()[before:].count(b"\n")
        if lines > 1:
            return "more than one line on stderr", f"{lines} lines"
        if found["seconds"] > MOST_SECONDS:
            return "more than 10 s", f"{found['seconds']:.0f} s"
        if found["peak"] > LARGEST:
            return "more than 2 GB", f"{found['peak'] / 1e9:.1f} GB"
        return found["ended"], found["remark"]

    def _answer(self, seconds: float) -> Any:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        return json.loads(line) if line else None

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def reader() -> None:
    """Read the files whose paths come from standard input, and print the outcome of each as a line of JSON."""
    print("{}", flush=True)
    for line in sys.stdin:
        path = Path(os.fsdecode(bytes.fromhex(line)))
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the memory
        ended, remark, began = "read", "", time.process_time()
        for read in (images.read, images.read_note):
            try:
                read(path)
            except (ValueError, OSError) as error:
                ended, remark = "refused", str(error)
                if "\n" in remark.replace(str(path), ""):
                    ended = "message of several lines"
            except BaseException as error:
                ended, remark = "traceback", f"{read.__name__}: {type(error).__name__}: {error}"
                break
            if ended != "read":
                break
        status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        taken = {"peak": int(status.split()[0]) * 1024, "seconds": time.process_time() - began}
        print(json.dumps({"ended": ended, "remark": remark} | taken), flush=True)


def read_all(files: Iterator[tuple[str, bytes]], count: int, folder: Path, found: Counter[str]) -> None:
    """Read the next ``count`` of ``files``, count the outcomes in ``found``, and keep the files that break a rule."""
    errors = folder / "stderr"
    process = Reader(errors)
    for number in range(count):
        name, data = next(files)
        path = _write(folder / f"{number:05}-{name}", data)
        judge(process, path, found)
        path.unlink()
    process.close()


def judge(process: Reader, path: Path, found: Counter[str]) -> None:
    """Read a file, count the outcome in ``found``, and keep the file if it breaks a rule."""
    ended, remark = process.read(path)
    found[ended] += 1
    if ended not in ("read", "refused"):
        print(f"{ended}: {path.name!r} {remark[:200]}", flush=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size < LARGEST:
            shutil.copy(path, KEPT / path.name)


def paint(folder: Path, found: Counter[str]) -> None:
    """Paint the pictures in ``folder`` with `stylize`, and count in ``found`` the rules that are broken."""
    output = folder.with_name("painted")
    few = ["--content-layers", "relu1_1", "--style-layers", "relu1_1", "--size", "16", "--steps", "1"]
    command = [sys.executable, "-m", "dreamgram", "stylize", str(folder), "--style", "brushwork", *few]
    start = time.perf_counter()
    with folder.with_name("stderr").open("w+b") as errors:
        process = subprocess.Popen([*command, "--output", str(output)], stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        summary = process.stdout.read().decode(errors="surrogateescape").splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        told = errors.read().decode(errors="surrogateescape")
    photos = [path for path in folder.iterdir() if path.suffix.lower() in READABLE and not path.is_dir()]
    painted = len(list(output.glob("*.png")))
    failed = sum(line.startswith("failed: ") for line in told.splitlines())
    print(f"folder: {len(photos)} photos, {painted} painted, {failed} failed, {usage.ru_maxrss / 1e6:.2f} GB, "
          f"{time.perf_counter() - start:.0f} s; {summary[-1:]}")  # fmt: skip
    rules = {
        "folder stopped": process.returncode not in (0, 1) or painted + failed != len(photos),
        "traceback": "Traceback" in told,
        "more than one line on stderr": len(told.splitlines()) > 2 * len(photos) + 2,  # a notice and an error
        "more than 2 GB": usage.ru_maxrss * 1024 > LARGEST,
    }
    for rule, broken in rules.items():
        if broken:
            found[f"{rule} (folder)"] += 1
            print(told[-3000:])


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def main() -> None:
    """Read valid, mutated and odd files, paint some of them, and print a table of the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="seed of the random numbers; by default a new one")
    parser.add_argument(
        "--count", type=int, default=20_000, help="number of mutated files; a twentieth as many are odd"
    )
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reader:
        reader()
        return
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}")
    dice = random.Random(seed)
    valid = sources()
    others = list(valid.values())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def mutated() -> Iterator[tuple[str, bytes]]:
        while True:
            name = dice.choice(list(valid))
            yield name, mutate(valid[name], others, dice)

    odd = odd_contents(valid, random.Random(seed + 1))
    tables: dict[str, Counter[str]] = {"valid": Counter(), "mutated": Counter(), "odd": Counter(), "folder": Counter()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "read")
        folder.mkdir()
        read_all(iter(valid.items()), len(valid), folder, tables["valid"])
        read_all(mutated(), given.count, folder, tables["mutated"])
        read_all(odd, given.count // 20, folder, tables["odd"])
        photos = Path(temporary, "photos")
        photos.mkdir()
        odd_files(photos)
        process = Reader(Path(temporary, "stderr"))
        for path in sorted(photos.iterdir()):
            judge(process, path, tables["odd"])
        process.close()
        odd = odd_contents(valid, random.Random(seed + 1))
        for number in range(SAMPLE):
            for make in (mutated(), odd):
                name, data = next(make)
                _write(photos / f"{number:05}-{name}", data)
        paint(photos, tables["folder"])
    for name, counts in tables.items():
        print(
            f"{name:8} "
            + (", ".join(f"{number:,} {ended}" for ended, number in counts.most_common()) or "no rule broken")
        )
    sys.exit(any(set(counts) - {"read", "refused"} for counts in tables.values()))


if __name__ == "__main__":
    main()
