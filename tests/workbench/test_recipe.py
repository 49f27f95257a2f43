from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamgram.activation_maximization.options import OPTIONS_OF_COMMANDS
from dreamgram.image_optimization import images
from dreamgram.image_optimization.optimize import Step
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.workbench.console import Terminal
from dreamgram.workbench.options import declaration
from dreamgram.workbench.recipe import Inputs, Recipe, checksum, is_made
from dreamgram.workbench.trust import UntrustedError
from dreamgram.workbench.version import __version__
from tests.conftest import Command

ROOT = Path(__file__).parents[2]
COMMANDS = {"stylize": StylizeOptions}
QUICK = ["--style", "marbling", "--size", 40, "--steps", 1, "--style-layers", "relu1_1"]

OLD = """\
{"command": "stylize", "version": "0.1.0", "photo": "p.jpg", "style": ["marbling"], "output": "out", "size": 40,
"blend": "2,1", "style_scale": 1.0, "content_mask": null, "style_mask": [], "colors": "style", "preset": "default",
"style_loss": "wasserstein", "content_weight": 1.0, "style_weight": 1.0, "tv_weight": 0.5, "temporal_weight":
200.0, "content_layers": null, "style_layers": "relu1_1=1,relu3_1", "init": "content", "optimizer": "lbfgs",
"steps": 2, "model": "vgg16", "weights": null, "seed": 0, "device": "auto", "precision": "bfloat16", "max_memory":
"800M", "bits": null, "quality": 95, "strip": false, "timelapse": null, "plot": false, "checkpoint": null,
"checkpoint_every": 60.0, "resume_from": null, "tiled": null, "overwrite": false, "list_styles": false, "files":
{}, "stopped": "finished"}"""
"""The recipe of a picture of version 0.1.0."""


def options(**changes: Any) -> StylizeOptions:
    return StylizeOptions(photo=Path("photo.jpg"), style=["marbling"]).change(**changes)


def recipe(files: dict[str, str] | None = None, network: str = "", **changes: Any) -> Recipe:
    return Recipe("stylize", options(**changes).resolved(), files or {}, network)


def test_a_recipe_of_version_0_1_0() -> None:
    found = Recipe.parse(OLD, COMMANDS, "a.png")
    expected = StylizeOptions(
        photo=Path("p.jpg"), style=["marbling"], size=40, blend=[2, 1], steps=2, precision="bfloat16",
        style_layers={"relu1_1": 1, "relu3_1": 1}, content_layers={"relu4_2": 1}, max_memory=800_000_000,
        checkpoint_every=60, focus=0, style_margin=0,
    )  # fmt: skip
    assert vars(found.options) == vars(expected.resolved())
    assert (found.version, found.stopped, found.unknown, dict(found.made)) == (
        "0.1.0",
        "finished",
        (),
        {"output": "out"},
    )


def test_a_recipe_is_read_as_it_was_written() -> None:
    written = Recipe(
        "stylize", options(size=40, blend="2,1").resolved(), {"photo.jpg": "1f"}, "2e", {"plan": [[3, 96]]}
    )
    found = Recipe.parse(written.stop("interrupted").note(), COMMANDS, "a.png")
    assert vars(found.options) == vars(written.options)
    assert found == replace(written, stopped="interrupted")
    assert found.version == __version__


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "5", '"stylize"', "[]", "{}", '{"command": 5}', '{"command": {}}', "\0", '{"seed": 3}'),
        *("[" * 100_000, '{"a":' * 100_000, "1" * 10_000),
        *(f'{{"command": "stylize", "options": {wrong}}}' for wrong in ("[]", "null", "5", '"a"')),
        *(json.dumps({**json.loads(OLD), "files": wrong}) for wrong in ([], None, 5)),
        '{"command": "stylize", "options": {"photo": "a", "style": []}, "made": 5}',
    ],
)
def test_garbage_is_no_recipe(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a.png holds no recipe of Dreamgram that can be read$"):
        Recipe.parse(text, COMMANDS, "a.png")


@pytest.mark.parametrize("name", [each.name for each in fields(StylizeOptions) if declaration(each).recorded])
def test_wrong_values_in_a_recipe_are_one_error(name: str) -> None:
    nested = "[" * 800 + "]" * 800
    for wrong in (
        "{}",
        "[[[]]]",
        "true",
        "-1",
        "1e999",
        "NaN",
        '"nonsense"',
        '""',
        "null",
        '"\\u0000"',
        "9" * 999,
        nested,
    ):
        kept = json.dumps({"command": "stylize", "options": {**options().record(), name: "HERE"}})
        try:
            found = Recipe.parse(kept.replace('"HERE"', wrong), COMMANDS, "a.png")
        except ValueError as error:
            assert re.match(rf"the recipe in a\.png cannot be followed: {name} must ", str(error))  # noqa: PT017
        else:
            found.note()


def test_a_recipe_of_another_command_and_an_incomplete_one() -> None:
    with pytest.raises(ValueError, match=r"^a.png was made by 'dream units', not by a command of stylize$"):
        Recipe.parse('{"command": "dream units"}', COMMANDS, "a.png")
    with pytest.raises(ValueError, match=r"^the recipe in a.png cannot be followed: photo must be given, unless"):
        Recipe.parse('{"command": "stylize", "style": ["a"]}', COMMANDS, "a.png")


def test_the_difference_of_two_recipes() -> None:
    first = recipe({"photo.jpg": "1", "painting.jpg": "2"}, network="3")
    assert first.same_as(first)
    assert first.difference(recipe(size=40)) == "with size 40, not 512"
    assert first.difference(recipe({"painting.jpg": "0"})) == "from a different painting.jpg"
    assert first.difference(recipe({"photo.jpg": "0"})) == "from a different photo.jpg"
    assert first.difference(recipe(network="4")) == "with different network weights"
    assert first.difference(Recipe("dream units", options())) == "by dream units, not stylize"
    # A photo is compared by its content, whatever its name is.
    assert first.difference(recipe({"other.jpg": "1"}, photo="other.jpg")) == ""
    assert first.difference(recipe({"other.jpg": "0"}, photo="other.jpg")) == "from a different other.jpg"
    # What the picture does not depend on is not compared.
    others = {"quality": 7, "output": "a.png", "device": "cpu", "max_memory": "1G", "plot": True}
    assert first.same_as(replace(recipe(**others), made={"plan": []}, version="0.1.0"))


def test_the_user_is_told_of_a_newer_version_and_of_unknown_options() -> None:
    kept = {**json.loads(recipe().note()), "version": "99.0"}
    kept["options"] |= {"glitter": 3, "frame": "gold"}
    assert Recipe.parse(json.dumps(kept), COMMANDS, "a.png").check("a.png") == [
        "a.png was made with glitter, which this version does not know",
        "a.png was made with frame, which this version does not know",
        f"a.png was made by Dreamgram 99.0, which is newer than this one, {__version__}",
    ]
    for version in (__version__, "0.1.0", "", "strange"):
        assert replace(recipe(), version=version).check("a.png") == []


def test_the_user_is_told_of_a_version_with_another_optimization() -> None:
    assert replace(recipe(), version="0.1.0").check("a.png", changed="0.2.0") == [
        "a.png was made by Dreamgram 0.1.0; version 0.2.0 changed the optimization, so the picture will differ"
    ]
    for version in ("0.2.0", "0.10", "", "strange"):
        assert not any("will differ" in line for line in replace(recipe(), version=version).check("a.png", "0.2.0"))


def test_what_cannot_be_followed_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png was interrupted, so it cannot be made again"):
        recipe().stop("interrupted").check("a.png")
    photo = tmp_path / "photo.jpg"
    photo.write_text("a picture")
    made = recipe({str(photo): checksum(photo)})
    with pytest.raises(UntrustedError, match=r"a\.png would read .*photo\.jpg, which is outside"):
        made.check("a.png")
    assert made.check("a.png", trust=True) == made.check(tmp_path / "a.png") == []
    photo.write_text("another picture")
    with pytest.raises(ValueError, match=r"photo\.jpg, used to make this picture, has changed since"):
        made.check("a.png", trust=True)
    photo.unlink()
    with pytest.raises(ValueError, match=r"photo\.jpg, used to make this picture, is missing"):
        made.check("a.png", trust=True)


@pytest.mark.parametrize(
    ("name", "bits"), [("a.png", 8), ("a.png", 16), ("a.jpg", 8), ("a.webp", 8), ("a.tif", 8), ("a.tiff", 16)]
)
def test_a_recipe_is_kept_in_a_picture(name: str, bits: int, photo: Tensor, tmp_path: Path) -> None:
    written = recipe({"ä'\"<&>.jpg": "1"}, photo="ä'\"<&>.jpg", style=["painting\n.jpg"])
    images.save(photo, tmp_path / name, written.note(), bits=bits)
    assert Recipe.read(tmp_path / name, COMMANDS).note() == written.note()
    assert is_made(tmp_path / name, written, overwrite=False)
    other = replace(written, options=written.options.change(size=9))
    assert not is_made(tmp_path / name, other, overwrite=True)
    with pytest.raises(FileExistsError, match=f"{name} was made with size 512, not 9; choose another output"):
        is_made(tmp_path / name, other, overwrite=False)


def test_pictures_without_a_recipe(photo: Tensor, tmp_path: Path) -> None:
    images.save(photo, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png holds no recipe of Dreamgram$"):
        Recipe.read(tmp_path / "a.png", COMMANDS)
    with pytest.raises(FileNotFoundError, match=r"no image file .*b\.png"):
        Recipe.read(tmp_path / "b.png", COMMANDS)
    (tmp_path / "text.png").write_text("a letter")
    for name in ("a.png", "text.png"):
        with pytest.raises(FileExistsError, match=f"{name} was made without a recipe of this command; choose"):
            is_made(tmp_path / name, recipe(), overwrite=False)
    assert not is_made(tmp_path / "b.png", recipe(), overwrite=False)


def test_files_are_hashed_as_they_are_read(command: Command, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes between its reading and the end of the work is not what the picture was made from."""
    images.save(photo, "photo.png")
    before = checksum(Path("photo.png"))
    inputs = Inputs()
    inputs.read(Path("photo.png"))
    copied = inputs.copy()
    copied.add(Path("photo.png"))
    assert inputs.checksums == copied.checksums == {"photo.png": before}

    def change(terminal: Terminal, step: Step) -> None:
        images.save(1 - photo, "photo.png", overwrite=True)

    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", change)
        assert command("stylize", "photo.png", *QUICK, "-o", "a.png").code == 0
    assert checksum(Path("photo.png")) != before
    assert dict(Recipe.read(Path("a.png"), COMMANDS).files) == {"photo.png": before}
    run = command("stylize", "replay", "a.png")
    assert (run.code, run.err) == (2, "error: photo.png, used to make this picture, has changed since\n")


def test_replay_tells_what_this_version_does_not_know(command: Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    assert command("stylize", "photo.png", *QUICK, "-o", "a.png").code == 0
    kept = json.loads(images.read_note("a.png") or "")
    kept["options"]["glitter"], kept["version"] = 3, "99.0"
    images.save(photo, "newer.png", json.dumps(kept))
    run = command("stylize", "replay", "newer.png", "-o", "b.png")
    assert run.code == 0
    assert run.err.splitlines() == [
        "newer.png was made with glitter, which this version does not know",
        f"newer.png was made by Dreamgram 99.0, which is newer than this one, {__version__}",
    ]
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def replaced(file: Path, old: str, new: str) -> None:
    """Replace ``old``, which the file has once."""
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose folder style_transfer can be changed."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("dreamgram", "models", "image_optimization", "workbench", "activation_maximization", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "style_transfer", folder / "style_transfer", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


DECLARATION = """    darkness: float = option(
        1.0,
        "Exponent of the result. Larger makes it darker.",
        group="Picture",
        above=0,
        values=(0.5, 1.0, 2.0),
    )
"""

SESSION = """
import sys
from dreamgram.image_optimization.optimize import StopRun
from dreamgram.style_transfer.checkpoint import Checkpoint, read_checkpoint
from dreamgram.style_transfer.cli import main
from dreamgram.workbench.job import Job

def stylize(*arguments):
    sys.argv = ["stylize", *arguments]
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, 130), end.code

quick = sys.argv[1:]
stylize("--help")
stylize(*quick, "-o", "plain.png")
stylize(*quick, "--darkness", "2", "-o", "dark.png")
stylize("replay", "dark.png", "-o", "again.png")
Job.__call__ = lambda job, step: job.stop() if step.number == 1 else (_ for _ in ()).throw(StopRun)
stylize(*quick, "--darkness", "2", "--steps", "3", "--checkpoint", "run.ckpt", "-o", "part.png")
"""


def test_a_new_option_is_two_places(checkout: Path, photo: Tensor, tmp_path: Path) -> None:
    """It is declared and used; the help, the recipe, the replay and the checkpoint know it without more."""
    replaced(
        checkout / "style_transfer" / "options.py",
        "    steps: int = option(\n",
        f"{DECLARATION}    steps: int = option(\n",
    )
    replaced(
        checkout / "style_transfer" / "stylizer.py",
        "self.options.strength, image, self.photo)",
        "self.options.strength, image, self.photo) ** self.options.darkness",
    )
    images.save(photo, tmp_path / "photo.png")
    line = [sys.executable, "-c", SESSION, "photo.png", *map(str, QUICK)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    run = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "--darkness X" in run.stdout
    assert "Exponent of the result. Larger makes it darker. [default: 1]" in " ".join(run.stdout.split())
    plain, dark = (images.load(tmp_path / f"{name}.png") for name in ("plain", "dark"))
    torch.testing.assert_close(dark, plain**2, rtol=0, atol=0.01)
    assert json.loads(images.read_note(tmp_path / "dark.png") or "")["options"]["darkness"] == 2
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "dark.png").read_bytes()
    assert b'\\"darkness\\": 2.0' in (tmp_path / "run.ckpt").read_bytes()


def test_an_option_is_named_in_few_places() -> None:
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in ("tests", "benchmarks", "build")]
    files = [file for folder in folders if not folder.name.startswith(".") for file in folder.rglob("*.py")]
    named = sum(len(re.findall(r"\btv_weight\b", file.read_text(encoding="utf-8"))) for file in files)
    assert 0 < named <= 5


def test_a_folder_of_version_0_1_0_is_continued(tmp_path: Path) -> None:
    """Version 0.1.0 recorded a missing list as [], and had no newer option."""
    path = images.save(torch.rand(1, 3, 9, 9), tmp_path / "a.png", OLD)
    asked = {"size": 40, "blend": [2, 1], "steps": 2, "style_layers": {"relu1_1": 1, "relu3_1": 1}}
    asked |= {"focus": 0.0, "style_margin": 0.0}
    new = recipe(photo=Path("elsewhere.jpg"), precision="bfloat16", content_layers={"relu4_2": 1}, **asked)
    assert is_made(path, new, overwrite=False)


@pytest.mark.parametrize(
    ("style_loss", "style"),
    [("wasserstein", [1, 2, 3, 4, 5]), ("gram", [1, 2, 3, 4, 5]), ("nearest", [1, 2, 3, 4])],
)
def test_version_0_1_0_had_other_default_layers(style_loss: str, style: list[int]) -> None:
    record = {**json.loads(OLD), "style_loss": style_loss, "style_layers": None}
    found = Recipe.parse(json.dumps(record), COMMANDS, "a.png").options
    assert isinstance(found, StylizeOptions)
    assert found.losses.content == {"relu4_2": 1}
    assert found.losses.style == {f"relu{number}_1": 1 for number in style}


@pytest.mark.parametrize("name", ["digits.png", "filters.png", "examples.png", "brushwork.jpg"])
def test_recipes_of_the_gallery_are_read(name: str) -> None:
    """Some of these pictures were made before options were renamed."""
    found = Recipe.read(ROOT / "outputs" / "gallery" / name, {**COMMANDS, **OPTIONS_OF_COMMANDS})
    assert (found.unknown, found.stopped) == ((), "finished")


def test_an_interrupted_picture_is_not_made(tmp_path: Path) -> None:
    path = images.save(torch.rand(1, 3, 9, 9), tmp_path / "a.png", recipe().stop("interrupted").note())
    assert not is_made(path, recipe(), overwrite=False)
    images.save(torch.rand(1, 3, 9, 9), path, recipe().note(), overwrite=True)
    assert is_made(path, recipe(), overwrite=False)


def test_an_option_of_a_newer_version_makes_another_picture(tmp_path: Path) -> None:
    kept = json.loads(recipe().note())
    kept["options"]["hair"] = 3
    path = images.save(torch.rand(1, 3, 9, 9), tmp_path / "a.png", json.dumps(kept))
    with pytest.raises(
        FileExistsError, match="made with hair, which this version does not know; choose another output"
    ):
        is_made(path, recipe(), overwrite=False)


def test_a_folder_is_hashed_with_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("a")
    before = checksum(tmp_path)
    assert checksum(tmp_path) == before
    (tmp_path / "more" / "a.txt").write_text("b")
    changed = checksum(tmp_path)
    (tmp_path / "more" / "a.txt").rename(tmp_path / "more" / "b.txt")
    assert len({before, changed, checksum(tmp_path)}) == 3


def test_a_model_file_that_changes_while_it_is_loaded(tmp_path: Path) -> None:
    """The recipe would hold the hash of a file that was never run."""
    file = tmp_path / "nets.py"
    file.write_text(
        "import torch\ndef net():\n    open(__file__, 'a').write('#')\n    return torch.nn.Conv2d(1, 2, 3)\n"
    )
    with pytest.raises(ValueError, match="changed while the network was loaded"):
        Inputs().load_model(f"{file}:net", None)


def test_a_picture_of_a_pre_release_is_not_said_to_differ() -> None:
    """The pre-release has the changes of the release."""
    kept = json.loads(OLD)
    for version, told in (("0.1.9", 1), ("0.2.0rc1", 0), ("0.2.0", 0)):
        found = replace(Recipe.parse(json.dumps(kept), COMMANDS, "a.png"), version=version, files={})
        assert len(found.check("a.png", "0.2.0")) == told


def test_files_that_change_while_they_are_read_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.png").write_bytes(b"1")
    (tmp_path / "film.mp4").write_bytes(b"1")
    inputs = Inputs()
    for name in ("data", "film.mp4"):
        inputs.add(tmp_path / name)
    inputs.check(tmp_path / "data", tmp_path / "film.mp4")
    (tmp_path / "data/a.png").write_bytes(b"2")
    inputs.check(tmp_path / "film.mp4")
    with pytest.raises(ValueError, match=r"data changed while it was read; run the command again"):
        inputs.check(tmp_path / "film.mp4", tmp_path / "data")
