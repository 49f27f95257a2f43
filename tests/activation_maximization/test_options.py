"""The options of ``dream``: what they hold survives a file, and what they cannot hold is refused."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dreamgram.activation_maximization.cli import DREAM_COMMANDS
from dreamgram.activation_maximization.deep_dream import amplify
from dreamgram.activation_maximization.gradient_ascent import maximize
from dreamgram.activation_maximization.options import (
    OPTIONS_OF_COMMANDS,
    AccentuateOptions,
    DigitsOptions,
    ExamplesOptions,
    LayersOptions,
    PhotoOptions,
    UnitsOptions,
    parse_ranges,
)
from dreamgram.workbench.console import flags_of
from dreamgram.workbench.options import OptionError, Options, declaration, is_flag, type_of
from tests.test_package import HEAVY, ROOT

NEUTRAL = ("seed", "precision", "compile")
CLASSES = [*OPTIONS_OF_COMMANDS.values(), LayersOptions]
REQUIRED: dict[str, Any] = {"photo": "photo.jpg", "unit": 3, "objective": "deepdream(pool2)"}


def make(options: type[Options], **values: Any) -> Options:
    names = {each.name for each in fields(options)}
    return options(**{name: value for name, value in REQUIRED.items() if name in names} | values)


def every_value() -> list[tuple[type[Options], str, Any]]:
    """Every value that a declaration proposes."""
    found: list[tuple[type[Options], str, Any]] = []
    for options in CLASSES:
        for each in fields(options):
            flags = (True, False) if is_flag(type_of(options, each.name)) else ()
            found += [(options, each.name, value) for value in (*declaration(each).values, *flags)]
    return found


@pytest.mark.parametrize(("options", "name", "value"), every_value())
def test_every_proposed_value_survives_a_file(options: type[Options], name: str, value: Any) -> None:
    given = make(options, **{name: value})
    if not declaration(next(each for each in fields(options) if each.name == name)).recorded:
        return
    again, unknown = options.from_record(json.loads(json.dumps(given.record())))
    assert unknown == []
    assert again == given
    assert getattr(again, name) == (Path(value) if isinstance(getattr(again, name), Path) else value)
    assert not given.difference(again)


def test_what_changes_nothing_in_a_unit_is_not_compared() -> None:
    one = UnitsOptions(units="0-3", columns=2, folder="a", html=True, device="cpu", output="a.png", overwrite=True)
    assert one.difference(UnitsOptions(units="7")) == ""
    for changed in ({"steps": 3}, {"layer": "conv1"}, {"transform": "none"}, {"position": "2,3"}, {"seed": 1}):
        assert next(iter(changed)) in one.difference(one.change(**changed))


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"transform": "bogus"}, "transform must be an expression such as jitter(0.1): no function 'bogus'"),
        ({"transform": "robust(degres=5)"}, "did you mean 'degrees'?"),
        ({"units": "5-3"}, "units must be 'all', or numbers and ranges such as 0-11 or 3,7, not '5-3'"),
        ({"units": ""}, "units must be 'all', or"),
        ({"position": "a"}, "position must be ROW,COLUMN, or TOKEN in a transformer, not 'a'"),
        ({"parameterization": "pixel"}, "parameterization must be 'pixels', 'fourier', 'phases' or 'pyramid'"),
    ],
)
def test_options_from_python_are_checked_at_once(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError, match=re.escape(problem)):
        UnitsOptions(**wrong)


@pytest.mark.parametrize(
    ("model", "weights", "networks"),
    [
        ("digits", None, [("digits", None)]),
        (["digits"], ["a.pt"], [("digits", "a.pt")]),
        (["a", "b"], None, [("a", None), ("b", None)]),
        (("a", "b"), ("a.pt", "b.pt"), [("a", "a.pt"), ("b", "b.pt")]),
        ("a", ["1.pt", "2.pt", "3.pt"], [("a", "1.pt"), ("a", "2.pt"), ("a", "3.pt")]),
        (["a", "a"], [], [("a", None), ("a", None)]),
    ],
)
def test_models_and_weights_are_paired(model: Any, weights: Any, networks: list[tuple[str, str | None]]) -> None:
    options = UnitsOptions(model=model, weights=weights)
    assert options.networks == [(name, None if path is None else Path(path)) for name, path in networks]
    again, unknown = UnitsOptions.from_record(json.loads(json.dumps(options.record())))
    assert (again, unknown) == (options, [])


@pytest.mark.parametrize(
    ("options", "given", "problem"),
    [
        (UnitsOptions, {"model": ["a", "b"], "weights": "a.pt"}, "weights must be given once for each of the 2 models"),
        (UnitsOptions, {"model": ["a", "b"], "weights": ["a.pt"] * 3}, "weights must be given once for each of the 2"),
        (UnitsOptions, {"model": ["a", 3]}, "model must be text, not 3"),
        (UnitsOptions, {"model": []}, r"model must be a list, not \[\]"),
        (UnitsOptions, {"model": "--overwrite"}, "model must be the name of a network, not '--overwrite'"),
        (UnitsOptions, {"model": ["a", "-o"]}, "model must be the name of a network, not "),
        (LayersOptions, {"model": ["a", "b"]}, "model must be a single network for this command, not 2"),
        (ExamplesOptions, {"weights": ["a", "b"]}, "weights must be a single file for this command, not 2"),
    ],
)
def test_networks_that_cannot_be_compared(options: type[Options], given: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        options(**given)


def test_flags_of_version_0_1_0() -> None:
    """Scripts use these names."""
    assert {"--pixel-sum", "--blur"} <= {flags_of(each)[0] for each in fields(DigitsOptions)}
    assert "--top" in {flags_of(each)[0] for each in fields(ExamplesOptions)}
    assert PhotoOptions(photo="a.png").model == "vgg16"
    assert AccentuateOptions(photo="a.png", unit=3).near == "relu2_1"


@pytest.mark.parametrize(
    ("options", "old", "new"),
    [(DigitsOptions, "ink", "pixel_sum"), (DigitsOptions, "smoothness", "blur"), (ExamplesOptions, "count", "top")],
)
def test_old_names_of_options(options: type[Options], old: str, new: str) -> None:
    """The recipes of old pictures hold these names."""
    newer = {"log_odds": 0, "border": 0} if options is DigitsOptions else {}  # old pictures were made without them
    assert options.from_record({old: 2}) == (options(**{new: 2}, **newer), [])
    assert new in options().record()
    assert old not in options().record()


def test_a_default_is_written_once() -> None:
    for function in (maximize, amplify):
        parameters = inspect.signature(function).parameters
        for name in NEUTRAL:
            assert parameters[name].default == getattr(UnitsOptions(), name)
    assert UnitsOptions().steps == inspect.signature(maximize).parameters["steps"].default


def test_help_is_there_at_once() -> None:
    """The help of no command imports what takes long."""
    code = f"""
import sys
from dreamgram.activation_maximization.cli import DREAM_COMMANDS, main
for word in DREAM_COMMANDS:
    sys.argv[1:] = [word, "--help"]
    try:
        main()
    except SystemExit as ending:
        assert not ending.code
heavy = {HEAVY} & set(sys.modules)
assert not heavy, heavy
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("usage: dream ") == len(DREAM_COMMANDS)


def test_every_command_that_makes_a_picture_can_be_made_again() -> None:
    assert {f"dream {word}" for word in DREAM_COMMANDS} - {"dream layers", "dream replay"} == set(OPTIONS_OF_COMMANDS)
    for word, command in DREAM_COMMANDS.items():
        assert command.help.endswith("."), word


def test_an_open_range_is_a_single_unit() -> None:
    """Version 0.1.0 read it so, and old recipes contain it."""
    assert UnitsOptions(units="3-,5-6").units == "3-,5-6"
    assert parse_ranges("3-,5-6") == [range(3, 4), range(5, 7)]
