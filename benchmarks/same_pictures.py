"""Check whether two checkouts make the same pictures: ``python -m benchmarks.same_pictures OLD [NEW]`` (five minutes).

OLD and NEW are folders with checkouts of this repository; by default, NEW is the checkout that contains this file. Each
of :data:`COMMANDS` is run with the code of both checkouts, on the CPU. Some commands replay or resume a file that OLD
wrote; the names of such files begin with ``old-``. PyAV is needed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Annotated, Any

import av
import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from benchmarks.process import PICTURES

PHOTO = ("amplify --octaves 2", "invert", "caricature", "accentuate --unit 100")
PAINT = "stylize astronaut.jpg --size 192 --steps 8 --style"
LOSSES = ("--style-loss wasserstein", "--style-loss gram", "--style-loss nearest", "--preset gatys", "--model vgg19")
OTHERS = ("--colors content", "--colors luminance", "--colors match", "--init noise", "--optimizer adam --plot")
SHALLOW = "--content-layers relu3_1 --style-layers relu1_1,relu3_1"
COMMANDS = {
    "layers": "dream layers --model vgg16",
    "filters": "dream units --layer pool2 --units 0-11 --steps 64 --timelapse webp",
    "position": "dream units --layer pool2 --units 0-3 --position 2,2 --steps 32",
    "each": "dream units --model vgg16 --layer relu3_1 --size 64 --steps 8 --folder each --units 0-2",
    "each-more": "dream units --model vgg16 --layer relu3_1 --size 64 --steps 8 --folder each --units 0-5",
    "each-replay": "dream replay each-more.png",
    "examples": "dream examples --layer pool2 --units 0-3 --steps 16",
    "digits": "dream digits --compare --steps 16",
    **{what.split()[0]: f"dream {what} chelsea.jpg --size 128 --steps 8" for what in PHOTO},
    "invert-replay": "dream replay old-invert.png",
    **{option.split()[1]: f"{PAINT} the_scream.png {option}" for option in LOSSES + OTHERS},
    "blend": f"{PAINT} marbling --style brushwork --blend 2,1",
    "blend-replay": "stylize replay old-blend.png",
    "regions": f"{PAINT} marbling --style brushwork --content-mask mask.png --timelapse mp4",
    "regions-of-style": f"{PAINT} marbling --content-mask mask.png --style-mask mask.png",
    "folder": "stylize photos --style stained-glass --size 160 --steps 8 --output painted",
    "video": "stylize film.mp4 --style the_scream.png --size 128 --steps 10 --output painted.mp4",
    "tiled": f"stylize rocket.jpg --style marbling --size 768 --steps 1 --max-memory 1800M {SHALLOW}",
    "tiled-replay": "stylize replay old-tiled.png",
    "long": f"{PAINT} the_scream.png --steps 20",
    "long-stopped": f"{PAINT} the_scream.png --steps 20 --checkpoint a.ckpt --checkpoint-every 0.5",
    "long-resumed-from-old": "stylize resume old-a.ckpt --overwrite",
    "long-resumed": "stylize resume a.ckpt --overwrite",
}

CODE = """
import importlib, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
module_name, function = sys.argv.pop(1).split(":")
module = importlib.import_module(module_name)
sys.exit(getattr(module, function)() if module.__file__.startswith(os.environ["PYTHONPATH"]) else f"another {module}")
"""


def prepare(folder: Path) -> None:
    """Make a folder with pictures, a subfolder ``photos`` with two of them, a mask of two regions and a short video."""
    shutil.copytree(PICTURES, folder)
    shutil.copytree(PICTURES, folder / "photos", ignore=shutil.ignore_patterns("[!cr]*", "chelsea*"))
    Image.linear_gradient("L").point(lambda level: 255 * (level > 100)).save(folder / "mask.png")
    photo = Image.open(PICTURES / "coffee.jpg").resize((180, 120))
    with av.open(str(folder / "film.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=12, width=128, height=96)
        for i in range(0, 24, 4):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(photo.crop((i, i, i + 128, i + 96))))))
        film.mux(stream.encode())


def run(name: str, checkout: Path, folder: Path) -> dict[str, NDArray[Any]]:
    """Run one of :data:`COMMANDS` with the code of ``checkout`` in ``folder``, and return the pictures that it writes.

    The result maps file names to pictures. If the command writes no picture, the result contains the text that it
    prints. If the pictures depend on free memory or on timing, the result is empty.

    Raises:
        RuntimeError: the command fails, a picture that should be painted in tiles has none, a replayed picture differs
            from the original, or the picture of a resumed run differs from that of an uninterrupted run.
    """
    tool, *words = COMMANDS[name].split()
    words += [] if {"layers", "resume", "--output"} & {*words} else ["--output", f"{name}.png"]
    if words[1].startswith("old-"):
        shutil.copy(folder.parent / "old" / words[1].removeprefix("old-"), folder / words[1])
    program = (checkout / "pyproject.toml").read_text().partition(f'\n{tool} = "')[2].partition('"')[0]
    line = [sys.executable, "-c", CODE, program, *words]
    env = {**os.environ, "PYTHONPATH": str(checkout), "CUDA_VISIBLE_DEVICES": ""}
    start = time.time_ns()
    with Popen(line, cwd=folder, env=env, stdout=PIPE, stderr=PIPE, text=True) as process:
        if name == "long-stopped":
            while process.poll() is None and not (folder / "a.ckpt").exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    typer.echo(f"{(time.time_ns() - start) / 1e9:6.1f} s", nl=False)
    if process.returncode != (130 if name == "long-stopped" else 0):
        raise RuntimeError(f"{folder.name} ended with {[process.returncode, *err.splitlines()][-1]}")
    if name == "tiled" and '"tiled": null' in Image.open(folder / "tiled.png").info["dreamgram"]:
        raise RuntimeError(f"{folder.name} has no tiles: it needs less --max-memory")
    if name in ("tiled", "long-stopped"):
        return {}  # The result depends on free memory or on timing. Pictures made from it are compared.
    files = [path for path in sorted(folder.rglob("*.*")) if path.suffix in (".png", ".webp", ".mp4")]
    made = {str(path.relative_to(folder)): _read(path) for path in files if path.stat().st_mtime_ns >= start}
    again = {"replay": words[1], "resume": "long.png"}.get(words[0])
    if again and (fault := _difference(_read(folder / again), *made.values())):
        raise RuntimeError(f"{folder.name} is not the same as {again}: {fault}")
    return made or {"text": np.frombuffer(out.encode(), np.uint8)}


def _read(path: Path) -> NDArray[Any]:
    if path.suffix == ".mp4":
        with av.open(str(path)) as film:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
    return np.stack([np.array(frame) for frame in ImageSequence.Iterator(Image.open(path))])


def _difference(old: NDArray[Any], new: NDArray[Any]) -> str:
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        return f"{old.dtype} {old.shape} against {new.dtype} {new.shape}"
    apart = np.abs(old.astype(int) - new).reshape(*old.shape[:3], -1).max(axis=-1)
    return f"{np.count_nonzero(apart):,} of {apart.size:,} pixels, by up to {apart.max()} levels" if apart.any() else ""


def main(
    old: Annotated[Path, typer.Argument(resolve_path=True, help="Checkout to compare with NEW.", show_default=False)],
    new: Annotated[Path, typer.Argument(resolve_path=True, show_default="this one")] = Path(__file__).parents[1],
    only: Annotated[
        str,
        typer.Option(
            help="Run only commands whose names contain this text or begin with the same word as such a name."
        ),
    ] = "",
    keep: Annotated[Path | None, typer.Option(resolve_path=True, help="Keep the pictures in this new folder.")] = None,
) -> None:
    wanted = {name.partition("-")[0] for name in COMMANDS if only in name}
    different = False
    with tempfile.TemporaryDirectory() as temporary:
        place = keep or Path(temporary)
        prepare(place / "old")
        shutil.copytree(place / "old", place / "new")
        for name in (each for each in COMMANDS if each.partition("-")[0] in wanted):
            typer.echo(f"{name:22}", nl=False)
            try:
                one, other = (run(name, *each) for each in ((old, place / "old"), (new, place / "new")))
                pairs = {file: [each.get(file, np.empty(0)) for each in (one, other)] for file in {**one, **other}}
                faults = [f"{file}: {fault}" for file, pair in pairs.items() if (fault := _difference(*pair))]
            except (RuntimeError, OSError) as error:
                faults = [str(error)]
            typer.echo("  " + ("; ".join(faults) or ("same" if pairs else "done")))
            different |= bool(faults)
    raise typer.Exit(different)


if __name__ == "__main__":
    typer.run(main)
