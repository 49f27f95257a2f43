"""Images as callers give them: accepted where the meaning is clear, else refused by name in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms
from torch import Tensor

import dreamgram as dg
from dreamgram.image_optimization.images import as_image, as_images, load, save

LEVELS = np.random.default_rng(0).integers(0, 256, (7, 9, 4), dtype=np.uint8)
COLOR: Tensor = torch.from_numpy(LEVELS[..., :3] / 255).permute(2, 0, 1)[None].float()
GRAY = COLOR[:, :1]
ALPHA = torch.from_numpy(LEVELS[..., 3] / 255)[None, None].float()
OVER_WHITE = COLOR * ALPHA + 1 - ALPHA

FORMS: dict[str, tuple[Any, Tensor]] = {
    "array": (LEVELS[..., :3], COLOR),
    "array of one image": (LEVELS[None, ..., :3], COLOR),
    "array with channels first": (np.moveaxis(LEVELS[..., :3], 2, 0), COLOR),
    "array upside down": (LEVELS[::-1, :, :3], COLOR.flip(2)),
    "big-endian array": ((LEVELS[..., :3] * 257.0).astype(">u2"), COLOR),
    "fractions in an array": (LEVELS[..., :3] / 255, COLOR),
    "bytes in a tensor": (torch.from_numpy(LEVELS[..., :3]).permute(2, 0, 1), COLOR),
    "bytes in a tensor with channels last": (torch.from_numpy(LEVELS[None, ..., :3]), COLOR),
    "16 bits in a tensor": (torch.from_numpy(LEVELS[..., :3].astype(np.uint16) * 257), COLOR),
    "tensor": (COLOR, COLOR),
    "tensor without a batch": (COLOR[0], COLOR),
    "tensor with channels last": (COLOR[0].permute(1, 2, 0), COLOR),
    "double": (COLOR.double(), COLOR),
    "rounded above 1": (COLOR.where(COLOR < 1, 1.003), COLOR),
    "Pillow": (Image.fromarray(LEVELS[..., :3]), COLOR),
    "gray array": (LEVELS[..., 0], GRAY),
    "gray array with a channel": (LEVELS[..., :1], GRAY),
    "gray tensor": (GRAY[0, 0], GRAY),
    "gray Pillow": (Image.fromarray(LEVELS[..., 0]), GRAY),
    "16-bit Pillow": (Image.fromarray(LEVELS[..., 0].astype(np.uint16) * 257), GRAY),
    "Pillow of fractions": (Image.fromarray(LEVELS[..., 0].astype(np.float32) / 255), GRAY),
    "Boolean": (LEVELS[..., 0] > 99, (GRAY > 0.39).float()),
    "array with opacity": (LEVELS, OVER_WHITE),
    "fractions with opacity": (LEVELS / 255, OVER_WHITE),
    "bytes with opacity in a tensor": (torch.from_numpy(LEVELS).permute(2, 0, 1)[None], OVER_WHITE),
    "Pillow with opacity": (Image.fromarray(LEVELS), OVER_WHITE),
}
"""Images in the forms that are accepted, and what they mean."""


@pytest.mark.parametrize("form", FORMS)
def test_what_is_clear_is_accepted(form: str) -> None:
    given, meant = FORMS[form]
    before = np.array(np.asarray(given))
    found = as_image(given, "photo")
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, meant, rtol=0, atol=1e-6)
    torch.testing.assert_close(as_image(given, "photo", 3), meant.expand(1, 3, 7, 9), rtol=0, atol=1e-6)
    gray = (meant.expand(1, 3, 7, 9) * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    if form not in ("array with channels first", "bytes in a tensor", "tensor without a batch"):  # or three gray images
        torch.testing.assert_close(as_image(given, "photo", 1), gray, rtol=0, atol=1e-5)
    assert np.array_equal(np.asarray(given), before)


def test_as_a_file_with_the_same_numbers_is_read(tmp_path: Path) -> None:
    for mode, levels in (("RGBA", LEVELS), ("RGB", LEVELS[..., :3]), ("L", LEVELS[..., 0])):
        Image.fromarray(levels).save(tmp_path / "a.png")
        expected = load(tmp_path / "a.png")
        for given in (levels, torch.from_numpy(levels), Image.fromarray(levels), tmp_path / "a.png"):
            assert torch.equal(as_image(given, "photo", 3), expected), mode
        assert torch.equal(as_image(str(tmp_path / "a.png"), "photo", 1), load(tmp_path / "a.png", 1))


def test_pillow_images_are_upright_and_in_srgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(LEVELS[..., :3]).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(LEVELS[..., :3]).save(tmp_path / "lab.png", icc_profile=lab)
    Image.fromarray(LEVELS[..., 0]).quantize(5).save(tmp_path / "palette.png", transparency=2)
    Image.fromarray(LEVELS[..., 0] > 99).save(tmp_path / "bits.png")
    for path in tmp_path.iterdir():
        with Image.open(path) as opened:
            assert torch.equal(as_image(opened, "photo", 3), load(path)), path.name


def test_the_channels_of_a_network_are_no_opacity() -> None:
    four = torch.rand(2, 4, 7, 9)
    assert as_images(four, "init") is four
    assert torch.equal(as_images(four, "init", 4), four)
    torch.testing.assert_close(as_images(four, "init", 3), four[:, :3] * four[:, 3:] + 1 - four[:, 3:])
    assert as_images(torch.rand(2, 7, 30, 40), "init", 7).shape == (2, 7, 30, 40)
    assert as_images(torch.rand(3, 30, 40)[None], "init", 3).shape == (1, 3, 30, 40)
    assert as_images(torch.rand(1, 3, 4, 4), "init").shape == (1, 3, 4, 4)  # the package's own order
    assert as_images(torch.rand(1, 4, 4), "init").shape == (1, 1, 4, 4)  # no picture has a single row


REFUSED: dict[str, tuple[Any, int | None, type[Exception], str]] = {
    "0-255": (COLOR * 255, 3, ValueError, r"in \[0, 1\], but goes from \S+ to 25\d: divide values in 0-255 by 255"),
    "0-255 in an array": (LEVELS.astype(float), 3, ValueError, r"in \[0, 1\], but goes from .* give them as uint8"),
    "a little too bright": (1.2 * LEVELS[..., :3] / 255, 3, ValueError, r"in \[0, 1\], but goes from \S+ to 1.2:"),
    "normalized": ((COLOR - 0.5) / 0.5, 3, ValueError, "do not normalize"),
    "not a number": (COLOR / 0 * 0, 3, ValueError, "values that are infinite or not a number"),
    "infinite": (COLOR.masked_fill(COLOR > 0.5, np.inf), None, ValueError, "infinite or not a number"),
    "batch": (COLOR.expand(2, -1, -1, -1), 3, ValueError, "must be one image, not a batch of 2"),
    "two orders": (LEVELS[:3, :, :3] / 255, 3, ValueError, r"shape \(3, 9, 3\) of photo could be \(C, H, W\) or"),
    "two orders in a tensor": (COLOR[0, :, :, :4], 3, ValueError, r"\(3, 7, 4\) of photo could be"),
    "gray or in color": (COLOR[0], 1, ValueError, r"photo could be one image in color or 3 gray images: give \(N, C,"),
    "two channels": (COLOR[:, :2], 3, ValueError, r"with 1, 3 or 4 channels, not \(1, 2, 7, 9\)"),
    "other channels": (COLOR, 5, ValueError, "photo must have 5 channels, not 3"),
    "a row": (COLOR[0, 0, 0], 3, ValueError, r"photo must be \(N, C, H, W\), or .*, not \(9,\)"),
    "five axes": (COLOR[None], 3, ValueError, r"not \(1, 1, 3, 7, 9\)"),
    "empty": (COLOR[:, :, :0], 3, ValueError, r"not \(1, 3, 0, 9\)"),
    "64 bits": (LEVELS.astype(int), 3, TypeError, r"must hold fractions in \[0, 1\], uint8, .*, not int64"),
    "signed bytes": (torch.from_numpy(LEVELS).char(), 3, TypeError, "not int8, which does not say what is white"),
    "complex": (COLOR + 0j, 3, TypeError, "not complex64"),
    "texts": (np.array([["a"]]), 3, TypeError, "must hold numbers, not <U1"),
    "32-bit Pillow": (Image.new("I", (9, 7)), 3, TypeError, "not int32"),
    "bright Pillow": (Image.new("F", (9, 7), 255.0), 3, ValueError, "goes from 255 to 255"),
    "meta": (COLOR.to("meta"), 3, TypeError, "must be a dense tensor with values, not one on meta"),
    "sparse": (COLOR.to_sparse(), 3, TypeError, "must be a dense tensor with values"),
    "nothing": (None, 3, TypeError, r"must be an image, such as a tensor \(3, H, W\) .*, not NoneType"),
    "lists": ([[0.5]], 3, TypeError, "must be an image, .*, not list"),
    "a class": (Image.Image, 3, TypeError, "must be an image, .*, not the class Image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused_by_name(name: str) -> None:
    given, channels, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as raised:
        as_image(given, "photo", channels)
    assert "photo" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no image file .*none\.png"):
        as_image(tmp_path / "none.png", "photo")
    save(COLOR, tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-40])
    with pytest.raises(ValueError, match="photo is a damaged image"):
        as_image(Image.open(tmp_path / "cut.png"), "photo")


def test_a_photo_that_was_made_in_inference_mode(digits: torch.nn.Module) -> None:
    with torch.inference_mode():
        init = torch.rand(1, 1, 28, 28)
    assert not as_image(init, "init").is_inference()
    assert dg.maximize(digits, dg.match("conv1", init), init=init, steps=1).images.shape == init.shape


def test_channels_that_share_their_memory_are_looked_at_once() -> None:
    gray = torch.full((1, 1, 1, 1), 0.5).expand(1, 3, 120_000, 120_000)  # 173 GB if each value had memory of its own
    assert as_image(gray, "photo").data_ptr() == gray.data_ptr()
    with pytest.raises(ValueError, match="photo must be in"):
        as_image(torch.full((1, 1, 1, 1), 5.0).expand_as(gray), "photo")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)])
def test_channels_of_pillow_images(mode: str, channels: int) -> None:
    image = as_images(Image.new(mode, (9, 7)), "init")
    assert image.shape == (1, channels, 7, 9)
    if mode == "LA":
        gray = as_images(Image.new(mode, (9, 7), (100, 51)), "init")
        torch.testing.assert_close(gray, torch.full_like(gray, 1 - 0.2 * (1 - 100 / 255)))
