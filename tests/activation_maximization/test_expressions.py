"""Expressions are tested against what the same text means in Python."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import dreamgram as dg
from dreamgram.activation_maximization.expressions import (
    parse_objective,
    parse_parameterization,
    parse_transform,
    write_out_transform,
)
from dreamgram.activation_maximization.objectives import OBJECTIVES, PROGRESS, Objective, objective
from dreamgram.activation_maximization.regularizers import REGULARIZERS
from dreamgram.image_optimization.parameterizations import PARAMETERIZATIONS
from dreamgram.image_optimization.transforms import Chain
from dreamgram.models.digits import digit_sample
from tests.activation_maximization.expression_examples import DIGIT, EXAMPLES, VECTOR, example_of


def value(chosen: Objective, network: nn.Module) -> list[float]:
    pictures = digit_sample()[0][::300][: max(chosen.images, 2)]
    if chosen.images > 1:
        pictures = (
            pictures[:1].repeat(chosen.images, 1, 1, 1) * torch.linspace(0.5, 1, chosen.images)[:, None, None, None]
        )
    return dg.evaluate(network, chosen, pictures).tolist()


@pytest.mark.parametrize("name", {**OBJECTIVES, **REGULARIZERS})
def test_every_function_can_be_written(
    name: str, digits: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("vector.npy", VECTOR.numpy())
    text, expected = example_of(name)
    assert name in text
    parsed = parse_objective(text, DIGIT)
    assert str(parsed) == str(expected)
    assert (parsed.layers, parsed.images, parsed.joint) == (expected.layers, expected.images, expected.joint)
    assert value(parsed, digits) == value(expected, digits)


def test_a_forgotten_example_is_asked_for() -> None:
    with pytest.raises(AssertionError, match="add an example of 'unheard' to EXAMPLES in tests/activation_max"):
        example_of("unheard")
    assert set(EXAMPLES) <= {*OBJECTIVES, *REGULARIZERS}


def random_expression(depth: int, draw: random.Random) -> str:
    """An expression that is the same in Python: ``ramp(x, x)`` is a constant objective."""
    kind = draw.randrange(6) if depth else 0
    if kind == 0:
        number = f"{draw.uniform(0, 9):.3g}"
        return draw.choice([number, f"ramp({number}, {number})"])
    if kind == 1:
        return f"({random_expression(depth - 1, draw)})"
    if kind == 2:
        return f"-{random_expression(depth - 1, draw)}"
    left, right = random_expression(depth - 1, draw), random_expression(depth - 1, draw)
    if draw.random() < 0.2:
        return f"{left} / {draw.randrange(1, 9)}"
    space = draw.choice(["", " "])
    return f"{left}{space}{draw.choice('+-*')}{space}{right}"


@pytest.mark.parametrize("seed", range(60))
def test_operators_bind_as_in_python(seed: int) -> None:
    text = random_expression(4, random.Random(seed))
    expected = eval(text, {"ramp": lambda start, end: start})
    parsed = parse_objective(f"ramp(0, 0) + ({text})")
    assert parsed({PROGRESS: torch.tensor(0.5)}).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("channel(layer3.1.conv2, 3)", "layer3.1.conv2"),
        ("channel(blocks.0:1, 3)", "blocks.0:1"),
        ("channel(0, 3)", "0"),
        ("channel(path/of-a_layer, 3)", "path/of-a_layer"),
        ("channel('a layer (odd)', 3)", "a layer (odd)"),
        ("logit(3, layer=7)", "7"),
        ("logit(3, fc)", "fc"),
        ("channel(all, 3)", "all"),
    ],
)
def test_names_of_layers(text: str, layer: str) -> None:
    parsed = parse_objective(text)
    assert parsed.layers == {layer}
    assert parsed.images == 1


def test_units_are_checked_where_their_number_is_known() -> None:
    def count(layer: str) -> int:
        return {"conv": 5}[layer]

    assert str(parse_objective("channel(conv, all)", count_units=count)) == "conv:0,1,2,3,4"
    assert str(parse_objective("channel(conv, [0, 2 - 4])", count_units=count)) == "conv:0,2,3,4"
    with pytest.raises(ValueError, match="no unit 5 in layer 'conv': its 5 units are 0-4"):
        parse_objective("channel(conv, 3-5)", count_units=count)
    with pytest.raises(ValueError, match="known only with a network"):
        parse_objective("channel(conv, all)")


MALFORMED = {
    "": r"expected a number, a function or '\(', not the end",
    "   ": "not the end",
    "3": "a number alone is nothing to maximize",
    "2 * (3 + 4)": "a number alone",
    "chanel(conv2, 3)": "no function 'chanel'; did you mean 'channel'?",
    "conv2:3": "no function 'conv2'",
    "__import__('os')": "no function '__import__'",
    "logit.__class__": "unit is missing",
    "channel": r"layer is missing: channel\(layer, unit\)",
    "channel()": "layer is missing",
    "channel(conv2)": r"unit is missing: channel\(layer, unit\)",
    "channel(conv2, 3": r"expected ',' or '\)', not the end",
    "channel(conv2 3)": r"expected ',' or '\)', not '3\)'",
    "channel(conv2, 3))": r"expected the end, not '\)'",
    "channel(, 3)": "expected a name for layer of channel",
    "channel(conv2, three)": "expected units such as 3, 0-11 or all for unit of channel, not 'three",
    "channel(conv2, 3.5)": "expected units",
    "channel(conv2, -3)": "expected units",
    "channel(conv2, 7-3)": "the range of units 7-3 is empty",
    "channel(conv2, 0-999999999)": "more than 100000 units",
    "channel(conv2, [3)": "expected units",
    "channel(conv2, units=3)": r"channel\(layer, unit\) has no argument 'units'; did you mean 'unit'\?",
    "channel(conv2, 3, layer=a)": "layer is given twice",
    "channel(layer=conv2, 3)": "expected a name and '='",
    "neuron(conv2, 3, (1, 2), 4)": r"expected '\)' after the last argument of neuron\(layer, unit, position\)",
    "neuron(conv2, 3, position=4.5)": r"expected a position such as \(4, 5\)",
    "neuron(conv2, 3, position=(a, b))": "expected a position",
    "ramp(0)": "end is missing",
    "ramp(a, b)": "expected a number for start of ramp",
    "pixel_sum(1e999)": "too large",
    "1e308 * 10 * logit(1)": "too large",
    "logit(1) +": "expected a number, a function",
    "logit(1) logit(2)": "expected the end",
    "logit(1) ** 2": "expected the end",
    "logit(1) / logit(2)": "a divisor must be a number",
    "logit(1) / 0": "a divisor must be a number other than 0",
    "(logit(1)": r"expected '\)', not the end",
    "logit(1) & logit(2)": "expected the end",
    "0x10 * logit(1)": "expected a number, a function",
    "logit(1, layer='fc)": "expected a name for layer",
    "diversity(conv2, images=1)": "the number of images of diversity must be at least 2, not 1",
    "diversity(conv2, images=many)": "expected a whole number for images of diversity",
    "logit(1,2) + logit(1,2,3)": "cannot be combined",
    "match(conv2)": "match compares with a photo, and no photo was given",
    "match(conv2, photo=a.png)": "has no argument 'photo'",
    "direction(conv2, vector.pkl)": "a vector is read from a .npy or .safetensors file",
    "direction(conv2, missing.npy)": "missing.npy cannot be read: No such file",
    "direction(conv2, missing.safetensors)": "missing.safetensors cannot be read",
    "direction(conv2, v.npy, cosine=maybe)": "cannot be read|true or false",
    "(" * 10_000 + "logit(1)" + ")" * 10_000: "more than 50 parentheses are open at once",
    "(" * 10_000: "more than 50 parentheses",
    "+".join(["logit(1)"] * 1000): "more than 100 functions are called",
    "logit(1) - \n\n$": r"not '\$'",
    "logit(٣)": "expected units",
    "\0": "expected a number",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_what_cannot_be_read_is_one_clear_line(text: str) -> None:
    with pytest.raises(ValueError, match=MALFORMED[text]) as raised:
        parse_objective(text)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_long_is_not_deep() -> None:
    assert value_of("+".join(["1"] * 10_000)) == 10_000
    assert value_of("-" * 10_001 + "1") == -1


def value_of(text: str) -> float:
    return parse_objective(f"ramp(0, 0) + ({text})")({PROGRESS: torch.tensor(0.0)}).item()


def test_vectors_come_from_files_that_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen = {"conv": torch.rand(2, 50, 3, 3)}
    save_file({"probe": torch.stack([VECTOR, -VECTOR])}, "two.safetensors")
    np.save("in a folder.npy", VECTOR.double().numpy())
    one = parse_objective("direction(conv, 'in a folder.npy')")
    torch.testing.assert_close(one(seen), dg.direction("conv", VECTOR)(seen))
    assert parse_objective("direction(conv, two.safetensors)").images == 2
    np.save("pickled.npy", np.array([{"a": 1}]), allow_pickle=True)
    Path("cut.npy").write_bytes(b"\x93NUMPY")
    Path("empty.npy").touch()
    Path("cut.safetensors").write_bytes(b"\x00\x01")
    save_file({"a": VECTOR, "b": -VECTOR}, "several.safetensors")
    for name in ("pickled.npy", "cut.npy", "empty.npy", "cut.safetensors", "several.safetensors"):
        with pytest.raises(ValueError, match=f"'{name}' holds no vector, or several tensors, or is damaged"):
            parse_objective(f"direction(conv, {name})")
    for name, numbers in {"cube": torch.rand(2, 2, 2), "nan": VECTOR / 0, "none": torch.empty(0)}.items():
        np.save(f"{name}.npy", numbers.numpy())
        with pytest.raises(ValueError, match="holds no finite vector"):
            parse_objective(f"direction(conv, {name}.npy)")


def test_an_objective_of_ones_own_can_be_written_too(monkeypatch: pytest.MonkeyPatch, digits: nn.Module) -> None:
    def largest(layer: str, power: float = 1) -> Objective:
        return Objective("largest", frozenset([layer]), lambda seen: seen[layer].flatten(1).amax(1) ** power)

    largest.__annotations__.update(
        layer=str, power=float
    )  # as in a file without ``from __future__ import annotations``
    monkeypatch.setitem(OBJECTIVES, "largest", largest)  # so that it is taken away after the test
    assert objective(largest) is largest
    assert value(parse_objective("2 * largest(conv2, power=2)"), digits) == value(2 * largest("conv2", 2), digits)


def test_transforms() -> None:
    images = torch.rand(2, 1, 16, 16)

    def seen(text: str) -> Tensor:
        torch.manual_seed(3)
        return parse_transform(text)(images)

    assert torch.equal(seen("none"), images)
    assert torch.equal(seen("none()"), images)
    for text, transform in {
        "robust": dg.robust(),
        "robust(degrees=5, scale=(0.9, 1.1))": dg.robust(degrees=5, scale=(0.9, 1.1)),
        "robust(5, 0.2, (1, 1), shear=0)": dg.robust(5, 0.2, (1, 1), 0),
        "jitter(0.2)": dg.robust(0, 0.2, (1, 1), 0),
        "jitter(0.2) + robust(5)": Chain((dg.robust(0, 0.2, (1, 1), 0), dg.robust(5))),
        "robust(5)+none+jitter(0.2)": Chain((dg.robust(5), dg.robust(0, 0.2, (1, 1), 0))),
    }.items():
        torch.manual_seed(3)
        assert torch.equal(transform(images), seen(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("robus", "no function 'robus'; did you mean 'robust'"),
        ("robust(turn=3)", r"robust\(degrees, translate, scale, shear\) has no argument 'turn'"),
        ("robust(scale=0.9)", r"expected two numbers such as \(0.9, 1.1\) for scale of robust"),
        ("robust(scale=(0.9, 1.1, 1.2))", "expected two numbers"),
        ("jitter(8", r"expected ',' or '\)'"),
        ("jitter(0.1) + ", "expected a transform: none, jitter, robust, noise, not the end"),
        ("jitter(0.1) + 3", "expected a transform: none, jitter, robust, noise, not '3'"),
        ("jitter(0.1), robust", r"expected '\+' or the end, not ', robust'"),
        ("jitter(0.1) - robust", r"expected '\+' or the end, not '- robust'"),
        ("jitter + " * 100 + "jitter", "more than 100 functions are called"),
        ("", "expected a transform"),
        ("logit(3)", "no function 'logit'; there are none, jitter, robust"),
    ],
)
def test_malformed_transforms(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_transform(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none()", "none"),
        ("jitter", "jitter(translate=0.05)"),
        ("robust(5, scale=(1, 1.1))", "robust(degrees=5, translate=0.1, scale=(1, 1.1), shear=10)"),
        ("jitter(1e-7)+jitter", "jitter(translate=1e-07) + jitter(translate=0.05)"),
    ],
)
def test_a_transform_is_written_out(text: str, expected: str) -> None:
    assert write_out_transform(text) == write_out_transform(expected) == expected


def test_parameterizations() -> None:
    for name, kind in PARAMETERIZATIONS.items():
        assert parse_parameterization(name) is kind
    assert parse_parameterization("fourier") is dg.FourierImage
    with pytest.raises(ValueError, match="no parameterization 'furier'; did you mean 'fourier'"):
        parse_parameterization("furier")
