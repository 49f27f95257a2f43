from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamgram.image_optimization import images
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.layers import list_layers
from dreamgram.style_transfer.budget import Budget
from dreamgram.style_transfer.losses import STYLE_LOSSES, Previous
from dreamgram.style_transfer.options import StyleOptions
from dreamgram.style_transfer.tiling import Tile, smallest_side, split, whole
from dreamgram.style_transfer.total_loss import Style, total_loss
from tests.modules import Does

LAYERS = {"content_layers": {"relu3_1": 1.0}, "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0}}
"""Early layers, whose receptive fields are so small that small pictures can have several tiles."""


def divided(vgg16: nn.Module, names: list[str], side: int) -> Callable[[Tensor], list[Tile]]:
    def tiles_of(image: Tensor) -> list[Tile]:
        layers = [layer for layer in list_layers(vgg16, image.shape[1:]) if layer.name in names]
        return split(layers, (image.shape[2], image.shape[3]), side)

    return tiles_of


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", STYLE_LOSSES)
def test_tiles_have_the_loss_and_the_gradient_of_the_whole(
    loss: str, masked: bool, photo: Tensor, painting: Tensor, vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamgram.style_transfer.total_loss.STRIP", 50)
    content = images.resize(photo, (187, 171))  # not multiples of the layers' strides
    style = images.resize(painting, (150, 163))
    image = 0.6 * content + 0.4 * torch.rand_like(content)
    preset = StyleOptions(style_loss=loss, **LAYERS).losses
    mask = (torch.arange(171) < 80).float().expand(1, 1, 187, 171)
    regions = [mask, 1 - mask] if masked else [None]
    styles = [Style(style, 163, [1.0] * len(regions), [None] * len(regions))]
    previous = Previous(content.flip(3), (torch.rand(1, 1, 187, 171) > 0.5).float()) if masked else None
    results = []
    for tiles_of in (lambda image: [whole(preset.layers)], divided(vgg16, preset.layers, 96)):
        with capture(vgg16, preset.layers) as activations_of:
            total = total_loss(activations_of, content, styles, preset, tiles_of, regions, previous)
            leaf = image.clone().requires_grad_()
            value = total(leaf)
            value.backward()
            assert leaf.grad is not None
            results.append((value.item(), leaf.grad, len(total.tiles)))
    (value, gradient, _), (tiled, of_tiles, count) = results
    assert count >= 9
    assert tiled == pytest.approx(value, rel=1e-5)
    assert (of_tiles - gradient).norm() < 1e-4 * gradient.norm()


@pytest.mark.parametrize("size", [(64, 64), (187, 171), (200, 33), (500, 499)])
@pytest.mark.parametrize("side", [1, 96, 250])
@pytest.mark.parametrize("deepest", ["relu4_1", "relu5_3"])
def test_every_position_belongs_to_one_tile(size: tuple[int, int], side: int, deepest: str, vgg16: nn.Module) -> None:
    names = ["relu1_1", "relu2_1", deepest]
    image = torch.rand(1, 3, *size)
    layers = [layer for layer in list_layers(vgg16, image.shape[1:]) if layer.name in names]
    tiles = split(layers, size, side)
    for layer in layers:
        seen = torch.zeros(layer.shape[1:])
        for tile in tiles:
            rows, columns = tile.windows[layer.name]
            seen[rows, columns] += 1
            inner = tile.inner[layer.name]
            assert [part.stop - part.start for part in inner] == [rows.stop - rows.start, columns.stop - columns.start]
            assert all(part.stop > part.start >= 0 for part in inner)
        assert (seen == 1).all()


class Squeeze(nn.Module):
    """Squeeze and excitation: each channel is scaled by a function of the means of all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.excite = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        scaled: Tensor = features * self.excite(features)
        return scaled


class Softmax(nn.Module):
    """Softmax over all positions."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).softmax(-1).view(features.shape)


class ChannelsLast(nn.Module):
    """A layer norm over channels, which come last in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, features: Tensor) -> Tensor:
        normalized: Tensor = self.norm(features.permute(0, 2, 3, 1))
        return normalized


class Skip(nn.Module):
    """The sum of a wide convolution and of a half-sized branch, which moves only by two pixels at once."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(4, 4, 9, padding=4)

    def forward(self, features: Tensor) -> Tensor:
        halved = nn.functional.interpolate(nn.functional.max_pool2d(features, 2), scale_factor=2)
        joined: Tensor = self.wide(features) + halved
        return joined


class Branches(nn.Module):
    """Two layers whose strides are 2 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.two, self.three = nn.Conv2d(4, 2, 3, 2), nn.Conv2d(4, 2, 5, 3)

    def forward(self, features: Tensor) -> Tensor:
        totals: Tensor = self.two(features).sum((1, 2, 3)) + self.three(features).sum((1, 2, 3))
        return totals


def rows_of(features: Tensor) -> Tensor:
    """Return a map (1, 1, rows, columns) that counts the rows from -1 to 1."""
    return torch.linspace(-1, 1, features.shape[2]).to(features)[:, None].expand(1, 1, *features.shape[2:])


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 5, 2, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)), ["0", "1", "3"]),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.MaxPool2d(3, 2, 1)), ["0", "1"]),
        (nn.Sequential(nn.Conv2d(3, 4, 3), ChannelsLast()), ["0", "1.norm"]),
        (nn.Sequential(nn.Conv2d(3, 4, 7), nn.Conv2d(4, 4, 7, dilation=3), nn.Conv2d(4, 4, 7, 4)), ["0", "1", "2"]),
        (nn.Sequential(nn.Conv2d(3, 4, 3), Branches()), ["0", "1.two", "1.three"]),
        (nn.Sequential(nn.Conv2d(3, 4, 25), nn.Conv2d(4, 4, 25)), ["0", "1"]),  # fewer positions than pixels
    ],
)
@pytest.mark.parametrize("size", [(90, 131), (64, 193)])
def test_tiles_have_the_activations_of_the_whole(network: nn.Module, names: list[str], size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    network = network.double().eval()
    for _ in range(3):
        network.train()(torch.rand(4, 3, 64, 64, dtype=torch.float64))  # for the statistics
    network.eval()
    layers = [layer for layer in list_layers(network, image.shape[1:]) if layer.name in names]
    tiles = split(layers, size, 40)
    assert len(tiles) >= 2
    assert all(part.stop > part.start >= 0 for tile in tiles for pair in tile.inner.values() for part in pair)
    check_tiles(network, image, names, tiles)


def check_tiles(network: nn.Module, image: Tensor, names: list[str], tiles: list[Tile]) -> None:
    """Compare the activations of the layers ``names`` in ``tiles`` with those of the whole ``image``."""
    with capture(network, names) as activations_of, torch.no_grad():
        expected = activations_of(image)
        found = {name: torch.full_like(each, torch.nan) for name, each in expected.items()}
        for tile in tiles:
            for name, part in tile.own(activations_of(tile.show(image))).items():
                found[name][:, :, tile.windows[name][0], tile.windows[name][1]] = part
    for name in names:
        torch.testing.assert_close(found[name], expected[name])


def random_layer(chance: random.Random) -> nn.Module:
    """Return a random layer that takes and gives four channels."""
    side, ends = chance.choice([1, 2, 3, 5]), [chance.choice([0, 0, 1, 2]) for _ in range(4)]
    borders, parity = [chance.choice([-1, 0, 1, 2]) for _ in range(4)], chance.randrange(2)
    layers: list[Callable[[], nn.Module]] = [
        lambda: nn.Conv2d(4, 4, side, chance.choice([1, 2]), chance.randrange(side)),
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        lambda: nn.ConvTranspose2d(4, 4, side, chance.choice([1, 2]), chance.randrange(3)),
        lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=chance.random() < 0.5),
        lambda: nn.AdaptiveAvgPool2d(8),
        lambda: Does(lambda x: x[:, :, ends[0] : x.shape[2] - ends[1], ends[2] : x.shape[3] - ends[3]]),
        lambda: Does(lambda x: x[:, :, parity::2, parity::2]),
        lambda: Does(lambda x: functional.pad(x, borders)),
        lambda: Does(lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear")),
        lambda: Does(lambda x: x * rows_of(x)),
        lambda: Does(lambda x: torch.cat([x[:, :3], rows_of(x)], 1)),
        lambda: Does(lambda x: torch.cat([x[:, :3], torch.zeros_like(x)[:, :1]], 1)),
    ]
    return chance.choice(layers)()


def test_tiles_of_random_networks_are_exact_or_refused() -> None:
    chance, exact, refused = random.Random(0), 0, 0
    for _ in range(80):
        layers = [random_layer(chance) for _ in range(chance.randrange(1, 4))]
        network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers, nn.Identity()).double().eval()
        image = torch.rand(1, 3, chance.choice([64, 65]), chance.choice([64, 71]), dtype=torch.float64)
        last = list_layers(network, image.shape[1:])[-1]
        try:
            tiles = split([last], (image.shape[2], image.shape[3]), 32)
        except ValueError:
            refused += 1
        else:
            check_tiles(network, image, [last.name], tiles)
            exact += len(tiles) > 1
    assert min(exact, refused) > 15


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x + rows_of(x),
        lambda x: x * rows_of(x),
        lambda x: torch.cat([x[:, :3], rows_of(x)], 1),
        lambda x: x[:, :, 2:-2, 2:-2],
        lambda x: functional.pad(x, [-2] * 4),
        lambda x: functional.adaptive_max_pool2d(x, 8),
    ],
)
def test_places_and_crops_are_refused(run: Callable[[Tensor], Tensor]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Does(run), nn.Conv2d(4, 4, 3, padding=1)).eval()
    layers = list_layers(network, (3, 128, 128))
    assert len(split(layers[:1], (128, 128), 64)) > 1
    assert layers[-1].receptive_field is not None
    with pytest.raises(ValueError, match=r"because 1 is not the same for a part of the picture, [^\n]*$"):
        split(layers, (128, 128), 64)
    with pytest.raises(ValueError, match="tiles would be wrong"):
        smallest_side(layers)


@pytest.mark.parametrize(
    ("first", "seen"),
    [
        (nn.InstanceNorm2d(4), "the whole picture"),
        (nn.GroupNorm(2, 4), "the whole picture"),
        (Squeeze(), "the whole picture"),
        (Softmax(), "the whole picture"),
        (nn.LayerNorm([126, 126]), "the whole picture"),
        (nn.LayerNorm(126), "pixels that are not known"),
        (nn.Softmax(3), "pixels that are not known"),
        (nn.Upsample(scale_factor=2), "pixels that are not known"),
        (Skip(), "pixels that are not known"),
    ],
)
def test_networks_whose_tiles_would_be_wrong_are_refused(first: nn.Module, seen: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), first, nn.ReLU()).eval()
    for size in (128,) if isinstance(first, nn.LayerNorm) else (128, 302):
        layers = [layer for layer in list_layers(network, (3, size, size)) if layer.name in ("0", "2")]
        with pytest.raises(ValueError, match=f"each position of 2 depends on {seen}"):
            split(layers, (size, size), 64)
        with pytest.raises(ValueError, match="tiles would be wrong"):
            smallest_side(layers)


@pytest.mark.parametrize(
    ("run", "exact"),
    [
        (lambda x: x * (x.shape[2] / 64), False),
        (lambda x: x + len(x.flatten(2)[0, 0]) / 1e4, False),
        (lambda x: x * 2, True),
        (lambda x: x.view_as(x).relu(), True),
    ],
)
def test_networks_that_depend_on_the_size_of_the_picture(run: Callable[[Tensor], Tensor], exact: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 5), Does(run), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    budget, image = Budget(5, 64), torch.rand(1, 3, 100, 130)
    if not exact:
        with pytest.raises(ValueError, match="because 3 is not the same for a part of a picture"):
            budget.tiles(network, ["3"], image)
        return
    tiles = budget.tiles(network, ["3"], image)
    assert len(tiles) > 1
    with torch.no_grad(), capture(network, ["3"]) as activations_of:
        picture = activations_of(image)["3"]
        for tile in tiles:
            found = tile.own(activations_of(tile.show(image)))["3"]
            torch.testing.assert_close(found, picture[:, :, tile.windows["3"][0], tile.windows["3"][1]])


def test_tiles_of_a_network_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        "dreamgram.style_transfer.budget.check_tiles", lambda model, layers: checked.append(tuple(layers))
    )
    network = nn.Sequential(nn.Conv2d(3, 4, 5), Does(lambda x: x * 2))
    for layers in (["1"], ["0", "1"], ["1"]):
        Budget(5, 64).tiles(network, layers, torch.rand(1, 3, 100, 130))
    assert checked == [("1",), ("0", "1")]


def test_tokens_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2)).eval()
    layers = [layer for layer in list_layers(network, (3, 128, 128)) if layer.name == "1"]
    with pytest.raises(ValueError, match="the positions of 1 do not form rows and columns"):
        split(layers, (128, 128), 64)


def test_instance_norm_with_known_statistics_is_exact_in_tiles() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)).eval()
    layers = [layer for layer in list_layers(network, (3, 128, 128)) if layer.name == "1"]
    assert len(split(layers, (128, 128), 64)) > 1
