from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from dreamgram.models import load, train_digits
from dreamgram.models.digits import digit_sample
from dreamgram.models.train_digits import accuracy, attack


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped digits in the files of MNIST: 800 to train, 200 to test."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = digit_sample()
    pixels, classes = (images * 255).round().byte().squeeze(1).numpy(), labels.byte().numpy()
    tested = np.arange(1000) % 5 == 0
    for part, chosen in (("train", ~tested), ("t10k", tested)):
        some, their = pixels[chosen], classes[chosen]
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, len(some), 28, 28) + some.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, len(their)) + their.tobytes())
    return folder


def train(line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the training in this process, which has loaded PyTorch already, and return what it prints."""
    monkeypatch.setattr(sys, "argv", ["train_digits.py", *line])
    train_digits.main()
    return capsys.readouterr().out


def train_as_typed(line: list[str], *_: object) -> str:
    """Run the training as a program, and return what it prints."""
    command = [sys.executable, "-m", "dreamgram.models.train_digits", *line]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("run", "model", "options"),
    [
        (train, "cnn", ["--epochs", "4", "--learning-rate", "0.05"]),
        (train_as_typed, "mlp", ["--epochs", "4", "--learning-rate", "0.1"]),
        (train, "cnn", ["--epochs", "2", "--adversarial", "--epsilon", "0.05"]),
    ],
)
def test_training(
    run: Callable[..., str],
    model: str,
    options: list[str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = tmp_path / "out" / f"{model}.safetensors"
    settings = ["--data", str(data), "--batch", "32", *options, "--output", str(weights)]
    assert "test accuracy" in run(["--model", model, *settings], monkeypatch, capsys)
    with safe_open(weights, "pt") as file:
        assert float(file.metadata()["test_accuracy"]) > 0.5
        assert ("test_accuracy_under_attack" in file.metadata()) == ("--adversarial" in options)
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]  # nothing half written beside it


def test_an_attack_misleads_within_its_bounds() -> None:
    network = load("digits").requires_grad_(False)
    images, labels = (each[::10] for each in digit_sample())
    misleading = attack(network, images, labels, 0.2)
    assert (misleading - images).abs().max() <= 0.2 + 1e-6
    assert misleading.min() >= 0
    assert misleading.max() <= 1
    assert accuracy(network, images, labels) > 0.97
    assert accuracy(network, misleading, labels) < 0.3


def test_weights_that_cannot_be_written(tmp_path: Path) -> None:
    kept = tmp_path / "digits.safetensors"
    kept.mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError, match=r"digits\.safetensors"):
        train_digits._save(load("digits"), kept, {})
    with pytest.raises(OSError, match="missing"):
        train_digits._save(load("digits"), tmp_path / "missing" / "digits.safetensors", {})
    assert list(tmp_path.iterdir()) == [kept]
