"""Pictures in and out of files."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn.functional import interpolate

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""What can be written, by file ending."""

DEEP = (".png", ".tif", ".tiff")
"""Those that can hold 16 bits a number."""

ROUNDING = 4
"""Levels of 8 bits by which one sRGB profile may differ from another."""

IMAGE_WIDTH, BITS_PER_SAMPLE = 256, 258
"""Tags of TIFF."""

LONGEST_SIDE = {"WEBP": 16_383, "JPEG": 65_535}
"""Pixels, where a format has a limit."""

LONGEST = 65_533
"""Bytes of EXIF for which JPEG has a place."""

SETTINGS = "dreamgram"
"""The PNG text entry that holds a picture's settings."""

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
"""Share of red, green and blue in the gray of a colour, ITU-R BT.601."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Picture:
    """What is in a picture file, as a person would see it."""

    image: Tensor
    """(1, C, H, W), sRGB in [0, 1], float32; what is transparent is laid over white."""
    alpha: Tensor | None
    """(1, 1, H, W) in [0, 1], 0 where it is transparent; None if it is so nowhere."""
    exif: bytes
    """What the camera wrote, but for the orientation, which has been applied."""
    bits: int
    """Of each number in the file: 8 or 16."""
    frames: int
    """Of an animation, or pages, of which this is the first."""


def load(path: str | os.PathLike[str], channels: int = 3) -> Tensor:
    """The image in a file: that of :func:`read`, which says the rest."""
    return read(path, channels).image


def read(path: str | os.PathLike[str], channels: int = 3) -> Picture:
    """The picture in a file: its image (1, ``channels``, H, W), sRGB in [0, 1], float32, and what belongs to it.

    EXIF orientation is applied, an embedded ICC profile is converted to sRGB (by way of 8 bits; one of 16-bit gray is
    not looked at), 16-bit gray and 16-bit colour of PNG and TIFF keep their precision, transparency is laid over
    white, and of an animation the first frame is taken.

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
        with warnings.catch_warnings(), Image.open(path) as opened:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the error at twice that size stays
            frames = getattr(opened, "n_frames", 1) if opened.format in ("GIF", "PNG", "WEBP", "TIFF") else 1
            deep = _is_deep(opened)
            colors, alpha = _deep_pixels(opened, path) if deep and _is_srgb(opened) else _pixels(opened)
            bits = 16 if deep or opened.mode.startswith("I") else 8
            exif = _exif(opened)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} unpacks to more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: refused") from None
    except PermissionError:
        raise
    except (OSError, SyntaxError, EOFError, ValueError, struct.error) as error:  # Pillow's words for damaged files
        raise ValueError(f"{path} is a damaged image: {error}") from error
    pixels = colors if alpha is None else colors * alpha + (1 - alpha)
    image = _tensor(pixels)
    gray = (image * LUMA).sum(1, keepdim=True)
    hole = None if alpha is None or (alpha == 1).all() else _tensor(alpha)
    return Picture(gray if channels == 1 else image, hole, exif, bits, frames)


CAMERA = (
    *("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "Copyright", "HostComputer"),
    *("XPTitle", "XPComment", "XPAuthor", "XPKeywords", "XPSubject", "Rating", "RatingPercent"),
)
"""What is kept of EXIF, beside the parts for exposure and place: the rest is about how the file is laid out."""


def _exif(picture: Image.Image) -> bytes:
    kept = Image.Exif()
    try:
        given = picture.getexif()
        for tag in (ExifTags.Base[name] for name in CAMERA):
            if tag in given:
                kept[tag] = given[tag]
        for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if given.get_ifd(part):
                kept[part] = dict(given.get_ifd(part))
        return kept.tobytes() if len(kept) else b""
    except (SyntaxError, OSError, ValueError, TypeError, struct.error):  # broken: better without than no picture
        return b""


def _tensor(pixels: Array) -> Tensor:
    """(H, W, C) -> (1, C, H, W)"""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).unsqueeze(0)


def _pixels(picture: Image.Image) -> tuple[Array, Array | None]:
    """Colours (H, W, 3) and alpha (H, W, 1), if there is any, float32 in [0, 1]."""
    with suppress(SyntaxError, struct.error):  # of a broken EXIF, which says nothing
        picture = ImageOps.exif_transpose(picture)
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        gray = np.asarray(picture, dtype=np.float32)
        if not np.isfinite(gray).all():
            raise ValueError("some pixels are not finite numbers")
        # Floats are from 0 to 1, or to 255 where some are larger.
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
    try:
        converted = ImageCms.profileToProfile(
            picture, BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return picture  # a profile that is broken, or for another number of channels, is better ignored than refused
    return converted or picture


def _is_deep(picture: Image.Image) -> bool:
    """Whether this has several channels of 16 bits, which Pillow would cut to 8."""
    tiles = getattr(picture, "tile", None)
    args = tiles[0].args if tiles else ""  # how Pillow is going to decode it
    raw = args if isinstance(args, str) else args[0] if args else ""
    return picture.format in ("PNG", "TIFF") and ";16" in raw and picture.mode in ("RGB", "RGBA", "LA")


def _is_srgb(picture: Image.Image) -> bool:
    """Whether its profile, if there is one, leaves colours as they are: names of profiles say little."""
    profile = picture.info.get("icc_profile")
    steps = np.linspace(0, 255, 6, dtype=np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(36, 6, 3)
    if not profile:
        return True
    converted = np.asarray(_to_srgb(Image.fromarray(colors), profile), dtype=int)
    return bool(np.abs(converted - colors).max() <= ROUNDING)


def _deep_pixels(picture: Image.Image, path: Path) -> tuple[Array, Array | None]:
    """As :func:`_pixels`, of a file of 16-bit channels."""
    import cv2

    channels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if channels is None:
        raise ValueError("its pixels cannot be decoded")
    # OpenCV turns a TIFF itself, and a PNG not.
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
"""What is to be done with pixels (H, W, C) of each EXIF orientation."""


def fit(image: Tensor, size: int) -> Tensor:
    """``image`` (N, C, H, W) in [0, 1] resized so that its longer side is ``size`` pixels."""
    return resize(image, fitted_size(image, size))


def fitted_size(image: Tensor, size: int) -> tuple[int, int]:
    """(H, W) of ``image`` (N, C, H, W) in its proportions, the longer one ``size`` pixels."""
    height, width = image.shape[2:]
    scale = size / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


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


def check_output(
    path: str | os.PathLike[str], overwrite: bool = False, formats: Collection[str] = tuple(FORMATS)
) -> Path:
    """``path``, if a file can be saved there; meant for before the work begins. Makes the folder.

    Raises:
        ValueError: the file ending is none of ``formats``, by default those of pictures.
        FileExistsError: there is such a file, and ``overwrite`` is False.
        OSError: the folder cannot be made or written.
    """
    path = Path(path)
    if path.suffix.lower() not in formats:
        raise ValueError(f"cannot write {path.name!r}: the file name must end in {', '.join(formats)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another output or overwrite it (--overwrite)")
    check_folder(path.parent)
    return path


def check_folder(folder: Path) -> None:
    """Make ``folder``, if it is not there, and see whether a file can be written into it.

    Raises:
        OSError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(f"cannot write into {folder}: {error.strerror or error}") from None


def choose_bits(path: Path, wanted: int | None, given: int) -> int:
    """The bits of each number in a file ``path``: those ``wanted``, or else the ``given`` ones if it can hold them.

    Raises:
        ValueError: there are no such in this format.
    """
    able = (8, 16) if path.suffix.lower() in DEEP else (8,)
    if wanted is None:
        return given if given in able else 8
    if wanted not in able:
        raise ValueError(f"{path.name} can have {' or '.join(map(str, able))} bits, not {wanted}")
    return wanted


def check_size(path: Path, size: tuple[int, int]) -> None:
    """Whether a file ``path`` can hold a picture of ``size`` (H, W).

    Raises:
        ValueError: its format has a limit below that.
    """
    most = LONGEST_SIDE.get(FORMATS[path.suffix.lower()])
    if most is not None and max(size) > most:
        raise ValueError(f"{path.name} can have {most} pixels a side, not {max(size)}; PNG and TIFF can have more")


def save(
    image: Tensor | Image.Image,
    path: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    *,
    alpha: Tensor | None = None,
    exif: bytes = b"",
    bits: int = 8,
    quality: int = 95,
) -> Path:
    """Write ``image`` to ``path`` whole or not at all: it is written beside and then renamed.

    A profile beside the colours says that they are sRGB.

    Args:
        image: (C, H, W) or (1, C, H, W) in [0, 1], or a Pillow image.
        path: its ending chooses the format, see ``FORMATS``.
        settings: kept in a PNG as JSON, see :func:`read_settings`; other formats have no place for it.
        overwrite: replace an existing file.
        alpha: (1, 1, H, W) in [0, 1], through which white shines in ``image``, as :func:`read` gives them; JPEG has no
            place for it.
        exif: as :attr:`Picture.exif`.
        bits: of each number, 8 or, for a tensor and in PNG and TIFF, 16.
        quality: of JPEG and WebP, to 100.

    Raises:
        As :func:`check_output`, and ValueError: there are no 16 bits in this format.
    """
    path = check_output(path, overwrite)
    kind = FORMATS[path.suffix.lower()]
    kept = PngInfo()
    if settings is not None:
        kept.add_itxt(SETTINGS, json.dumps(settings))
    if alpha is not None and kind != "JPEG" and isinstance(image, Tensor):
        image = ((image.detach().cpu() - (1 - alpha)) / alpha.clamp(min=1 / 255)).clamp(0, 1)  # without the white
    if choose_bits(path, bits, 8) == 16:
        if not isinstance(image, Tensor):
            raise ValueError("16 bits are for tensors: a Pillow image has 8")
        data = _encode_deep(image, alpha, kind, kept, exif)
        with whole(path) as beside:
            beside.write_bytes(data)
        return path
    picture = to_pillow(image) if isinstance(image, Tensor) else image
    if alpha is not None and kind != "JPEG":
        picture = picture.convert("RGB")
        picture.putalpha(to_pillow(alpha))
    options: dict[str, Any] = {"quality": quality} if kind in ("JPEG", "WEBP") else {}
    if kind == "PNG":
        options["pnginfo"] = kept
    if exif and not (kind == "JPEG" and len(exif) > LONGEST):
        options["exif"] = exif
    if picture.mode in ("RGB", "RGBA"):
        options["icc_profile"] = srgb_profile()
    with whole(path) as beside:
        picture.save(beside, kind, **options)
    return path


def srgb_profile() -> bytes:
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made[:24] + bytes(12) + made[36:]  # without the time of its making: the same picture is the same file


def _encode_deep(image: Tensor, alpha: Tensor | None, kind: str, kept: PngInfo, exif: bytes) -> bytes:
    """A PNG or TIFF of 16-bit channels, which Pillow cannot write."""
    channels = [image.reshape(image.shape[-3:]), *([] if alpha is None else [alpha[0]])]
    numbers = (torch.cat([each.detach().cpu() for each in channels]).clamp(0, 1) * 65535).round()
    levels = numbers.permute(1, 2, 0).numpy().astype(np.uint16)
    return _encode_deep_tiff(levels, exif) if kind == "TIFF" else _encode_deep_png(levels, kept, exif)


def _encode_deep_tiff(levels: Array, exif: bytes) -> bytes:
    """Written as twice as many pixels of 8 bits, which are the same bytes; then the tags that say so are put right."""
    if levels.shape[2] == 2:  # gray with alpha is read by few
        levels = levels[:, :, [0, 0, 0, 1]]
    height, width, channels = levels.shape
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    halves = Image.frombytes(modes[channels], (2 * width, height), levels.astype("<u2").tobytes())
    file = BytesIO()
    extra: dict[str, Any] = {"exif": exif} if exif else {}
    if channels > 2:
        extra["icc_profile"] = srgb_profile()
    halves.save(file, "TIFF", **extra)  # not compressed, since libtiff has no place for all of EXIF
    data = bytearray(file.getvalue())
    [directory] = struct.unpack_from("<I", data, 4)
    [entries] = struct.unpack_from("<H", data, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, _, count, value = struct.unpack_from("<HHII", data, entry)
        if tag == IMAGE_WIDTH:
            struct.pack_into("<I", data, entry + 8, width)
        if tag == BITS_PER_SAMPLE:  # more than two do not fit into the entry, which then says where they are
            struct.pack_into(f"<{count}H", data, value if count > 2 else entry + 8, *[16] * count)
    return bytes(data)


def _encode_deep_png(levels: Array, kept: PngInfo, exif: bytes) -> bytes:
    import cv2

    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[levels.shape[2]]  # OpenCV's
    done, encoded = cv2.imencode(".png", levels[:, :, order])
    if not done:
        raise OSError("the picture could not be written as PNG")
    data = encoded.tobytes()
    extra = [chunk[:2] for chunk in kept.chunks]
    if levels.shape[2] > 1:  # the profile is one of colours
        extra.insert(0, (b"iCCP", b"sRGB\0\0" + zlib.compress(srgb_profile())))
    if exif:
        extra.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in extra
    ]
    header = 33  # the signature and the first chunk, IHDR
    return b"".join([data[:header], *chunks, data[header:]])


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` when that is done; if it fails, nothing has changed."""
    beside = path.with_name(f".{path.name[:50]}.{os.getpid()}.part")  # a name may have 255 letters
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
    try:
        with Image.open(path) as picture:
            text = picture.info.get(SETTINGS)
    except FileNotFoundError:
        raise FileNotFoundError(f"no image file {path}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read") from None
    if text is None:
        raise ValueError(f"{path} holds no Dreamgram settings")
    settings: dict[str, Any] = json.loads(text)
    return settings


def is_made(path: Path, settings: Mapping[str, Any], not_compared: Collection[str], overwrite: bool) -> bool:
    """Whether a PNG is there that :func:`save` made with these ``settings``, but for those ``not_compared``.

    Of the files that both were made from, the contents are compared, and so are those of the photos, whatever their
    names are.

    Raises:
        ValueError: there is another file, and no permission to ``overwrite`` it.
    """
    if not path.exists():
        return False
    ours = json.loads(json.dumps(dict(settings)))  # as a file gives them back
    try:
        theirs = read_settings(path)
    except (ValueError, OSError):
        how = "without our settings"
    else:
        before, now = theirs.pop("files", {}), ours.pop("files", {})
        pairs = {file: file for file in before} | {str(theirs.get("photo")): str(ours.get("photo"))}
        changed = [old for old, new in pairs.items() if old in before and new in now and before[old] != now[new]]
        names = [name for name in {**theirs, **ours} if name not in not_compared]
        different = [name for name in names if theirs.get(name) != ours.get(name)]
        if not different and not changed:
            return True
        how = (
            f"with {different[0]} {theirs.get(different[0])}, not {ours.get(different[0])}"
            if different
            else (f"from another {changed[0]}")
        )
    if not overwrite:
        raise ValueError(f"{path} was made {how}; choose another output, or replace what is there (--overwrite)")
    return False
