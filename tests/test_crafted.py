"""The recipes in pictures and checkpoints are data: they write no file, run no code, and end in no traceback."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch

from dreamgram.image_optimization import images
from dreamgram.style_transfer import stylizer
from dreamgram.workbench import recipe
from tests.conftest import Command
from tests.crafted import CASES, make_world

LOAD = cache(recipe.load)

LONGEST = 10
"""Longest time, in seconds, that a command may take."""


def be_quick(patch: pytest.MonkeyPatch) -> None:
    """Load each network only once, and do not search for the smallest picture that it takes."""
    patch.setattr(recipe, "load", LOAD)
    patch.setattr(stylizer, "smallest_size", lambda model, layers: 16)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of :func:`make_world`."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "home")
        be_quick(patch)
        make_world(folder)
    return folder


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError if the body of the ``with`` statement, such as reading a pipe, takes too long."""

    def stop(*_: object) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, object]:
    """Return the contents of all files below ``folder``, by their relative path."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = path.readlink()
        elif path.is_file():
            found[name] = path.read_bytes()
        elif not path.is_dir():
            found[name] = "special"
    return found


def test_there_are_enough_crafted_files() -> None:
    assert sum(bool(case.says) for case in CASES.values()) >= 77


@pytest.mark.parametrize("name", CASES)
def test_what_a_file_says_is_data(
    name: str, world: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    shutil.copytree(world, tmp_path / "world", symlinks=True, copy_function=os.link, ignore=special)
    monkeypatch.chdir(tmp_path / "world" / "home")
    be_quick(monkeypatch)
    for pipe in ("pipe.png", "pipe.npy"):
        os.mkfifo(pipe)
    line = case.write()
    before = contents(tmp_path)
    with at_most(LONGEST):
        run = command(*line)
    after = contents(tmp_path)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    if not case.says:
        assert run.code == 0, run.err
        assert {Path(path).name for path in changed} == set(case.written)
        return
    assert not changed
    assert run.code in (1, 2), run
    assert run.out == ""
    assert len(run.err.splitlines()) == 1, run.err
    assert run.err.startswith("error: ")
    assert run.err.rstrip("\n").isprintable()
    assert len(run.err) < 1100
    assert re.search(case.says, run.err), run.err


def test_crafted_pictures_in_a_folder(command: Command) -> None:
    """The pictures are in the folder of results, where a picture with the right recipe would be kept."""
    photo = torch.rand(1, 3, 32, 32)
    line = [
        "stylize",
        "photos",
        "--style",
        "marbling",
        "--size",
        32,
        "--steps",
        1,
        "--style-layers",
        "relu1_1",
        "-o",
        "out",
    ]
    images.save(photo, "photos/honest.png")
    assert command(*line).code == 0
    kept = json.loads(images.read_note("out/honest.png") or "")
    notes = {
        "absolute": json.dumps({**kept, "files": {"/etc/passwd": "0"}, "options": {**kept["options"], "size": 16}}),
        "argument": json.dumps({**kept, "options": {**kept["options"], "strip": "--overwrite"}}),
        "code": json.dumps({**kept, "options": {**kept["options"], "model": "evil.py:net"}}),
        "deep": "[" * 100_000,
        "huge": json.dumps({**kept, "options": {**kept["options"], "steps": 10**400}}),
        "long": json.dumps({**kept, "options": {**kept["options"], "x" * 10**6: 1}}),
        "nan": json.dumps({**kept, "options": {**kept["options"], "tv_weight": math.nan}}),
        "stopped": json.dumps({**kept, "stopped": ["finished"]}),
    }
    Path("evil.py").write_text("open('trace', 'w')")
    for name, note in notes.items():
        images.save(photo, f"photos/{name}.png")
        images.save(photo, f"out/{name}.png", note)
    before = contents(Path())
    with at_most(LONGEST):
        run = command(*line)
    assert contents(Path()) == before
    assert run.code == 1
    assert run.out == f"out: {len(notes)} failed, 1 already existed\n"
    lines = run.err.splitlines()
    assert [line.split(".png")[0] for line in lines] == [f"failed: photos/{name}" for name in notes]
    assert all(line.endswith("choose another output or overwrite it (--overwrite)") for line in lines)
    assert max(map(len, lines)) < 300


def special(folder: str, names: list[str]) -> set[str]:
    """Return the names of the pipes, which cannot be copied."""
    return {name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()}
