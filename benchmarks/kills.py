"""Kill commands at random times, resume them, and compare the results: ``python -m benchmarks.kills --seed 1``.

Each command runs in a process of its own and is killed (SIGKILL) or interrupted (SIGINT, which is Ctrl-C). A quarter of
the kills happen in the first 0.2 seconds of a run, and another quarter in its last second. A killed style transfer of
one photo is resumed with ``stylize resume`` if its state was saved. Any other command is run again. In half of all
cases, one or two of the resumed runs are killed, too. In the end, the pixels must be the same as those of an
undisturbed run, there must be no temporary files, and all messages must have been correct.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

EARLY, LATE = 0.2, 1.0
"""Lengths in seconds of the beginning and of the end of a run, each of which gets a quarter of all kills."""

QUICK = ["--style", "marbling", "--size", "64", "--steps", "12", "--style-layers", "relu1_1,relu2_1"]

PROGRAM = "from dreamgram.start import dreamgram; dreamgram()"
"""Python program that runs a command."""

TILED = "from dreamgram.style_transfer import budget; budget.plan = lambda *given: budget.Budget(5, 32);" + PROGRAM
"""Python program that paints small pictures in tiles, as if there were little memory."""


@dataclass(frozen=True)
class Case:
    """A command that is killed and resumed."""

    command: Sequence[str]
    """Words of the command. It runs in a folder of its own, which holds the pictures of :func:`prepare`."""
    results: Sequence[str]
    """Names of the files that the command writes."""
    resumed: bool = False
    """True if the command is resumed by ``stylize resume``, or False if it is resumed by running it again."""
    code: str = PROGRAM
    """Python program that runs the command."""


CASES = {
    "photo": Case(["stylize", "0.png", *QUICK, "--checkpoint-every", "0", "-o", "out.png"], ["out.png"], resumed=True),
    "tiles": Case(
        ["stylize", "0.png", *QUICK, "--checkpoint-every", "0", "-o", "out.png"], ["out.png"], resumed=True, code=TILED
    ),
    "folder": Case(["stylize", "photos", *QUICK, "-o", "out"], ["out/0.png", "out/1.png", "out/2.png"]),
    "video": Case(["stylize", "clip.mp4", *QUICK, "-o", "out.mp4"], ["out.mp4"]),
    "animation": Case(["stylize", "clip.gif", *QUICK, "-o", "out.gif"], ["out.gif"]),
    "units": Case(
        ["dream", "units", "--units", "0-7", "--batch", "2", "--steps", "64", "--folder", "out", "-o", "sheet.png"],
        ["sheet.png", *(f"out/{unit:04}.png" for unit in range(8))],
    ),
}


def prepare(folder: Path) -> None:
    """Write small random photos, an animated GIF and, if PyAV is installed, a video into ``folder``."""
    noise = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    pictures = [Image.fromarray(noise.integers(0, 256, (64, 48, 3), dtype=np.uint8)) for _ in range(3)]
    pictures[0].save(folder / "0.png")
    pictures[0].save(folder / "clip.gif", save_all=True, append_images=pictures[1:])
    for number, picture in enumerate(pictures):
        picture.save(folder / "photos" / f"{number}.png")
    try:
        import av
    except ImportError:
        return
    with av.open(str(folder / "clip.mp4"), "w") as target:
        stream = target.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 48, 64, "yuv420p"
        for picture in pictures:
            target.mux(stream.encode(av.VideoFrame.from_image(picture)))
        target.mux(stream.encode())


def start(folder: Path, command: Sequence[str], code: str) -> subprocess.Popen[str]:
    """Start a command in ``folder``. ``code`` is the Python program that runs it. States are kept in a subfolder."""
    environment = os.environ | {"DREAMGRAM_STATE": str(folder / "state")}
    line = [sys.executable, "-c", code, *command]
    return subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(folder: Path, command: Sequence[str], code: str) -> float:
    """Run a command in ``folder`` to its end, and return its duration in seconds; see :func:`start`.

    Raises:
        RuntimeError: the command failed; the message is what it showed.
    """
    began = time.monotonic()
    process = start(folder, command, code)
    out, err = process.communicate()
    if process.returncode or "Traceback" in err:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{out}{err}")
    return time.monotonic() - began


def kill(case: Case, folder: Path, times: Sequence[float], how: signal.Signals, unbroken: Path) -> list[str]:
    """Kill a command and some of the runs that resume it, let the last run end, and return everything that is wrong.

    ``times`` holds, for each run that is killed, the number of seconds from its start to the kill. One more run
    follows, which is not killed. ``folder`` is a new folder, and ``unbroken`` is the folder in which the command ran
    undisturbed.
    """
    prepare(folder)
    command, shown, wrong = case.command, "", list[str]()
    for seconds in times:
        process = start(folder, command, case.code)
        time.sleep(seconds)
        process.send_signal(how)
        out, err = process.communicate()
        shown += f"{' '.join(command)}\n{out}{err}"
        # Until Python has started, it shows its own message about Ctrl-C.
        started = "<frozen site>" not in err and process.returncode != -signal.SIGINT
        wrong += _wrong_words(case, folder, err) if how == signal.SIGINT and started else []
        if wrong or (how == signal.SIGINT and started and process.returncode not in (0, 130)):
            return [*wrong, f"exit code {process.returncode}", f"after: {shown}"]
        if process.returncode == 0:
            break
        command = _onward(case, folder)
    else:
        try:
            run(folder, command, case.code)
        except RuntimeError as error:
            return [f"not resumed: {error}", f"after: {shown}"]
    wrong += [f"{name} differs" for name in case.results if not _same(folder / name, unbroken / name)]
    wrong += [f"{path.relative_to(folder)} is left" for path in folder.rglob("*") if _is_left(path, folder)]
    return [*wrong, f"after: {shown}"] if wrong else []


def _onward(case: Case, folder: Path) -> Sequence[str]:
    """Return the command that resumes the command of ``case`` after it was killed in ``folder``."""
    if case.resumed and list(folder.glob("state/runs/*.ckpt")):
        return ["stylize", "resume"]
    # A program may be killed after it has written its last result.
    return ["--version"] if all((folder / name).exists() for name in case.results) else case.command


def _wrong_words(case: Case, folder: Path, err: str) -> list[str]:
    """Return what is wrong with the messages of an interrupted command."""
    wrong = []
    if "Traceback" in err:
        wrong.append("a traceback")
    saved = [name for name in case.results if (folder / name).exists()]
    if "nothing was saved" in err and (saved or list(folder.glob("state/runs/*.ckpt"))):
        wrong.append(f"nothing was said to be saved, but {saved} or a state were")
    if "saved the picture" in err and not saved:
        wrong.append("a picture was said to be saved")
    if "stylize resume" in err and not list(folder.glob("state/runs/*.ckpt")):
        wrong.append("there is nothing to resume")
    return wrong


def _is_left(path: Path, folder: Path) -> bool:
    """Return whether a file should have been deleted. The lock of a killed program is allowed to stay for a day."""
    if path.is_dir():
        return path.name.endswith(".frames")
    return path.name.endswith(".part") or path.parent == folder / "state" / "runs"


def _same(path: Path, other: Path) -> bool:
    """Return whether two pictures have the same pixels, or whether two other files have the same bytes."""
    if not path.exists():
        return False
    if path.suffix != ".png":
        return path.read_bytes() == other.read_bytes()
    return Image.open(path).tobytes() == Image.open(other).tobytes()


def draw_time(chance: random.Random, duration: float) -> float:
    """Draw a time in seconds: a quarter at the beginning of a run, a quarter at the end, and the others anywhere."""
    low, high = chance.choice([(0, EARLY), (max(duration - LATE, 0), duration), (0, duration), (0, duration)])
    return chance.uniform(low, high)


def measure(names: Sequence[str], kills: int, seed: int, how: signal.Signals, tell: Callable[[str], None]) -> list[str]:
    """Call :func:`kill` with the cases ``names`` in turn, ``kills`` times in all; return everything that was wrong."""
    chance = random.Random(seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        durations = {}
        for name in names:
            folder = Path(place, name)
            prepare(folder)
            durations[name] = run(folder, CASES[name].command, CASES[name].code)
            tell(f"{name}: {durations[name]:.2f} s undisturbed")
        for number in range(kills):
            name = names[number % len(names)]
            times = [draw_time(chance, durations[name]) for _ in range(chance.choice([1, 1, 2, 3]))]
            found = kill(CASES[name], Path(place, f"{name}-{number}"), times, how, Path(place, name))
            shown = " and ".join(f"{seconds:.2f}" for seconds in times)
            tell(f"{number + 1}/{kills} {name} after {shown} of {durations[name]:.2f} s: {found or 'good'}")
            wrong += found
    return wrong


def main() -> None:
    """Kill commands as the command-line arguments say, and print what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--interrupt", action="store_true", help="send SIGINT instead of SIGKILL")
    parser.add_argument("--cases", default=",".join(CASES))
    given = parser.parse_args()
    how = signal.SIGINT if given.interrupt else signal.SIGKILL
    print(f"seed {given.seed}, {how.name}")
    wrong = measure(given.cases.split(","), given.kills, given.seed, how, lambda line: print(line, flush=True))
    print(f"{given.kills} kills: {len(wrong)} faults")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
