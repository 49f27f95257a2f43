from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from matplotlib.cbook import get_sample_data
from torch import Tensor, nn

from image_optimization import images
from models import load


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
    """Grace Hopper, 512 x 600, in matplotlib's sample data."""
    return Path(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))


@pytest.fixture(scope="session")
def photo(photo_file: Path) -> Tensor:
    """The same, 55 x 64 pixels."""
    return images.fit(images.load(photo_file), 64)


@pytest.fixture(scope="session")
def painting() -> Tensor:
    from style_transfer.painters import paint

    return paint("stained-glass", 64)


@pytest.fixture(autouse=True)
def _random_state_untouched() -> None:
    """Every test begins with the same random numbers, whatever ran before."""
    torch.manual_seed(0)


@dataclass
class Outcome:
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run ``dream ...`` or ``stylize ...`` in an empty folder, as the entry points do."""
    from activation_maximization.cli import main as dream
    from style_transfer.cli import main as stylize

    monkeypatch.chdir(tmp_path)

    def run(tool: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            {"dream": dream, "stylize": stylize}[tool]()
        code = ending.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, *capfd.readouterr())

    return run
