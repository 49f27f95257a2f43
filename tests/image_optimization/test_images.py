from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dreamgram.image_optimization import images
from tests.files import bad_files, png16, tiff16


@pytest.fixture
def scene() -> Image.Image:
    """Eight by six pixels, all different, no symmetry."""
    y, x = np.mgrid[0:6, 0:8]
    return Image.fromarray(np.stack([x * 30, y * 40, x * y * 5], axis=2).astype(np.uint8))


def as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.bmp", "a.gif", "a.jpg"])
def test_common_formats(name: str, scene: Image.Image, tmp_path: Path) -> None:
    smooth = scene.resize((80, 60), Image.Resampling.BICUBIC)
    options = {"lossless": True} if name.endswith("webp") else {"quality": 98} if name.endswith("jpg") else {}
    smooth.save(tmp_path / name, **options)
    image = images.load(tmp_path / name)
    assert image.shape == (1, 3, 60, 80)
    assert image.dtype == torch.float32
    error = (image - as_tensor(smooth)).abs().mean()
    assert error < (0.03 if name.endswith(("gif", "jpg")) else 1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, scene: Image.Image, tmp_path: Path) -> None:
    """However the camera was held, the picture comes out upright."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = scene.transpose(inverse[orientation]) if orientation > 1 else scene
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(images.load(tmp_path / "a.png"), as_tensor(scene))
    deep = np.asarray(stored).astype(np.uint16) * 257
    torch.testing.assert_close(images.load(png16(tmp_path / "b.png", deep, orientation)), as_tensor(scene))


def test_icc_profile_is_converted_to_srgb(scene: Image.Image, tmp_path: Path) -> None:
    """A profile that leaves colors alone changes nothing; one of linear light makes the same numbers much lighter."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    scene.save(tmp_path / "srgb.png", icc_profile=srgb)
    torch.testing.assert_close(images.load(tmp_path / "srgb.png"), as_tensor(scene), rtol=0, atol=2 / 255)
    gray = Image.new("RGB", (4, 4), (55, 55, 55))
    gray.save(tmp_path / "linear.png", icc_profile=linear_rgb_profile(srgb))
    linear = 55 / 255
    expected = 1.055 * linear ** (1 / 2.4) - 0.055  # IEC 61966-2-1
    torch.testing.assert_close(
        images.load(tmp_path / "linear.png"), torch.full((1, 3, 4, 4), expected), rtol=0, atol=0.02
    )
    scene.save(tmp_path / "broken.png", icc_profile=b"not a profile")
    assert torch.equal(images.load(tmp_path / "broken.png"), as_tensor(scene))
    # Sixteen bits with another profile than sRGB are converted, and are still a file of sixteen bits.
    data = png16(tmp_path / "deep.png", np.full((4, 4, 3), 55 * 257, dtype=np.uint16)).read_bytes()
    body = b"iCCPlinear\0\0" + zlib.compress(linear_rgb_profile(srgb))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "deep.png").write_bytes(data[:33] + chunk + data[33:])
    found = images.read(tmp_path / "deep.png")
    assert found.bits == 16
    torch.testing.assert_close(found.image, torch.full((1, 3, 4, 4), expected), rtol=0, atol=0.02)


def linear_rgb_profile(profile: bytes) -> bytes:
    """``profile`` with its tone curves replaced by straight lines."""
    data = bytearray(profile)
    count = struct.unpack(">I", data[128:132])[0]
    straight = b"curv" + bytes(8)
    for tag in range(count):
        place = 132 + 12 * tag
        name, offset, length = data[place : place + 4], *struct.unpack(">II", data[place + 4 : place + 12])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            assert length >= len(straight)
            data[offset : offset + 12] = straight
            data[place + 8 : place + 12] = struct.pack(">I", 12)
    return bytes(data)


def test_sixteen_bits_keep_their_precision(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    color = generator.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    expected = torch.from_numpy(color.astype(np.float32) / 65535).permute(2, 0, 1)[None]
    torch.testing.assert_close(images.load(png16(tmp_path / "rgb.png", color)), expected)
    Image.fromarray(color[:, :, 0]).save(tmp_path / "gray.png")
    Image.fromarray(color[:, :, 0]).save(tmp_path / "gray.tif")
    for name in ("gray.png", "gray.tif"):
        torch.testing.assert_close(images.load(tmp_path / name), expected[:, :1].expand(1, 3, 5, 7))
    dark = np.zeros((2, 2), dtype=np.uint16)
    dark[0, 0] = 1
    Image.fromarray(dark).save(tmp_path / "dark.png")  # the darkest of 65,535 grays is not white
    assert images.load(tmp_path / "dark.png").max() == pytest.approx(1 / 65535)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[..., 0] = 200
    pixels[0, :, 3] = 255
    pixels[1, 0, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "a.png")
    red = 200 / 255
    image = images.load(tmp_path / "a.png")
    assert image[0, :, 0, 0].tolist() == pytest.approx([red, 0, 0])
    assert image[0, :, 1, 0].tolist() == pytest.approx([1 + (red - 1) * 128 / 255, 1 - 128 / 255, 1 - 128 / 255])
    assert image[0, :, 1, 1].tolist() == [1, 1, 1]
    deep = png16(tmp_path / "b.png", pixels.astype(np.uint16) * 257)
    torch.testing.assert_close(images.load(deep), image)
    palette = Image.fromarray(pixels[:, :, :3]).convert("P")
    palette.save(tmp_path / "c.png", transparency=palette.getpixel((0, 0)))
    assert images.load(tmp_path / "c.png").min() == 1


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK", "I", "F"])
def test_every_mode_becomes_rgb(mode: str, scene: Image.Image, tmp_path: Path) -> None:
    name = tmp_path / "a.tif"
    picture = scene.convert("L").convert(mode) if mode in ("I", "F") else scene.convert(mode)
    picture.save(name)
    image = images.load(name)
    assert image.shape == (1, 3, 6, 8)
    assert 0 <= image.min() <= image.max() <= 1
    if mode in ("P", "CMYK"):
        assert (image - as_tensor(scene)).abs().mean() < 0.05


def test_gray_networks_get_one_channel(scene: Image.Image, tmp_path: Path) -> None:
    scene.save(tmp_path / "a.png")
    gray = images.load(tmp_path / "a.png", channels=1)
    expected = as_tensor(scene.convert("L"))[:, :1]
    torch.testing.assert_close(gray, expected, rtol=0, atol=2 / 255)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("zero", r"zero\.png is empty \(0 bytes\)"),
        ("text", r"text\.png is not an image"),
        ("cut", r"cut\.png is a damaged image: .*truncated"),
        ("cutjpeg", r"cut\.jpg is a damaged image: .*truncated"),
        ("cut16", r"cut16\.png is a damaged image: "),
        ("bomb", r"bomb\.png has 3600 megapixels, and the limit is 180 \(max_pixels="),
    ],
)
def test_each_bad_file_gets_its_own_message(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        images.load(bad_files(tmp_path)[kind])


def test_what_is_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no image file"):
        images.load(tmp_path / "missing.png")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        images.load(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_saved_it_loads_again(name: str, photo: Tensor, tmp_path: Path) -> None:
    path = images.save(photo, tmp_path / name)
    error = (images.load(path) - photo).abs().mean()
    assert error < (0.5 / 255 if name in ("a.png", "a.tif") else 0.03)
    gray = images.save(photo[0, :1], tmp_path / f"gray-{name}")
    assert images.load(gray, channels=1).shape == (1, 1, *photo.shape[2:])


ENDINGS = ["png", "jpg", "webp", "tif"]

NOTE = """{"style": ["Scène d'été & <b>.jpg"], "by": "畫 🎨", "seed": null}\nsecond\tline\r\n ]]>"""


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("note", [NOTE, " spaces around ", ""])
def test_a_note_is_kept_in_every_format(note: str, ending: str, photo: Tensor, tmp_path: Path) -> None:
    plain = images.save(photo, tmp_path / f"plain.{ending}")
    assert images.read_note(plain) is None
    path = images.save(photo, tmp_path / f"a.{ending}", note)
    assert images.read_note(path) == note
    assert torch.equal(images.load(path), images.load(plain))
    gray = images.save(photo[:, :1], tmp_path / f"gray.{ending}", note)
    assert images.read_note(gray) == note
    assert images.save(photo, tmp_path / f"b.{ending}", note).read_bytes() == path.read_bytes()


def test_the_note_is_a_property_in_xmp(photo: Tensor, tmp_path: Path) -> None:
    """Other programs read it: the packet has the structure of the specification, ISO 16684-1."""
    rdf = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
    for ending in ENDINGS[1:]:
        with Image.open(images.save(photo, tmp_path / f"a.{ending}", NOTE)) as picture:
            meta = ElementTree.fromstring(picture.info["xmp"])
        assert meta.tag == "{adobe:ns:meta/}xmpmeta"
        assert meta.findtext(f"{rdf}RDF/{rdf}Description/{{urn:dreamgram:}}note") == NOTE


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("size", [65_000, 66_000, 200_000, 1_000_000])
def test_a_long_note_is_kept_in_every_format(size: int, ending: str, photo: Tensor, tmp_path: Path) -> None:
    """A segment of a JPEG holds 64 kB, so that a long note needs several."""
    note = (NOTE + "".join(map(str, range(size))))[:size]
    plain = images.save(photo, tmp_path / f"plain.{ending}")
    path = images.save(photo, tmp_path / f"a.{ending}", note)
    assert images.read_note(path) == note
    assert torch.equal(images.load(path), images.load(plain))


def test_a_long_note_is_extended_xmp_in_a_jpeg(photo: Tensor, tmp_path: Path) -> None:
    """Other programs read it: the segments have the structure of the specification of XMP, part 3."""
    path = images.save(photo, tmp_path / "a.jpg", "ab" * 100_000)
    with Image.open(path) as picture:
        meta = ElementTree.fromstring(picture.info["xmp"])
        pieces = [body[35:] for _, body in picture.applist if body.startswith(b"http://ns.adobe.com/xmp/extension/\0")]  # type: ignore[attr-defined]
    [digest] = [value for each in meta.iter() for name, value in each.items() if name.endswith("HasExtendedXMP")]
    whole = b"".join(piece[40:] for piece in pieces)
    assert len(pieces) == 4
    assert digest == hashlib.md5(whole).hexdigest().upper()
    assert all(piece[:32] == digest.encode() for piece in pieces)
    assert all(int.from_bytes(piece[32:36], "big") == len(whole) for piece in pieces)
    # If another program has replaced the packet, the segments belong to nothing.
    path.write_bytes(path.read_bytes().replace(digest.encode(), b"0" * 32, 1))
    assert images.read_note(path) is None


@pytest.mark.parametrize(("ending", "most"), [("jpg", 65_500), ("webp", 16_383)])
def test_the_largest_size_of_each_format(ending: str, most: int, tmp_path: Path) -> None:
    images.save(torch.zeros(1, 1, 1, most), tmp_path / f"a.{ending}")
    with pytest.raises(ValueError, match=f"b.{ending} can have {most} pixels a side, not {most + 1}"):
        images.save(torch.zeros(1, 1, 1, most + 1), tmp_path / f"b.{ending}")
    assert not (tmp_path / f"b.{ending}").exists()


def test_a_note_that_xml_cannot_hold(photo: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a note cannot hold the character '\\x07'"):
        images.save(photo, tmp_path / "c.jpg", "ring\a")


def test_files_without_a_note(tmp_path: Path) -> None:
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><unclosed></x:xmpmeta>"
    other = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><note>of somebody else</note></x:xmpmeta>"
    for number, xmp in enumerate((packet, other)):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{number}.jpg", xmp=xmp)
        assert images.read_note(tmp_path / f"{number}.jpg") is None
    with pytest.raises(FileNotFoundError, match="no image file"):
        images.read_note(tmp_path / "missing.png")
    with pytest.raises(ValueError, match=r"text\.png is not an image"):
        images.read_note(bad_files(tmp_path)["text"])


def test_the_note_of_a_picture_of_version_0_1(tmp_path: Path) -> None:
    kept = PngInfo()
    kept.add_itxt("dreamgram", '{"seed": 3}')
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png", pnginfo=kept)
    assert images.read_note(tmp_path / "a.png") == '{"seed": 3}'


def test_the_checksum_is_that_of_the_file(photo: Tensor, tmp_path: Path) -> None:
    for ending, bits in (("png", 8), ("png", 16), ("jpg", 8)):
        path = images.save(photo, tmp_path / f"a.{ending}", overwrite=True, bits=bits)
        assert images.read(path).checksum == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_saving_is_all_or_nothing(photo: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images.save(photo, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def full_disk(self: Image.Image, path: Path, *args: Any, **kwargs: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        images.save(1 - photo, tmp_path / "a.png", overwrite=True)
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_nothing_is_overwritten_unasked(photo: Tensor, tmp_path: Path) -> None:
    images.save(photo, tmp_path / "a.png")
    with pytest.raises(FileExistsError, match=r"a\.png exists; choose another output or overwrite it$"):
        images.save(photo, tmp_path / "a.png")
    images.save(photo, tmp_path / "a.png", overwrite=True)
    with pytest.raises(ValueError, match=r"cannot write 'a\.pcx': the file name must end in \.png, \.jpg"):
        images.save(photo, tmp_path / "a.pcx")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write into .*file"):
        images.save(photo, tmp_path / "file" / "a.png")


def test_fit_and_resize(photo: Tensor) -> None:
    assert images.fit(photo, 32).shape == (1, 3, 32, round(32 * photo.shape[3] / photo.shape[2]))
    assert images.fit(photo.transpose(2, 3), 32).shape[3] == 32
    enlarged = images.resize(images.resize(photo, (256, 220)), (photo.shape[2], photo.shape[3]))
    assert (enlarged - photo).abs().mean() < 0.02
    checker = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float()[None, None]
    assert (images.resize(checker, (16, 16)) - 0.5).abs().max() < 0.05  # antialiased, not every fourth pixel
    assert images.resize(checker, (97, 97)).min() >= 0  # bicubic overshoot is cut


def test_each_scale_gets_the_detail_that_the_one_before_could_not_hold(photo: Tensor) -> None:
    fine = (photo.shape[2], photo.shape[3])
    coarse = images.resize(photo, (fine[0] // 2, fine[1] // 2))
    torch.testing.assert_close(images.refine(coarse, photo, fine), photo)
    gray = torch.full_like(coarse, 0.5)
    detail = images.refine(gray, photo, fine) - 0.5
    assert detail.abs().mean() > 0.005
    assert images.resize(detail, (fine[0] // 8, fine[1] // 8)).abs().mean() < 0.25 * detail.abs().mean()


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("transparent", [False, True])
def test_sixteen_bits_there_and_back(ending: str, transparent: bool, tmp_path: Path) -> None:
    levels = torch.randint(0, 65536, (1, 3, 6, 9)) / 65535
    alpha = torch.randint(0, 65536, (1, 1, 6, 9)) / 65535 if transparent else None
    over_white = levels if alpha is None else levels * alpha + 1 - alpha  # as a photo is read
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "A camera"
    exif[ExifTags.Base.XPTitle] = b"H\0i\0"
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.DateTimeOriginal: "2020:02:02 20:20:20"}
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N"}
    Image.new("RGB", (9, 6)).save(tmp_path / "photo.jpg", exif=exif)
    of_photo = images.read(tmp_path / "photo.jpg").exif
    path = images.save(over_white, tmp_path / f"a.{ending}", NOTE, bits=16, alpha=alpha, exif=of_photo)
    found = images.read(path)
    assert found.bits == 16
    if alpha is None:
        assert found.alpha is None
        torch.testing.assert_close(found.image, levels, rtol=0, atol=1e-6)
    else:
        assert found.alpha is not None
        torch.testing.assert_close(found.alpha, alpha, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.image, over_white, rtol=0, atol=1e-4)
    with Image.open(path) as picture:  # as others read it
        assert "sRGB" in ImageCms.getProfileDescription(BytesIO(picture.info["icc_profile"]))
        assert picture.size == (9, 6)
        kept = picture.getexif()
        assert (kept[ExifTags.Base.Model], kept[ExifTags.Base.XPTitle]) == ("A camera", b"H\0i\0")
        assert kept.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2020:02:02 20:20:20"
        assert kept.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    assert images.read_note(path) == NOTE
    if ending == "png":
        with Image.open(path) as picture:
            shown = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
        seen = levels[0] if alpha is None else levels[0] * (alpha[0] > 0.1) + shown * (alpha[0] <= 0.1)
        assert (shown - seen).abs().max() < 2 / 255  # the colors themselves, no white in them


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "jpg"])
def test_what_belongs_to_a_picture_is_kept(ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "A camera"
    exif[ExifTags.Base.Orientation] = 6
    Image.effect_noise((30, 20), 60).convert("RGB").save(tmp_path / "photo.jpg", exif=exif)
    given = images.read(tmp_path / "photo.jpg")
    assert given.image.shape == (1, 3, 30, 20)
    alpha = torch.linspace(0, 1, 20).expand(1, 1, 30, 20)
    path = images.save(given.image, tmp_path / f"a.{ending}", NOTE, alpha=alpha, exif=given.exif)
    assert images.read_note(path) == NOTE
    with Image.open(path) as picture:
        kept = picture.getexif()
        assert kept[ExifTags.Base.Model] == "A camera"
        assert kept.get(ExifTags.Base.Orientation, 1) == 1  # applied, and not once more
        assert "sRGB" in ImageCms.getProfileDescription(BytesIO(picture.info["icc_profile"]))
    found = images.read(path)
    assert found.image.shape == given.image.shape
    if ending == "jpg":
        assert found.alpha is None
    else:
        assert found.alpha is not None
        torch.testing.assert_close(found.alpha, alpha, rtol=0, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_deep_pictures_is_applied(
    orientation: int, ending: str, scene: Image.Image, tmp_path: Path
) -> None:
    pixels = np.asarray(scene.convert("RGB")).astype(np.uint16) * 257
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    scene.convert("RGB").save(tmp_path / "b.png", exif=exif)
    if ending == "png":
        deep = png16(tmp_path / "a.png", pixels, orientation)
    else:
        deep = tiff16(tmp_path / "a.tif", pixels, orientation)
    found = images.read(deep)
    assert found.bits == 16
    torch.testing.assert_close(found.image, images.load(tmp_path / "b.png"))


def test_exif_of_a_tiff_and_a_broken_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "A camera"
    Image.new("RGB", (9, 9)).save(tmp_path / "a.tif", exif=exif)
    kept = Image.Exif()
    kept.load(images.read(tmp_path / "a.tif").exif)
    assert dict(kept) == {ExifTags.Base.Model: "A camera"}
    Image.new("RGB", (9, 9), "red").save(tmp_path / "b.jpg", exif=b"Exif\0\0garbage, not a header")
    found = images.read(tmp_path / "b.jpg")
    assert found.exif == b""
    assert found.image[0, 0].mean() > 0.9


def test_gray_with_alpha_of_sixteen_bits(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, 2), dtype=np.uint16)
    found = images.read(png16(tmp_path / "a.png", pixels))
    assert found.alpha is not None
    gray, alpha = torch.from_numpy(pixels.astype(np.float32) / 65535).permute(2, 0, 1)[:, None, None]
    torch.testing.assert_close(found.alpha, alpha)
    torch.testing.assert_close(found.image, (gray * alpha + 1 - alpha).expand(1, 3, 5, 7))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_resolution(name: str, bits: int, tmp_path: Path) -> None:
    """The field of the format and the EXIF tags agree, and no resolution is stored unless it is given."""
    path, picture = tmp_path / name, torch.rand(1, 3, 9, 9)
    tags = [ExifTags.Base[tag] for tag in ("ResolutionUnit", "XResolution", "YResolution")]
    exif = Image.Exif()
    exif.update(dict.fromkeys(tags, 3))
    bits = images.choose_bits(path, None, bits)
    for given, dpi in ((b"", None), (b"", 300), (exif.tobytes(), 300)):
        images.save(picture, path, overwrite=True, exif=given, bits=bits, dpi=dpi)
        with Image.open(path) as file:
            kept = dict(file.getexif())
            tagged = dpi and (given or name in ("a.tif", "a.webp"))
            assert [kept.get(tag) for tag in tags] == ([2, 300, 300] if tagged else [None] * 3)
            unknown = (1, 1) if name == "a.tif" else None  # what Pillow takes for the resolution
            wanted = None if name == "a.webp" else pytest.approx((300, 300), abs=0.01)  # a WebP has no field of its own
            assert file.info.get("dpi") == (wanted if dpi else unknown)
        assert images.read(path).bits == bits


def test_frames_and_bits(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    found = images.read(tmp_path / "a.gif")
    assert found.frames == 3
    assert found.image[0, :, 0, 0].tolist() == [1, 0, 0]
    assert (found.bits, found.alpha) == (8, None)
    assert images.choose_bits(Path("a.png"), None, 16) == 16
    assert images.choose_bits(Path("a.jpg"), None, 16) == 8
    with pytest.raises(ValueError, match=r"a\.jpg can have 8 bits, not 16"):
        images.choose_bits(Path("a.jpg"), 16, 8)
    with pytest.raises(ValueError, match=r"a\.png can have 8 or 16 bits, not 12"):
        images.save(torch.rand(1, 3, 4, 4), tmp_path / "a.png", bits=12)


def test_quality_of_jpeg(tmp_path: Path) -> None:
    noise = torch.rand(1, 3, 50, 50)
    sizes = [images.save(noise, tmp_path / f"{q}.jpg", quality=q).stat().st_size for q in (20, 60, 98)]
    assert sizes == sorted(sizes)
    assert sizes[2] > 2 * sizes[0]


def test_files_of_killed_programs_are_deleted(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with images.replacing(tmp_path / "a.png") as beside:
        beside.touch()
        killed = beside.with_name(beside.name.replace(str(os.getpid()), str(gone.pid)))
        elsewhere = tmp_path / f".a.png.elsewhere.{gone.pid}.part"  # on another computer, it may be running
        mine = tmp_path / f".a.png.{gone.pid}.part"
        for path in (killed, elsewhere, mine):
            path.touch()
        images.check_folder(tmp_path)
        assert [path.exists() for path in (beside, killed, elsewhere, mine)] == [True, False, True, True]


def test_a_folder_is_made_when_a_file_is_written(tmp_path: Path, photo: Tensor) -> None:
    images.check_output(tmp_path / "a/b/c.png")
    assert not (tmp_path / "a").exists()
    images.save(photo, tmp_path / "a/b/c.png")
    assert (tmp_path / "a/b/c.png").exists()
    with pytest.raises(OSError, match=r"cannot write into .*c\.png/d: Not a directory"):
        images.check_output(tmp_path / "a/b/c.png/d/e.png")


def test_images_to_save_and_to_resize_in_other_forms(scene: Image.Image, tmp_path: Path) -> None:
    image, levels = as_tensor(scene), np.array(scene)
    half = images.fit(image, 4)
    for number, given in enumerate((image, image[0], levels, torch.from_numpy(levels), torch.from_numpy(levels / 255))):
        images.save(given, tmp_path / f"{number}.png")
        torch.testing.assert_close(images.load(tmp_path / f"{number}.png"), image, rtol=0, atol=1e-6)
        assert np.array_equal(np.asarray(images.to_pillow(given)), levels)
        torch.testing.assert_close(images.fit(given, 4), half, rtol=0, atol=1e-6)
        torch.testing.assert_close(images.resize(given, (3, 4)), half, rtol=0, atol=1e-6)
    torch.testing.assert_close(images.fit(tmp_path / "0.png", 4), half, rtol=0, atol=1e-6)
    torch.testing.assert_close(images.fit(scene, 4), half, rtol=0, atol=1e-6)
    asked = image.clone().requires_grad_()
    images.fit(asked, 4).sum().backward()
    assert asked.grad is not None
    cases: list[tuple[Any, str]] = [
        (image * 255, "the image must be in .* divide values in 0-255 by 255"),
        (image.expand(2, -1, -1, -1), "the image must be one image, not a batch of 2"),
        (torch.rand(1, 5, 6, 8), "a picture has 1 or 3 channels, not 5"),
        (None, "the image must be an image, .* not NoneType"),
    ]
    for given, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            images.save(given, tmp_path / "wrong.png")
    with pytest.raises(TypeError, match="path must be the path of a file, not Tensor"):
        images.save("wrong.png", image)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"size must be a whole number, not \(4, 4\)"):
        images.fit(image, (4, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(20, 31), (300, 30), (53, 65), (7, 200)])
def test_strips_of_a_large_image_give_the_same_pixels(
    size: tuple[int, int], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(1, channels, 97, 131).expand(1, 3, 97, 131)
    wanted = images.resize(image, size)
    monkeypatch.setattr("dreamgram.image_optimization.image_sizes.STRIP_PIXELS", 1000)
    assert torch.equal(images.resize(image, size), wanted)
