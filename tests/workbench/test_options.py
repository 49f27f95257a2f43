from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from dreamgram.activation_maximization.options import OPTIONS_OF_COMMANDS, EachOptions, LayersOptions
from dreamgram.style_transfer.options import ResumeOptions, StylizeOptions
from dreamgram.workbench.options import (
    GROUPS,
    OptionError,
    Options,
    ReplayOptions,
    Size,
    check_applies,
    choices_of,
    declaration,
    describe_amount,
    is_flag,
    option,
    parse_bytes,
    parse_layer_weights,
    parse_numbers,
    type_of,
)

CLASSES = [*OPTIONS_OF_COMMANDS.values(), LayersOptions, EachOptions, StylizeOptions, ReplayOptions, ResumeOptions]

BASE = StylizeOptions(photo=Path("photo.jpg"), style=["marbling"])
VALUES = [
    (each.name, value)
    for each in fields(StylizeOptions)
    if declaration(each).recorded
    for value in declaration(each).values
]
OPENINGS = {"Of", "In", "What", "Whose", "Which", "That", "By", "To", "From", "With", "As", "Where", "How", "Whether"}
"""Words that no help text opens with."""


@dataclass(frozen=True, kw_only=True)
class Brush(Options):
    """Options of each type."""

    hairs: int = option(12, "Number of hairs.", group="Picture", least=1, most=100)
    width: float = option(1.0, "Width in pixels.", group="Picture", above=0)
    angle: float = option(0.0, "Angle in degrees.", group="Picture")
    name: str = option("flat", "Name.", group="Picture", choices=lambda: ["flat", "round", "fan"])
    wet: bool = option(False, "Whether it is wet.", group="Picture")
    tips: Literal[1, 2] = option(1, "Number of tips.", group="Picture")
    end: Literal["blunt", "pointed"] | None = option(None, "Shape of its end.", group="Picture")
    file: Path | None = option(None, "File with its picture.", group="Input")
    colors: list[str] = option(["red"], "Colors of its paint.", group="Picture")
    shares: list[float] | None = option(None, "Shares.", group="Picture", parse=parse_numbers, least=0)
    layers: dict[str, float] | None = option(None, "Layers.", group="Losses", parse=parse_layer_weights, least=0)
    memory: int | None = option(None, "Memory.", group="Network", parse=parse_bytes, least=1, compare=False)
    output: Path | None = option(None, "File to write.", group="Output", recorded=False, compare=False)
    paper: Size | None = option(None, "Size of the paper.", group="Picture", least=1)
    stiffness: float = option(0.5, "Stiffness, which all brushes lacked at first.", group="Picture", missing=0.0)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("hairs", "7", 7),
        ("hairs", 7.0, 7),
        ("width", "0.5", 0.5),
        ("width", 3, 3.0),
        ("angle", "-1e3", -1000.0),
        ("name", "fan", "fan"),
        ("wet", True, True),
        ("end", "blunt", "blunt"),
        ("end", None, None),
        ("file", "a/b.png", Path("a/b.png")),
        ("file", Path("a"), Path("a")),
        ("colors", ["red", "blue"], ["red", "blue"]),
        ("colors", ("red",), ["red"]),
        ("colors", "blue", ["blue"]),
        ("shares", "2,1", [2.0, 1.0]),
        ("shares", [2, "1"], [2.0, 1.0]),
        ("shares", 3, [3.0]),
        ("layers", "relu1_1=2, relu2_1", {"relu1_1": 2.0, "relu2_1": 1.0}),
        ("layers", {"relu1_1": 2}, {"relu1_1": 2.0}),
        ("memory", "1.5G", 1_500_000_000),
        ("memory", 2**63 + 1, 2**63 + 1),
        ("tips", "2", 2),
        ("tips", 2, 2),
        ("paper", "64", 64),
        ("paper", 64.0, 64),
        ("paper", "64x96", (64, 96)),
        ("paper", "64 X 96", (64, 96)),
        ("paper", [64, 96], (64, 96)),
        ("paper", "64x64", 64),
        ("paper", (64, 64), 64),
        ("paper", None, None),
    ],
)
def test_a_value_becomes_one_of_the_type(name: str, given: Any, value: Any) -> None:
    made = getattr(Brush(**{name: given}), name)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "problem"),
    [
        ("hairs", 0, "must be from 1 to 100, not 0"),
        ("hairs", "101", "must be from 1 to 100, not 101"),
        ("hairs", 2.5, "must be a whole number, not 2.5"),
        ("hairs", "2.5", "must be a whole number, not '2.5'"),
        ("hairs", "many", "must be a whole number, not 'many'"),
        ("hairs", True, "must be a whole number, not True"),
        ("hairs", None, "must be a whole number, not None"),
        ("hairs", float("nan"), "must be a whole number, not nan"),
        ("hairs", float("inf"), "must be a whole number, not inf"),
        ("hairs", [3], "must be a whole number, not [3]"),
        ("width", 0, "must be above 0, not 0.0"),
        ("width", float("nan"), "must be a finite number, not nan"),
        ("width", float("inf"), "must be a finite number, not inf"),
        ("width", "wide", "must be a number, not 'wide'"),
        ("width", {}, "must be a number, not {}"),
        ("angle", float("nan"), "must be a finite number, not nan"),
        ("name", "flet", "must be 'flat', 'round' or 'fan', not 'flet'; did you mean 'flat'?"),
        ("name", "zzz", "must be 'flat', 'round' or 'fan', not 'zzz'"),
        ("name", 3, "must be text, not 3"),
        ("wet", "yes", "must be true or false, not 'yes'"),
        ("wet", 1, "must be true or false, not 1"),
        ("end", "point", "must be 'blunt' or 'pointed', not 'point'; did you mean 'pointed'?"),
        ("end", 5, "must be 'blunt' or 'pointed', not 5"),
        ("end", ["blunt"], "must be 'blunt' or 'pointed', not ['blunt']; did you mean 'blunt'?"),
        ("file", 5, "must be a file name, not 5"),
        ("colors", None, "must be a list, not None"),
        ("colors", [1], "must be text, not 1"),
        ("colors", {"red": 1}, "must be text, not {'red': 1}"),
        ("shares", "a,b", "must be numbers such as 2,1, not 'a,b'"),
        ("shares", [1, -1], "must be at least 0, not -1.0"),
        ("shares", [1, float("nan")], "must be a finite number, not nan"),
        ("layers", "a=1,a=2", "must name every layer once, but 'a=1,a=2' has a twice"),
        ("layers", "a=x", "must be layers with weights such as relu1_1=1,relu3_1=0.5, not 'a=x'"),
        ("layers", {"a": -1}, "must be at least 0, not -1.0"),
        ("layers", {"a": "x"}, "must be a number, not 'x'"),
        ("layers", ["a"], "must be a table of numbers, not ['a']"),
        ("memory", "lots", "must be an amount of memory such as 4G or 800M, not 'lots'"),
        ("memory", "0G", "must be an amount of memory such as 4G or 800M, not '0G'"),
        ("memory", 0, "must be at least 1, not 0"),
        ("tips", 3, "must be 1 or 2, not 3"),
        *(
            ("paper", wrong, f"must be a whole number, or HEIGHTxWIDTH such as 64x96, not {wrong!r}")
            for wrong in ("A4", "64x", "64,96", "64x96x3", 64.5, True, {}, (3, 64, 96), [[64], 96], (64, None))
        ),
        ("paper", "0x64", "must be at least 1, not 0"),
        ("paper", (64, -1), "must be at least 1, not -1"),
        ("paper", "64x1000001", "must be at most 1,000,000, not 1000001"),
        ("tips", "12", "must be 1 or 2, not '12'"),
    ],
)
def test_a_value_that_an_option_cannot_have(name: str, given: Any, problem: str) -> None:
    with pytest.raises(OptionError) as error:
        Brush(**{name: given})
    assert str(error.value) == f"{name} {problem}"
    assert (error.value.name, error.value.problem) == (name, problem)
    with pytest.raises(OptionError):
        Brush().change(**{name: given})
    with pytest.raises(OptionError):
        Brush.from_record({name: given})


@pytest.mark.parametrize(("text", "size"), [("4G", 4e9), ("800M", 8e8), ("1.5 GB", 1.5e9), ("2gb", 2e9), (".5k", 500)])
def test_memory_is_written_in_several_ways(text: str, size: float) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["180M", "1G", "1500k", "7T", "0"])
def test_an_amount_is_described_as_it_is_typed(text: str) -> None:
    assert describe_amount(parse_bytes(text)) == text


@pytest.mark.parametrize("text", ["9" * 400 + "M", "4", "M", "-1G", "1e3M", "0M", "nan"])
def test_what_is_not_an_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match="must be an amount of memory such as 4G or 800M"):
        parse_bytes(text)


def test_options_are_changed_not_written_over() -> None:
    brush = Brush()
    wide = brush.change(width=9, colors=["blue"])
    assert (brush.width, brush.colors, wide.width, wide.colors) == (1, ["red"], 9, ["blue"])
    with pytest.raises(AttributeError):
        brush.width = 3  # type: ignore[misc]
    wide.colors.append("green")
    assert Brush().colors == ["red"]
    with pytest.raises(ValueError, match=r"no option 'widht'; did you mean 'width'\? there are hairs, width, angle"):
        brush.change(widht=3)


def test_a_record_is_json_and_makes_the_same_options() -> None:
    brush = Brush(
        file=Path("a.png"),
        layers={"relu1_1": 2},
        shares=[1],
        memory="1G",
        wet=True,
        end="blunt",
        output=Path("b.png"),
        paper="64x96",
    )
    record = json.loads(json.dumps(brush.record()))
    assert "output" not in record
    again, strange = Brush.from_record(record)
    assert (vars(again), strange) == (vars(brush.change(output=None)), [])


def test_a_record_of_another_version() -> None:
    """It lacks the newer options and has others that are not known here."""
    brush, strange = Brush.from_record({"hairs": 3, "bristles": "hog", "output": "a.png", "handle": None})
    assert vars(brush) == vars(Brush(hairs=3, stiffness=0))  # the name of a file to write is never taken from a record
    assert strange == ["bristles", "handle"]
    with pytest.raises(ValueError, match="the recipe does not say style"):
        StylizeOptions.from_record({"size": 40})


def test_the_difference_of_two_sets_of_options() -> None:
    brush = Brush()
    assert brush.difference(Brush(memory="1G", output=Path("a.png"))) == ""
    assert brush.difference(Brush(width=2, hairs=13)) == "hairs 13, not 12"
    assert Brush(file=Path("a.png")).difference(Brush(file=Path("b.png"))) == "file b.png, not a.png"
    assert Brush(colors=("red",)).difference(brush) == ""
    assert Brush(paper=(64, 96)).difference(Brush(paper="64x96")) == ""
    assert Brush(paper=32).difference(Brush(paper=(64, 96))) == "paper 64x96, not 32"
    assert Brush(paper="96x64").difference(Brush(paper="64x96")) == "paper 64x96, not 96x64"


def test_options_for_some_kinds_of_input_only() -> None:
    check_applies(BASE.change(plot=True, bits=16, quality=7, checkpoint=Path("a")), "photo")
    check_applies(BASE.change(plot=True, bits=16, colors="match"), "folder")
    check_applies(BASE.change(colors="match"), "video")
    for name, value, kind, problem in (
        ("quality", 7, "folder", "is for one photo, not for a folder"),
        ("plot", True, "video", "is for photos, not for a video"),
        ("style_mask", ["a.png"], "video", "is for one photo, not for a video"),
    ):
        with pytest.raises(OptionError) as error:
            check_applies(BASE.change(**{name: value}), kind)
        assert (error.value.name, error.value.problem) == (name, problem)


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_every_telling_value_of_an_option_of_stylize_is_recorded(name: str, value: Any) -> None:
    options = BASE.change(**{name: value})
    record = json.loads(json.dumps(options.record()))
    again, strange = StylizeOptions.from_record(record)
    assert (vars(again), strange) == (vars(options), [])
    assert vars(options.resolved().resolved()) == vars(options.resolved())
    [declared] = [each for each in fields(options) if each.name == name]
    others = [BASE.change(**{name: other}).record() for other in declaration(declared).values]
    assert sum(record == other for other in others) == 1  # it is recorded, and no other value is taken for it


def test_a_record_has_the_losses_that_the_preset_stands_for() -> None:
    """The picture is made again as it was when a preset changes."""
    options = BASE.change(preset="gatys", style_weight=7)
    resolved = options.resolved()
    assert (resolved.style_loss, resolved.content_weight, resolved.style_weight) == ("gram", 5.0, 7.0)
    assert resolved.style_layers == {f"relu{block}_1": 1.0 for block in range(1, 6)}
    assert (resolved.losses.content, resolved.losses.style) == (options.losses.content, options.losses.style)


@pytest.mark.parametrize("options", CLASSES)
def test_every_option_has_three_telling_values_or_all_values(options: type[Options]) -> None:
    for each in fields(options):
        hint, values = type_of(options, each.name), declaration(each).values
        assert is_flag(hint) or len(values) >= 3 or set(values) == set(choices_of(each, hint)), each.name


@pytest.mark.parametrize("options", CLASSES)
def test_every_option_has_a_group_and_help_of_whole_sentences(options: type[Options]) -> None:
    for each in fields(options):
        known = declaration(each)
        assert known.group in GROUPS
        text = re.sub(r" \[default: [^]]+\]$", "", known.help)
        assert re.match(r"[A-Z][a-z]*\b", text), text
        assert text.split()[0] not in OPENINGS
        assert text.endswith(".")
        assert "  " not in text


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"group": "Picturs"}, "no group of options 'Picturs'; did you mean 'Picture'? there are Input, "),
        ({"group": "Picture", "applies": ("photos",)}, "no kind of input 'photos'; did you mean 'photo'? there are "),
    ],
)
def test_a_wrong_group_or_kind_of_input_is_found_at_once(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        option(1, "Number of hairs.", **declared)
