"""Slips that people make: accepted where the meaning is clear, else refused in one line that says what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dreamgram as dg
from dreamgram.activation_maximization.deep_dream import amplify
from dreamgram.activation_maximization.gradient_ascent import accentuate, maximize
from dreamgram.activation_maximization.objectives import Objective, channel, direction, logit
from dreamgram.activation_maximization.regularizers import pixel_sum
from dreamgram.image_optimization.optimize import Step
from dreamgram.models.digits import digit_sample

DIGIT = digit_sample()[0][250:251]
FEW: dict[str, Any] = {"steps": 2, "transform": "none"}


def same(first: Any, second: Any) -> bool:
    return torch.equal(first.images, second.images)


def test_an_objective_as_text(digits: nn.Module) -> None:
    expected = maximize(digits, logit(range(10)) - pixel_sum(), **FEW)
    assert same(maximize(digits, "logit(0-9) - pixel_sum()", **FEW), expected)
    assert same(maximize(digits, "logit(all) - pixel_sum()", **FEW), expected)
    assert dg.evaluate(digits, "logit(3)", DIGIT).tolist() == dg.evaluate(digits, logit(3), DIGIT).tolist()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no unit 25 in layer 'conv1': its 25 units are 0-24"):
        maximize(digits, "channel(conv1, 20-25)")


def test_arguments_in_another_order(digits: nn.Module) -> None:
    assert same(maximize(logit(3), digits, **FEW), maximize(digits, logit(3), **FEW))  # type: ignore[arg-type]


def test_sizes() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    expected = maximize(network, channel("1", 0), size=(20, 24), **FEW)
    sizes = ([20, 24], (1, 20, 24), (1, 1, 20, 24), (20.0, 24.0), torch.Size([20, 24]), np.array([20, 24]))
    for size in (*sizes, torch.tensor([20, 24])):
        assert same(maximize(network, channel("1", 0), size=size, **FEW), expected)  # type: ignore[arg-type]
    for one in (16.0, np.int64(16), torch.tensor(16)):
        assert maximize(network, channel("1", 0), size=one, **FEW).images.shape == (1, 1, 16, 16)  # type: ignore[arg-type]


def test_one_image_without_a_batch_dimension(digits: nn.Module, vgg16: nn.Module, photo: Tensor) -> None:
    expected = maximize(digits, logit(3), init=DIGIT, **FEW)
    assert same(maximize(digits, logit(3), init=DIGIT[0], **FEW), expected)
    assert torch.equal(dg.evaluate(digits, logit(3), DIGIT[0]), dg.evaluate(digits, logit(3), DIGIT))
    shallow = dg.deepdream("relu1_1")
    assert same(
        amplify(vgg16, shallow, photo[0], octaves=1, steps=1), amplify(vgg16, shallow, photo, octaves=1, steps=1)
    )


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "bytes": lambda image: (255 * image).round().byte(),
    "array": lambda image: np.asarray(dg.images.to_pillow(image)),
    "array with a channel": lambda image: np.asarray(dg.images.to_pillow(image))[:, :, None],
    "color": lambda image: np.asarray(dg.images.to_pillow(image).convert("RGBA")),
    "Pillow": dg.images.to_pillow,
    "double": lambda image: image[0, 0].double().numpy(),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_in_other_forms(form: str, digits: nn.Module) -> None:
    image, given = (255 * DIGIT).round() / 255, FORMS[form](DIGIT)
    image = image if form != "double" else DIGIT
    close = {"rtol": 1e-4, "atol": 1e-4}
    made = maximize(digits, logit(3), init=given, **FEW).images
    torch.testing.assert_close(made, maximize(digits, logit(3), init=image, **FEW).images, **close)
    value = dg.evaluate(digits, logit(3), image)
    torch.testing.assert_close(dg.evaluate(digits, logit(3), given), value, **close)
    torch.testing.assert_close(dg.activations(digits, given, "logits")["logits"][:, 3], value, **close)
    for make in (dg.match, dg.caricature):
        expected = dg.evaluate(digits, make("conv1", image), image)
        torch.testing.assert_close(dg.evaluate(digits, make("conv1", given), image), expected, **close)
    both = dg.match("conv1", given) + dg.match("conv2", given)  # the same photo, which was converted twice
    expected = maximize(digits, dg.match("conv1", image) + dg.match("conv2", image), **FEW).images
    torch.testing.assert_close(maximize(digits, both, **FEW).images, expected, **close)
    [[best]] = dg.top_examples(digits, "logits", [3], [given])
    assert best.activation == pytest.approx(value.item(), rel=1e-4)


def test_a_photo_gets_the_channels_of_the_network(vgg16: nn.Module, photo: Tensor) -> None:
    gray = (photo[:, :1] * 255).byte()
    color = (gray / 255).expand(1, 3, -1, -1)
    for given in (gray, gray[0, 0].numpy(), dg.images.to_pillow(gray / 255)):
        made = maximize(vgg16, dg.match("relu1_1", given) - dg.l2(1), init=given, **FEW)
        assert same(made, maximize(vgg16, dg.match("relu1_1", color) - dg.l2(1), init=color, **FEW))
        deep = amplify(vgg16, "deepdream(relu1_1)", given, octaves=1, steps=1)
        assert same(deep, amplify(vgg16, "deepdream(relu1_1)", color, octaves=1, steps=1))
        accentuate(vgg16, "relu2_1", 3, given, near="relu1_1")


def test_channels_are_not_guessed() -> None:
    """A network that declares no input shape may take other channels than its first convolution."""

    class Depth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.color, self.depth = nn.Conv2d(3, 2, 3), nn.Conv2d(1, 2, 3)

        def forward(self, image: Tensor) -> Any:
            return self.color(image[:, :3]) + self.depth(image[:, 3:])

    image = torch.rand(1, 4, 9, 9)
    network = Depth()
    expected = network.depth(image[:, 3:])[:, 1].mean((1, 2))
    torch.testing.assert_close(dg.evaluate(network, channel("depth", 1), image), expected)

    class HeadFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Conv2d(8, 2, 1), nn.Conv2d(3, 8, 3)

        def forward(self, image: Tensor) -> Any:
            return self.head(self.body(image))

    levels = np.full((9, 9, 3), 255, np.uint8)
    other = HeadFirst()
    found = dg.evaluate(other, channel("head", 1), levels)
    assert torch.equal(found, dg.evaluate(other, channel("head", 1), torch.ones(1, 3, 9, 9)))


def test_photos_are_checked_when_they_are_given() -> None:
    for make, name in ((dg.match, "match of conv1"), (dg.caricature, "caricature in conv1")):
        with pytest.raises(ValueError, match=f"the photo of {name} must be in"):
            make("conv1", DIGIT * 255)
    mine = Objective("mine", frozenset(["conv1"]), lambda seen: seen["conv1"].sum((1, 2, 3)), photo=DIGIT * 255)
    with pytest.raises(ValueError, match="the photo of mine must be in"):
        maximize(dg.load("digits"), mine, steps=1)
    with pytest.raises(ValueError, match="compare with different photos"):
        dg.match("conv1", DIGIT) + dg.match("conv1", 1 - DIGIT)


def test_a_direction_from_numpy() -> None:
    vector, seen = np.linspace(-1, 1, 5), {"conv": torch.rand(2, 5, 3, 3)}
    expected = direction("conv", torch.from_numpy(vector))
    for given in (vector, vector.tolist()):
        assert torch.equal(direction("conv", given)(seen), expected(seen))


def test_objectives_that_were_made_elsewhere(digits: nn.Module) -> None:
    """Their constants are made in inference mode, or while another device is the default."""
    expected = maximize(digits, direction("logits", torch.arange(10.0)), **FEW)
    channels = maximize(digits, channel("conv1", [0, 1]), **FEW)
    with torch.inference_mode():
        vector = torch.arange(10.0)
        inside = direction("logits", vector)
        inner = channel("conv1", [0, 1])
    assert same(maximize(digits, direction("logits", vector), **FEW), expected)
    assert same(maximize(digits, inside, **FEW), expected)
    assert same(maximize(digits, inner, **FEW), channels)
    with torch.device("meta"):
        elsewhere = direction("logits", np.arange(10.0).tolist())
    assert same(maximize(digits, elsewhere, **FEW), expected)


@pytest.mark.parametrize(
    ("given", "units"),
    [
        (range(2), [0, 1]),
        (np.arange(2), [0, 1]),
        (torch.arange(2), [0, 1]),
        (np.array([0.0, 1.0]), [0, 1]),
        (3.0, [3]),
        (np.int32(3), [3]),
        (np.array(3), [3]),
        (torch.tensor(3), [3]),
    ],
)
def test_units_in_other_forms(given: Any, units: list[int], digits: nn.Module) -> None:
    for make in (logit, partial(channel, "conv2"), partial(dg.neuron, "conv2"), dg.log_odds):
        assert make(given).units == tuple(units)  # type: ignore[operator]
    found = dg.top_examples(digits, "conv2", given, [DIGIT])
    assert [best[0].activation for best in found] == [
        dg.activations(digits, DIGIT, "conv2")["conv2"][0, unit].max().item() for unit in units
    ]


def test_positions_in_other_forms(digits: nn.Module) -> None:
    expected = dg.evaluate(digits, dg.neuron("conv2", 3, (4, 5)), DIGIT)
    for position in ([4, 5], np.array([4, 5]), torch.tensor([4.0, 5.0])):
        assert torch.equal(dg.evaluate(digits, dg.neuron("conv2", 3, position), DIGIT), expected)  # type: ignore[arg-type]
    tokens = nn.Sequential(nn.Unflatten(3, (4, 7)), nn.Flatten(1, 3), nn.Linear(7, 5))
    one = dg.evaluate(tokens, dg.neuron("2", 3, 5), DIGIT)  # type: ignore[arg-type]
    assert torch.equal(one, dg.evaluate(tokens, dg.neuron("2", 3, (5,)), DIGIT))


def test_layers_as_modules(digits: nn.Module) -> None:
    assert list(dg.activations(digits, DIGIT, digits.conv1)) == ["conv1"]  # type: ignore[arg-type]
    assert list(dg.activations(digits, DIGIT, [digits.conv1, "conv2"])) == ["conv1", "conv2"]  # type: ignore[list-item]
    expected = dg.top_examples(digits, "conv2", [3], [DIGIT])
    [[found]] = dg.top_examples(digits, digits.conv2, 3, [DIGIT])  # type: ignore[call-overload]
    assert torch.equal(found.patch, expected[0][0].patch)
    assert list(dg.top_examples(digits, [digits.conv2], [3], [DIGIT])) == ["conv2"]
    with dg.capture(digits, "conv1") as activations_of:
        assert list(activations_of(DIGIT)) == ["conv1"]
    mine = Objective("mine", "conv1", lambda seen: seen["conv1"].mean((1, 2, 3)))  # type: ignore[arg-type]
    assert mine.layers == frozenset(["conv1"])
    for wrong, message in (
        (nn.Conv2d(1, 2, 3), "a layer is the name of a module of the network, not a Conv2d that is not in it"),
        (3, "a layer is the name of a module of the network, not int"),
        (DIGIT, "a layer is the name of a module of the network, not Tensor"),
    ):
        with pytest.raises(TypeError, match=message):
            dg.activations(digits, DIGIT, [wrong])  # type: ignore[list-item]
        with pytest.raises(TypeError, match=message):
            dg.top_examples(digits, [wrong], [0], [DIGIT])  # type: ignore[list-item]


def test_numbers_and_options_in_other_forms(digits: nn.Module) -> None:
    expected = maximize(digits, logit([3, 7]), seed=3, batch=1, precision="float32", **FEW)
    for three, two, one in ((3.0, 2.0, 1.0), (np.int64(3), np.int32(2), np.int8(1)), map(torch.tensor, (3, 2, 1))):
        how: dict[str, Any] = {"seed": three, "steps": two, "batch": one, "listeners": None}
        made = maximize(digits, logit([3, 7]), precision=torch.float32, transform="none", **how)  # type: ignore[arg-type]
        assert same(made, expected)
    image = maximize(digits, logit(3), steps=2, transform=[dg.robust(), dg.robust()])
    for transform in (["robust", "robust"], [dg.robust, dg.robust()], (dg.robust, "robust()")):
        assert same(maximize(digits, logit(3), steps=2, transform=transform), image)  # type: ignore[arg-type]
    assert torch.equal(dg.evaluate(digits, DIGIT, logit(3)), dg.evaluate(digits, logit(3), DIGIT))  # type: ignore[arg-type]


def test_transforms_and_parameterizations(digits: nn.Module) -> None:
    def flip(images: Tensor) -> Tensor:
        return images.flip(3)

    def shift(images: Tensor) -> Tensor:
        return images.roll(3, dims=3)

    expected = maximize(digits, logit(3), steps=2, transform=lambda images: shift(flip(images)))
    assert same(maximize(digits, logit(3), steps=2, transform=[flip, shift]), expected)
    identity = maximize(digits, logit(3), steps=2, transform=lambda images: images)
    assert same(maximize(digits, logit(3), steps=2, transform=[]), identity)
    assert same(maximize(digits, logit(3), steps=2, transform="none"), identity)
    phases = maximize(digits, logit(3), parameterization=dg.PhaseImage, **FEW)
    assert same(maximize(digits, logit(3), parameterization="phases", **FEW), phases)


def test_one_listener(digits: nn.Module) -> None:
    steps: list[Step] = []
    maximize(digits, logit(3), listeners=steps.append, **FEW)
    assert [step.number for step in steps] == [1, 2]


def test_an_objective_is_divided_by_a_number(digits: nn.Module) -> None:
    half = dg.evaluate(digits, logit(3) / 2, DIGIT).item()
    assert half == pytest.approx(dg.evaluate(digits, logit(3), DIGIT).item() / 2)
    assert str(np.float64(2) * logit(3)) == "(2 * logits:3)"
    with pytest.raises(ValueError, match="logits:3 cannot be divided by 0"):
        logit(3) / 0
    with pytest.raises(TypeError, match="divided by a number, not by another objective: logits:3 / logits:4"):
        logit(3) / logit(4)  # type: ignore[operator]
    for other, told in (
        ("conv2", "'conv2'"),
        (None, "None"),
        (dg.sparing, "the function sparing, which must be called"),
        (torch.ones(30, 30), r"tensor\(\[\[1., 1.,.*\.\.\."),
    ):
        with pytest.raises(TypeError, match=f"combined with objectives and numbers, not with {told}") as raised:
            logit(3) + other  # type: ignore[operator]
        assert "\n" not in str(raised.value)


FLAT = nn.Sequential(nn.Flatten())

MADE_WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "layer and unit swapped": (lambda: channel(3, "conv2"), "a layer is given by its name, .* not as int"),  # type: ignore[arg-type]
    "list of layers": (lambda: dg.deepdream(["conv1"]), "a layer is given by its name, .* not as list"),  # type: ignore[arg-type]
    "name of a class": (lambda: logit("cat"), "a unit must be a whole number, not 'cat'"),  # type: ignore[arg-type]
    "half a unit": (lambda: channel("conv2", 2.5), "a unit must be a whole number, not 2.5"),  # type: ignore[arg-type]
    "mask of units": (lambda: channel("conv2", np.array([True])), "a unit must be a whole number, not .*True"),
    "all units": (lambda: channel("conv2", "all"), "a unit must be a whole number, not 'all'"),  # type: ignore[arg-type]
    "position as text": (lambda: dg.neuron("conv2", 3, "2,2"), "a position must be a whole number, not '2,2'"),
    "half a position": (lambda: dg.neuron("conv2", 3, (2.5, 1)), "a position must be a whole number"),  # type: ignore[arg-type]
    "no direction": (lambda: direction("conv2", None), "a direction is a vector of numbers, not NoneType"),  # type: ignore[arg-type]
    "direction and layer swapped": (lambda: direction(np.ones(50), "conv2"), "a layer is given by its name"),  # type: ignore[arg-type]
    "direction of nan": (lambda: direction("conv2", np.full(50, np.nan)), "'conv2' has numbers that are not finite"),
    "photo and layer swapped": (lambda: dg.match(DIGIT, "conv1"), "a layer is given by its name, .* not as Tensor"),  # type: ignore[arg-type]
    "images as text": (
        lambda: dg.diversity("conv1", "4"),
        "the number of images of diversity must be a whole number, not '4'",
    ),  # type: ignore[arg-type]
    "power as text": (lambda: dg.caricature("conv1", DIGIT, "4"), "power must be a number, not '4'"),  # type: ignore[arg-type]
    "ramp of texts": (lambda: dg.ramp("0", 1), "start must be a number, not '0'"),  # type: ignore[arg-type]
    "weight as text": (lambda: dg.total_variation("10"), "weight must be a number, not '10'"),  # type: ignore[arg-type]
    "infinite weight": (lambda: dg.blur(np.inf), "weight must be a finite number, not inf"),
    "objective's parts swapped": (
        lambda: Objective(frozenset(["conv1"]), "mine", len),  # type: ignore[arg-type]
        "an Objective has a name, the names of its layers and a function .* not frozenset, str and .*len",
    ),
    "one zoom": (lambda: dg.robust(scale=1.1), r"scale must be two factors such as \(0.85, 1.15\), not 1.1"),  # type: ignore[arg-type]
    "no zoom": (lambda: dg.robust(scale=(0, 1)), r"scale must be above 0, not \(0, 1\)"),
    "degrees as text": (lambda: dg.robust("5"), "degrees must be a number, not '5'"),  # type: ignore[arg-type]
    "no text": (lambda: dg.parse_objective(logit(3)), "an expression is text, such as .* not Objective"),  # type: ignore[arg-type]
    "tensor to optimize": (lambda: dg.optimize(DIGIT, len, steps=1), "optimize needs images such as .* not Tensor"),  # type: ignore[arg-type]
    "no loss": (lambda: dg.optimize(dg.PixelImage(DIGIT), None, steps=1), "a function of them, not NoneType"),  # type: ignore[arg-type]
    "shape of layers": (lambda: dg.list_layers(nn.Flatten(), 28), r"shape must be .*\(C, H, W\) .*, not 28"),  # type: ignore[arg-type]
    "size of layers": (lambda: dg.list_layers(nn.Flatten(), (28, 28)), r"shape must be .*, not \(28, 28\)"),
    "pictures": (lambda: dg.top_examples(FLAT, "1", 0, 3), "pictures must be a folder, .*, not int"),  # type: ignore[call-overload]
    "no units": (lambda: dg.top_examples(FLAT, "1", [], [DIGIT]), "no units given"),
    "no examples": (lambda: dg.top_examples(FLAT, "1", [0], [DIGIT], 0), "count must be at least 1, not 0"),
    "units of one layer": (
        lambda: dg.top_examples(FLAT, ["1", "2"], {"1": [0]}, [DIGIT]),
        "units must have an entry for every layer, and there is none for '2'",
    ),
    "no layer": (lambda: dg.top_examples(FLAT, [], [0], [DIGIT]), "no layer given: layer must be the name"),
    "units of a strange module": (
        lambda: dg.top_examples(FLAT, ["0"], {nn.ReLU(): [0]}, [DIGIT]),
        "a layer is the name of a module of the network, not a ReLU that is not in it",
    ),
    "a single module": (
        lambda: maximize(nn.Conv2d(1, 2, 3), channel("0", 1), **FEW),
        r"Conv2d is a single module and has no layers inside: wrap it, as in nn.Sequential\(model\)",
    ),
    "layers of a single module": (
        lambda: dg.activations(nn.DataParallel(nn.Conv2d(1, 2, 3)), DIGIT, "0"),
        "Conv2d is a single module and has no layers inside",
    ),
    "octaves": (lambda: amplify(FLAT, logit(3), DIGIT, octaves=1.5), "octaves must be a whole number"),  # type: ignore[arg-type]
    "ratio": (lambda: amplify(FLAT, logit(3), DIGIT, ratio=np.nan), "ratio must be a finite number"),
}


@pytest.mark.parametrize("name", MADE_WRONG)
def test_what_is_made_wrong_is_told_in_one_line(name: str) -> None:
    make, message = MADE_WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "state_dict": ({"model": {"conv.weight": torch.rand(1)}}, TypeError, "model is a state_dict: load it into"),
    "name of a network": (
        {"model": "digits"},
        TypeError,
        r"model must be a torch.nn.Module, such as load\('digits'\), not",
    ),
    "function": (
        {"objective": lambda seen: 0},
        TypeError,
        "objective must be an Objective, .* not the function <lambda>",
    ),
    "not called": ({"objective": channel}, TypeError, "not the function channel, which must be called"),
    "number": ({"objective": 3}, TypeError, "objective must be an Objective, .* not int"),
    "fraction of a pixel": (
        {"size": 28.5},
        TypeError,
        r"size must be a number of pixels, or \(height, width\), not 28.5",
    ),
    "text": ({"size": "28x28"}, TypeError, "size must be a number of pixels"),
    "channels": ({"size": (3, 28, 28)}, ValueError, "has 3 channels, but the network takes 1"),
    "no pixels": ({"size": 0}, ValueError, "size must be at least 1 pixel"),
    "long": ({"init": (DIGIT * 255).long()}, TypeError, r"init must hold fractions in \[0, 1\], uint8, .* not int64"),
    "0-255": (
        {"init": DIGIT * 255},
        ValueError,
        r"init must be in \[0, 1\], but goes from 0 to 25[45].*divide values in 0-255 by 255",
    ),
    "normalized": ({"init": (DIGIT - 0.13) / 0.31}, ValueError, "do not normalize"),
    "not a number": ({"init": DIGIT / 0}, ValueError, r"init must be in \[0, 1\]"),
    "flat": (
        {"init": DIGIT.flatten()},
        ValueError,
        r"init must be \(N, C, H, W\), or .* for one image, .*not \(784,\)",
    ),
    "transform": ({"transform": 3}, TypeError, "transform must be a function of images, or a list of them, not int"),
    "transform in a list": ({"transform": [3]}, TypeError, "transform must be a function of images, .* not int"),
    "progress": ({"listeners": dg.progress("it")}, TypeError, r"write `with progress\(...\) as bar`, and give bar"),
    "Boolean size": ({"size": True}, TypeError, "size must be a number of pixels"),
    "several shapes": ({"size": (2, 1, 20, 24)}, TypeError, "size must be a number of pixels"),
    "class": ({"model": nn.Conv2d}, TypeError, "model must be .* not the class Conv2d, which must be called"),
    "steps": ({"steps": 2.5}, TypeError, "steps must be a whole number, not 2.5"),
    "many steps": ({"steps": 10**20}, ValueError, "steps must be at most 2147483647, not 1000"),
    "huge size": ({"size": 10**9}, ValueError, "size must be at most 2147483647 pixels in all, not 1000000000 x 1"),
    "Boolean steps": ({"steps": True}, TypeError, "steps must be a whole number, not True"),
    "seed": ({"seed": None}, TypeError, "seed must be a whole number, not None"),
    "large seed": ({"seed": 2**70}, ValueError, "seed must be at most"),
    "batch": ({"batch": 0}, ValueError, "batch must be at least 1, not 0"),
    "learning rate": ({"learning_rate": "0.1"}, TypeError, "the learning rate must be a number, not '0.1'"),
    "precision": ({"precision": None}, ValueError, "no precision 'None'; there are auto"),
    "torch's optimizer": (
        {"optimizer": torch.optim.Adam},
        TypeError,
        "optimizer must be 'adam', 'lbfgs' or 'uniform', or a function .*, not the class Adam",
    ),
    "number as optimizer": ({"optimizer": 3}, TypeError, "optimizer must be .*, not int"),
    "class of images": (
        {"parameterization": nn.Conv2d},
        TypeError,
        "parameterization must be 'pixels', .*class Conv2d",
    ),
    "listeners": ({"listeners": 3}, TypeError, "listeners must be a function of a Step, or a list of them, not int"),
    "parameterization": ({"parameterization": "pixel"}, ValueError, "did you mean 'pixels'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unclear_is_refused_in_one_line(name: str, digits: nn.Module) -> None:
    given, kind, message = REFUSED[name]
    arguments = {"model": digits, "objective": logit(3), "steps": 1, **given}
    with pytest.raises(kind, match=message) as raised:
        maximize(arguments.pop("model"), arguments.pop("objective"), **arguments)
    assert "\n" not in str(raised.value)


def test_a_layer_is_a_name(digits: nn.Module) -> None:
    with pytest.raises(TypeError, match="a layer is given by its name, such as 'conv2', not as Conv2d"):
        channel(digits.conv1, 1)  # type: ignore[arg-type]
    for vector in (torch.rand(2, 2, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"a direction in layer 'conv2' is a vector \(C,\)"):
            direction("conv2", vector)


@pytest.mark.parametrize(
    ("value", "given"),
    [
        (lambda seen: seen["conv1"].mean(), r"shape \(\)"),
        (lambda seen: seen["conv1"].flatten(2).mean(2), r"shape \(2, 25\)"),
        (lambda seen: 3.0, "float"),
    ],
)
def test_one_value_for_each_image_from_the_first_step(value: Any, given: str, digits: nn.Module) -> None:
    steps: list[Step] = []
    mine = Objective("mine", frozenset(["conv1"]), value, images=2)
    for init in (None, DIGIT):
        with pytest.raises(ValueError, match=rf"mine must give one value for each image, shape \(2,\), not {given}"):
            maximize(digits, mine, steps=2, init=init, listeners=[steps.append])
    assert not steps


def test_dreams_print_as_one_line(digits: nn.Module) -> None:
    dreams = maximize(digits, logit(range(10)), steps=2)
    low, high = dreams.activations.min(), dreams.activations.max()
    expected = f"Dreams(10 images of 28x28 pixels, activations {low:.4g} to {high:.4g}, finished after 2 steps)"
    assert repr(dreams) == str(dreams) == expected
    silent = dg.Dreams(torch.rand(1, 3, 20, 30), torch.tensor([0.5]), torch.rand(7, 1), "interrupted", (0,))
    assert repr(silent) == "Dreams(1 image of 30x20 pixels, activation 0.5, interrupted after 7 steps, silent: 0)"


def test_accentuated_in_units_of_the_layers_strength(digits: nn.Module) -> None:
    """The same nearness suits a layer whose activations are all 1000 times as strong."""
    seen = dg.activations(digits, DIGIT, "conv2")["conv2"]
    objective = accentuate(digits, "conv2", 3, DIGIT, near="conv1", nearness=5)
    expected = seen[0, 3].mean() / seen.square().mean().sqrt()
    assert dg.evaluate(digits, objective, DIGIT).item() == pytest.approx(expected.item(), rel=1e-4)
    assert dg.evaluate(digits, objective, 0.5 * DIGIT).item() < expected.item()
    nothing = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    nn.init.zeros_(nothing[1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(nothing[1].bias)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="all activations of 1 are 0 for this photo"):
        accentuate(nothing, "1", 0, DIGIT, near="0")
