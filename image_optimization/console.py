"""What the two command lines share: one-line errors, defaults read from signatures, devices, progress."""

# Nothing heavy is imported here: this is loaded before a command knows whether it has work to do.
from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import inspect
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from image_optimization.memory import is_out_of_memory, keep_freed_memory
from image_optimization.precision import Precision as PrecisionName
from image_optimization.precision import choose_dtype

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from image_optimization.optimize import Listener, Step

_START = time.perf_counter()

_ALONE = "torch" not in sys.modules
"""Whether this process was begun for a command."""

WRITTEN = ("output", "checkpoint", "resume_from")
"""Options that name files which no picture is made from."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def default(function: Callable[..., Any], name: str) -> Any:
    """The default of ``function``'s parameter ``name``: a flag's default, written once."""
    return inspect.signature(function).parameters[name].default


def positive(value: float | None) -> float | None:
    """An option's callback: the value must be at least 1."""
    if value is not None and value < 1:
        raise typer.BadParameter(f"must be at least 1, not {value}")
    return value


def _writable(kind: str | None) -> str | None:
    """An option's callback: whether such an animation can be written."""
    if kind == "mp4":
        from image_optimization.video import load_av

        load_av()
    return kind


Weights = Annotated[Path | None, typer.Option(help="A local weights file in place of the network's own.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
Precision = Annotated[
    PrecisionName, typer.Option(help="Of the network's arithmetic; auto is bfloat16 where it is fast.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Picture to write; by default a new file in outputs/.")
]
Film = Annotated[
    Literal["webp", "gif", "mp4"] | None,
    typer.Option(
        "--timelapse",
        callback=_writable,
        help="Beside the picture an animation of how it came about; mp4 needs the extra video.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


def run(app: typer.Typer, name: str) -> None:
    """Run the command line ``name``: wrong input ends with one line on stderr and exit code 2, Ctrl-C with 130.

    ``--debug`` anywhere on the line shows the traceback instead.
    """
    # Importing PyTorch makes many objects and no garbage; to look for some meanwhile takes a third of a second.
    gc.set_threshold(100_000, 50, 50)
    keep_freed_memory()
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        given = [argument for argument in arguments if argument != "--debug"]
        code = app(given, prog_name=name, standalone_mode=False)
        if code == INTERRUPTED:  # Typer's answer to a Ctrl-C that reached it
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted: nothing was saved", INTERRUPTED)
    except (typer.TyperException, ValueError, OSError, ImportError, ArithmeticError) as error:
        if debug:
            raise
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        # The loss can become NaN (an ArithmeticError) without anybody's input being wrong.
        code = _fail(" ".join(message.split()), 1 if isinstance(error, ArithmeticError) else 2)
    except (MemoryError, RuntimeError) as error:
        if debug or not is_out_of_memory(error):
            raise
        code = _fail("there is not enough memory for this; try a smaller size", 1)
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    if message:  # there is none where the help was shown instead
        print(f"error: {message}", file=sys.stderr)
    return code


def find_device(name: str) -> torch.device:
    """The device called ``name``: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` is an accelerator if there is one.

    Raises:
        ValueError: it is not there; the message lists what is.
    """
    import torch

    if _ALONE and not gc.get_freeze_count():
        gc.freeze()  # PyTorch is here to stay: to take all its objects apart at the end takes half a second
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    there = ["cpu"]
    if accelerator is not None:
        there += [accelerator.type, *(f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count()))]
    if name == "auto":
        return torch.device(there[min(1, len(there) - 1)])
    if name not in there:
        raise ValueError(f"no device {name!r} on this machine; there are {', '.join(there)}")
    return torch.device(name)


def find_precision(name: PrecisionName, device: torch.device, context: typer.Context) -> PrecisionName:
    """What ``auto`` means on ``device``, any other as it is; the settings that are saved will say so."""
    dtype = str(choose_dtype(name, device))
    chosen = cast("PrecisionName", dtype.removeprefix("torch."))
    context.params["precision"] = chosen
    return chosen


@contextmanager
def progress(what: str, device: torch.device, precision: PrecisionName) -> Iterator[Listener]:
    """A progress bar, as a listener of the optimization; it shows what was chosen.

    It reads the loss, which waits for the device, only when it redraws.
    """
    import torch
    from tqdm.auto import tqdm

    hidden = False if "ipykernel" in sys.modules else None  # of None, tqdm asks whether this is a terminal
    threads = f" x {torch.get_num_threads()}" if device.type == "cpu" else ""
    look = "{desc}: {percentage:3.0f}%|{bar}| {remaining} left, {postfix}"
    with tqdm(desc=what, total=100, bar_format=look, leave=False, file=sys.stderr, disable=hidden) as bar:

        def listener(step: Step) -> None:
            # In shares of the work: the steps of a later scale take longer than those of the first.
            if bar.update(100 * step.done - bar.n) or step.number == 1:
                height, width = step.image.shape[2:]
                bar.set_postfix_str(
                    f"step {step.number} of {step.steps}, {width}x{height}, {device}{threads} {precision}, "
                    + (_sum(step.parts) if step.parts else f"loss {step.loss.mean().item():.4g}"),
                    refresh=step.number == 1,
                )

        yield listener


def _sum(parts: Mapping[str, Tensor]) -> str:
    return "loss " + " + ".join(f"{part.item():.3g} {name}" for name, part in parts.items())


def output_path(output: Path | None, name: str, overwrite: bool) -> Path:
    """Where a command writes: ``output``, or a new file in ``outputs/`` called after ``name``.

    Checked before the work begins; raises as :func:`image_optimization.images.check_output`.
    """
    from image_optimization.images import check_output

    if output is not None:
        return check_output(output, overwrite)
    return check_output(free(Path("outputs", name)))


def free(path: Path, overwrite: bool = False) -> Path:
    """``path``, or with -2, -3, ... after its name the first that does not exist, unless it may be overwritten."""
    if overwrite:
        return path
    numbered = (path.with_stem(f"{path.stem}-{i}") for i in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def beside(path: Path, ending: str, overwrite: bool) -> Path:
    """Where what belongs to the picture ``path`` goes: its name with another ``ending``, such as "-loss.png"."""
    place = path.with_name(path.stem + ending)
    return free(place, overwrite) if place != path else free(path.with_name(f"{path.stem}-2{ending}"), overwrite)


def settings(context: typer.Context) -> dict[str, Any]:
    """What a command was asked for, to be kept in its pictures."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return str(value) if isinstance(value, Path) else value

    values = {name: plain(value) for name, value in context.params.items()}
    version = importlib.metadata.version("dreamgram")
    given = [value for name, value in values.items() if name not in WRITTEN]
    words = [each for value in given for each in (value if isinstance(value, list) else [value])]
    files = checksums([word for word in words if isinstance(word, str)])
    return {"command": context.command_path, "version": version, **values, "files": files}


def checksums(words: Iterable[str]) -> dict[str, str]:
    """Of the files that are called one of these ``words``: by which :func:`check_files` knows them again."""
    return {word: _checksum(Path(word)) for word in sorted(set(words)) if Path(word).is_file()}


def _checksum(path: Path) -> str:
    """Read in blocks: a video may be larger than the memory."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()[:16]


def check_files(kept: Mapping[str, Any]) -> None:
    """Whether the files that a picture was made from, by the settings that it ``kept``, are still the same.

    Raises:
        ValueError: one is not, or is not there.
    """
    for path, checksum in kept.get("files", {}).items():
        if checksums([path]) != {path: checksum}:
            what = "is not the file any more that" if Path(path).exists() else "is not here, from which"
            raise ValueError(f"{path} {what} the picture was made{' from' if Path(path).exists() else ''}")


def arguments(command: Any, given: Mapping[str, Any]) -> list[str]:
    """The command line that gives a command these values of its parameters."""
    words: list[str] = []
    for parameter in command.params:
        value = given.get(parameter.name)
        if value is None or value is False:
            continue
        flag = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
        for each in value if isinstance(value, list) else [value]:
            words += flag if each is True else [*flag, str(each)]
    return words


def save(
    picture: Tensor | Image.Image, path: Path, context: typer.Context, overwrite: bool, stopped: str, **how: Any
) -> None:
    """Save a command's picture with the settings of the command, and say where, and how many seconds it took.

    Where ``path`` was free before the work and is not any more, a free name beside it is taken: work that is done
    is not refused. ``how`` is handed to :func:`image_optimization.images.save`.
    """
    from image_optimization import images

    path = free(path, overwrite)
    images.save(picture, path, {**settings(context), "stopped": stopped}, overwrite, **how)
    tell_written(path)


def tell_written(path: Path) -> None:
    """Say what a command has written, and how many seconds it took."""
    typer.echo(f"{path}  {time.perf_counter() - _START:.1f} s")


def finish(stopped: str) -> None:
    """The end of a command that has saved everything: after Ctrl-C, ``stopped`` is "interrupted", it exits with 130."""
    if stopped == "interrupted":
        typer.echo("interrupted: saved the picture so far", err=True)
        sys.exit(INTERRUPTED)
