from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dreamgram.image_optimization import images
from dreamgram.style_transfer.regions import divide, find_regions
from dreamgram.style_transfer.stylizer import stylize
from dreamgram.style_transfer.total_loss import position_weights

LEFT, RIGHT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

COLORS = {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0}
"""Layers that hold the colors of a painting, and are quick."""


def halves(*colors: tuple[float, float, float], height: int = 64, width: int = 64) -> Tensor:
    """Return a mask of vertical stripes in ``colors``."""
    stripes = torch.arange(width) * len(colors) // width
    return torch.tensor(colors)[stripes].T[None, :, None].expand(1, 3, height, width)


def test_regions_of_gray_levels_and_of_colors() -> None:
    colors, regions = find_regions(halves((1, 0, 0), (0.5, 0.5, 0.5), (0, 0, 1)))
    assert colors.shape == (3, 3)
    assert regions.shape == (3, 1, 64, 64)
    torch.testing.assert_close(regions.sum(0), torch.ones(1, 64, 64))
    levels, _ = find_regions(halves((0.9, 0.9, 0.9), (0.1, 0.1, 0.1), (0.5, 0.5, 0.5)))
    torch.testing.assert_close(levels[:, 0], torch.tensor([0.1, 0.5, 0.9]), rtol=0, atol=0.02)  # dark to light


def test_labels_however_near() -> None:
    """Twenty neighboring gray levels in a large mask are twenty regions. A small patch of another level is a region."""
    labels = (torch.arange(1500) // 75).float().expand(1, 3, 900, 1500).clone() / 255
    labels[:, :, :60, :60] = 200 / 255
    colors, regions = find_regions(labels)
    assert (colors[:, 0] * 255).round().tolist() == [*range(20), 200]
    assert regions.shape == (21, 1, 614, 1024)
    torch.testing.assert_close(regions.sum(0), torch.ones(1, 614, 1024))
    assert regions[3, 0, :, 160:200].min() > 0.999
    # A label of the style mask matches only the same label of the content mask.
    content, style = labels[:, :, 60:, :150], labels[:, :, 60:, :225]
    _, [masks], _ = divide(content, [style], [1.0])
    assert all(mask is not None and mask.mean() == pytest.approx(1 / 3, rel=0.05) for mask in masks)


def test_a_small_label_counts_and_a_stray_pixel_does_not() -> None:
    labels = halves((0, 0, 0), (1 / 255, 1 / 255, 1 / 255), height=256, width=256)
    labels = torch.where(torch.arange(256).view(1, 1, 256, 1) < 128, labels, labels + 2 / 255)
    labels[:, :, 20:25, 20:25] = 4 / 255
    assert (find_regions(labels)[0][:, 0] * 255).round().tolist() == [0, 1, 2, 3, 4]
    two = halves(LEFT, RIGHT, height=256, width=256).clone()
    two[:, :, 5, 5] = 0.5
    two[:, :, :, 128] = 128 / 255  # a column of a smoothed edge
    assert len(find_regions(two)[0]) == 2


@pytest.mark.parametrize("quality", [60, 80, 90, 95, 100])
def test_jpeg_makes_no_regions(quality: int) -> None:
    for edge in (121, 122, 125, 128):
        drawn = Image.new("L", (200, 160))
        drawn.paste(255, (edge, 40, 200, 121))
        stored = BytesIO()
        drawn.save(stored, "JPEG", quality=quality)
        mask = torch.from_numpy(np.array(Image.open(stored).convert("RGB"))).permute(2, 0, 1)[None] / 255
        assert len(find_regions(mask)[0]) == 2


def test_soft_edges_and_jpeg_are_no_regions() -> None:
    mask = images.resize(halves(LEFT, RIGHT), (200, 210))
    stored = BytesIO()
    images.to_pillow(mask).save(stored, "JPEG", quality=60)
    picture = torch.from_numpy(np.array(Image.open(stored))).permute(2, 0, 1)[None] / 255
    colors, regions = find_regions(picture)
    assert len(colors) == 2
    assert regions[0, 0, :, :100].mean() > 0.99
    assert regions[1, 0, :, 110:].mean() > 0.99


def test_soft_edges_stay_soft() -> None:
    ramp = torch.linspace(-15, 16, 500).clamp(0, 1).expand(1, 3, 32, 500)  # over 16 pixels
    _, [dark, light] = find_regions(ramp)
    torch.testing.assert_close(light[0], ramp[0, 0], rtol=0, atol=0.1)
    torch.testing.assert_close(dark + light, torch.ones(1, 32, 500))
    wide = torch.linspace(-1.5, 2.5, 400).clamp(0, 1).expand(1, 3, 300, 400)  # over a quarter of the picture
    assert len(find_regions(wide)[0]) == 2
    # A region's color that lies between two others is not a mixture of the other two.
    _, [_, green, _] = find_regions(halves((0, 0, 0.3), (0, 1, 0), (1, 1, 1)))
    assert set(green.unique().tolist()) == {0, 1}


def test_a_small_mask_of_a_large_picture_has_no_steps() -> None:
    weights = position_weights(halves(LEFT, RIGHT, height=8, width=8)[:, :1], (64, 64), torch.device("cpu"))
    assert weights is not None
    across = weights[32] / weights.max()
    assert across.diff().abs().max() < 0.2
    assert across[0] == 0
    assert across[-1] == 1


def test_every_region_is_given_its_styles() -> None:
    assert divide(None, [], [0.5, 0.5]) == ([None], [[None], [None]], [[0.5], [0.5]])
    regions, masks, shares = divide(halves(LEFT, RIGHT), [], [0.5, 0.5])
    assert len(regions) == 2
    assert masks == [[None, None], [None, None]]
    assert shares == [[1, 0], [0, 1]]  # the first style paints the dark region
    # The first style paints the right half of the photo, and the second style paints both halves.
    style_masks = [halves(RIGHT), halves(RIGHT, LEFT)]
    _, masks, shares = divide(halves(LEFT, RIGHT), style_masks, [0.75, 0.25])
    torch.testing.assert_close(torch.tensor(shares), torch.tensor([[0, 0.75], [1, 0.25]]))
    right = masks[1][0]
    assert right is not None
    assert right[0, 0, :, 40:].all()
    assert not right[0, 0, :, :30].any()


def test_each_region_takes_its_own_style(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    """The halves of a photo take the colors of a red and a blue style, in either order."""
    red, blue = (painting * torch.tensor(tint).view(1, 3, 1, 1) for tint in ((1, 0.2, 0.1), (0.1, 0.2, 1)))

    def redder_on_the_left(*styles: Tensor, style_masks: Sequence[Tensor] = ()) -> float:
        mask = halves(LEFT, RIGHT, height=photo.shape[2], width=photo.shape[3])
        options = {"size": 64, "steps": 15, "style_weight": 100, "style_layers": COLORS}
        image = stylize(photo, styles, model=vgg16, content_mask=mask, style_masks=style_masks, **options).image
        left, right = ((side[:, 0] - side[:, 2]).mean().item() for side in (image[..., :25], image[..., -25:]))
        return left - right

    assert redder_on_the_left(red, blue) > 0.2
    assert redder_on_the_left(blue, red) < -0.2
    # The red half of the painting is used for the right half of the photo.
    assert redder_on_the_left(torch.cat([red, blue], dim=3), style_masks=[halves(RIGHT, LEFT, width=128)]) < -0.2


def test_no_seam_between_regions(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    """There is no edge where a red and a blue region meet, unlike where two pictures are put side by side."""
    photo = images.resize(photo, (64, 64))
    red, blue = (painting * torch.tensor(tint).view(1, 3, 1, 1) for tint in ((1, 0.2, 0.1), (0.1, 0.2, 1)))

    def step_in_the_middle(picture: Tensor) -> float:
        steps = (picture.diff(dim=3) - photo.diff(dim=3)).abs().mean((0, 1, 2))
        return (steps[31] / steps[16:48].mean()).item()

    def made(*styles: Tensor, mask: Tensor | None = None) -> Tensor:
        options = {"size": 64, "steps": 15, "style_weight": 30, "style_layers": COLORS}
        return stylize(photo, styles, model=vgg16, content_mask=mask, **options).image

    assert step_in_the_middle(made(red, blue, mask=halves(LEFT, RIGHT))) < 1.6
    assert step_in_the_middle(torch.cat([made(red)[..., :32], made(blue)[..., 32:]], dim=3)) > 1.6


def test_errors(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    def message(styles: int, mask: Tensor | None, *style_masks: Tensor) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            stylize(photo, [painting] * styles, model=vgg16, size=48, content_mask=mask, style_masks=style_masks)
        return str(error.value)

    two = halves(LEFT, RIGHT, height=photo.shape[2], width=photo.shape[3])
    assert message(3, two) == (
        "the content mask has 2 regions, from dark to light #000000, #ffffff, but 3 styles are given"
    )
    assert (
        message(1, two) == "the content mask has 2 regions, from dark to light #000000, #ffffff, but 1 style is given"
    )
    assert message(2, two, two) == "2 styles but 1 style mask; give one for each"
    assert message(1, two, halves(LEFT)) == "no style mask has the color #ffffff of the content mask"
    assert "give a content mask too" in message(1, None, two)
    with pytest.raises(ValueError, match="there is nothing to blend"):
        stylize(photo, [painting] * 2, model=vgg16, size=48, content_mask=two, blend=[1, 2])
    with pytest.raises(ValueError, match="the image to start from has 20x64 pixels; its proportions differ from"):
        stylize(photo, [painting], model=vgg16, size=48, init=photo[..., :20])
    assert "the mask looks like a picture" in message(2, torch.rand(1, 3, 64, 55).round(decimals=1))
    assert message(2, two[:, :, :20]) == (
        "the content mask has 55x20 pixels; its proportions differ from those of its picture, 55x64"
    )
