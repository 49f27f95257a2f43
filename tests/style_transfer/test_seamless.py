from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dreamgram.image_optimization import images
from dreamgram.image_optimization.capture import capture
from dreamgram.style_transfer.losses import total_variation
from dreamgram.style_transfer.seamless import circular, enlarge, seamless_variation, without_edges
from dreamgram.style_transfer.stylizer import stylize
from tests.conftest import Command


def test_activations_wrap_around(vgg16: nn.Module) -> None:
    image, layers = torch.rand(1, 3, 64, 96), ["relu1_1", "relu3_1", "relu4_1"]
    with capture(vgg16, layers) as activations_of:
        activations_of(image)  # as for a painting, before the texture is optimized
        with circular(vgg16):
            activations, rolled = activations_of(image), activations_of(image.roll((16, 32), (2, 3)))
            tripled = activations_of(image.repeat(1, 1, 3, 3))
    for layer, stride in zip(layers, (1, 4, 8), strict=True):
        expected = activations[layer].roll((16 // stride, 32 // stride), (2, 3))
        torch.testing.assert_close(rolled[layer], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        height, width = activations[layer].shape[2:]
        middle = tripled[layer][:, :, height : 2 * height, width : 2 * width]
        torch.testing.assert_close(middle, activations[layer], rtol=1e-4, atol=1e-4 * middle.abs().max().item())
    assert {each.padding_mode for each in vgg16.modules() if isinstance(each, nn.Conv2d)} == {"zeros"}


@pytest.mark.parametrize(("before", "after"), [((32, 48), (64, 96)), ((72, 72), (145, 145)), ((16, 24), (40, 30))])
def test_enlarging_wraps_around(before: tuple[int, int], after: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *before)
    whole = images.resize(image.repeat(1, 1, 3, 3), (3 * after[0], 3 * after[1]))
    expected = whole[:, :, after[0] : 2 * after[0], after[1] : 2 * after[1]]
    torch.testing.assert_close(enlarge(image, after), expected, rtol=0, atol=1e-4)
    assert enlarge(image, before) is image


def test_the_variation_includes_the_edges() -> None:
    image = torch.rand(1, 3, 5, 7)
    wide = torch.cat([image, image[:, :, :1]], 2)
    wide = torch.cat([wide, wide[:, :, :, :1]], 3)
    once = total_variation(wide) - total_variation(wide[:, :, -1:]) - total_variation(wide[:, :, :, -1:])
    torch.testing.assert_close(seamless_variation(image), once)


def jump(image: Tensor) -> float:
    """Return the mean difference across the seams of a picture (1, 3, H, W), relative to that between other rows.

    The pixels on both sides of the seams come from different pixels of the coarser scale. They are therefore compared
    with every second row and column.
    """
    seams, others = 0.0, 0.0
    for axis in (2, 3):
        differences = (image - image.roll(1, axis)).abs().mean((0, 1, 5 - axis))[::2]
        seams, others = seams + differences[0].item(), others + differences[1:].mean().item()
    return seams / others


def test_a_seamless_texture_has_no_seam(painting: Tensor, vgg16: nn.Module) -> None:
    how = {"model": vgg16, "size": 160, "steps": 15}
    assert jump(stylize(None, painting, **how).image) > 1.8
    jumps = [jump(stylize(None, painting, seamless=True, seed=seed, **how).image) for seed in range(3)]
    assert sum(jumps) / len(jumps) < 1.25


def test_a_texture_as_typed(command: Command) -> None:
    how = ["--texture", "--style", "marbling", "--size", 48, "--steps", 2]
    run = command("stylize", *how, "--seamless", "-o", "texture.png")
    assert run.code == 0, run.err
    assert Image.open("texture.png").size == (48, 48)
    assert command("stylize", "replay", "texture.png", "-o", "again.png").code == 0
    assert Image.open("again.png").tobytes() == Image.open("texture.png").tobytes()
    assert command("stylize", *how, "-o", "plain.png").code == 0
    assert Image.open("plain.png").tobytes() != Image.open("texture.png").tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "PHOTO must be given, unless a texture is made"),
        (["photo.png", "--texture"], "if a photo, such as photo.png, is painted"),
        (["photo.png", "--seamless"], "only textures can be seamless"),
        (["--texture", "--seamless", "--size", "100"], "multiple of 16 for a seamless texture, such as 96, not 100"),
        (["--texture", "--colors", "content"], "must be style for a texture"),
        (["--texture", "--strength", "0.5"], "must be 1 for a texture"),
        (["--texture", "--keep", "photo.png"], "keep refers to a photo"),
        (["--texture", "--content-mask", "photo.png"], "content_mask refers to a photo"),
    ],
)
def test_bad_options_of_textures_get_one_line(
    options: list[str], message: str, command: Command, photo: Tensor
) -> None:
    images.to_pillow(photo).save("photo.png")
    run = command("stylize", *options, "--style", "marbling")
    assert run.code == 2
    assert message in run.err
    assert len(run.err.splitlines()) == 1


def test_the_edges_of_a_painting_are_not_measured() -> None:
    mask = without_edges(torch.rand(1, 3, 64, 96))
    assert mask.shape == (1, 1, 64, 96)
    assert mask[:, :, 4:-4, 4:-4].eq(1).all()
    assert mask.sum() == 56 * 88
