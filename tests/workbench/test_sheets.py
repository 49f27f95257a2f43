from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dreamgram.image_optimization.images import resize
from dreamgram.workbench.sheets import GAP, MARGIN, TILE, contact_sheet, lay_out, same_size


def test_every_picture_is_on_the_sheet_with_its_pixels() -> None:
    images = torch.linspace(0, 1, 7).reshape(7, 1, 1, 1).expand(7, 1, 28, 28)
    sheet = contact_sheet(images, [f"{i}\t{i / 7:.2f}" for i in range(7)], columns=3, title="Seven grays")
    pixels = np.asarray(sheet)
    for gray in (images[:, 0, 0, 0] * 255).round().byte().tolist():
        # Above a caption, a square of at least TILE x TILE pixels of this gray.
        assert (pixels == gray).all(axis=2).sum() >= TILE * TILE


def test_small_pictures_are_enlarged_and_large_ones_are_not() -> None:
    small = contact_sheet(torch.rand(4, 1, 28, 28), list("abcd"), columns=2)
    assert small.width > 2 * TILE
    large = contact_sheet(torch.rand(4, 3, 200, 200), list("abcd"), columns=2)
    assert 400 < large.width < 500


def test_the_sheet_is_as_wide_as_its_columns() -> None:
    def size(count: int, columns: int | None) -> tuple[int, int]:
        return contact_sheet(torch.rand(count, 3, 128, 128), [str(i) for i in range(count)], columns=columns).size

    assert size(9, None)[0] == size(3, 3)[0]
    assert size(9, None)[1] > 2.5 * size(3, 3)[1]
    assert size(2, 8) == size(2, 2)


@pytest.mark.parametrize("size", [(28, 28), (9, 40), (200, 150)])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_size_is_known_in_advance(count: int, size: tuple[int, int]) -> None:
    for look in (
        {},
        {"columns": 1},
        {"columns": 4, "title": "A title that is wider than a sheet of a few narrow pictures would be without it"},
        {"columns": 2, "title": "Two", "rows": ["first row", "second row"]},
    ):
        sheet = contact_sheet(torch.rand(count, 3, *size), [str(i) for i in range(count)], **look)  # type: ignore[arg-type]
        assert lay_out(count, size, **look).size == (sheet.height, sheet.width)  # type: ignore[arg-type]


def test_images_and_captions_in_other_forms() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    expected = contact_sheet(torch.from_numpy(levels).permute(0, 3, 1, 2) / 255, ["0", "1"])
    for images in (levels, list(levels), [Image.fromarray(each) for each in levels]):
        assert np.array_equal(np.asarray(contact_sheet(images, range(2))), np.asarray(expected))
    narrow = contact_sheet([torch.rand(3, 4, 4), torch.rand(3, 3, 3)], ["patches", "of a narrow field"])
    assert narrow.width > 2 * TILE
    for wrong, message in (
        (levels.astype(float), "images must be in .* divide values in 0-255 by 255"),
        ([torch.rand(5, 20, 30)], "a picture has 1 or 3 channels, not 5"),
        ([None], "image 0 must be an image, .* not NoneType"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            contact_sheet(wrong, ["a"] * len(wrong))  # type: ignore[arg-type]


def test_images_of_several_sizes_are_enlarged() -> None:
    small, middle, large = torch.rand(1, 2, 3), torch.rand(3, 3, 4), torch.rand(1, 4, 6)
    found = same_size([small, middle, large])
    assert torch.equal(found[0], torch.from_numpy(np.kron(small.numpy(), np.ones((1, 2, 2), np.float32))))
    assert found[1].shape == (3, 4, 6)
    assert (found[1][:, :, 5] == 1).all()
    assert torch.equal(found[1][:, :, :5], resize(middle[None], (4, 5))[0])
    assert torch.equal(found[2], large)


def test_a_long_caption_does_not_run_into_other_text() -> None:
    long = "American Staffordshire terrier"

    def ink(*captions: str) -> np.ndarray[Any, Any]:
        """Return which columns of pixels below the pictures have ink."""
        sheet = contact_sheet(torch.zeros(3, 1, 28, 28), captions, columns=3)
        return (np.asarray(sheet)[MARGIN + TILE + 1 :] < 255).any(axis=(0, 2))

    second = MARGIN + TILE + GAP
    for start, *captions in ((MARGIN + 80, f"{long}\t12.3", "", ""), (second - 2, long, "b", "c")):
        alone = ink(captions[0].removeprefix(long), *captions[1:])
        assert np.array_equal(ink(*captions)[start:], alone[start:])
    assert ink(long, "", "")[second:].any()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="columns must be at least 1, not 0"):
        contact_sheet(torch.rand(1, 1, 4, 4), ["a"], columns=0)
    with pytest.raises(ValueError, match="2 images and 1 captions"):
        contact_sheet(torch.rand(2, 1, 4, 4), ["a"])
