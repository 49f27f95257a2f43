"""The meaning of the axes of an output, checked against passes of single images with outputs indexed by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import dreamgram as dg
from dreamgram.image_optimization.axes import Images, describe_axes, find_images
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.layers import Layer, find_layer, list_layers
from tests.modules import Does


class Network(nn.Module):
    """A network of some layers, called ``a``, ``b``, ..., and a function that passes images through them."""

    def __init__(self, run: Callable[[Network, Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in zip("abcd", layers, strict=False):
            self.add_module(name, layer)

    def forward(self, image: Tensor) -> Tensor:
        return self.run(self, image)


def parts(image: Tensor) -> Tensor:
    """Cut each image into its quarters, (N, 4, C, H / 2, W / 2)."""
    halves = image.unflatten(3, (2, -1)).unflatten(2, (2, -1))
    return halves.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


CONV = nn.Conv2d(3, 6, 4, stride=4)

NETWORKS: dict[str, tuple[nn.Module, str, int, tuple[int, ...], str]] = {
    # layer, number of its units, axes of the positions in its output for one image, and its description
    "conv1d": (
        Network(lambda n, x: n.b(n.a(x).flatten(2)), CONV, nn.Conv1d(6, 5, 3)),
        "b",
        5,
        (1,),
        "5 channels x 14",
    ),
    "relu after conv1d": (
        Network(lambda n, x: n.c(n.b(n.a(x).flatten(2))), CONV, nn.Conv1d(6, 5, 3), nn.ReLU()),
        "c",
        5,
        (1,),
        "5 channels x 14",
    ),
    "conv2d": (Network(lambda n, x: n.a(x), CONV), "a", 6, (1, 2), "6 x 4 x 4"),
    "conv3d": (
        Network(lambda n, x: n.a(x[:, None]), nn.Conv3d(1, 4, (2, 3, 5))),
        "a",
        4,
        (1, 2, 3),
        "4 x 2 x 14 x 12",
    ),
    "channels last": (
        Network(lambda n, x: n.b(n.a(x).movedim(1, 3)), CONV, nn.LayerNorm(6)),
        "b",
        6,
        (0, 1),
        "4 x 4 x 6 units",
    ),
    "norm over the whole layer": (
        Network(lambda n, x: n.b(n.a(x)), CONV, nn.LayerNorm([6, 4, 4])),
        "b",
        6,
        (1, 2),
        "6 x 4 x 4",
    ),
    "tokens": (
        Network(lambda n, x: n.b(n.a(x).flatten(2).transpose(1, 2)), CONV, nn.Linear(6, 7)),
        "b",
        7,
        (0,),
        "16 tokens x 7 units",
    ),
    "sequence first": (
        Network(lambda n, x: n.b(n.a(x).flatten(2).permute(2, 0, 1)), CONV, nn.Linear(6, 7)),
        "b",
        7,
        (0,),
        "16 tokens x 7 units",
    ),
    "lstm": (
        Network(lambda n, x: n.b(n.a(x).flatten(2).permute(2, 0, 1))[0], CONV, nn.LSTM(6, 5)),
        "b[0]",
        5,
        (0,),
        "16 tokens x 5 units",
    ),
    "heads": (
        Network(
            lambda n, x: n.b(torch.einsum("nhit,nhjt->nhij", *[n.a(x).flatten(2).unflatten(1, (3, 2)).mT] * 2)),
            CONV,
            nn.Softmax(-1),
        ),
        "b",
        3,
        (1, 2),
        "3 x 16 x 16",
    ),
    "windows": (
        Network(
            lambda n, x: n.b(parts(n.a(x)).flatten(0, 1).flatten(2).mT),
            nn.Conv2d(3, 6, 2, stride=2),
            nn.Linear(6, 9),
        ),
        "b",
        9,
        (0, 1),
        "4 x 16 x 9 units",
    ),
    "proposals": (
        Network(lambda n, x: n.b(n.a(parts(x).flatten(0, 1)).flatten(1)), CONV, nn.Linear(24, 7)),
        "b",
        7,
        (0,),
        "4 tokens x 7 units",
    ),
    "convolution of proposals": (
        Network(lambda n, x: n.a(parts(x).flatten(0, 1)), CONV),
        "a",
        6,
        (0, 2, 3),
        "4 x 6 units x 2 x 2",
    ),
    "proposals in another order": (
        Network(lambda n, x: n.b(n.a(parts(x).transpose(0, 1).flatten(0, 1)).flatten(1)), CONV, nn.Linear(24, 7)),
        "b",
        7,
        (0,),
        "4 tokens x 7 units",
    ),
    "one image at a time": (
        Network(lambda n, x: n.b(n.a(x).view(1, -1)), CONV, nn.Linear(96, 7)),
        "b",
        7,
        (),
        "7",
    ),
    "only the first image": (
        Network(lambda n, x: n.b(n.a(x)[0].flatten()), CONV, nn.Linear(96, 7)),
        "b",
        7,
        (),
        "7",
    ),
    "a loop over the images": (
        Network(lambda n, x: torch.cat([n.b(n.a(each[None]).flatten(1)) for each in x]), CONV, nn.Linear(96, 7)),
        "b",
        7,
        (),
        "7",
    ),
    "values decide": (
        Network(lambda n, x: n.b(n.a(x).flatten(1) * float(x.mean() > -1)), CONV, nn.Linear(96, 7)),
        "b",
        7,
        (),
        "7",
    ),
}


def slowly(network: nn.Module, layer: str, image: Tensor) -> Tensor:
    """Return the output of ``layer`` for one image (C, H, W), without an axis for the image."""
    seen: list[Tensor] = []
    module, place = layer.partition("[")[::2]

    def hook(module: nn.Module, args: object, output: Tensor) -> None:
        seen.append(output[int(place[:-1])] if place else output)

    handle = network.get_submodule(module).register_forward_hook(hook)
    with torch.no_grad():
        network(image[None])
    handle.remove()
    return seen[0].squeeze([axis for axis, length in enumerate(seen[0].shape) if length == 1])


def layer_of(network: nn.Module, name: str) -> Layer:
    return find_layer(name, list_layers(network, (3, 16, 16)))


@pytest.mark.parametrize("kind", NETWORKS)
def test_one_value_per_image_and_unit(kind: str) -> None:
    network, name, count, positions, described = NETWORKS[kind]
    images = torch.rand(count, 3, 16, 16)
    layer = layer_of(network, name)
    assert layer.channels == count
    assert describe_axes(layer.shape, layer.unit_axis) == described
    outputs = [slowly(network, name, image) for image in images]
    means = torch.stack([output.mean(positions) if positions else output for output in outputs])
    found = dg.evaluate(network, dg.channel(name, range(count)), images)
    torch.testing.assert_close(found, means.diagonal())
    middle = means
    if positions:
        index = [length // 2 if axis in positions else slice(None) for axis, length in enumerate(outputs[0].shape)]
        middle = torch.stack([output[tuple(index)] for output in outputs])
    found = dg.evaluate(network, dg.neuron(name, range(count)), images)
    torch.testing.assert_close(found, middle.diagonal())
    with pytest.raises(ValueError, match=rf"its {count} units are 0-{count - 1}"):
        dg.evaluate(network, dg.channel(name, count), images[:1])


@pytest.mark.parametrize("kind", ["windows", "proposals in another order", "one image at a time", "lstm"])
def test_an_image_does_not_depend_on_its_batch(kind: str) -> None:
    network, name, count, *_ = NETWORKS[kind]
    how = {"size": 16, "steps": 4, "precision": "float32", "transform": "none"}
    together = dg.maximize(network, dg.channel(name, range(count)), **how)  # type: ignore[arg-type]
    alone = dg.maximize(network, dg.channel(name, 1), **how)  # type: ignore[arg-type]
    torch.testing.assert_close(together.images[1], alone.images[0], atol=1e-4, rtol=0)
    assert len(together.images) == count
    assert (together.history[-1] > together.history[0]).all()


def test_the_place_of_the_images() -> None:
    assert find_images((2, 5), (3, 5)) == Images(0)
    assert find_images((7, 2, 5), (7, 3, 5)) == Images(1)
    assert find_images((128, 49), (192, 49)) == Images(0, 64)
    for two, three in [((5, 5), (5, 5)), ((2, 2), (3, 3)), ((7, 5), (9, 5)), ((3, 5), (4, 5)), ((2, 5), (3, 5, 1))]:
        assert find_images(two, three) is None


def test_activations_keep_their_order_but_for_the_images_and_channels_last() -> None:
    shapes = {}
    for kind in ("conv1d", "tokens", "sequence first", "channels last", "windows", "conv3d", "proposals"):
        network, name, *_ = NETWORKS[kind]
        with torch.no_grad(), capture(network, [name]) as activations_of:
            shapes[kind] = tuple(activations_of(torch.rand(2, 3, 16, 16))[name].shape)
    assert shapes == {
        "conv1d": (2, 5, 14),
        "tokens": (2, 16, 7),
        "sequence first": (2, 16, 7),
        "channels last": (2, 6, 4, 4),
        "windows": (2, 9, 4, 16),
        "conv3d": (2, 4, 2, 14, 12),
        "proposals": (2, 4, 7),
    }


def test_tensors_in_tuples_dictionaries_and_dataclasses() -> None:
    class Several(nn.Module):
        def forward(self, image: Tensor) -> dict[str, object]:
            return {"wide": image * 2, "pair": (image * 3, [image * 4])}

    network = Network(lambda n, x: n.a(x)["wide"], Several())
    names = [layer.name for layer in list_layers(network, (3, 8, 8))]
    assert names == ["a[wide]", "a[pair][0]", "a[pair][1][0]"]
    image = torch.rand(2, 3, 8, 8)
    for name, times in {"a": 2, "a[pair][0]": 3, "a[pair][1][0]": 4}.items():
        torch.testing.assert_close(dg.activations(network, image, name)[name], image * times)
    network.input_shape = (3, 8, 8)  # type: ignore[assignment]
    assert dg.maximize(network, "channel(a[pair][0], 1)", steps=2).images.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("arrange", "unit_axis"),
    [
        (lambda x: x.flatten(2), 0),
        (lambda x: x.flatten(2).mT, 1),
        (lambda x: x.permute(0, 2, 3, 1), 2),
        (lambda x: x.permute(0, 3, 1, 2), 1),
        (lambda x: x.flatten(2).permute(2, 0, 1), 1),
    ],
)
def test_as_many_units_as_positions(arrange: Callable[[Tensor], Tensor], unit_axis: int) -> None:
    channels = 16 if arrange(torch.zeros(2, 3, 5, 7)).ndim == 3 else 4
    network = nn.Sequential(nn.Conv2d(3, channels, 8, stride=8), Does(arrange), nn.ReLU())
    for layer in list_layers(network, (3, 32, 32))[1:]:
        assert layer.unit_axis == unit_axis
    image = torch.rand(2, 3, 32, 32)
    found = dg.evaluate(network, dg.channel("2", 3), image)
    torch.testing.assert_close(found, network[0](image).relu()[:, 3].mean((1, 2)))
