"""Receptive fields, checked by trial: a pixel that is NaN makes all positions NaN that depend on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from dreamgram.image_optimization.layers import find_layer, list_layers

SIZE = 24


class Ends(nn.Module):
    """A network whose only layer, ``end``, returns the result of a function of the image, or of its features."""

    def __init__(self, run: Callable[[Tensor], Tensor], before: nn.Module | None = None) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 4, 3, padding=1) if before is None else before
        self.run = run
        self.end = nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.end(self.run(self.before(image)))
        return result


def branches(x: Tensor) -> Tensor:
    return torch.cat([functional.max_pool2d(x, 5, 1, 2), x], 1)


GRID = torch.linspace(-0.6, 0.6, SIZE)


def warp(x: Tensor) -> Tensor:
    grid = torch.stack(torch.meshgrid(GRID, GRID, indexing="xy"), -1).expand(len(x), -1, -1, -1)
    return functional.grid_sample(x, grid, align_corners=False)


def mixed(x: Tensor) -> Tensor:
    """Mix all tokens with a fully connected layer, as an MLP-Mixer does."""
    weight = torch.ones(x.shape[2] * x.shape[3], x.shape[2] * x.shape[3])
    return functional.linear(x.flatten(2), weight).unflatten(2, x.shape[2:])


def gated(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


def windows(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    cut = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    cut = functional.scaled_dot_product_attention(cut, cut, cut)
    return cut.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return functional.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).unflatten(2, x.shape[2:])


KNOWN: dict[str, nn.Module] = {
    "nothing": Ends(lambda x: x),
    "pooling": Ends(lambda x: functional.avg_pool2d(x, 3, 2, 1)),
    "kernels by axis": Ends(
        lambda x: x, nn.Sequential(nn.Conv2d(3, 4, (1, 7), padding=(0, 3)), nn.Conv2d(4, 4, (7, 1), padding=(3, 0)))
    ),
    "branches": Ends(branches),
    "sum of branches": Ends(lambda x: x[:, :, 2:-2, 2:-2] + functional.max_pool2d(x, 5, 1)),
    "pixel unshuffle": Ends(lambda x: functional.pixel_unshuffle(x, 2)),
    "unshuffled and convolved": Ends(lambda x: x, nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3))),
    "slices": Ends(lambda x: x[:, :, 1:, 1:][..., ::2, ::2]),
    "crop": Ends(lambda x: functional.pad(x, (-3, -2, -3, -2))),
    "channels last": Ends(lambda x: functional.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)),
    "tokens and back": Ends(
        lambda x: (functional.linear(x.flatten(2).mT, torch.ones(5, 4)).mT).unflatten(2, (SIZE, SIZE))
    ),
    "upsampled and pooled": Ends(lambda x: functional.max_pool2d(functional.interpolate(x, scale_factor=2), 4, 2)),
    "bilinear and pooled": Ends(
        lambda x: functional.max_pool2d(functional.interpolate(x, scale_factor=2, mode="bilinear"), 4, 2)
    ),
    "transposed convolution and stride": Ends(
        lambda x: x, nn.Sequential(nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
    ),
    "normalized along channels": Ends(lambda x: functional.normalize(x, dim=1)),
    "dilated": Ends(lambda x: x, nn.Conv2d(3, 4, 3, dilation=3)),
    "same padding": Ends(lambda x: x, nn.Conv2d(3, 4, 4, padding="same")),
    "reflection": Ends(lambda x: x, nn.Conv2d(3, 4, 5, padding=2, padding_mode="reflect")),
    "grouped channels": Ends(lambda x: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)),
    "batch norm and glu": Ends(lambda x: functional.glu(x, 1), nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))),
    "stacked and summed": Ends(lambda x: torch.stack([x, x.relu()], 1).sum(1)),
    "split": Ends(lambda x: x.chunk(2, 1)[1] + x.split(2, 1)[0]),
}

WHOLE: dict[str, nn.Module] = {
    "mean": Ends(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 3, 3) + 0),
    "gate": Ends(gated),
    "instance norm": Ends(lambda x: x, nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4))),
    "group norm": Ends(lambda x: x, nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))),
    "softmax over positions": Ends(lambda x: x.flatten(2).softmax(-1).unflatten(2, (SIZE, SIZE))),
    "linear over positions": Ends(mixed),
    "attention": Ends(attention),
    "global pooling": Ends(lambda x: functional.adaptive_avg_pool2d(x, 1)),
}

UNKNOWN: dict[str, nn.Module] = {
    "pixel shuffle": Ends(lambda x: functional.pixel_shuffle(x, 2)),
    "upsampled": Ends(lambda x: functional.interpolate(x, scale_factor=2)),
    "uneven": Ends(lambda x: functional.interpolate(x, size=(31, 31), mode="bilinear")),
    "kernel of rows": Ends(lambda x: x, nn.Conv2d(3, 4, (1, 7))),
    "roll": Ends(lambda x: x.roll(5, 3)),
    "flip": Ends(lambda x: x.flip(3)),
    "warp": Ends(warp),
    "circular": Ends(lambda x: x, nn.Conv2d(3, 4, 5, padding=2, padding_mode="circular")),
    "cumulative sum": Ends(lambda x: x.cumsum(3)),
    "softmax over columns": Ends(lambda x: x.softmax(3)),
    "fft": Ends(lambda x: torch.fft.fft2(x).real),
    "unfold": Ends(lambda x: functional.unfold(x, 4, stride=4).unflatten(2, (6, 6))),
    "windows": Ends(windows),
    "space to depth by hand": Ends(lambda x: x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))),
    "a mask": Ends(lambda x: x[:, :, torch.arange(SIZE) % 2 == 0]),
    "written in place": Ends(lambda x: x.clone().index_copy_(3, torch.tensor([3]), x[..., :1])),
    "a value elsewhere": Ends(lambda x: x + x[:, :, :1, :1]),
    "sorted": Ends(lambda x: x.sort(3)[0]),
    "tokens beside others": Ends(lambda x: torch.cat([x, x], 3)),
}


def seen_columns(network: nn.Module) -> list[list[int]]:
    """Return, for each position in the middle row of the layer ``end``, the columns of the image that it depends on."""
    image = torch.rand(SIZE, 3, SIZE, SIZE)
    for column in range(SIZE):
        image[column, :, :, column] = torch.nan
    with torch.no_grad():
        output = network.eval()(image)
    nan = output[:, :, output.shape[2] // 2].isnan().any(1)
    return [nan[:, position].nonzero()[:, 0].tolist() for position in range(nan.shape[1])]


@pytest.mark.parametrize("name", KNOWN)
def test_known_fields_are_exact(name: str) -> None:
    network = KNOWN[name].eval()
    told = find_layer("end", list_layers(network, (3, SIZE, SIZE)))
    assert told.receptive_field is not None
    assert told.stride is not None
    assert told.start is not None
    inside = 0
    for position, columns in enumerate(seen_columns(network)):
        first = told.start + told.stride * position
        last = first + told.receptive_field - 1
        if first >= 0 and last < SIZE:
            assert (columns[0], columns[-1]) == (first, last), position
            inside += 1
        else:
            assert columns[0] >= first
            assert columns[-1] <= last
    assert inside > 2


@pytest.mark.parametrize("name", WHOLE)
def test_what_sees_the_whole_image(name: str) -> None:
    network = WHOLE[name].eval()
    told = find_layer("end", list_layers(network, (3, SIZE, SIZE)))
    assert told.whole_image
    assert (told.receptive_field, told.stride, told.start) == (None, None, None)
    if "norm" not in name:  # a convolution without padding before it does not see the image's border at every position
        assert all(columns == list(range(SIZE)) for columns in seen_columns(network))


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_unknown(name: str) -> None:
    """These fields are of several sizes, or not known to be right, so that nothing is said about them."""
    told = find_layer("end", list_layers(UNKNOWN[name].eval(), (3, SIZE, SIZE)))
    assert (told.receptive_field, told.stride, told.start, told.whole_image) == (None, None, None, False)


@pytest.mark.parametrize(
    ("build", "fields"),
    [
        (torchvision.models.resnet18, {"layer1": 43, "layer2": 99, "layer4": 435, "fc": None}),
        (torchvision.models.squeezenet1_1, {"features.4.squeeze": 15}),
        (lambda: torchvision.models.inception_v3(init_weights=False), {"Mixed_5b": 63, "Mixed_7c": 1311}),
    ],
)
def test_fields_of_known_networks(build: Callable[[], nn.Module], fields: dict[str, int | None]) -> None:
    """The sizes are those that the literature gives, or that follow from the kernels."""
    layers = {layer.name: layer for layer in list_layers(build().eval(), (3, 224, 224))}
    assert {name: layers[name].receptive_field for name in fields} == fields
