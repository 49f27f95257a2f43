"""Crafted pictures and checkpoints: files that a stranger could send, and honest files to compare them with.

Each case writes its files into a folder that already contains the files of :func:`make_world`, and returns the command
that a user would type. The user names no file except those in the command.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamgram.activation_maximization import commands
from dreamgram.activation_maximization.options import ClassesOptions, MaximizeOptions, UnitsOptions
from dreamgram.image_optimization import images
from dreamgram.style_transfer.checkpoint import NOTE
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.style_transfer.paint import paint
from dreamgram.workbench.job import Job
from tests.jobs import stopping_at

EVIL = """
from pathlib import Path
import torch
Path.cwd().parent.joinpath("trace").write_text("this code was run")
def net():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3))
"""
"""A model file that leaves a trace when it is run."""

LAYERS = {"content_layers": {"relu1_1": 1.0}, "style_layers": {"relu1_1": 1.0}}

FORMATS = ("png", "jpg", "webp", "tif")

DEEP = 100_000
"""Depth of nested JSON."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A crafted file, and the command that reads it."""

    write: Callable[[], list[str]]
    """Function that writes the files of the case into the current folder, and returns the command."""
    says: str
    """Regular expression that the error message matches; "" for an honest file, which the command accepts."""
    written: tuple[str, ...] = ()
    """Names of the files that an accepted command writes."""


CASES: dict[str, Case] = {}


def make_world(world: Path) -> None:
    """Make the folders ``home``, in which the commands run, and ``outside``, which no file of a stranger may reach.

    ``home`` contains a photo, a painting, files of the user's that must not change, honest pictures and checkpoints,
    and a model file that leaves a trace. The current folder must be ``home``.
    """
    generator = torch.Generator().manual_seed(0)
    outside, evil = world / "outside", Path("evil")
    outside.mkdir()
    evil.mkdir()
    for path in ("photo.png", "painting.png", "victim.png", "photos/a.png", outside / "secret.png"):
        images.save(torch.rand(1, 3, 40, 32, generator=generator), path)
    for place in (evil, outside):
        (place / "evil.py").write_text(EVIL)
    torch.save({"0.weight": torch.rand(4, 1, 3, 3)}, outside / "secret.pt")
    Path("link.png").symlink_to(outside / "secret.png")
    Path("linked").symlink_to(outside)
    os.mkfifo("pipe.png")
    os.mkfifo("pipe.npy")
    quick = StylizeOptions(photo=Path("photo.png"), style=["marbling"], size=32, steps=4, precision="float32", **LAYERS)
    paint(quick.change(output=Path("honest.png")), Job())
    paint(quick.change(output=Path("part.png"), checkpoint=Path("run.ckpt")), stopping_at(3))
    paint(quick.change(output=Path("part2.png"), checkpoint=Path("adam.ckpt"), optimizer="adam"), stopping_at(3))
    two = quick.change(size=192, output=Path("part3.png"), checkpoint=Path("two.ckpt"))
    paint(two, stopping_at(4))
    for name in ("part.png", "part2.png", "part3.png"):
        Path(name).unlink()
    small = {"layer": "conv1", "size": 16, "steps": 2, "transform": "none"}
    commands.units(UnitsOptions(units="0,1", folder=Path("each"), output=Path("sheet.png"), **small), Job())
    commands.classes(ClassesOptions(classes="0,1", steps=2, output=Path("classes.png")), Job())
    commands.maximize(MaximizeOptions(objective="channel(conv1, 0)", size=16, steps=2, output=Path("dream.png")), Job())


def record(path: str) -> Record:
    """Return the recipe in a picture or checkpoint as a dictionary, which a case changes."""
    file = Path(path)
    if file.suffix == ".ckpt":
        return dict(json.loads(metadata(file)))
    return dict(json.loads(images.read_note(file) or ""))


def metadata(path: Path) -> str:
    """Return the recipe in the header of a safetensors file."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack_from("<Q", data)[0]])
    return str(header["__metadata__"][NOTE])


def save_picture(note: str, path: str = "crafted.png") -> str:
    images.save(torch.full((1, 3, 16, 16), 0.5), path, note, overwrite=True)
    return path


def picture(
    name: str, change: Callable[[Record], Any], says: str, base: str = "honest.png", more: tuple[str, ...] = ()
) -> None:
    """Add a picture whose recipe is that of ``base``, changed in place by ``change`` or replaced by its result.

    If the result is text, it is stored as it is. The pictures take turns in their formats.
    """
    path = f"crafted.{FORMATS[len(CASES) % len(FORMATS)]}"
    tool = "stylize" if base == "honest.png" else "dream"

    def write() -> list[str]:
        kept = record(base)
        changed = change(kept)
        save_picture(changed if isinstance(changed, str) else json.dumps(kept), path)
        return [tool, "replay", path, *(more or ("-o", "out.png"))]

    CASES[name] = Case(write, says)


def option(name: str, says: str, base: str = "honest.png", more: tuple[str, ...] = (), **options: Any) -> None:
    """Add a picture whose recipe has other values of some options, and names no files."""

    def change(kept: Record) -> None:
        kept["options"] |= options
        kept["files"] = {}

    picture(name, change, says, base, more)


def entry(name: str, says: str, base: str = "honest.png", more: tuple[str, ...] = (), **entries: Any) -> None:
    """Add a picture whose recipe has other entries beside the options."""
    picture(name, lambda kept: kept.update(entries), says, base, more)


def text(name: str, note: str, says: str = "holds no recipe of Dreamgram that can be read") -> None:
    """Add a picture with ``note``, in which OPTIONS stands for the options of an honest picture."""
    picture(name, lambda kept: note.replace("OPTIONS", json.dumps(kept["options"])[1:-1]), says)


def checkpoint(
    name: str,
    change: Callable[[Record, dict[str, Tensor]], Any],
    says: str,
    base: str = "run.ckpt",
    more: tuple[str, ...] = ("-o", "out.png"),
) -> None:
    """Add a checkpoint whose recipe and tensors are those of ``base``, changed in place by ``change``."""

    def write() -> list[str]:
        kept, state = record(base), load_file(base)
        changed = change(kept, state)
        save_file(state, "crafted.ckpt", {NOTE: changed if isinstance(changed, str) else json.dumps(kept)})
        return ["stylize", "resume", "crafted.ckpt", *more]

    CASES[name] = Case(write, says)


def tensor(name: str, says: str, base: str = "run.ckpt", **changes: Callable[[Tensor], Tensor | None]) -> None:
    """Add a checkpoint in which functions have changed some tensors; a tensor that becomes None is missing."""

    def change(kept: Record, state: dict[str, Tensor]) -> None:
        for key, new in changes.items():
            changed = new(state.pop(key, torch.zeros(1)))
            if changed is not None:
                state[key] = changed.contiguous()

    checkpoint(name, change, says, base)


def damaged(name: str, change: Callable[[bytes], bytes], says: str = "is not a checkpoint of stylize") -> None:
    """Add a checkpoint whose bytes are changed."""

    def write() -> list[str]:
        Path("crafted.ckpt").write_bytes(change(Path("run.ckpt").read_bytes()))
        return ["stylize", "resume", "crafted.ckpt", "-o", "out.png"]

    CASES[name] = Case(write, says)


def honest(name: str, line: list[str], written: tuple[str, ...] = ("out.png",), write: Any = None) -> None:
    """Add an honest file that the command ``line`` accepts. ``write`` writes the file if it does not exist already."""

    def prepare() -> list[str]:
        if write is not None:
            write()
        return line

    CASES[name] = Case(prepare, "", written)


def with_nan(tensor: Tensor, position: int) -> Tensor:
    tensor.view(-1)[position] = float("nan")
    return tensor


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the tensors of a safetensors file."""
    length = struct.unpack_from("<Q", data)[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return the safetensors file ``data`` with a header that is changed in place, or replaced by bytes."""
    header, rest = header_of(data)
    changed = change(header)
    encoded = changed if isinstance(changed, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + rest


# Settings that look like arguments of a command line, and values of other types.
MUST = "cannot be followed: {} must "
for name, value in {
    "strip": "--overwrite",
    "plot": "--output=victim.png",
    "timelapse": "--output=victim.png",
    "size": "--output=victim.png",
    "seed": [1, 2],
    "photo": ["photo.png", "--output=victim.png"],
    "style": {"painting.png": 1},
    "style_layers": {"relu1_1": "--overwrite"},
    "content_weight": {"a": 1},
    "steps": 1.5,
    "quality": True,
    "bits": 12,
    "colors": ["style"],
    "preset": "../preset",
    "optimizer": "os.system",
    "precision": None,
    "init": 3,
    "weights": ["a", "b"],
    "model": None,
    "blend": [[1]],
}.items():
    option(f"stylize: {name} is {value!r}", MUST.format(name), **{name: value})
for name, value in {
    "html": "--output=victim.png",
    "columns": "--overwrite",
    "units": ["0", "--overwrite"],
    "model": ["--overwrite"],
    "position": "--overwrite",
    "layer": {"conv1": 1},
    "transform": "__import__('os').system('touch victim')",
    "parameterization": "../pixels",
    "size": -3,
}.items():
    option(f"units: {name} is {value!r}", f"{name} must|no unit", base="sheet.png", **{name: value})

# Paths outside the current folder.
OUTSIDE = r"outside the current folder.*--trust"
for name, options in {
    "an absolute photo": {"photo": "{outside}/secret.png"},
    "a climbing photo": {"photo": "../outside/secret.png"},
    "a photo behind a link": {"photo": "link.png"},
    "a photo in a linked folder": {"photo": "linked/secret.png"},
    "a style outside": {"style": ["marbling", "../outside/secret.png"]},
    "a mask outside": {"content_mask": "{outside}/secret.png"},
    "a mask of a style outside": {"style_mask": ["linked/secret.png"]},
    "an image to start from outside": {"init": "../outside/secret.png"},
    "weights outside": {"weights": "../outside/secret.pt"},
    "a photo that climbs in the middle": {"photo": "photos/../../outside/secret.png"},
}.items():

    def change(kept: Record, options: Record = options) -> None:
        outside = str(Path.cwd().parent / "outside")
        kept["options"] |= json.loads(json.dumps(options).replace("{outside}", outside))
        kept["files"] = {}

    picture(name, change, OUTSIDE)
for name, kind, options in (
    ("an objective with a vector outside", "dream.png", {"objective": "direction(conv1, ../outside/secret.npy)"}),
    ("a quoted vector outside", "dream.png", {"objective": "direction(conv1, vector='/etc/secret.npy')"}),
    ("a photo to compare with outside", "dream.png", {"photo": "/etc/passwd"}),
    ("a picture to start from outside", "dream.png", {"init": "link.png"}),
):
    option(name, OUTSIDE, base=kind, **options)
entry("a file to hash outside", OUTSIDE, files={"/etc/passwd": "0" * 16})
entry("a device to hash", OUTSIDE, files={"/dev/zero": "0" * 16})
entry("a pipe to hash", "not a regular file", files={"pipe.png": "0" * 16})
option("a pipe as a photo", "not a regular file", photo="pipe.png")
option("a device as a photo", OUTSIDE, photo="/dev/zero")
option("a pipe as a style", "not a regular file", style=["pipe.png"])
option("a pipe as weights", "not a regular file|no weights file", weights="pipe.png")
option("a pipe as a vector", "not a regular file", base="dream.png", objective="direction(conv1, pipe.npy)")
option("a folder as a photo", "folder", photo="photos", more=("-o", "out"))
option("a folder as a photo, without an output", "folder", photo="photos", more=("--quiet",))
option("a video as a photo", "video", photo="film.mp4", more=("-o", "out.mp4"))
option("a photo that is the output", "victim.png.*output|output.*victim.png", photo="victim.png",
       more=("-o", "victim.png", "--overwrite"))  # fmt: skip
option("a painting that is the output", "output", style=["victim.png"], more=("-o", "./victim.png", "--overwrite"))
CASES["a picture that is the output"] = Case(
    lambda: ["stylize", "replay", "honest.png", "-o", "honest.png", "--overwrite"], "output"
)

# Model files.
CODE = r"net in the Python file .*evil.py.*--trust"
option("a model file", CODE, model="evil/evil.py:net")
option("a model file of dream", CODE, base="sheet.png", model="evil/evil.py:net")
option("a model file among several", CODE, base="sheet.png", model=["digits", "evil/evil.py:net"])
option("weights outside among several", OUTSIDE, base="sheet.png", model=["digits", "digits"],
       weights=["../outside/secret.pt", "a.pt"])  # fmt: skip
option("more weights than networks", "weights must", base="sheet.png", model=["digits", "digits"], weights=["a"] * 3)
option("several networks where one is wanted", "model must be a single network", model=["vgg16", "vgg16"])
option("a model file outside", CODE, base="dream.png", model="../outside/evil.py:net")
option("a model file with a prefix", CODE, model="./evil/evil.py:net")
option("a model file for torchvision", "no torchvision network", model="torchvision:evil/evil.py")
option("a model file that hides", r"evil.*--trust|no network", base="sheet.png", model="torchvision:../evil.py:net")
option("a model file for timm", "no network", base="sheet.png", model="timm:hf_hub:evil/evil")
CASES["pickled weights"] = Case(lambda: _pickled_weights(), "weights in evil.pt do not fit")
CASES["a pickled vector"] = Case(lambda: _pickled_vector(), "holds no vector")


class Trace:
    """An object that leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path.cwd().parent / "trace",))


def _pickled_weights() -> list[str]:
    torch.save({"0.weight": Trace()}, "evil.pt")
    kept = record("honest.png")
    kept["options"]["weights"], kept["files"] = "evil.pt", {}
    return ["stylize", "replay", save_picture(json.dumps(kept)), "-o", "out.png"]


def _pickled_vector() -> list[str]:
    import numpy as np

    np.save("evil.npy", np.array([Trace()], dtype=object), allow_pickle=True)
    kept = record("dream.png")
    kept["options"]["objective"], kept["files"] = "direction(conv1, evil.npy)", {}
    return ["dream", "replay", save_picture(json.dumps(kept)), "-o", "out.png"]


# JSON.
HEAD = '"command": "stylize", "version": "0.2.0"'
text("an array", "[]")
text("a number", "5")
text("NaN", "NaN")
text("text that is no JSON", "--overwrite")
text("arrays of depth 100,000", "[" * DEEP + "]" * DEEP)
text("objects of depth 100,000", '{"a":' * DEEP + "1" + "}" * DEEP)
for name, value in {
    "deep": "[" * DEEP + "]" * DEEP,
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "a huge integer": "9" * 5000,
    "a long integer": "1" + "0" * 4000,
    "a large float": "1e400",
}.items():
    text(f"an option that is {name}", f'{{{HEAD}, "options": {{OPTIONS, "tv_weight": {value}}}}}', "recipe|tv_weight")
    text(f"an entry that is {name}", f'{{{HEAD}, "options": {{OPTIONS}}, "made": {{"plan": {value}}}}}', "recipe")
text("a key given twice", f'{{{HEAD}, "options": {{OPTIONS}}, "options": {{OPTIONS, "photo": "photos/a.png"}}}}')
text("an option given twice", f'{{{HEAD}, "options": {{OPTIONS, "photo": "photos/a.png"}}}}')
option("a long name", "photo must", photo="a" * 10_000_000)
option("a name that fills the screen", "no image file", photo="a/" * 1900 + "b.png")
option("a long list of styles", "style must", style=["marbling"] * 10_000)
option("a long table of layers", "style_layers must", style_layers={f"relu{n}": 1 for n in range(100_000)})
option("a long expression", "objective must", base="dream.png", objective="channel(conv1, 0) + " * 10_000)
option("a name with a zero byte", "photo must", photo="photo\0.png")
option("a name with half a character", "photo must", photo="photo\ud800.png")
option("a name that clears the terminal", r"no image file \\x1b\[2J", photo="\x1b[2J\x1b]0;title\x07.png")
option("a range that is too long", "expected units", base="dream.png", objective="channel(conv1, 0-99999999999)")
option("a name of several lines", "photo must|no image file", photo="a\nb\n.png")
option("a size beyond 64 bits", "size must", size=10**30)
option("a size that no memory holds", "size must|memory|too little", size=2**62)
option("many steps", "steps must", steps=10**18)
option("many octaves", "unknown|steps must", base="sheet.png", steps=2**70)
option("an unknown network", "no network", model="../../etc/passwd")
option("an unknown device", "no device", device="meta")
option("many unknown options", "", **{f"unknown{n}": n for n in range(1000)})
CASES["many unknown options"] = replace(CASES["many unknown options"], written=("out.png",))

# Other entries of a recipe.
READ = "recipe|cannot be followed"
for name, value in {
    "files is a list": {"files": ["photo.png"]},
    "a hash is a list": {"files": {"photo.png": ["0"]}},
    "a hash is a number": {"files": {"photo.png": 5}},
    "many files": {"files": {f"{n}.png": "0" * 16 for n in range(10_001)}},
    "version is a list": {"version": ["0.2.0"]},
    "version is null": {"version": None},
    "network is null": {"network": None},
    "stopped is null": {"stopped": None},
    "version is long": {"version": "1." * 1_000_000},
    "version is a huge number": {"version": "9" * 5000},
    "stopped is a list": {"stopped": ["finished"]},
    "stopped is unknown": {"stopped": "--overwrite"},
    "network is a list": {"network": [1]},
    "network is long": {"network": "0" * 1_000_000},
    "made is a list": {"made": [1]},
    "command is a path": {"command": "../stylize"},
    "command is long": {"command": "stylize" * 1_000_000},
    "plan is text": {"made": {"plan": "12"}},
    "plan is a number": {"made": {"plan": 5}},
    "plan is deep": {"made": {"plan": [[[[[1]]]]]}},
    "plan holds text": {"made": {"plan": ["12"]}},
    "plan holds zero": {"made": {"plan": [[0, 0]]}},
    "plan holds a huge number of pairs": {"made": {"plan": [[10**12, 10**6]]}},
    "plan holds numbers with fractions": {"made": {"plan": [[1.5, 99.5]]}},
    "plan holds a huge integer": {"made": {"plan": [[20, 10**400]]}},
    "plan is long": {"made": {"plan": [[20, 10**6]] * 100_000}},
    "tiled is deep": {"made": {"tiled": "[" * DEEP + "]" * DEEP}},
    "tiled is a list": {"made": {"tiled": [1]}},
    "tiled is code": {"made": {"tiled": "__import__('os')"}},
}.items():
    entry(name, READ + "|plan|tiled|was made by", **value)
for name, value in {
    "found is a list": [1],
    "found is empty": {},
    "a unit is text": {"unit": "0; rm", "batch": [0]},
    "a unit is negative": {"unit": -1, "batch": [-1]},
    "a unit is true": {"unit": True, "batch": [True]},
    "a unit is a fraction": {"unit": 0.5, "batch": [0.5]},
    "a unit is huge": {"unit": 10**30, "batch": [10**30]},
    "a batch is text": {"unit": 0, "batch": "0"},
    "a batch is long": {"unit": 0, "batch": [0] * 1_000_000},
    "a batch is without its unit": {"unit": 0, "batch": [1]},
    "batches are a list": {"batches": [[0]]},
    "a batch is a number": {"batches": {"0": 0}},
    "batches are empty": {"batches": {}},
    "a batch has a unit twice": {"batches": {"0": [0, 0]}},
    "a batch has a unit that the layer lacks": {"batches": {"0": [0, 4000]}},
}.items():
    entry(f"units: {name}", "in which batches|no unit", base="sheet.png", made={"found": value})
for value in ({"unit": 99, "batch": [99]}, {"unit": 1, "batch": [1, 99]}, {"batches": {"1": [1], "99": [99]}}):
    entry(f"classes: {value}", "no unit 99", base="classes.png", made={"found": value})


def crafted_each(name: str, says: str, change: Callable[[Record], Any], size: tuple[int, int] = (16, 16)) -> None:
    """Add a picture in a folder of units, which the command for the folder would keep."""

    def write() -> list[str]:
        kept = record("each/0001.png")
        change(kept)
        images.save(torch.zeros(1, 1, *size), "each/0001.png", json.dumps(kept), overwrite=True)
        line = "units --layer conv1 --size 16 --steps 2 --transform none --units 0,1 --folder each -o out.png"
        return ["dream", *line.split()]

    CASES[name] = Case(write, says)


crafted_each("folder: found is missing", "0001.png", lambda kept: kept["made"].clear())
crafted_each("folder: found is a list", "0001.png", lambda kept: kept.update(made={"found": [1]}))
crafted_each("folder: activation is text", "0001.png", lambda kept: kept["made"]["found"].update(activation="a"))
crafted_each("folder: silent is a list", "0001.png", lambda kept: kept["made"]["found"].update(silent=[1]))
crafted_each("folder: batch is a number", "0001.png", lambda kept: kept["made"]["found"].update(batch=7))
crafted_each("folder: another unit", "0001.png", lambda kept: kept["made"]["found"].update(unit=7, batch=[7]))
crafted_each("folder: another size", "0001.png", lambda kept: None, (20, 20))
crafted_each("folder: a model file", "0001.png was made", lambda kept: kept["options"].update(model="evil/evil.py:net"))


def _text_bomb() -> list[str]:
    info = PngInfo()
    info.add_itxt("dreamgram", "[" * 70_000_000, zip=True)
    Image.new("L", (8, 8)).save("crafted.png", pnginfo=info)
    return ["stylize", "replay", "crafted.png", "-o", "out.png"]


def _entities() -> list[str]:
    levels = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    packet = f'<!DOCTYPE x [<!ENTITY a0 "{"a" * 10}">{levels}]><x>&a9;</x>'
    Image.new("RGB", (8, 8)).save("crafted.webp", xmp=packet.encode())
    return ["stylize", "replay", "crafted.webp", "-o", "out.png"]


CASES["a text chunk of 70 MB"] = Case(_text_bomb, "damaged image|holds no recipe")
CASES["XML entities that expand without limit"] = Case(_entities, "holds no recipe")
CASES["a pipe as a picture"] = Case(lambda: ["stylize", "replay", "pipe.png", "-o", "out.png"], "not a regular file")
CASES["a folder as a picture"] = Case(lambda: ["stylize", "replay", "photos", "-o", "out.png"], "is a folder")

# Checkpoints: the recipe.
checkpoint("checkpoint: strip is an argument", lambda k, s: k["options"].update(strip="--overwrite"), "strip must")
checkpoint("checkpoint: a model file", lambda k, s: k["options"].update(model="evil/evil.py:net"), CODE)
checkpoint("checkpoint: a photo outside", lambda k, s: k["options"].update(photo="../outside/secret.png"), OUTSIDE)
checkpoint("checkpoint: files outside", lambda k, s: k.update(files={"/etc/passwd": "0" * 16}), OUTSIDE)
checkpoint("checkpoint: deep", lambda k, s: "[" * DEEP, "no recipe|damaged")
checkpoint("checkpoint: an empty recipe", lambda k, s: "{}", "no recipe")
checkpoint("checkpoint: NaN", lambda k, s: json.dumps(k).replace('"seed": 0', '"seed": NaN'), "recipe|seed")
checkpoint("checkpoint: a plan of text", lambda k, s: k["made"].update(plan="12"), "recipe|plan")
checkpoint("checkpoint: of dream", lambda k, s: k.update(command="dream units"), "was made by 'dream units'")
ABSOLUTE = "crafted.ckpt.*outside.*--trust"
for name, place, says in (
    ("absolute", "{outside}/out.png", ABSOLUTE),
    ("climbing", "../outside/out.png", ABSOLUTE),
    ("behind a link", "linked/out.png", ABSOLUTE),
    ("a link", "link.png", ABSOLUTE),
    ("a number", 5, "recipe|output"),
    ("a list", ["out.png"], "recipe|output"),
    ("long", "a" * 1_000_000 + ".png", "recipe|output"),
    ("a zero byte", "out\0.png", "recipe|output"),
    ("no picture", ".bashrc", "name must end in|output"),
    ("there already", "victim.png", "victim.png"),
    ("the photo", "photo.png", "photo.png"),
    ("the checkpoint", "crafted.ckpt", "name must end in|output"),
):

    def change_output(kept: Record, state: dict[str, Tensor], place: Any = place) -> None:
        outside = str(Path.cwd().parent / "outside")
        kept["made"]["output"] = place.replace("{outside}", outside) if isinstance(place, str) else place

    checkpoint(f"output: {name}", change_output, says, more=())
    if name in ("there already", "the photo", "a link"):
        checkpoint(f"output to overwrite: {name}", change_output, says, more=("--overwrite",))

# Checkpoints: the state.
STATE = "cannot resume"
tensor("state: NaN in the image", STATE, leaf=lambda t: t.fill_(float("nan")))
tensor("state: infinity in the image", STATE, leaf=lambda t: t.fill_(float("inf")))
tensor("state: NaN in a loss", STATE, losses=lambda t: t.fill_(float("nan")))
tensor("state: infinity in the best loss", STATE, best=lambda t: t.fill_(float("inf")))
tensor("state: NaN in the gradient", STATE, gradient=lambda t: with_nan(t, 3))
tensor("state: NaN in the pairs", STATE, pairs=lambda t: with_nan(t, 5))
tensor("state: NaN in the products", STATE, move_change=lambda t: t.fill_(float("nan")))
tensor("state: NaN in the accepted losses", STATE, accepted=lambda t: t.fill_(float("nan")))
tensor("state: infinity in the accepted losses", STATE, accepted=lambda t: t.fill_(float("inf")))
tensor("state: another shape", STATE, leaf=lambda t: torch.zeros(1, 3, 5, 5))
tensor("state: a scalar", STATE, leaf=lambda t: torch.tensor(0.5))
tensor("state: whole numbers for the image", STATE, leaf=lambda t: torch.zeros(t.shape, dtype=torch.int32))
tensor("state: complex numbers", STATE, gradient=lambda t: torch.zeros(t.shape, dtype=torch.complex64))
tensor("state: numbers for valid", STATE, valid=lambda t: torch.ones(t.shape) * 7)
tensor("state: bytes", STATE, pairs=lambda t: torch.zeros(t.shape, dtype=torch.uint8))
tensor("state: steps with a fraction", STATE, steps=lambda t: torch.tensor(1.5))
tensor("state: losses of another shape", STATE, losses=lambda t: torch.zeros(3, 4))
tensor("state: no loss yet", STATE, losses=lambda t: torch.zeros(0))
tensor("state: too many losses", STATE, losses=lambda t: torch.ones(500))
tensor("state: whole losses", STATE, losses=lambda t: torch.ones(3, dtype=torch.long))
tensor("state: no image", STATE, leaf=lambda t: None)
tensor("state: no losses", STATE, losses=lambda t: None)
tensor("state: no budgets", STATE, budgets=lambda t: None)
tensor("state: nothing but budgets", STATE, **dict.fromkeys(("leaf", "point", "pairs", "losses"), lambda t: None))
tensor("state: a tensor too many", STATE, evil=lambda t: torch.ones(3))
tensor("state: a scale too many", STATE, losses_of_scale_0=lambda t: torch.ones(3))
tensor("state: a scale without its image", STATE, base="two.ckpt", image_before=lambda t: None)
tensor("state: an image without its scale", STATE, base="two.ckpt", losses_of_scale_0=lambda t: None)
tensor("state: another scale", STATE, base="two.ckpt", losses_of_scale_0=lambda t: None,
       losses_of_scale_7=lambda t: torch.ones(2))  # fmt: skip
tensor("state: a scale that is no number", STATE, base="two.ckpt", losses_of_scale_x=lambda t: torch.ones(2))
tensor("state: another image before", STATE, base="two.ckpt", image_before=lambda t: torch.zeros(3))
tensor("state: NaN in the image before", STATE, base="two.ckpt", image_before=lambda t: t.fill_(float("nan")))
tensor("state: NaN in an earlier loss", STATE, base="two.ckpt", losses_of_scale_0=lambda t: t.fill_(float("nan")))
tensor("state: budgets with fractions", STATE, budgets=lambda t: torch.tensor([[20.5, 1e6]]))
tensor("state: budgets of another shape", STATE, budgets=lambda t: torch.tensor([20, 1000]))
tensor("state: budgets of three columns", STATE, budgets=lambda t: torch.tensor([[20, 1000, 3]]))
tensor("state: budgets of zero", STATE, budgets=lambda t: torch.tensor([[0, 0]]))
tensor("state: negative budgets", STATE, budgets=lambda t: torch.tensor([[-20, -1000]]))
tensor("state: a huge number of pairs", STATE, budgets=lambda t: torch.tensor([[10**12, 10**6]]))
tensor("state: budgets for too many scales", STATE, budgets=lambda t: t.repeat(1000, 1))
tensor("state: NaN in the image of Adam", STATE, base="adam.ckpt", leaf=lambda t: t.fill_(float("nan")))
tensor("state: NaN in the mean of Adam", STATE, base="adam.ckpt", mean=lambda t: t.fill_(float("nan")))
tensor("state: negative squares of Adam", STATE, base="adam.ckpt", square=lambda t: t.fill_(-1))
tensor("state: of another optimizer", STATE, base="adam.ckpt", point=lambda t: torch.zeros(3))

# Checkpoints: the file.
damaged("a checkpoint without content", lambda data: b"")
damaged("a checkpoint of zeros", lambda data: bytes(100))
damaged("a checkpoint that is cut off in the header", lambda data: data[:50])
damaged("a checkpoint that is cut off in a tensor", lambda data: data[:-100])
damaged("a checkpoint with bytes too many", lambda data: data + bytes(100))
damaged("a header that is too long", lambda data: struct.pack("<Q", 2**62) + data[8:])
damaged("a header that is too short", lambda data: struct.pack("<Q", 10) + data[8:])
damaged("a header that is no JSON", lambda data: with_header(data, lambda header: b"--overwrite"))
damaged("a header that is deep", lambda data: with_header(data, lambda header: b'{"a":' * DEEP))
damaged("a header of lists", lambda data: with_header(data, lambda header: b"[1, 2]"))
damaged("a header whose offsets lie", lambda data: with_header(data, lambda h: h["leaf"].update(data_offsets=[0, 4])))
damaged(
    "a header whose shape lies", lambda data: with_header(data, lambda h: h["leaf"].update(shape=[1, 3, 2**40, 2**40]))
)
damaged("a header whose type lies", lambda data: with_header(data, lambda h: h["leaf"].update(dtype="I64")))
damaged("a header with an unknown type", lambda data: with_header(data, lambda h: h["leaf"].update(dtype="evil")))
damaged("a header without a recipe", lambda data: with_header(data, lambda h: h.pop("__metadata__") and None))
damaged("a recipe that is no text", lambda data: with_header(data, lambda h: h.update(__metadata__={NOTE: [1]})))
CASES["a picture as a checkpoint"] = Case(
    lambda: ["stylize", "resume", "honest.png", "-o", "out.png"], "is not a checkpoint of stylize"
)
CASES["a pipe as a checkpoint"] = Case(lambda: ["stylize", "resume", "pipe.png", "-o", "out.png"], "not a regular file")


# Honest files.
def _same_as(form: str) -> Callable[[], None]:
    def write() -> None:
        save_picture(json.dumps(record("honest.png")), f"crafted.{form}")

    return write


for form in FORMATS:
    line = ["stylize", "replay", f"crafted.{form}", "-o", "out.png"]
    honest(f"honest: a picture in a {form} file", line, write=_same_as(form))
honest("honest: a picture of dream", ["dream", "replay", "dream.png", "-o", "out.png"])
honest("honest: a sheet", ["dream", "replay", "sheet.png", "-o", "out.png"])
honest("honest: a unit", ["dream", "replay", "each/0001.png", "-o", "out.png"])
honest("honest: a checkpoint", ["stylize", "resume", "run.ckpt"], ("part.png", "run.ckpt"))
honest(
    "honest: a checkpoint with an output", ["stylize", "resume", "run.ckpt", "-o", "out.png"], ("out.png", "run.ckpt")
)
honest("honest: a checkpoint of two scales", ["stylize", "resume", "two.ckpt"], ("part3.png", "two.ckpt"))
honest("honest: a checkpoint of Adam", ["stylize", "resume", "adam.ckpt"], ("part2.png", "adam.ckpt"))


def _changed(base: str, path: str = "crafted.png", **options: Any) -> Callable[[], None]:
    def write() -> None:
        kept = record(base)
        here = str(Path.cwd())
        kept["options"] |= json.loads(json.dumps(options).replace("{here}", here))
        kept["files"] = {}
        save_picture(json.dumps(kept), path)

    return write


def _checkpoint_with_output_outside() -> None:
    kept = record("run.ckpt")
    kept["made"]["output"] = str(Path.cwd().parent / "outside" / "trusted.png")
    save_file(load_file("run.ckpt"), "crafted.ckpt", {NOTE: json.dumps(kept)})


honest(
    "honest: an output outside that is trusted",
    ["stylize", "resume", "crafted.ckpt", "--trust"],
    ("trusted.png", "crafted.ckpt"),
    _checkpoint_with_output_outside,
)
honest(
    "honest: an output outside that is not used",
    ["stylize", "resume", "crafted.ckpt", "-o", "out.png"],
    ("out.png", "crafted.ckpt"),
    _checkpoint_with_output_outside,
)

AGAIN = ["stylize", "replay", "crafted.png", "-o", "out.png"]
honest("honest: an absolute photo in the current folder", AGAIN, write=_changed("honest.png", photo="{here}/photo.png"))
honest("honest: a photo that climbs and comes back", AGAIN, write=_changed("honest.png", photo="photos/../photo.png"))
honest("honest: a painting", AGAIN, write=_changed("honest.png", style=["painting.png", "marbling"]))
honest(
    "honest: a photo beside the picture",
    ["stylize", "replay", "../outside/crafted.png", "-o", "out.png"],
    write=_changed("honest.png", "../outside/crafted.png", photo="../outside/secret.png"),
)
honest(
    "honest: a photo outside that is trusted",
    [*AGAIN, "--trust"],
    write=_changed("honest.png", photo="../outside/secret.png"),
)
honest(
    "honest: a model file that is trusted",
    ["dream", "replay", "crafted.png", "-o", "out.png", "--trust"],
    ("out.png", "trace"),
    write=_changed("dream.png", model="evil/evil.py:net", objective="channel(0, 1)"),
)
