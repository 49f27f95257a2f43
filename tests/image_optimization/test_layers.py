from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from dreamgram.image_optimization import trial
from dreamgram.image_optimization.layers import Layer, dry_run, find_layer, list_layers, smallest_size
from dreamgram.models import load


def columns_seen(network: nn.Module, names: Sequence[str], size: int) -> Iterator[tuple[int, int, int]]:
    """Find receptive fields by trial: the columns of the image that make the middle of each layer in ``names`` NaN.

    Yields their number, the first of them, and the position of the middle.
    """
    image = torch.rand(size, 3, 32, size)
    for column in range(size):
        image[column, :, :, column] = torch.nan
    seen: dict[str, Tensor] = {}
    for name in names:
        hook = partial(lambda name, module, args, output: seen.update({name: output}), name)
        network.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        network(image)
    for name in names:
        row, middle = (side // 2 for side in seen[name].shape[2:])
        columns = seen[name][:, :, row, middle].isnan().any(1).nonzero()[:, 0]
        yield len(columns), int(columns[0]), middle


def first_column(layer: Layer, position: int) -> float:
    """Return the column at which the receptive field of a position begins, according to ``layer``."""
    assert layer.start is not None
    assert layer.stride is not None
    return layer.start + layer.stride * position


def test_receptive_fields_of_vgg_by_trial() -> None:
    network = load("vgg16")
    fields = {"relu1_1": 3, "pool1": 6, "relu2_2": 14, "pool2": 16, "relu3_3": 40, "pool3": 44}
    layers = list_layers(network, (3, 128, 128))
    for name, (side, first, middle) in zip(fields, columns_seen(network, list(fields), 64), strict=True):
        told = find_layer(name, layers)
        assert told.receptive_field == side == fields[name], name
        assert first_column(told, middle) == first, name


def test_receptive_fields_of_a_residual_network_by_trial() -> None:
    network = torchvision.models.resnet18().eval()
    layers = list_layers(network, (3, 128, 128))
    names = ["conv1", "layer1.0", "layer2.0.conv2", "layer2.0", "layer2"]
    for name, (side, first, middle) in zip(names, columns_seen(network, names, 128), strict=True):
        told = find_layer(name, layers)
        assert told.receptive_field == side, name
        assert first_column(told, middle) == first, name


@pytest.mark.parametrize(
    "first",
    [
        nn.ZeroPad2d(3),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    ],
)
def test_receptive_fields_behind_padding_and_enlarging_by_trial(first: nn.Module) -> None:
    network = nn.Sequential(OrderedDict(first=first, second=nn.Conv2d(3, 4, 5), third=nn.Conv2d(4, 2, 3, stride=2)))
    told = find_layer("third", list_layers(network, (3, 32, 32)))
    [(side, first_seen, middle)] = columns_seen(network, ["third"], 32)
    start = first_column(told, middle)
    assert told.receptive_field is not None
    # An enlarged picture is seen by halves of pixels.
    assert start - 1 <= first_seen
    assert first_seen + side <= start + told.receptive_field + 1
    assert told.receptive_field <= side + 2


def test_what_sees_the_whole_image(digits: nn.Module) -> None:
    fields = {layer.name: layer.receptive_field for layer in list_layers(digits, (1, 28, 28))}
    assert fields == {"conv1": 3, "pool1": 4, "conv2": 8, "pool2": 10, "hidden": None, "logits": None}
    network = torchvision.models.mobilenet_v3_small()  # squeeze and excitation: a mean over all positions
    assert find_layer("features.1.block.1", list_layers(network, (3, 64, 64))).receptive_field is None
    vit = torchvision.models.vit_b_32()
    layers = list_layers(vit, (3, 224, 224))
    assert find_layer("conv_proj", layers).receptive_field == 32
    assert find_layer("encoder.layers.encoder_layer_0", layers).receptive_field is None


def test_layers_in_running_order_with_shapes(vgg16: nn.Module) -> None:
    layers = list_layers(vgg16, (3, 64, 48))
    assert [layer.name for layer in layers[:5]] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"]
    assert layers[-1].shape == (512, 2, 1)
    assert layers[-1].channels == 512
    assert layers[-1].kind == "MaxPool2d"


def test_without_following_the_fields_they_are_unknown(vgg16: nn.Module) -> None:
    for layer in dry_run(vgg16, torch.zeros(1, 3, 64, 64))[0]:
        assert (layer.receptive_field, layer.stride, layer.start) == (None, None, None)


def test_a_dry_run_leaves_no_trace() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    list_layers(network, (3, 8, 8))
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_that_cannot_run_on_shapes_alone_runs_for_real() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, image: Tensor) -> Tensor:
            features: Tensor = self.conv(image)
            return features * float(features.mean().item() >= -100)  # a shape has no value

    layers, failure = dry_run(Stubborn(), torch.zeros(1, 1, 8, 8))
    assert failure is None
    assert [layer.name for layer in layers] == ["conv"]


def test_an_output_without_a_batch_axis_has_the_shape_for_one_image() -> None:
    class Similarity(nn.Module):
        """Products of the images of a batch, (N, N)."""

        def forward(self, image: Tensor) -> Tensor:
            rows = image.flatten(1)
            return rows @ rows.T

    layers, _ = dry_run(nn.Sequential(nn.Conv2d(3, 2, 1), Similarity()), torch.zeros(1, 3, 8, 8))
    assert [layer.shape for layer in layers] == [(2, 8, 8), (1,)]


def test_a_layer_name_that_is_not_there() -> None:
    layers = list_layers(torchvision.models.resnet18(), (3, 64, 64))
    with pytest.raises(
        ValueError, match=r"no layer 'layer1\.0\.conv3'; did you mean 'layer1\.0\.conv.'\? there are conv1"
    ):
        find_layer("layer1.0.conv3", layers)
    with pytest.raises(ValueError, match=r"'layer1\.0\.relu' runs 2 times .*: layer1\.0\.relu:0, layer1\.0\.relu:1"):
        find_layer("layer1.0.relu", layers)


def test_the_smallest_size(vgg16: nn.Module) -> None:
    assert smallest_size(vgg16, ["relu1_1"]) == 1
    assert smallest_size(vgg16, ["relu4_2", "relu5_1"]) == 16
    assert smallest_size(vgg16, ["pool5"]) == 32
    with pytest.raises(ValueError, match="no layer 'relu6_1'; did you mean"):
        smallest_size(vgg16, ["relu6_1"])


def test_the_smallest_size_takes_few_passes(vgg16: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    real = trial.try_out

    def counting(model: nn.Module, image: Tensor, *how: Any, **more: Any) -> trial.Trial:
        tried.append(image.shape[2])
        return real(model, image, *how, **more)

    monkeypatch.setattr(trial, "try_out", counting)
    monkeypatch.setattr("dreamgram.image_optimization.layers.try_out", counting)
    assert smallest_size(vgg16, ["relu5_1"]) == 16
    assert len(tried) == len(set(tried)) + 2  # one pass for each size, but three for the size of the network
    assert len(tried) < 12


def test_the_smallest_size_if_a_batch_has_other_layers() -> None:
    class Twice(nn.Module):
        """A network that calls a layer once more for a batch of several images."""

        input_shape = (3, 64, 64)

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 3)

        def forward(self, image: Tensor) -> Tensor:
            output: Tensor = self.second(self.first(image))
            return output if len(image) == 1 else self.second(output)

    assert smallest_size(Twice(), ["second:1"]) == 9


def test_an_image_that_does_not_pass(digits: nn.Module, vgg16: nn.Module) -> None:
    with pytest.raises(ValueError, match="an image of 64x64 pixels and 1 channel does not pass through DigitCNN"):
        list_layers(digits, (1, 64, 64))
    with pytest.raises(ValueError, match="an image of 8x8 pixels and 3 channels does not pass through VGG"):
        list_layers(vgg16, (3, 8, 8))
    # PyTorch words its message differently when it only computes shapes, as for this image of 8 GB.
    with pytest.raises(ValueError, match="an image of 46000x46000 pixels and 1 channel does not pass through DigitCNN"):
        list_layers(digits, (1, 46_000, 46_000))
    with pytest.raises(ValueError, match="a number in shape must be at least 1, not -5"):
        list_layers(vgg16, (3, -5, 9))
    with pytest.raises(TypeError, match="a number in shape must be a whole number, not 'a'"):
        list_layers(vgg16, ("a", 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape must have at most 2147483647 elements, not \(3, 1000000000, 9\)"):
        list_layers(vgg16, (3, 10**9, 9))
