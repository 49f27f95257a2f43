from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import torch
from matplotlib.cbook import get_sample_data
from torch import Tensor, nn

from dreamgram.image_optimization import images
from dreamgram.models import load
from dreamgram.workbench.state import STATE_VARIABLE


@pytest.fixture(scope="session")
def digits() -> nn.Module:
    return load("digits")


@pytest.fixture(scope="session")
def digits_mlp() -> nn.Module:
    return load("digits-mlp")


@pytest.fixture(scope="session")
def vgg16() -> nn.Module:
    return load("vgg16")


@pytest.fixture(scope="session")
def photo_file() -> Path:
    """Return the path of a portrait of Grace Hopper, 512 x 600 pixels, from matplotlib's sample data."""
    return Path(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))


@pytest.fixture(scope="session")
def photo(photo_file: Path) -> Tensor:
    """Return a portrait of Grace Hopper, 55 x 64 pixels, (1, 3, 64, 55) in [0, 1]."""
    return images.fit(images.load(photo_file), 64)


@pytest.fixture(scope="session")
def painting() -> Tensor:
    from dreamgram.style_transfer.drawn_styles import draw_style

    return draw_style("stained-glass", 64)


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for the program's own files, a different one for each test."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv(STATE_VARIABLE, str(folder))
    return folder


@pytest.fixture(autouse=True)
def _random_state_untouched() -> None:
    """Reset the random numbers before each test, so that they do not depend on earlier tests."""
    torch.manual_seed(0)


@dataclass
class Outcome:
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]

PACKAGES = {"dream": "activation_maximization", "stylize": "style_transfer"}
"""The package of each command, by the command's name."""


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Return a function that runs ``dream ...`` or ``stylize ...`` in an empty folder, as the entry points do."""
    monkeypatch.chdir(tmp_path)

    def run(tool: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            import_module(f"dreamgram.{PACKAGES[tool]}.cli").main()
        code = ending.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, *capfd.readouterr())

    return run
