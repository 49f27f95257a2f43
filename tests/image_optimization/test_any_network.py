"""Networks of many kinds, under many settings: they work, or one line says what is the matter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import dreamgram as dg
from dreamgram.image_optimization.capture import capture
from dreamgram.image_optimization.layers import list_layers
from tests.modules import Does


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    network.append(nn.Linear(4, 5))
    network.input_shape = (3, 16, 16)  # type: ignore[assignment]
    return network.eval()


def compiled() -> nn.Module:
    network = plain()
    network.compile()
    return network


class Runs(nn.Module):
    """A network with the layers ``a`` and ``b`` and a function that runs them."""

    input_shape = (3, 16, 16)

    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.run = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), run

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.run(self, *args, **kwargs)


def made(network: nn.Module, layer: str, **how: Any) -> dg.Dreams:
    settings: dict[str, Any] = {"steps": 4, "precision": "float32", "transform": "none", **how}
    return dg.maximize(network, dg.channel(layer, [0, 1]), **settings)


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "half": lambda: plain().half(),
    "bfloat16": lambda: plain().bfloat16(),
    "double": lambda: plain().double(),
    "DataParallel": lambda: nn.DataParallel(plain()),
    "compiled": lambda: torch.compile(plain()),  # type: ignore[dict-item, return-value]
    "compiled in place": compiled,
    "both": lambda: nn.DataParallel(torch.compile(plain())),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("layer", ["3", "6"])
def test_networks_in_other_forms_give_the_same_pictures(kind: str, layer: str) -> None:
    wanted = made(plain(), layer)
    network = WRAPPED[kind]()
    types = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    found = made(network, layer)
    assert found.images.dtype == found.activations.dtype == torch.float32
    assert (found.images - wanted.images).abs().mean() < 0.02
    assert {name: tensor.dtype for name, tensor in network.state_dict().items()} == types
    assert [each.name for each in list_layers(network, (3, 16, 16))] == list("0123456")


def test_names_with_the_prefix_of_a_wrapper() -> None:
    network = nn.DataParallel(plain())
    images = torch.rand(1, 3, 16, 16)
    found = dg.evaluate(network, dg.channel("module.3", 1), images)
    assert torch.equal(found, dg.evaluate(plain(), "channel(3, 1)", images))


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "double": nullcontext,
    "device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_settings_of_the_caller_change_nothing(
    setting: str, photo: Tensor, painting: Tensor, vgg16: nn.Module
) -> None:
    network, images = plain(), torch.rand(2, 3, 16, 16)
    short: dict[str, Any] = {
        "size": 32,
        "steps": 2,
        "content_layers": {"relu1_2": 1.0},
        "style_layers": {"relu1_1": 1.0},
    }

    def results() -> list[Tensor]:
        stylized = dg.stylize(photo, [painting], model=vgg16, precision="float32", **short)
        again = dg.maximize(network, "channel(3, 1)", init=images[:1] * 1, steps=2, precision="float32")
        return [made(network, "3").images, dg.activations(network, images, "3")["3"], stylized.image, again.images]

    wanted = results()
    torch.set_default_dtype(torch.float64 if setting == "double" else torch.float32)
    try:
        with SETTINGS[setting]():
            found = results()
            assert torch.get_default_dtype() == (torch.float64 if setting == "double" else torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
    for mine, other in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, other)


def test_a_double_network_with_double_tensors_of_its_own() -> None:
    network = Runs(lambda n, x: n.b(n.a(x) * torch.linspace(0, 1, 14))).double()
    torch.set_default_dtype(torch.float64)
    try:
        assert made(network, "b").images.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def write_by_index(network: Runs, image: Tensor) -> Tensor:
    features = network.a(image)
    copy = torch.zeros(features.shape)
    copy[:, torch.arange(4)] = features
    result: Tensor = network.b(copy)
    return result


def test_float32_where_bfloat16_does_not_go_through(caplog: pytest.LogCaptureFixture) -> None:
    network = Runs(write_by_index)
    exact = made(network, "b").images
    for _ in range(2):
        assert torch.equal(made(network, "b", precision="bfloat16").images, exact)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("Runs does not run in bfloat16 (Index put requires")


def quantized() -> nn.Module:
    network: nn.Module = torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear})
    return network


def loses(network: Runs, image: Tensor) -> Tensor:
    network.a(image)
    raise KeyError("tokenizer")


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "scripted": (lambda: torch.jit.script(plain()), "3", "Sequential is a TorchScript program, whose layers cannot be"),
    "traced": (lambda: torch.jit.trace(plain(), torch.rand(1, 3, 16, 16)), "3", "Sequential is a TorchScript program"),
    "without weights": (lambda: plain().to("meta"), "3", "Sequential has no weights"),
    "two inputs": (lambda: Runs(lambda n, x, y: n.a(x) + y), "a", "missing 1 required positional argument: 'y'"),
    "its own error": (
        lambda: Runs(loses),
        "b",
        "Runs does not run beyond a, so b cannot be reached: KeyError",
    ),
    "quantized": (quantized, "6", "no gradient passes back from 6"),
    "ends the program": (lambda: Runs(lambda n, x: sys.exit(7)), "a", "it ends the program with sys.exit"),
    "under vmap": (lambda: Runs(lambda n, x: torch.vmap(n.a)(x[:, None])[:, 0]), "a", "no layer 'a'"),
    "without modules": (lambda: Runs(lambda n, x: x * 2), "a", "no layer 'a': a forward pass calls no modules"),
    "reentrant": (
        lambda: Runs(lambda n, x: n.b(checkpoint(n.a, x, use_reentrant=True))),
        "b",
        "no gradient passes back from b: When use_reentrant=True",
    ),
    "inside reentrant": (
        lambda: Runs(lambda n, x: n.b(checkpoint(n.a, x, use_reentrant=True))),
        "a",
        "no gradient passes back from a",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_work_ends_in_one_line(kind: str) -> None:
    build, layer, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as raised:
        made(build(), layer)
    assert "\n" not in str(raised.value)
    assert "pixels" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")
def test_layers_before_what_does_not_work() -> None:
    for kind, layer in {"quantized": "3", "its own error": "a"}.items():
        history = made(REFUSED[kind][0](), layer).history
        assert (history[-1] > history[0]).all()
    free = Runs(lambda n, x: n.b(checkpoint(n.a, x, use_reentrant=False)))
    assert len(made(free, "b").images) == 2


def test_a_network_that_squeezes_the_axis_of_a_single_image_away() -> None:
    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, image: Tensor) -> Tensor:
            result: Tensor = self.fc(self.conv(image).mean((2, 3)).squeeze())
            return result

    network, images = Squeezing(), torch.rand(3, 3, 8, 8)
    together, alone = (dg.activations(network, some, ["fc"])["fc"] for some in (images, images[:1]))
    assert (together.shape, alone.shape) == ((3, 5), (1, 5))
    torch.testing.assert_close(together[:1], alone)
    assert dg.maximize(network, dg.channel("fc", 1), size=8, steps=2).images.shape == (1, 3, 8, 8)


class Recurrent(nn.Module):
    """A recurrent network that takes the batch for a sequence, because ``batch_first`` was forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 6)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = values + self.gru(values.flatten(1, 2))[0].view_as(values)
        return result


def shifted(values: Tensor) -> Tensor:
    return values + torch.cat([torch.zeros_like(values[:1]), values[:-1]])


MIXING = {
    "statistics of the batch": nn.BatchNorm2d(4, track_running_stats=False),
    "behind another normalization": nn.Sequential(
        nn.GroupNorm(1, 4), nn.ReLU(), nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "with random numbers": nn.Sequential(
        Does(lambda values: nn.functional.dropout(values, 1e-6)), nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "a little of the mean": Does(lambda values: values + 0.01 * values.mean(0)),
    "the batch as a sequence": Recurrent(),
    "sums of the images before": Does(lambda values: values.cumsum(0)),
    "next to the image before": Does(shifted),
    "next to the image after next": Does(lambda values: values + values.roll(2, 0)),
    "without the mean": Does(lambda values: values - values.mean(0)),
    "relative to the maximum": Does(lambda values: values / values.max()),
    "softmax over the images": Does(lambda values: values.softmax(0)),
    "next to its neighbor": Does(lambda values: values + values.roll(1, 0)),
}


@pytest.mark.parametrize("kind", MIXING)
def test_a_network_that_mixes_the_images_of_a_batch_gets_one_at_a_time(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), MIXING[kind], nn.Conv2d(4, 4, 3))
    images = torch.rand(3, 3, 8, 8)
    together, alone = (dg.activations(network, some, ["2"])["2"] for some in (images, images[:1]))
    assert torch.equal(together[:1], alone)
    how: dict[str, Any] = {"size": (3, 8, 8), "steps": 3, "precision": "float32"}
    both, one = (dg.maximize(network, dg.channel("2", units), **how) for units in ([1, 2], 1))
    assert torch.equal(both.images[:1], one.images)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("of", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention, nn.GRU])
def test_the_axis_of_a_sequence_shows_whether_it_mixes_images(of: Any, apart: bool) -> None:
    """A layer of PyTorch that declares its axes needs no test with gradients if the first axis is the batch."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Conv2d(3, 4, 2, 2)
            self.part = nn.GRU(4, 4, batch_first=apart) if of is nn.GRU else of(4, 2, batch_first=apart)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.tokens(images).flatten(2).mT
            times = {nn.MultiheadAttention: 3, nn.TransformerDecoderLayer: 2}.get(of, 1)
            result = self.part(*[tokens] * times)
            return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]

    Attending.__module__ = "torchvision.models"
    torch.manual_seed(0)
    network = Attending().eval()
    images = torch.rand(3, 3, 8, 8)
    with capture(network, ["part[0]" if of in (nn.GRU, nn.MultiheadAttention) else "part"]) as activations_of:
        together = next(iter(activations_of(images).values()))
        assert activations_of.singly == (not apart)
        alone = next(iter(activations_of(images[:1]).values()))
    torch.testing.assert_close(together[:1], alone)


def test_noise_does_not_look_like_other_images() -> None:
    torch.manual_seed(0)
    passes: list[int] = []

    def noisy(values: Tensor) -> Tensor:
        passes.append(len(values))
        return values + torch.randn_like(values)

    network = nn.Sequential(nn.Conv2d(3, 4, 3), Does(noisy), nn.Conv2d(4, 4, 3))
    dg.activations(network, torch.rand(5, 3, 8, 8), ["2"])
    assert 1 not in passes


def test_what_a_network_keeps_while_gradients_are_computed_is_put_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.count = nn.Conv2d(3, 4, 3), 1

        def forward(self, images: Tensor) -> Tensor:
            values: Tensor = self.conv(images)
            if values.requires_grad:
                self.count += 1
            return values * self.count

    torch.manual_seed(0)
    network = nn.Sequential(Counting(), nn.ReLU())
    how: dict[str, Any] = {"size": (3, 8, 8), "steps": 4, "precision": "float32"}
    for compile in (False, True):
        both, one = (dg.maximize(network, dg.channel("1", units), compile=compile, **how) for units in ([1, 2], 1))
        torch.testing.assert_close(both.images[:1], one.images)
        assert network[0].count == 1


@pytest.mark.parametrize("text", ["share() * share()", "-sparing()"])
def test_a_share_of_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="has a share, but no term that depends on the network"):
        dg.maximize(dg.load("digits"), text, steps=2)


def test_weights_without_shapes() -> None:
    with pytest.raises(ValueError, match="the weights of Sequential have no shapes yet: call it with an image first"):
        dg.maximize(nn.Sequential(nn.LazyConv2d(4, 3)), dg.channel("0", 1), size=8, steps=1)


def test_a_network_without_gradients_can_still_be_looked_at() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        @torch.inference_mode()
        def forward(self, image: Tensor) -> Tensor:
            result: Tensor = self.conv(image)
            return result

    assert dg.activations(Frozen(), torch.rand(2, 3, 8, 8), ["conv"])["conv"].shape == (2, 4, 6, 6)
    with pytest.raises(ValueError, match="no gradient passes back from conv"):
        dg.maximize(Frozen(), dg.channel("conv", 1), size=8, steps=1)
