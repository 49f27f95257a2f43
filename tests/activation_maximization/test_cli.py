from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from image_optimization.images import read_settings
from tests.conftest import Command


def test_filters_as_typed(command: Command) -> None:
    run = command("dream", "filters", "--model", "digits", "--layer", "pool2", "--units", "0-3,7", "--steps", 3)
    assert run.code == 0, run.err
    assert run.out.startswith("outputs/filters.png  ")
    assert run.out.strip().endswith(" s")
    assert Image.open("outputs/filters.png").size[0] > 300
    settings = read_settings("outputs/filters.png")
    assert settings["command"] == "dream filters"
    assert settings["units"] == "0-3,7"
    assert settings["seed"] == 0


def test_filters_of_vgg_as_typed(command: Command) -> None:
    run = command(
        "dream",
        "filters",
        "--model",
        "vgg16",
        "--layer",
        "relu2_1",
        "--units",
        "5,6",
        "--size",
        32,
        "--steps",
        2,
        "-o",
        "v.png",
    )
    assert run.code == 0, run.err
    assert Path("v.png").exists()


def test_neurons_and_digits_as_typed(command: Command) -> None:
    assert command("dream", "neurons", "--layer", "hidden", "--units", "0-8", "--steps", 2).code == 0
    assert (
        command("dream", "digits", "--model", "digits-mlp", "--classes", "0-9", "--pixel-sum", 0.2, "--steps", 2).code
        == 0
    )
    wide, high = Image.open("outputs/digits.png").size
    assert wide > 10 * 100  # ten classes
    assert high > 2 * 100  # two rows
    assert {path.name for path in Path("outputs").iterdir()} == {"neurons.png", "digits.png"}


def test_a_second_run_does_not_overwrite_the_first(command: Command) -> None:
    for name in ("digits.png", "digits-2.png", "digits-3.png"):
        assert command("dream", "digits", "--classes", "1", "--steps", 1).out.startswith(f"outputs/{name}")
    run = command("dream", "digits", "--classes", "2", "--steps", 1, "--output", "outputs/digits.png")
    assert run.code == 2
    assert run.err == "error: outputs/digits.png exists; choose another output or overwrite it (--overwrite)\n"
    assert read_settings("outputs/digits.png")["classes"] == "1"
    assert command("dream", "digits", "--classes", 2, "--steps", 1, "-o", "outputs/digits.png", "--overwrite").code == 0
    assert read_settings("outputs/digits.png")["classes"] == "2"


def test_finished_work_is_never_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program takes the name while this one works."""
    from activation_maximization import cli

    ascend = cli._ascend

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        Path("a.png").write_text("someone else's")
        return ascend(*args, **kwargs)

    monkeypatch.setattr(cli, "_ascend", meanwhile)
    run = command("dream", "digits", "--classes", 1, "--steps", 1, "--output", "a.png")
    assert run.code == 0
    assert run.out.startswith("a-2.png  ")
    assert Path("a.png").read_text() == "someone else's"


def test_no_arguments_show_the_help(command: Command) -> None:
    run = command("dream")
    assert "Usage: dream" in run.out + run.err
    assert "error" not in run.err


def test_all_units(command: Command) -> None:
    assert command("dream", "filters", "--layer", "conv1", "--units", "all", "--steps", 1, "--columns", 5).code == 0


def test_layers_as_typed(command: Command) -> None:
    run = command("dream", "layers", "--model", "digits")
    assert run.code == 0
    lines = [line.split() for line in run.out.splitlines()]
    assert lines[2] == ["layer", "kind", "channels", "output", "receptive", "field"]
    assert ["conv2", "Conv2d", "50", "50", "x", "11", "x", "11", "8", "px"] in lines
    assert ["hidden", "Linear", "100", "100", "whole", "image"] in lines
    assert "relu5_3" in command("dream", "layers", "--model", "vgg19", "--size", 64).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["filters", "--layer", "poool2"], "no layer 'poool2'; did you mean 'pool2'? there are conv1, pool1, conv2"),
        (["filters", "--units", "48-52"], "no unit 50 in layer 'pool2': its 50 units are 0-49"),
        (["filters", "--units", "a-b"], "units are 'all', or numbers and ranges such as 0-11 or 3,7, not 'a-b'"),
        (["filters", "--units", "5-3"], "no unit '5-3' in layer 'pool2'"),
        (["digits", "--classes", "10"], "no unit 10 in layer 'logits': its 10 units are 0-9"),
        (["digits", "--model", "vgg16"], "no layer 'logits'"),
        (["filters", "--model", "digit"], "no network 'digit'; did you mean 'digits'? there are digits, digits-mlp"),
        (["filters", "--model", "mine.py:net"], "no file mine.py"),
        (["filters", "--weights", "none.pt"], "no weights file none.pt"),
        (["filters", "--size", "-3"], "Invalid value for '--size': must be at least 1, not -3"),
        (["filters", "--size", "2"], "2x2 pixels"),
        (["filters", "--steps", "0"], "Invalid value for '--steps': must be at least 1, not 0"),
        (["filters", "--columns", "-1"], "Invalid value for '--columns': must be at least 1, not -1"),
        (["filters", "--steps", "many"], "Invalid value for '--steps'"),
        (["filters", "--device", "cuda:9"], "no device 'cuda:9' on this machine; there are cpu"),
        (["filters", "--output", "sheet.pcx"], "the file name must end in .png, .jpg"),
        (["filters", "--output", "file/sheet.png"], "cannot write into file"),
        (["filters", "--output", "folder.png"], "folder.png is a folder"),
        (["neurons", "--size", "40"], "40x40 pixels"),
        (["filtres"], "Did you mean 'filters'?"),
        (["filters", "--unit", "3"], "No such option: --unit"),
        (["layers", "--model", "torchvision:resnet81"], "no torchvision network 'resnet81'; did you mean 'resnet18'"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments: list[str], message: str, command: Command) -> None:
    Path("file").touch()
    Path("folder.png").mkdir()
    run = command("dream", *arguments)
    assert run.code == 2
    assert message in run.err
    assert run.err.startswith("error: ")
    assert run.err.count("\n") == 1
    assert "Traceback" not in run.err
    assert {path.name for path in Path().rglob("*.png")} == {"folder.png"}


def test_debug_shows_the_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no layer 'x'"):
        command("dream", "filters", "--layer", "x", "--debug")
