from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from torch import Tensor
from tqdm.utils import disp_len

from dreamgram.image_optimization import images
from dreamgram.image_optimization.errors import OutputExistsError
from dreamgram.image_optimization.optimize import NonFiniteLoss, Step, counted
from dreamgram.style_transfer.options import StylizeOptions
from dreamgram.workbench.console import Command, Terminal, make_parser, parse, progress, run, table
from dreamgram.workbench.job import Done, Job
from dreamgram.workbench.options import Options, option
from dreamgram.workbench.version import __version__
from tests import conftest
from tests.conftest import Outcome


@dataclass(frozen=True, kw_only=True)
class CountOptions(Options):
    """The options of a small command."""

    file: Path = option(help="File to count in.", group="Input", positional=True)
    letter: list[str] = option(
        ["a"], "Letter to count. May be given several times.", group="Input", metavar="LETTER", values=(["a", "b"],)
    )
    most: int = option(100, "Largest count.", group="Picture", least=1, values=(1, 100))
    share: float | None = option(None, "Share of the file, in % of it | all.", group="Picture", above=0)
    loud: bool = option(False, "Count aloud.", group="Output", flags=("--loud", "-l"))


@dataclass(frozen=True, kw_only=True)
class EraseOptions(Options):
    """The options of another one."""

    number: int = option(help="Number of letters.", group="Input", metavar="N")


Program = Callable[..., Outcome]


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    """Run a program of two commands; ``work`` is the work of the first."""

    def start(
        *arguments: object, work: Callable[[CountOptions, Job], Done] | None = None, default: str = ""
    ) -> Outcome:
        def count(options: CountOptions, job: Job) -> Done:
            """Count letters. A letter is counted as often as it is there."""
            return work(options, job) if work else Done(answer=repr(options))

        def erase(options: EraseOptions, job: Job) -> Done:
            """Erase letters."""
            return Done(answer=repr(options))

        commands = {
            "count": Command(CountOptions, count, {"--alphabet": ("Show all letters, and exit.", lambda: "abc")}),
            "erase": Command(EraseOptions, erase),
        }
        monkeypatch.setattr(sys, "argv", ["letters", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            run("letters", commands, default, "A program of two commands.")
        assert isinstance(ending.value.code, int)
        return Outcome(ending.value.code, *capfd.readouterr())

    return start


def outcome(done: Done | BaseException) -> Callable[[CountOptions, Job], Done]:
    """Work that ends so."""

    def work(options: CountOptions, job: Job) -> Done:
        if isinstance(done, BaseException):
            raise done
        return done

    return work


@pytest.mark.parametrize(
    ("end", "code", "out", "err"),
    [
        (Done(), 0, "", ""),
        (Done("converged", summary="3 letters"), 0, "3 letters\n", ""),
        (Done(failed=2, summary="2 failed"), 1, "2 failed\n", ""),
        (Done("interrupted"), 130, "", "interrupted: saved the picture so far\n"),
        (Done("interrupted", 1, "1 done", "interrupted: go on"), 130, "1 done\n", "interrupted: go on\n"),
        (KeyboardInterrupt(), 130, "", "interrupted: nothing was saved\n"),
        (ValueError("wrong\nin two lines"), 2, "", "error: wrong in two lines\n"),
        (FileNotFoundError("no file a"), 2, "", "error: no file a\n"),
        (OutputExistsError("a exists; overwrite it"), 2, "", "error: a exists; overwrite it (--overwrite)\n"),
        (ImportError("videos need PyAV"), 2, "", "error: videos need PyAV\n"),
        (NonFiniteLoss("the loss is nan at step 3"), 1, "", "error: the loss is nan at step 3\n"),
        (MemoryError(), 1, "", "error: there is not enough memory for this; try a smaller size\n"),
        (
            RuntimeError("CUDA error: out of memory"),
            1,
            "",
            "error: there is not enough memory for this; try a smaller size\n",
        ),
    ],
)
def test_exit_codes(end: Done | BaseException, code: int, out: str, err: str, program: Program) -> None:
    assert program("count", "a.txt", work=outcome(end)) == Outcome(code, out, err)


@pytest.mark.parametrize(
    ("end", "code", "out", "err"),
    [
        (Done(summary="3 done"), 0, "", ""),
        (Done(answer="the letters are a, b and c"), 0, "the letters are a, b and c\n", ""),
        (Done("interrupted", summary="1 done"), 130, "", ""),
        (KeyboardInterrupt(), 130, "", ""),
        (ValueError("wrong"), 2, "", "error: wrong\n"),
    ],
)
def test_quiet_shows_only_errors(end: Done | BaseException, code: int, out: str, err: str, program: Program) -> None:
    def work(options: CountOptions, job: Job) -> Done:
        with job.part("a.txt"):
            job(step(1, 10))
            os.kill(os.getpid(), signal.SIGINT)
        job.tell("a note")
        job.wrote(Path("a.png"))
        return outcome(end)(options, job)

    assert program("count", "a.txt", "--quiet", work=work) == Outcome(code, out, err)
    loud = program("count", "a.txt", work=work)
    assert loud.out.startswith("a.png  ")
    assert loud.err.startswith("stopping as soon as what is done is saved; Ctrl-C again stops at once\na note\n")


def test_quiet_shows_files_that_fail(program: Program) -> None:
    def work(options: CountOptions, job: Job) -> Done:
        job.fail("failed: a.jpg is damaged")
        return Done(failed=1, summary="1 failed")

    assert program("count", "a.txt", "--quiet", work=work) == Outcome(1, "", "failed: a.jpg is damaged\n")


def test_a_mistake_of_ours_has_a_traceback(program: Program) -> None:
    for error in (RuntimeError("an illegal memory access was encountered"), TypeError("a mistake"), KeyError("a")):
        with pytest.raises(type(error)):
            program("count", "a.txt", work=outcome(error))
    with pytest.raises(ValueError, match="wrong"):
        program("count", "a.txt", "--debug", work=outcome(ValueError("wrong")))


def test_arguments_become_options(program: Program) -> None:
    line = ["count", "a.txt", "--letter", "x", "--most=7", "-l", "--letter", "y", "--share", "0.5"]
    expected = CountOptions(file=Path("a.txt"), letter=["x", "y"], most=7, loud=True, share=0.5)
    assert program(*line).out == f"{expected!r}\n"
    assert program("--quiet", "count", "a.txt").out == f"{CountOptions(file=Path('a.txt'))!r}\n"
    assert program("erase", "--number", "-3").out == f"{EraseOptions(number=-3)!r}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cuont a.txt", "no command 'cuont'; did you mean 'count'? there are count, erase"),
        ("count", "FILE is missing; --help shows how it is given"),
        ("erase", "--number is missing; --help shows how it is given"),
        ("count a.txt --mots 3", "no option --mots; did you mean '--most'? --help lists all"),
        ("count a.txt --mots=3", "no option --mots; did you mean '--most'? --help lists all"),
        ("count a.txt --mo 3", "no option --mo; did you mean '--most'? --help lists all"),
        ("count a.txt --zzz", "no option --zzz; --help lists all"),
        ("count -- a.txt --most 3", "--most comes after --, which ends the options: give it before --"),
        ("count a.txt b.txt", "'b.txt' is one argument too many; --help lists the arguments"),
        ("count a.txt --most", "--most: expected one argument"),
        ("count a.txt --most x", "--most must be a whole number, not 'x'"),
        ("count a.txt --most 0", "--most must be at least 1, not 0"),
        ("count a.txt --loud=3", "--loud/-l: ignored explicit argument '3'"),
    ],
)
def test_wrong_arguments_are_one_line(line: str, message: str, program: Program) -> None:
    assert program(*line.split()) == Outcome(2, "", f"error: {message}\n")


def test_help_of_a_program(program: Program) -> None:
    asked = [program(*line) for line in ([], ["-h"], ["--help"])]
    assert asked[0].code == 0
    assert asked[0] == asked[1] == asked[2]
    assert asked[0].out.startswith("usage: letters COMMAND [OPTIONS]\n\nA program of two commands.\n")
    assert "  count  Count letters.\n  erase  Erase letters.\n" in asked[0].out
    assert "Exit codes: 0 done" in asked[0].out


def test_help_of_a_command(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    asked = [program(*line) for line in (["count", "-h"], ["count", "a.txt", "--most", "x", "--help"])]
    assert asked[0] == asked[1]
    assert (asked[0].code, asked[0].err) == (0, "")
    text = asked[0].out
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("usage: letters count FILE [OPTIONS]\n")
    words = " ".join(text.split())
    for expected in (
        "Count letters. A letter is counted as often as it is there.",
        "Input: FILE File to count in. [required] --letter LETTER Letter to count.",
        "Picture: --most N Largest count. [default: 100] --share X Share of the file, in % of it | all.",
        "Output: --loud, -l Count aloud.",
        "--alphabet Show all letters, and exit.",
        "--debug Show debug messages and the traceback of an error.",
    ):
        assert expected in words
    assert program("count", "--alphabet") == Outcome(0, "abc\n", "")
    for line in (["--version"], ["count", "--version"]):
        assert program(*line) == Outcome(0, f"letters {__version__}\n", "")


def test_a_program_with_a_default_command(program: Program) -> None:
    expected = program("count", "a.txt").out
    for line in (["a.txt"], ["count", "a.txt"], ["--debug", "a.txt"], ["a.txt", "--quiet"]):
        assert program(*line, default="count") == Outcome(0, expected, "")
    assert program("--debug", "erase", "--number", 3, default="count").out == program("erase", "--number", 3).out
    asked = program(default="count")
    assert asked.out == program("--help", default="count").out
    assert asked.out.startswith("usage: letters FILE [OPTIONS]\n")
    assert "See also: letters erase." in asked.out


def test_the_options_as_a_table() -> None:
    text = table(CountOptions)
    assert text.startswith("**Input**\n\n| option | default | try | what it does |\n|---|---|---|---|\n| `FILE` |")
    assert "| `--letter` |  | `a --letter b` | Letter" in text
    assert "| `--most` | 100 | `1`, `100` | Largest count. |" in text
    assert r"| `--share` |  |  | Share of the file, in % of it \| all. |" in text


def test_every_telling_value_of_an_option_of_stylize_can_be_typed() -> None:
    parser = make_parser("stylize", Command(StylizeOptions, lambda options, job: Done()))
    base = StylizeOptions(photo=Path("a.jpg"), style=["marbling"])
    for each, known in ((each, each.metadata["declaration"]) for each in fields(StylizeOptions)):
        for value in known.values:
            typed = value if isinstance(value, list) else [value]
            flag = [] if known.positional else [f"--{each.name.replace('_', '-')}"]
            words = [word for one in typed for word in (*flag, str(one))]
            words += [] if each.name == "style" else ["--style", "marbling"]
            words += [] if known.positional else ["a.jpg"]
            found = parse(parser, StylizeOptions, words)
            assert vars(found) == vars(base.change(**{each.name: value}))


def test_stylize_and_its_other_commands(command: conftest.Command, photo: Tensor) -> None:
    images.save(photo, "photo.png")
    quick = ["--style", "marbling", "--size", 32, "--steps", 1, "--style-layers", "relu1_1"]
    assert command("stylize", "photo.png", *quick, "-o", "a.png").code == 0
    for line in (["--debug", "replay", "a.png"], ["replay", "--quiet", "a.png"], ["stylize", "photo.png", *quick]):
        assert command("stylize", *line, "-o", "b.png", "--overwrite").code == 0
        assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    # A photo may have the name of a command.
    images.save(1 - photo, "photo.png", overwrite=True)
    Path("photo.png").rename("replay")
    for name in ("replay", "./replay"):
        run = command("stylize", name, *quick, "-o", "c.png", "--overwrite")
        assert run.code == 0, run.err
        assert Path("c.png").read_bytes() != Path("a.png").read_bytes()
    run = command("stylize", "-o", "d.png", "replay", "a.png")
    assert (run.code, run.err) == (2, "error: the command comes first, before its options: stylize replay\n")
    for line, expected in (
        ("--overwrite --seed 3 resume", "the command comes first, before its options: stylize resume"),
        ("-o replay photo.png", "--style is missing"),
        ("-o d.png --style replay photo.png", "no image file photo.png"),
    ):
        assert expected in command("stylize", *line.split()).err
    assert "stained-glass" in command("stylize", "--list-styles", "resume").out
    assert command("stylize", "-h", "replay").out.startswith("usage: stylize [PHOTO]")
    helped = command("stylize", "--help")
    assert helped.out.split("Input:\n")[1].split()[0] == "PHOTO"
    assert "See also: stylize replay, stylize resume, stylize fade." in " ".join(helped.out.split())
    assert command("stylize", "replay", "--help").out.startswith("usage: stylize replay PICTURE [OPTIONS]\n")
    for line in (["replay"], ["resume"]):
        assert command("stylize", *line).code == 2


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """Everything that stood in the line at some time."""
        return [line.rstrip() for line in self.getvalue().replace("\n", "\r").split("\r") if line.strip()]


def step(number: int, steps: int, size: tuple[int, int] = (20, 30), **parts: float) -> Step:
    image = torch.zeros(1, 1, 1, 1).expand(1, 3, *size)
    tensors = {name: torch.tensor(value) for name, value in parts.items()}
    return Step(number, steps, torch.tensor(0.5), image, number / steps, parts=tensors)


def watched(monkeypatch: pytest.MonkeyPatch, columns: int) -> Screen:
    """Make the standard error a terminal of so many columns."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "24")
    return screen


def test_the_progress_line_fits_a_small_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watched(monkeypatch, 80)
    with progress("a-photo-whose-name-is-much-longer-than-any-line.jpg", "cuda:0, bfloat16") as listener:
        for number in range(1, 11):
            listener(step(number, 10, (7680, 4320), content=0.2, style=0.3))
    assert max(map(len, screen.lines())) < 80
    assert any("longer-than-any-line.jpg  10%" in line for line in screen.lines())
    assert any("left, 4320x7680, loss 0.5" in line for line in screen.lines())


@pytest.mark.parametrize("columns", range(40, 201, 4))
@pytest.mark.parametrize(
    "title", ["a-photo-whose-name-is-much-longer-than-any-line.jpg", "é.jpg", "写真" * 20 + ".jpg"]
)
def test_the_progress_line_fits_every_terminal(title: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watched(monkeypatch, columns)
    with progress(title, "cpu x 16, bfloat16") as listener:
        for number in range(1, 11):
            listener(step(number, 10, (7680, 4320), content=0.123456, style=0.34567, variation=0.01, temporal=200.0))
    for line in screen.lines():
        assert disp_len(line) < columns
        before, bar, after = line.split("|")
        assert len(bar) >= 10
        assert before.endswith("%")
        assert re.fullmatch(
            r" (\?|\d\d:\d\d) left(, 4320x7680(, loss 0\.5( = 0\.123 content .* temporal(, cpu x 16, bfloat16)?)?)?)?",
            after,
        )
    assert columns < 80 or any("loss 0.5" in line for line in screen.lines())
    assert columns < 170 or any("bfloat16" in line for line in screen.lines())


def test_a_wide_terminal_shows_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watched(monkeypatch, 130)
    with progress("a.jpg", "cpu x 2, bfloat16") as listener:
        listener(step(1, 2, content=0.2, style=0.3))
    assert any("30x20, loss 0.5 = 0.2 content + 0.3 style, cpu x 2, bfloat16" in line for line in screen.lines())


def test_lines_are_printed_beside_the_progress_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = watched(monkeypatch, 80)
    with Job(Terminal()).part("a.jpg") as job:
        job(step(1, 10))
        job.tell("a.jpg has 3 frames")
        job.wrote(Path("a.png"))
    job.tell("the end")
    assert "a.jpg has 3 frames" in screen.lines()
    assert screen.lines()[-1] == "the end"
    assert capsys.readouterr().out.startswith("a.png  0.")


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


def test_one_line_a_minute_where_nobody_watches(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, expected in (
        (True, []),
        (
            False,
            [
                "a.jpg will take about 3 minutes",
                "a.jpg  33 %, about 2 minutes left",
                "a.jpg  67 %, about 1 minute left",
            ],
        ),
    ):
        with Job(Terminal(quiet)).part("a.jpg") as job:
            for number in range(1, 181):
                clock.now += 1
                job(step(number, 180))
        written = capsys.readouterr()
        assert written.out == ""
        assert written.err.splitlines()[:3] == expected
        assert len(written.err.splitlines()) <= 4


@pytest.mark.parametrize(
    ("seconds", "steps", "expected"),
    [
        (0.5, 100, ""),
        (1, 100, "a.jpg will take about 2 minutes\n"),
        (90, 100, "a.jpg will take about 2.5 hours\n"),
    ],
)
def test_a_long_run_is_announced_once(
    seconds: float, steps: int, expected: str, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(Terminal())
    with job.part("a.jpg"):
        for number in range(1, 30):
            clock.now += seconds
            job(step(number, steps))
    with job.part("b.jpg"):
        for number in range(1, 30):
            clock.now += seconds
            job(step(number, steps))
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert "".join(line for line in lines if "will take" in line) == expected


def test_a_long_run_is_announced_after_a_few_steps(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """The work of all sizes is known, so that the first size tells how long the others will take."""
    with Job(Terminal()).part("a.jpg") as job:
        [first] = counted([job], 0, [30, 60], [1, 4])
        for number in range(1, 7):
            clock.now += 1
            first(step(number, 30))
    assert capsys.readouterr().err == "a.jpg will take about 4 minutes\n"  # 270 seconds


def test_a_wrong_estimate_is_corrected(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Job(Terminal()).part("a.jpg") as job:
        for number in range(1, 101):
            clock.now += 6 if number < 9 else 2
            job(step(number, 100))
    lines = [line for line in capsys.readouterr().err.splitlines() if "will take" in line]
    assert lines == [
        "a.jpg will take about 10 minutes",
        "a.jpg will take about 6 minutes, not about 10 minutes",
        "a.jpg will take about 4 minutes, not about 6 minutes",
    ]


def test_digits_are_dreamed_without_loading_what_takes_seconds(tmp_path: Path) -> None:
    """PyTorch's compiler and torchvision take longer to load than the digits take to dream."""
    code = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # or Python would take all of PyTorch apart
from dreamgram.activation_maximization.cli import main
sys.argv = ["dream", "digits", "--steps", "1", "--output", "a.png"]
try:
    main()
finally:
    print(sorted({"torch._dynamo", "torchvision", "matplotlib", "scipy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["[]", "True"]


def test_garbage_is_collected_as_usual_once_there_is_work(photo: Tensor, tmp_path: Path) -> None:
    """Garbage is collected rarely while modules are imported. If it stayed so, the photos of a folder would pile up."""
    (tmp_path / "photos").mkdir()
    images.save(photo, tmp_path / "photos/a.png")
    code = "import atexit, gc; usual = gc.get_threshold(); atexit.register(lambda: print(gc.get_threshold() == usual))"
    code += "; from dreamgram.style_transfer.cli import main; main()"
    line = ["photos", "--style", "marbling", "--size", "32", "--steps", "1", "--style-layers", "relu1_1", "--quiet"]
    process = subprocess.run([sys.executable, "-c", code, *line], cwd=tmp_path, capture_output=True, text=True)
    assert (process.stdout, process.stderr) == ("True\n", "")


def test_a_name_of_a_file_that_is_not_text_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, "utf-8", write_through=True))
    monkeypatch.setattr(sys, "argv", ["letters", "--number", "3"])

    def write(options: EraseOptions, job: Job) -> Done:
        """Write a file."""
        job.wrote(Path(os.fsdecode(b"\xff.png")))
        return Done()

    with pytest.raises(SystemExit) as ending:
        run("letters", {"erase": Command(EraseOptions, write)}, "erase")
    assert ending.value.code == 0
    assert out.getvalue().startswith(b"\xff.png  ")


def test_code_of_the_users_that_exits_is_told(program: Program) -> None:
    message = "error: the network ended the program with sys.exit(7)\n"
    assert program("count", "a.txt", work=outcome(SystemExit(7))) == Outcome(1, "", message)
