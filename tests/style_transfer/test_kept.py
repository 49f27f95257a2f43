from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dreamgram.image_optimization import images
from dreamgram.style_transfer.kept import joined, read_mask
from dreamgram.style_transfer.stylizer import Stylizer, stylize
from tests.conftest import Command

QUICK = ["--size", 40, "--steps", 2]


def disk(height: int, width: int) -> Tensor:
    """Return a mask (1, 3, H, W), white in a disk in the middle and black elsewhere."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return (rows.square() + columns.square() < 0.4).float().expand(1, 3, -1, -1).clone()


def save(image: Tensor, name: str) -> str:
    images.to_pillow(image).save(name)
    return name


def test_kept_pixels_are_those_of_the_photo(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    mask = disk(64, 55)
    for colors in ("style", "content", "luminance", "match"):
        result = stylize(photo, painting, model=vgg16, keep=mask, size=64, steps=3, colors=colors).image
        inside = mask.bool()
        assert torch.equal(result[inside], photo[inside])
        assert (result - photo)[~inside].abs().mean() > 0.01


def test_the_network_sees_the_kept_pixels(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    # The pixels around a kept part are painted so that they fit the photo, not an invisible painted picture.
    mask = disk(64, 55)
    shown: list[Tensor] = []
    stylizer = Stylizer(photo, painting, model=vgg16, keep=mask, size=64, steps=3)
    stylizer.run(listeners=lambda step: shown.append(step.image.detach().clone()))
    assert len(shown) == 3
    assert all(torch.equal(image[mask.bool()], photo[mask.bool()]) for image in shown)


def test_kept_pixels_do_not_count_in_the_style(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    # A region that is kept and one that is absent have the same weights, up to the positions that see both.
    mask = disk(64, 55)
    stylizer = Stylizer(photo, painting, model=vgg16, keep=mask, size=64)
    [region] = stylizer.regions
    assert region is not None
    assert torch.equal(region, 1 - mask[:, :1])


def test_a_region_without_a_style(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    mask = disk(64, 55)
    how = {"model": vgg16, "size": 64, "steps": 2}
    kept = stylize(photo, painting, keep=mask, **how).image
    region = stylize(photo, [painting, None], content_mask=mask, **how).image
    assert torch.equal(region, kept)
    other = stylize(photo, [None, painting], content_mask=mask, **how).image
    assert torch.equal(other[~mask.bool()], photo[~mask.bool()])
    assert not torch.equal(other[mask.bool()], photo[mask.bool()])


def test_soft_edges_and_the_slack_of_jpeg() -> None:
    levels = torch.tensor([0, 0.015, 0.25, 0.5, 0.985, 1.0])
    mask = read_mask(levels.expand(1, 3, 1, -1))
    assert mask[0, 0, 0].tolist() == pytest.approx([0, 0, 0.23 / 0.96, 0.5, 1, 1])


def test_joined_masks() -> None:
    first, second = torch.tensor([[[[0.0, 0.2]]]]), torch.tensor([[[[0.5, 0.1]]]])
    assert torch.equal(joined(first, [second, None]), torch.tensor([[[[0.5, 0.2]]]]))
    with pytest.raises(ValueError, match="nothing would be painted"):
        joined(None, [torch.ones(1, 1, 2, 2)])


def test_keep_and_none_as_typed(command: Command, photo: Tensor) -> None:
    photo_file, mask_file = save(photo, "photo.png"), save(disk(64, 55), "mask.png")
    how = ["--size", 64, "--steps", 2, "--style", "marbling"]
    assert command("stylize", photo_file, *how, "--keep", mask_file, "-o", "kept.png").code == 0
    mask = disk(64, 55).bool()
    assert torch.equal(images.load("kept.png")[mask], images.load(photo_file)[mask])
    how = [photo_file, *how, "--style", "none", "--content-mask", mask_file, "-o", "none.png"]
    run = command("stylize", *how)
    assert run.code == 0, run.err
    assert Image.open("none.png").tobytes() == Image.open("kept.png").tobytes()
    assert command("stylize", "replay", "none.png", "-o", "again.png").code == 0
    assert Image.open("again.png").tobytes() == Image.open("none.png").tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--style", "marbling", "--keep", "black.png"], "has no white part"),
        (["--style", "marbling", "--keep", "white.png"], "is white everywhere"),
        (["--style", "marbling", "--keep", "wide.png"], "its proportions differ"),
        (["--style", "none"], "no region has a style"),
        (["--style", "marbling", "--style", "none"], "only with a content mask"),
        (["--style", "none", "--style", "none", "--content-mask", "disk.png"], "no region has a style"),
    ],
)
def test_bad_masks_get_one_line(options: list[str], message: str, command: Command, photo: Tensor) -> None:
    save(photo, "photo.png")
    save(torch.zeros(1, 3, 64, 55), "black.png")
    save(torch.ones(1, 3, 64, 55), "white.png")
    save(disk(32, 55), "wide.png")
    save(disk(64, 55), "disk.png")
    run = command("stylize", "photo.png", *options, *QUICK)
    assert run.code == 2
    assert message in run.err
    assert len(run.err.splitlines()) == 1
    assert not Path("outputs").exists() or not [*Path("outputs").iterdir()]


def test_a_gray_photo_in_a_gray_style_stays_gray(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    gray_photo, gray_painting = (image.mean(1, True).expand(-1, 3, -1, -1) for image in (photo, painting))
    how = {"model": vgg16, "size": 64, "steps": 3}
    result = stylize(gray_photo, gray_painting, **how).image
    assert torch.equal(result[:, :1].expand(-1, 3, -1, -1), result)
    assert (result - gray_photo).abs().mean() > 0.02
    colored = stylize(gray_photo, painting, **how).image
    assert (colored.amax(1) - colored.amin(1)).mean() > 0.02


def test_the_strength_mixes_with_the_photo(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    how = {"model": vgg16, "size": 64, "steps": 2}
    for colors in ("style", "content"):
        whole = stylize(photo, painting, colors=colors, **how).image
        for strength in (0.0, 0.3, 0.75):
            result = stylize(photo, painting, colors=colors, strength=strength, **how).image
            torch.testing.assert_close(result, strength * whole + (1 - strength) * photo)
        assert torch.equal(stylize(photo, painting, strength=0, **how).image, photo)


def test_another_strength_needs_no_new_run(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    steps: list[int] = []
    stylizer = Stylizer(photo, painting, model=vgg16, size=64, steps=2)
    whole = stylizer.run(listeners=lambda step: steps.append(step.number)).image
    weaker = stylizer.change(strength=0.25).run(listeners=lambda step: steps.append(step.number)).image
    assert steps == [1, 2]
    torch.testing.assert_close(weaker, 0.25 * whole + 0.75 * photo)
    assert torch.equal(weaker, stylize(photo, painting, model=vgg16, size=64, steps=2, strength=0.25).image)
    other = stylizer.change(strength=0.25, style_weight=3.0).run(listeners=lambda step: steps.append(step.number)).image
    assert steps == [1, 2, 1, 2]
    assert not torch.equal(other, weaker)


def test_kept_pixels_do_not_count_in_the_colors(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    mask, how = disk(64, 55), {"model": vgg16, "size": 64, "steps": 2, "colors": "match"}
    changed = torch.where(mask.bool(), 1 - photo, photo)
    stylizers = [Stylizer(each, painting, keep=mask, **how) for each in (photo, changed)]
    assert torch.equal(stylizers[0]._paintings[0], stylizers[1]._paintings[0])
