"""Trials of networks, which leave out the arithmetic if only shapes are wanted."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import deform_conv2d

from dreamgram.image_optimization.layers import find_layer, list_layers
from dreamgram.image_optimization.trial import NeedsValues, try_out


class Does(nn.Module):
    """A network that does something with the features of a convolution, and has a layer, ``end``, after that."""

    def __init__(self, run: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.end, self.run = nn.Conv2d(3, 4, 3, padding=1), nn.Identity(), run
        self.register_buffer("table", torch.rand(5, 2))

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.end(self.run(self.conv(image), self.table))
        return result


def counted(x: Tensor) -> Tensor:
    """Return whole numbers from 0 to 4, whatever ``x`` is, if it is computed."""
    return (x.sigmoid() * 4).round().long()


READERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "embedding": lambda x, table: functional.embedding(counted(x), table),
    "gather": lambda x, table: table.gather(0, counted(x).flatten()[:2][None]),
    "index": lambda x, table: table[counted(x)],
    "index of a sum": lambda x, table: table[counted(x) + 0],
    "index_select": lambda x, table: table.index_select(0, counted(x).flatten()),
    "scatter": lambda x, table: table.scatter(0, counted(x).flatten()[:2][None], 1.0),
    "one_hot": lambda x, table: functional.one_hot(counted(x), 5),
    "nearest code": lambda x, table: table[(x.flatten()[:6, None] - table[:, 0]).abs().argmin(1)],
    "unpooling": lambda x, table: functional.max_unpool2d(*functional.max_pool2d(x, 2, return_indices=True), 2),
    "item": lambda x, table: x * x.mean().item(),
    "mask": lambda x, table: x[x > 0],
    "an operator of another package": lambda x, table: deform_conv2d(
        x, x.repeat(1, 5, 1, 1)[:, :18], torch.ones(4, 4, 3, 3), padding=1
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_trial_for_shapes_refuses_an_index_that_depends_on_values(name: str) -> None:
    network, image = Does(READERS[name]), torch.zeros(2, 3, 8, 8)
    assert isinstance(try_out(network, image, "shapes").failure, NeedsValues)
    assert try_out(network, image, "values").failure is None
    assert find_layer("end", list_layers(network, (3, 8, 8))).receptive_field is None


def test_an_index_that_the_network_holds_is_no_value_of_the_image() -> None:
    network = Does(lambda x, table: x + table[torch.arange(8) % 5][:, 0])
    assert try_out(network, torch.zeros(2, 3, 8, 8), "shapes").failure is None


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 4, (3, 5), (2, 1), (1, 2), (1, 2)), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.Conv2d(8, 4, 3, groups=4), nn.MaxPool2d(3, 2, 1), nn.GELU()),
        nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.ConvTranspose2d(3, 2, 3, 2), nn.GELU(approximate="tanh")),
        nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 6, 5, padding="same"), nn.LayerNorm(20 * 22), nn.Softmax(2)),
        nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(20 * 22, 4, 16, batch_first=True)),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 22, 7), nn.LeakyReLU(inplace=True), nn.Hardswish(inplace=True)),
        nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d((2, 3), ceil_mode=True), nn.AdaptiveAvgPool2d((2, 4))),
        nn.Sequential(Does(lambda x: torch.cat([x, x[:, :1], x], 1)), Does(lambda x: x.mean((-1, 1), keepdim=True))),
        nn.Sequential(Does(lambda x: torch.cat([x, x.mT.mT], -1)), Does(lambda x: x.mean(-2)), nn.Flatten()),
        nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 3, padding=1), nn.InstanceNorm3d(2), nn.ELU()),
    ],
)
def test_a_trial_for_shapes_has_the_shapes_of_the_values(network: nn.Module) -> None:
    image = torch.rand(2, 3, 20, 22)
    shapes, values = (try_out(network, image, way).seen for way in ("shapes", "values"))
    assert [(seen.place, seen.shape, seen.overwritten) for seen in shapes] == [
        (seen.place, seen.shape, seen.overwritten) for seen in values
    ]


@pytest.mark.parametrize(
    "network",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(3, 4, 99),
        nn.Linear(21, 3),
        nn.LayerNorm(21),
        Does(lambda x: torch.cat([x, x[:, :, 1:]], 3)),
        Does(lambda x: x.mean((1, 1))),
        Does(lambda x: x.mean(4)),
        nn.AvgPool2d(3, padding=2),
        nn.MaxPool2d(3, padding=2),
        nn.BatchNorm2d(4),
    ],
)
def test_a_trial_for_shapes_raises_what_the_network_raises(network: nn.Module) -> None:
    failures = [try_out(network, torch.zeros(1, 3, 20, 22), way).failure for way in ("shapes", "values")]
    assert failures[0] is not None
    assert str(failures[0]) == str(failures[1])


def test_images_that_the_memory_cannot_hold_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, image: Tensor) -> Tensor:
            result: Tensor = self.conv(image) * image.mean().item()
            return result

    assert [layer.name for layer in list_layers(Reading(), (3, 300, 300))] == ["conv"]
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**6))
    monkeypatch.setattr("psutil.swap_memory", lambda: SimpleNamespace(free=0))
    with pytest.raises(ValueError, match=r"an image of 300x300 pixels .* needs at least 0\.0 GB of memory"):
        list_layers(Reading(), (3, 300, 300))
