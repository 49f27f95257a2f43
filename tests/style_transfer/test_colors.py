from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dreamgram.image_optimization.images import resize
from dreamgram.style_transfer.colors import luminance, match_colors, with_colors_of
from dreamgram.style_transfer.stylizer import stylize


def distribution(image: Tensor) -> tuple[Tensor, Tensor]:
    colors = image[0].flatten(1)
    return colors.mean(1), torch.cov(colors)


def test_matched_colors_have_the_mean_and_covariance(photo: Tensor) -> None:
    painting = 0.3 + 0.2 * torch.rand(1, 3, 40, 50) ** 2
    wanted = 0.3 + 0.3 * photo  # away from 0 and 1, where colors are clamped
    for found, expected in zip(distribution(match_colors(painting, wanted)), distribution(wanted), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-3)
    torch.testing.assert_close(match_colors(wanted, wanted), wanted, rtol=0, atol=1e-3)


def test_a_gray_painting_can_be_matched(photo: Tensor) -> None:
    gray = torch.rand(1, 1, 30, 30).expand(1, 3, 30, 30)
    matched = match_colors(gray, photo)
    assert torch.isfinite(matched).all()
    assert (distribution(matched)[0] - distribution(photo)[0]).abs().max() < 0.05


def test_the_photos_colors_under_another_luminance(photo: Tensor) -> None:
    image = torch.rand_like(photo)
    colored = with_colors_of(image, photo)
    torch.testing.assert_close(luminance(colored), luminance(image), rtol=0, atol=1e-4)
    assert colored.min() > -1e-4
    assert colored.max() < 1 + 1e-4
    # The hue is the same: the order of the channels by strength does not change.
    for first, second in ((0, 1), (1, 2)):
        assert ((colored[:, first] - colored[:, second]) * (photo[:, first] - photo[:, second]) > -1e-5).all()
    torch.testing.assert_close(with_colors_of(photo, photo), photo, rtol=0, atol=1e-4)


def chroma(image: Tensor) -> Tensor:
    return image - luminance(image)


@pytest.mark.parametrize("colors", ["content", "luminance", "match", "style"])
def test_each_mode_keeps_what_it_says(colors: str, photo: Tensor, vgg16: nn.Module) -> None:
    painting = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.1, 0.2, 0.9]
    ).view(1, 3, 1, 1)
    result = stylize(
        photo, [painting], model=vgg16, size=48, steps=20, style_weight=10, colors=colors  # type: ignore[arg-type]
    ).image  # fmt: skip
    small = resize(photo, (48, 41))
    away = (chroma(result).mean((2, 3)) - chroma(small).mean((2, 3))).norm()
    assert (luminance(result) - luminance(small)).abs().mean() > 0.01  # it was painted
    if colors == "style":
        assert away > 0.1
    else:
        assert away < 0.06


def test_errors(photo: Tensor, painting: Tensor, vgg16: nn.Module) -> None:
    with pytest.raises(ValueError, match="colors must be 'style', 'content', 'luminance' or 'match', not 'sepia'"):
        stylize(photo, [painting], model=vgg16, size=48, steps=1, colors="sepia")  # type: ignore[arg-type]
