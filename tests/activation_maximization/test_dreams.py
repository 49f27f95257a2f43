"""Dreams are saved exactly. Files from strangers are data: they are loaded or refused in one line."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import dreamgram as dg
from dreamgram.activation_maximization.dreams import NOTE_OF_DREAMS, Dreams
from dreamgram.image_optimization.errors import OutputExistsError
from dreamgram.image_optimization.optimize import StopRun


def identical(first: Dreams, second: Dreams) -> bool:
    """Return whether all fields are the same, bit for bit, also where they are not a number."""
    pairs = [(getattr(first, each.name), getattr(second, each.name)) for each in fields(Dreams)]
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        if isinstance(a, Tensor)
        else a == b and type(a) is type(b)
        for a, b in pairs
    )


def test_everything_is_saved_exactly(digits: nn.Module, tmp_path: Path) -> None:
    def stop(step: Any) -> None:
        if step.number == 3:
            raise StopRun

    whole = dg.maximize(digits, dg.logit([3, 7, 8]) - dg.sparing(), steps=2, seed=5, batch=2)
    stopped = dg.maximize(digits, dg.logit([3, 7, 8]), steps=2, batch=2, listeners=stop)
    assert (stopped.stopped, len(stopped.images), stopped.history.isnan().any().item()) == ("interrupted", 3, True)
    deep = dg.amplify(digits, "deepdream(conv1)", torch.rand(1, 1, 28, 28), octaves=1, steps=1)
    odd = Dreams(
        torch.rand(2, 5, 3, 4).double().movedim(2, 3),
        torch.tensor([float("inf"), -0.0]),
        torch.empty(0, 2),
        "converged",
        (1,),
        settings={"Ä": "\n", "π": 3.5},
    )
    for number, dreams in enumerate((whole, stopped, deep, odd)):
        path = dreams.save(tmp_path / "folder" / f"{number}.safetensors")
        found = Dreams.load(str(path))
        assert identical(found, replace(dreams, images=dreams.images.contiguous()))
        assert repr(found) == repr(dreams)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [f"{n}.safetensors" for n in range(4)]


def test_the_result_says_what_it_is(digits: nn.Module) -> None:
    dreams = dg.maximize(digits, dg.logit([3, 7]) - dg.blur(1), steps=2, seed=5, precision="float32", transform="none")
    assert dreams.units == (3, 7)
    assert dreams.settings == {
        **{"objective": "(logits:3,7 - 1 blur)", "network": "DigitCNN", "steps": 2, "learning_rate": 0.1, "seed": 5},
        **{"optimizer": "adam", "parameterization": "PixelImage", "transform": "<lambda>", "precision": "float32"},
        **{"starts from": "noise", "version": dg.__version__},
    }
    image = torch.rand(1, 1, 28, 28)
    other = dg.maximize(digits, "logit(3)", steps=1, init=image, optimizer=dg.OPTIMIZERS["adam"]).settings
    assert (other["starts from"], other["optimizer"]) == ("images", "Adam")
    assert str(other["transform"]).startswith("RandomView(degrees=15")


def test_a_notebook_shows_the_units(digits: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    sheet = dg.contact_sheet

    def draw(images: Tensor, captions: list[str]) -> Any:
        seen.extend(captions)
        return sheet(images, captions)

    monkeypatch.setattr("dreamgram.activation_maximization.dreams.contact_sheet", draw)
    for objective in (dg.logit([3, 7]), dg.logit(3) - 0.1 * dg.diversity("conv1", images=2)):
        assert dg.maximize(digits, objective, steps=1)._repr_png_()
    assert [caption.split("\t")[0] for caption in seen] == ["3", "7", "0", "1"]


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dreams = Dreams(torch.rand(1, 1, 4, 4), torch.rand(1), torch.rand(2, 1), "finished")
    path = dreams.save(tmp_path / "a.safetensors")
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match=r"a\.safetensors exists"):
        dreams.save(path)
    with pytest.raises(ValueError, match=r"cannot write 'a\.png': the file name must end in \.safetensors"):
        dreams.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="the setting 'model' must be a text or a number, not None"):
        replace(dreams, settings={"model": None}).save(path, overwrite=True)  # type: ignore[dict-item]

    def fail(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=r"cannot write .*a\.safetensors: No space left on device"):
        replace(dreams, images=1 - dreams.images).save(path, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    replace(dreams, images=1 - dreams.images).save(path, overwrite=True)
    assert torch.equal(Dreams.load(path).images, 1 - dreams.images)


TENSORS = {"images": torch.rand(2, 1, 4, 4), "activations": torch.rand(2), "history": torch.rand(3, 2)}
NOTE: dict[str, Any] = {
    **{"format": 1, "version": "0.2.0", "stopped": "finished", "silent": [1], "units": [3, 7]},
    "settings": {"steps": 3},
}

CRAFTED: dict[str, tuple[dict[str, Any], dict[str, Any] | str, str]] = {
    "another format": ({}, {"format": 2}, "it has the format 2, and this version reads 1"),
    "no format": ({}, {"format": None}, "its note is damaged"),
    "a list": ({}, "[1]", "its note is damaged"),
    "no JSON": ({}, "{", "holds no dreams: "),
    "deep JSON": ({}, "[" * 100_000 + "]" * 100_000, "holds no dreams: "),
    "a key twice": ({}, '{"format": 1, "format": 1}', "a key is given twice"),
    "a large number": ({}, '{"format": ' + "9" * 5000 + "}", "holds no dreams: "),
    "an unknown end": ({}, {"stopped": "exploded"}, "its stopped must not be 'exploded'"),
    "an end of another type": ({}, {"stopped": ["finished"]}, "its stopped must not be"),
    "silent of another type": ({}, {"silent": {"0": 1}}, "its silent must be whole numbers"),
    "silent that is no image": ({}, {"silent": [2]}, "its silent must be different numbers below 2"),
    "silent twice": ({}, {"silent": [1, 1]}, "its silent must be different numbers below 2"),
    "true as a unit": ({}, {"units": [True, 2]}, "its units must be whole numbers"),
    "negative units": ({}, {"units": [-1, 2]}, "its units must be whole numbers"),
    "huge units": ({}, {"units": [2**70, 2]}, "its units must be whole numbers"),
    "too few units": ({}, {"units": [3]}, "it has 2 images, but 1 units"),
    "settings of another type": ({}, {"settings": [1]}, "the settings must be a dictionary, not list"),
    "nested settings": ({}, {"settings": {"a": {}}}, "the setting 'a' must be a text or a number"),
    "long settings": ({}, {"settings": {"a": "b" * 20_000}}, "the setting 'a' has more than 10000 characters"),
    "many settings": ({}, {"settings": dict.fromkeys(map(str, range(101)), 1)}, "more than 100 settings"),
    "no images": ({"images": torch.rand(0, 1, 4, 4)}, {}, r"images must be \(N, C, H, W\), not \(0, 1, 4, 4\)"),
    "flat images": ({"images": torch.rand(2, 16)}, {}, r"images must be \(N, C, H, W\), not \(2, 16\)"),
    "whole images": ({"images": torch.ones(2, 1, 4, 4).int()}, {}, r"images must be fractions, not torch\.int32"),
    "images of eighths": (
        {"images": torch.rand(2, 1, 4, 4).to(torch.float8_e4m3fn)},
        {},
        r"images must be fractions, not torch\.float8_e4m3fn; there are torch\.float16, torch\.bfloat16, ",
    ),
    "a history of eighths": (
        {"history": torch.rand(3, 2).to(torch.float8_e5m2)},
        {},
        r"history must be fractions, not torch\.float8_e5m2",
    ),
    "images of sevens": (
        {"images": torch.full((2, 1, 4, 4), 7.0)},
        {},
        r"images must be in \[0, 1\], but go from 7 to 7",
    ),
    "negative images": ({"images": -torch.ones(2, 1, 4, 4)}, {}, r"images must be in \[0, 1\], but go from -1 to -1"),
    "true as the format": ({}, {"format": True}, "its note is damaged"),
    "a setting of nan": ({}, {"settings": {"a": float("nan")}}, "the setting 'a' must be a finite number, not nan"),
    "a huge setting": (
        {},
        json.dumps({**NOTE, "settings": {"a": 0.5}}).replace("0.5", "1e999"),
        "the setting 'a' must be a finite number, not inf",
    ),
    "images of nan": ({"images": torch.full((2, 1, 4, 4), torch.nan)}, {}, "images have values that are infinite or"),
    "other activations": ({"activations": torch.rand(3)}, {}, "activations and history must be"),
    "a scalar": ({"activations": torch.tensor(1.0)}, {}, "activations and history must be"),
    "another history": ({"history": torch.rand(2, 3)}, {}, "activations and history must be"),
    "one more tensor": ({"more": torch.rand(1)}, {}, "its tensors must be images, activations, history"),
}


def write(path: Path, tensors: dict[str, Tensor], note: dict[str, Any] | str) -> Path:
    text = note if isinstance(note, str) else json.dumps({**NOTE, **note})
    save_file({**TENSORS, **tensors}, path, {NOTE_OF_DREAMS: text})
    return path


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    tensors, note, message = CRAFTED[name]
    assert len(Dreams.load(write(tmp_path / "honest.safetensors", {}, {})).images) == 2
    with pytest.raises(ValueError, match=message) as raised:
        Dreams.load(write(tmp_path / "crafted.safetensors", tensors, note))
    assert "crafted.safetensors holds no dreams" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stopped": "bogus"}, "its stopped must not be 'bogus'"),
        ({"silent": (9,)}, "its silent must be different numbers below 2"),
        ({"units": (1.5, 2)}, "its units must be whole numbers"),
        ({"units": (3,)}, "it has 2 images, but 1 units"),
        ({"settings": {"a": float("inf")}}, "the setting 'a' must be a finite number, not inf"),
        ({"settings": {3: "a"}}, "the setting 3 must be a text or a number"),
        ({"images": torch.full((2, 1, 4, 4), 7.0)}, r"images must be in \[0, 1\]"),
        ({"images": torch.zeros(2, 1, 4, 4).to(torch.float8_e4m3fn)}, "images must be fractions"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    dreams = replace(Dreams(**TENSORS, stopped="finished"), **change)
    with pytest.raises(ValueError, match=f"^the dreams cannot be saved: .*{message}"):
        dreams.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_saved(tmp_path: Path) -> None:
    dreams = Dreams(
        **TENSORS,
        stopped="finished",
        silent=tuple(np.array([1])),
        units=tuple(np.array([3, 7])),
        settings={"steps": np.int64(3), "rate": np.float32(0.5)},  # type: ignore[dict-item]
    )
    found = Dreams.load(dreams.save(tmp_path / "a.safetensors"))
    assert (found.silent, found.units, found.settings) == ((1,), (3, 7), {"steps": 3, "rate": 0.5})
    for kind in (torch.float16, torch.bfloat16):
        path = replace(dreams, images=dreams.images.to(kind)).save(tmp_path / f"{kind}.safetensors")
        assert Dreams.load(path).images.dtype == kind


def test_dreams_of_many_units_are_saved(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4096))
    network.input_shape = (1, 2, 2)  # type: ignore[assignment]
    whole = dg.maximize(network, dg.channel("1", range(4096)) - dg.blur(1), steps=1, transform="none")
    assert Dreams.load(whole.save(tmp_path / "whole.safetensors")).settings["objective"] == "(1:0-4095 - 1 blur)"
    even = dg.maximize(network, dg.channel("1", range(0, 4096, 2)) - dg.blur(1), steps=1, transform="none")
    name = Dreams.load(even.save(tmp_path / "even.safetensors")).settings["objective"]
    assert str(name).startswith("(1:0,2,4,6,")
    assert str(name).endswith("4092,4094 - 1 blur)")
    assert len(str(name)) <= 2000


OTHERS: dict[str, Callable[[Path], Any]] = {
    "weights": lambda path: save_file({"conv.weight": torch.rand(2)}, path),
    "weights with a note": lambda path: save_file({"conv.weight": torch.rand(2)}, path, {NOTE_OF_DREAMS: "{}"}),
    "pickle": lambda path: torch.save(
        Dreams(torch.rand(1, 1, 2, 2), torch.rand(1), torch.rand(1, 1), "finished"), path
    ),
    "picture": lambda path: dg.images.save(torch.rand(1, 4, 4), path.with_suffix(".png")).rename(path),
    "nothing": lambda path: path.write_bytes(b""),
    "huge header": lambda path: path.write_bytes(struct.pack("<Q", 2**62) + b"{}"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    OTHERS[name](path)
    with pytest.raises(ValueError, match=r"other\.safetensors holds no dreams: ") as raised:
        Dreams.load(path)
    assert "\n" not in str(raised.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.safetensors"):
        Dreams.load(tmp_path / "none.safetensors")
    with pytest.raises(IsADirectoryError, match="is a folder, not a file of dreams"):
        Dreams.load(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ValueError, match="is not a regular file"):
        Dreams.load(tmp_path / "pipe.safetensors")


def test_damaged_files(tmp_path: Path) -> None:
    honest = write(tmp_path / "honest.safetensors", {}, {}).read_bytes()
    dice, refused = random.Random(0), 0
    for _ in range(400):
        data = bytearray(honest)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        cut = bytes(data[: dice.randrange(len(data))]) if dice.random() < 0.3 else bytes(data)
        (tmp_path / "damaged.safetensors").write_bytes(cut)
        try:
            assert Dreams.load(tmp_path / "damaged.safetensors").images.shape == (2, 1, 4, 4)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path / 'damaged.safetensors'} holds no dreams: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
    assert 200 < refused < 400
