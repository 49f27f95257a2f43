from __future__ import annotations

import hashlib
import re

import pytest
import torch
from torch import Tensor, nn

from dreamgram.models import load
from dreamgram.models.registry import WEIGHTS, read_weights


def test_the_image_goes_in_as_rgb_from_0_to_1(vgg16: nn.Module) -> None:
    """Against the input convention of the weights, written out: BGR, 0-255, minus the mean."""
    rgb = torch.rand(1, 3, 8, 8)
    red, green, blue = rgb[0]
    bgr = torch.stack([255 * blue - 103.939, 255 * green - 116.779, 255 * red - 123.68])[None]
    conv = vgg16.get_submodule("conv1_1")
    seen: list[Tensor] = []
    handle = conv.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    vgg16(torch.nn.functional.interpolate(rgb, (32, 32)))
    handle.remove()
    torch.testing.assert_close(seen[0], torch.nn.functional.interpolate(bgr, (32, 32)))


def test_vgg16_has_the_published_weights(vgg16: nn.Module) -> None:
    weight = vgg16.get_parameter("conv1_1.weight").flatten()
    published = [0.42947057, 0.11727387, 0.03401296, -0.13224158, -0.05334752, 0.00757738]
    assert any(abs(weight - value).min() < 3e-4 for value in published)
    for value in published:
        assert abs(weight - value).min() < 3e-4


@pytest.mark.parametrize(("name", "blocks"), [("vgg16", (2, 2, 3, 3, 3)), ("vgg19", (2, 2, 4, 4, 4))])
def test_layers_have_the_papers_names(name: str, blocks: tuple[int, ...]) -> None:
    expected = []
    for block, count in enumerate(blocks, 1):
        for number in range(1, count + 1):
            expected += [f"conv{block}_{number}", f"relu{block}_{number}"]
        expected.append(f"pool{block}")
    assert [layer for layer, _ in load(name).named_children()] == expected


def test_vgg19_unpacks_its_palette() -> None:
    raw = read_weights(WEIGHTS / "vgg19.palette8.safetensors")
    weight = load("vgg19").get_parameter("conv3_4.weight")
    index, palette = raw["conv3_4.weight_index"], raw["conv3_4.weight_palette"]
    assert weight.shape == (256, 256, 3, 3)
    for place in [(0, 0, 0, 0), (17, 200, 1, 2), (255, 255, 2, 2)]:
        assert weight[place] == palette[int(index[place])]


def test_every_weights_file_has_the_checksum_that_its_readme_tells() -> None:
    told = dict(re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", (WEIGHTS / "README.md").read_text()))
    files = {path.name for path in WEIGHTS.iterdir() if path.name != "README.md"}
    assert set(told) == files
    for name, checksum in told.items():
        assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == checksum
