"""Writers of picture files that Pillow does not write: files with 16 bits per channel, and broken files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def png16(path: Path, pixels: np.ndarray[Any, Any], orientation: int = 1) -> Path:
    """Write a PNG with 16 bits per channel, which Pillow cannot write: pixels (H, W, C) of uint16."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"eXIf", exif.tobytes()[6:]) + chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))
    return path


def tiff16(path: Path, pixels: np.ndarray[Any, Any], orientation: int) -> Path:
    """Write a TIFF with 16 bits per channel: pixels (H, W, 3) of uint16."""
    height, width, channels = pixels.shape
    data = pixels.astype("<u2").tobytes()
    bits = 8 + len(data)
    # Each entry is (tag, type, count, value). Type 3 is a two-byte integer, type 4 a four-byte integer.
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 8), (274, 3, 1, orientation), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    header = b"II*\0" + struct.pack("<I", bits + 2 * channels)
    path.write_bytes(header + data + struct.pack("<3H", 16, 16, 16) + directory + b"\0" * 4)
    return path


def bad_files(folder: Path) -> dict[str, Path]:
    """Write files that cannot be read as images, each broken in a different way, and return their paths by kind."""
    (folder / "zero.png").touch()
    (folder / "text.png").write_text("This is a letter, not a picture.")
    Image.effect_noise((200, 200), 90).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:9000])
    Image.effect_noise((200, 200), 90).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:3000])
    png16(folder / "deep.png", np.random.default_rng(0).integers(0, 65536, (60, 60, 3), dtype=np.uint16))
    (folder / "cut16.png").write_bytes((folder / "deep.png").read_bytes()[:9000])
    bomb = bytearray((folder / "whole.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 60000, 60000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    (folder / "bomb.png").write_bytes(bomb)
    names = ("zero", "text", "cut", "cut16", "bomb")
    return {name: folder / f"{name}.png" for name in names} | {"cutjpeg": folder / "cut.jpg"}
