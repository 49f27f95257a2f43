"""The command line of Dreamgram's programs: it parses arguments, shows progress, and sets the exit code.

A program such as ``stylize`` is defined by a mapping from the names of its commands to their properties
(:class:`Command`). The arguments and the help of a command are derived from the declarations of the command's options.
"""

# This module does not import PyTorch, because it is loaded before a command knows whether there is work to do.
from __future__ import annotations

import argparse
import gc
import io
import itertools
import logging
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from dreamgram.image_optimization.errors import NotWrittenError, OutputExistsError, TooLargeError
from dreamgram.image_optimization.memory import is_out_of_memory, keep_freed_memory
from dreamgram.image_optimization.names import did_you_mean, unknown
from dreamgram.workbench.job import Done, Job, Watcher, unless_interrupted
from dreamgram.workbench.options import (
    GROUPS,
    OptionError,
    Options,
    choices_of,
    declaration,
    describe_amount,
    describe_size,
    is_flag,
    is_list,
    is_required,
    parse_bytes,
    parse_pixels,
    type_of,
)
from dreamgram.workbench.trust import UntrustedError
from dreamgram.workbench.version import __version__

if TYPE_CHECKING:
    from dreamgram.image_optimization.optimize import Step

FAILED, WRONG, INTERRUPTED = 1, 2, 130
"""Exit codes if the work failed at least in part, if the input was invalid, and if the user interrupted the program."""

EVERY = 60
"""Interval, in seconds, between two printed lines of progress if there is no terminal. If the expected duration of a
run is longer than this interval, the duration is printed soon after the run begins."""

SOON_STEPS, SOON_SECONDS = 5, 5
"""A run's duration is first estimated after this number of steps or this number of seconds, whichever comes first."""

LONGEST_MESSAGE = 1000
"""Largest number of characters that are printed of a message; the middle of a longer message is left out."""

FAR_OFF = 1.5
"""Factor by which a new estimate of a run's duration must differ from the last printed estimate to be printed, too."""

LEAST_BAR, LONGEST_TITLE = 10, 24
"""Smallest width of a progress bar and largest width of the title before it, in columns."""

_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udc9f\udd00-\udfff]")
"""Regular expression for characters that control a terminal or the direction of text, and for most lone surrogates.

The surrogates from ``\\udca0`` to ``\\udcff`` do not match. Python uses these surrogates for bytes in file names that
are not valid UTF-8, and they are printed as these bytes.
"""

_ALONE = "torch" not in sys.modules
"""True if PyTorch had not been imported before this module. The process then probably runs only one command, and is
neither a notebook nor a test."""

_USUAL = gc.get_threshold()
"""Thresholds for garbage collection when this module was imported, as returned by :func:`gc.get_threshold`."""

_GLOBAL = ("--debug", "--quiet")

EXIT_CODES = (
    f"Exit codes: 0 done; {FAILED} some files failed, memory ran out, or the loss diverged; {WRONG} invalid input; "
    f"{INTERRUPTED} interrupted."
)
"""Description of the exit codes, for the help of all programs and for the documentation."""


@dataclass(frozen=True)
class Command:
    """One command of a program."""

    options: type[Options]
    """Class of the command's options."""
    work: Callable[[Any, Job], Done]
    """Function that does the work, given the options and the job to which the function reports. Its docstring is the
    command's help. An overview of all commands shows only the first sentence of this help."""
    listings: Mapping[str, tuple[str, Callable[[], str]]] = field(default_factory=dict)
    """Flags, such as ``--list-styles``, that make the command only print some information and exit. Each flag is mapped
    to its help text and a function that returns the text to print."""

    @property
    def help(self) -> str:
        """Return the command's help: the docstring of ``work`` on one line."""
        return " ".join((self.work.__doc__ or "").split())


class Terminal(Watcher):
    """An observer of a job that shows messages and a progress bar in a terminal or a notebook.

    If there is neither a terminal nor a notebook, a line of progress is printed every minute in place of the bar.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bar: Any = None
        self.title = self.setting = ""
        self.began = self.said = 0.0
        self.first: tuple[int, float] | None = None
        """Number of the first reported step of the current part of the job, and the fraction of the part's work that
        was done when this step ended. The attribute is None until a step is reported."""
        self.expected = 0.0
        """Last printed estimate of the duration of the current part, in seconds; 0 if none was printed."""
        self.announced = False
        """True if an earlier part of the job has ended after at least one step. The duration of the current part is
        then not printed."""

    def begin(self, title: str, setting: str) -> None:
        from tqdm.auto import tqdm

        _end_imports()
        notebook = "ipykernel" in sys.modules
        hidden = True if self.quiet else False if notebook else None  # None: only in a terminal
        look = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"
        self.bar = tqdm(
            total=100, bar_format=look, leave=False, file=sys.stderr, dynamic_ncols=not notebook, disable=hidden
        )
        self.title, self.setting, self.first, self.expected = printable(title), setting, None, 0.0
        self.began = self.said = time.perf_counter()
        if not self.bar.disable:
            self._show([], refresh=True)

    def progress(self, step: Step) -> None:
        now = time.perf_counter()
        if self.first is None:  # a resumed run does not start from 0; its first step is not timed
            self.first, self.began = (step.number, step.done), now
        begun, elapsed = step.done - self.first[1], now - self.began
        left = elapsed * (1 - step.done) / max(begun, 1e-6)
        if step.number >= self.first[0] + SOON_STEPS or elapsed >= SOON_SECONDS:
            # Steps at a small size take longer than their share of the work, so the first estimate might be too long.
            self._announce(elapsed + left, sure=begun > 0.1 or elapsed > EVERY / 2)
        if self.bar.disable:
            if now - self.said >= EVERY and not self.quiet:
                self.said = now
                print(f"{self.title}  {100 * step.done:.0f} %, {_minutes(left)} left", file=sys.stderr)
        # The bar counts fractions of the work, because steps at a later scale take longer than at the first scale.
        # Reading the loss waits for the device, so the loss is read only when the bar is drawn again.
        elif self.bar.update(100 * step.done - self.bar.n) or step.number == 1:
            height, width = step.image.shape[2:]
            shares = [f"{part.item():.3g} {name}" for name, part in step.parts.items()]
            notes = [f", {width}x{height}", f", loss {step.loss.mean().item():.4g}"]
            notes += [f" = {' + '.join(shares)}"] if shares else []
            notes += [f", {self.setting}"] if self.setting else []
            self._show(notes, refresh=step.number == 1)

    def _show(self, notes: Sequence[str], refresh: bool) -> None:
        """Set the texts before and after the bar, shortened to fit the width of the terminal.

        ``notes`` are the parts of the text after the bar. The texts are shown when the bar is drawn again, which
        happens at once if ``refresh`` is True.
        """
        columns = self.bar.format_dict["ncols"]  # in a notebook, this is not an integer
        title, after = fit_line(
            self.title, notes, columns if isinstance(columns, int) else shutil.get_terminal_size().columns
        )
        self.bar.set_description_str(title, refresh=False)
        self.bar.set_postfix_str(after, refresh=refresh)

    def _announce(self, total: float, sure: bool) -> None:
        """Print the estimated total duration of the first part of the job, if this duration is more than a minute.

        ``total`` is the estimate in seconds, and ``sure`` is True if the estimate is reliable. If an estimate was
        printed before, the new estimate is printed only if it is reliable and differs from the printed estimate by more
        than the factor :data:`FAR_OFF`.
        """
        if self.announced:
            return
        new, old = _minutes(total), _minutes(self.expected)
        if not self.expected:
            if total > EVERY:
                self.expected = total
                self.tell(f"{self.title} will take {new}")
        elif sure and new != old and not self.expected / FAR_OFF < total < self.expected * FAR_OFF:
            self.expected = total
            self.tell(f"{self.title} will take {new}, not {old}")

    def end(self) -> None:
        self.bar.close()
        self.announced = self.announced or self.first is not None

    def tell(self, line: str) -> None:
        if not self.quiet:
            self.fail(line)

    def fail(self, line: str, error: Exception | None = None) -> None:
        with self._undisturbed():
            print(_with_flag(line, error), file=sys.stderr)

    def wrote(self, path: Path, seconds: float) -> None:
        if self.quiet:
            return
        with self._undisturbed():
            print(f"{printable(str(path))}  {seconds:.1f} s", flush=True)

    def stopping(self) -> None:
        if not self.quiet:
            # sys.stderr is bypassed, because the progress bar might be writing to it at this moment.
            os.write(2, b"stopping as soon as what is done is saved; Ctrl-C again stops at once\n")

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Hide the progress bar while a line is printed."""
        if self.bar is None or self.bar.disable:
            yield
            return
        with self.bar.external_write_mode(file=sys.stderr):
            yield


def fit_line(title: str, notes: Sequence[str], columns: int) -> tuple[str, str]:
    """Return the texts before and after a progress bar, shortened to fit a line of ``columns`` columns.

    The line also holds the percentage, a bar of at least :data:`LEAST_BAR` columns and the remaining time. The
    beginning of a long ``title`` is cut off. ``notes`` are the parts of the text after the bar, in descending order of
    usefulness. The first part that does not fit and all later parts are left out.
    """
    from tqdm.utils import disp_len  # some characters are two columns wide

    room = columns - len(" 100%|| 00:00:00 left") - LEAST_BAR
    while disp_len(title) > max(0, min(room, LONGEST_TITLE)):
        title = title[1:]
    room -= disp_len(title)
    after = ""
    for note in notes:
        if disp_len(after + note) > room:
            break
        after += note
    return title, after.removeprefix(", ")


def _minutes(seconds: float) -> str:
    if seconds < 45:
        return "less than a minute"
    minutes = max(round(seconds / 60), 1)
    hours = f"about {minutes / 60:.1f} hours"
    return hours if minutes > 90 else f"about {minutes} minute{'s' * (minutes != 1)}"


@contextmanager
def progress(title: str, setting: str = "") -> Iterator[Job]:
    """Show a progress bar in a terminal or a notebook while the body of the ``with`` statement runs.

    Pass the yielded object to :func:`maximize` or :func:`stylize` as the last of the ``listeners``, the functions that
    are called after every step. ``title`` is shown before the bar. ``setting``, such as the name of the device, is
    shown after the bar if there is room for it.

    Example:
        >>> with progress("filters") as bar:
        ...     maximize(vgg, channel("relu3_3", 0), listeners=[bar])
    """
    with Job(Terminal()).part(title, setting) as job:
        yield job


def run(
    name: str, commands: Mapping[str, Command], default: str = "", about: str = "", implementation: str = ""
) -> NoReturn:
    """Run the program ``name`` with the command-line arguments of this process, and exit.

    Args:
        name: the program's name in the help.
        commands: mapping from the names of the program's commands to the commands.
        default: name of the command to run if the first argument is not the name of a command; "" if the first
            argument must be the name of a command.
        about: description of the program, for the help of a program without a default command.
        implementation: name of a module that all commands import, or "" for none. The module is imported before a
            command runs, while Ctrl-C can still end the process at once.
    """
    _begin_imports()
    keep_freed_memory()
    arguments = [argument for argument in sys.argv[1:] if argument not in _GLOBAL]
    debug, quiet = ("--debug" in sys.argv[1:], "--quiet" in sys.argv[1:])
    terminal = Terminal(quiet)
    job = Job(terminal)
    if debug:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("dreamgram").setLevel(logging.DEBUG)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files need not be UTF-8
    try:
        work = partial(_dispatch, name, commands, default, about, implementation, arguments, job, quiet)
        ended = unless_interrupted(work)
        code = INTERRUPTED if ended is None else ended
        if ended is None:
            terminal.tell(job.interrupted)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as ``head``, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ValueError, OSError, ImportError, ArithmeticError) as error:
        if debug:
            raise
        # An ArithmeticError means that the loss became infinite or NaN, which can happen with valid input.
        code = _fail(_message(error), FAILED if isinstance(error, ArithmeticError | NotWrittenError) else WRONG)
    except SystemExit as left:  # raised by the code of the user's network
        code = _fail(f"the network ended the program with sys.exit({left.code!r})", FAILED)
    except (MemoryError, RuntimeError) as error:
        if debug or not is_out_of_memory(error):
            raise
        code = _fail("there is not enough memory for this; try a smaller size", FAILED)
    sys.exit(code)


def _begin_imports() -> None:
    """Make Python's garbage collection rare if this process probably runs only one command.

    The import of PyTorch creates many objects and no garbage. Garbage collection during the import would take a third
    of a second.
    """
    if _ALONE:
        gc.set_threshold(100_000, 50, 50)


def _end_imports() -> None:
    """Make Python's garbage collection as frequent as before the imports, but exclude all objects that exist now.

    Garbage collection of PyTorch's objects at exit would take half a second.
    """
    if _ALONE and not gc.get_freeze_count():
        gc.freeze()
        gc.set_threshold(*_USUAL)  # otherwise, the pictures of a folder would fill the memory


def _message(error: Exception) -> str:
    """Return the error's message on one line, followed by the flag, if any, that allows the refused action."""
    return _with_flag(" ".join(str(error).split()), error)


def _with_flag(line: str, error: Exception | None) -> str:
    """Return ``line``, which reports ``error``, as it is printed, with the flag, if any, that allows the action."""
    remedies: tuple[str, ...] = ()
    if isinstance(error, TooLargeError):
        line = line.removesuffix(f" (max_pixels={error.enough:_})")
        remedies = (f"max-pixels {describe_amount(error.enough)}",)
    elif isinstance(error, OutputExistsError):
        remedies = ("overwrite",)
    elif isinstance(error, UntrustedError):
        remedies = error.remedies
    return printable(line) + (f" ({' or '.join(f'--{name}' for name in remedies)})" if remedies else "")


def printable(text: str) -> str:
    """Escape the characters in ``text`` that could control a terminal, and leave out the middle of a long text.

    Line feeds are not escaped. This function is needed because a file from a stranger can contain names of any length
    with any characters.
    """
    if len(text) > LONGEST_MESSAGE:
        half = LONGEST_MESSAGE // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _dispatch(
    name: str,
    commands: Mapping[str, Command],
    default: str,
    about: str,
    implementation: str,
    arguments: list[str],
    job: Job,
    quiet: bool,
) -> int:
    """Run the command that the first argument names, or else the command ``default``, and return the exit code.

    If the arguments include a flag such as ``--help`` or ``--version``, only print the requested information.
    """
    if "--version" in arguments:
        print(f"{name} {__version__}")
        return 0
    if not default and arguments[:1] in ([], ["-h"], ["--help"]):
        print(_overview(name, commands, about))
        return 0
    # The subparsers of argparse know no default command, and need the options of all commands at once.
    word = arguments[0] if arguments and arguments[0] in commands and not _is_photo(arguments, default) else default
    if not _is_photo(arguments, default) and (later := _command_after_options(arguments, commands)):
        raise ValueError(f"the command comes first, before its options: {name} {later}")
    if not word:
        raise ValueError(unknown("command", arguments[0], commands))
    rest = arguments if word == default and arguments[:1] != [default] else arguments[1:]
    command = commands[word]
    program = name if word == default else f"{name} {word}"
    parser = make_parser(program, command, [f"{name} {other}" for other in commands if word == default != other])
    if not arguments or {"-h", "--help"} & set(rest):
        parser.print_help()
        return 0
    for flag, (_, text) in command.listings.items():
        if flag in rest:
            print(text())
            return 0
    try:
        options = parse(parser, command.options, rest)
        if implementation:
            import_module(implementation)
        with job.taking_interrupts(), _only_errors(quiet):
            done = command.work(options, job)
            job.over = True
            return _show(done, job, quiet)
    except OptionError as error:  # name the option as on the command line
        flags = {each.name: flags_of(each)[0] for each in fields(command.options)}
        raise ValueError(f"{flags.get(error.name, error.name)} {error.problem}") from error


@contextmanager
def _only_errors(quiet: bool) -> Iterator[None]:
    """Let the logger ``dreamgram`` log only errors while the ``with`` statement runs, if ``quiet`` is True."""
    logger = logging.getLogger("dreamgram")
    level = logger.level
    if quiet:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _show(done: Done, job: Job, quiet: bool) -> int:
    """Print the outcome of a command, and return the exit code."""
    if done.answer:
        print(done.answer)
    if done.summary and not quiet:
        print(done.summary)
    if done.stopped == "interrupted":
        job.tell(done.interrupted)
        return INTERRUPTED
    return FAILED if done.failed else 0


def _is_photo(arguments: Sequence[str], default: str) -> bool:
    """Return whether the arguments are for the default command, even if the first argument is also a command's name.

    For example, the first argument can be a photo called ``replay``. The result is True if there is a default command
    and ``--style`` is among the arguments. The command that paints a photo requires this option, and the other commands
    do not have it.
    """
    return bool(default) and any(argument.split("=")[0] == "--style" for argument in arguments)


def _command_after_options(arguments: Sequence[str], commands: Mapping[str, Command]) -> str:
    """Return the name of the command that is given after options, or "" if there is no such command.

    The value of an option does not count as a command, even if a command has the same name. The result is also "" if a
    flag such as ``--help`` is given.
    """
    information = {"-h", "--help", *(flag for command in commands.values() for flag in command.listings)}
    if not arguments or not arguments[0].startswith("-") or information & set(arguments):
        return ""
    alone = {
        flag
        for options in (command.options for command in commands.values())
        for each in fields(options)
        if is_flag(type_of(options, each.name))
        for flag in flags_of(each)
    }
    for before, argument in itertools.pairwise(arguments):
        if argument in commands and (not before.startswith("-") or before in alone or "=" in before):
            return argument
    return ""


def _overview(name: str, commands: Mapping[str, Command], about: str) -> str:
    width = max(map(len, commands))
    lines = []
    for word, command in commands.items():
        first, *others = _wrap(command.help.split(". ")[0].rstrip(".") + ".", width + 4)
        lines += [f"  {word:{width}}  {first}", *(" " * (width + 4) + other for other in others)]
    more = f"{name} COMMAND --help lists the options of a command. {EXIT_CODES}"
    return "\n".join([f"usage: {name} COMMAND [OPTIONS]", "", *_wrap(about), "", *lines, "", *_wrap(more)])


def _wrap(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, max(20, min(shutil.get_terminal_size().columns, 100) - indent))


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, 100))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))


def make_parser(program: str, command: Command, others: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of a command's arguments, derived from the declarations of the command's options.

    ``program`` is the name that the help shows. The help also mentions the commands whose names are in ``others``.
    """
    see = f"See also: {', '.join(others)}. " if others else ""
    needed = [
        f"{' '.join([flags_of(each)[0], declaration(each).metavar]).strip()}" for each in _required(command.options)
    ]
    optional = [each for each in fields(command.options) if declaration(each).positional and not is_required(each)]
    needed = [*(f"[{flags_of(each)[0]}]" for each in optional), *needed]
    parser = _Parser(
        program,
        usage=" ".join([program, *needed, "[OPTIONS]"]),
        description=command.help,
        epilog=see + EXIT_CODES,
        add_help=False,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    for group in GROUPS:
        arguments = parser.add_argument_group(group)
        for each in _in_order(command.options):
            if declaration(each).group == group:
                _add_argument(arguments, each, type_of(command.options, each.name))
    common = parser.add_argument_group("Help")
    for flag, (help, _) in command.listings.items():
        common.add_argument(flag, action="store_true", help=help)
    common.add_argument("-h", "--help", action="store_true", help="Show this help and exit.")
    common.add_argument("--version", action="store_true", help="Show the version and exit.")
    common.add_argument(
        "--quiet", action="store_true", help="Show only errors: no progress, messages or names of written files."
    )
    common.add_argument("--debug", action="store_true", help="Show debug messages and the traceback of an error.")
    return parser


def flags_of(each: Field[Any]) -> Sequence[str]:
    """Return the names of an option on the command line, such as ``--output`` and ``-o``.

    An option whose value is given without a flag has a single name in capital letters, such as ``PHOTO``.
    """
    known = declaration(each)
    if known.positional:
        return [each.name.upper()]
    return known.flags or [f"--{each.name.replace('_', '-')}"]


def _add_argument(group: Any, each: Field[Any], hint: Any) -> None:
    known = declaration(each)
    default = f" [default: {_shown_default(each)}]" if _is_shown(each.default) else ""
    required = " [required]" if is_required(each) else ""
    help = (known.help + default + required).replace("%", "%%")
    if known.positional:
        group.add_argument(each.name, nargs="?", metavar=flags_of(each)[0], help=help)
        return
    flags = flags_of(each)
    if is_flag(hint):
        group.add_argument(*flags, dest=each.name, action="store_true", default=None, help=help)
        return
    choices = () if known.choices else choices_of(each, hint)  # listing some choices requires PyTorch
    metavar = known.metavar or "|".join(map(str, choices)) or _METAVARS.get(_kind(hint), "TEXT")
    action = "append" if _is_repeated(each, hint) else None
    group.add_argument(*flags, dest=each.name, action=action, metavar=metavar, help=help)


_METAVARS = {int: "N", float: "X", Path: "FILE"}


def _is_repeated(each: Field[Any], hint: Any) -> bool:
    """Return whether the option holds a list and is repeated on the command line for each value of the list.

    For the other options that hold a list, the values are separated by commas.
    """
    return is_list(hint) and declaration(each).parse is None


def _kind(hint: Any) -> Any:
    return next((kind for kind in (*get_args(hint), hint) if kind in _METAVARS), str)


def _in_order(options: type[Options]) -> list[Field[Any]]:
    """Return the options in the order of the help.

    The options are sorted by group, in the order of :data:`GROUPS`. In a group, positional options come first, followed
    by the other required options and then by all others.
    """

    def rank(each: Field[Any]) -> tuple[int, bool, bool]:
        known = declaration(each)
        return GROUPS.index(known.group), not known.positional, not is_required(each)

    return sorted(fields(options), key=rank)


def _required(options: type[Options]) -> list[Field[Any]]:
    return [each for each in fields(options) if is_required(each)]


def _is_shown(default: Any) -> bool:
    return not any(default is each for each in (MISSING, None, False))


def _shown_default(each: Field[Any]) -> str:
    default: Any = each.default
    return describe_amount(default) if declaration(each).parse in (parse_bytes, parse_pixels) else _shown(default)


def _shown(value: Any, separator: str = ",") -> str:
    """Return ``value`` as it is typed on the command line, with ``separator`` between the values of a list."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_shown(each)}" for name, each in value.items())
    if isinstance(value, list):
        return separator.join(map(_shown, value))
    if isinstance(value, tuple):
        return describe_size(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse(parser: argparse.ArgumentParser, options: type[Options], arguments: Sequence[str]) -> Options:
    """Parse command-line ``arguments`` and return them as an instance of the class ``options``.

    Raises:
        ValueError: an argument is unknown, missing or invalid. If an option does not exist, the message suggests a
            similar name, unless there is none.
    """
    found, strange = parser.parse_known_args(list(arguments))
    if strange:
        name = strange[0].split("=")[0]
        known = [flag for action in parser._actions for flag in action.option_strings]
        if name in known and "--" in arguments:
            raise ValueError(f"{name} comes after --, which ends the options: give it before --")
        if name.startswith("-"):
            raise ValueError(f"no option {name}; {did_you_mean(name, known)}--help lists all")
        raise ValueError(f"{name!r} is one argument too many; --help lists the arguments")
    given = _varied({each.name: getattr(found, each.name) for each in fields(options)}, options, arguments)
    for each in _required(options):
        if given[each.name] is None:
            raise ValueError(f"{flags_of(each)[0]} is missing; --help shows how it is given")
    return options(**{name: value for name, value in given.items() if value is not None})


def _varied(given: dict[str, Any], options: type[Options], arguments: Sequence[str]) -> dict[str, Any]:
    """Return the options that are ``given`` on the command line, with several values moved to the option ``vary``.

    For example, ``--style-weight 1,3`` has the same meaning as ``--vary style_weight=1,3``, if the name of the option
    is in :attr:`Options.VARIABLE`. Options are moved in the order of ``arguments``.
    """
    if not options.VARIABLE:
        return given
    several = {name: given[name] for name in options.VARIABLE if "," in (given[name] or "")}
    kept = {name: None if name in several else value for name, value in given.items()}
    typed = [argument.split("=")[0] for argument in arguments]
    flags = {each.name: flags_of(each) for each in fields(options)}
    order = sorted(several, key=lambda name: max(typed.index(flag) for flag in flags[name] if flag in typed))
    varied = [f"{name}={several[name]}" for name in order]
    return {**kept, "vary": [*(given["vary"] or []), *varied] or None}


def table(options: type[Options]) -> str:
    """Return the options of a command as Markdown for the documentation, with one table for each group of options."""
    lines = []
    group = ""
    for each in _in_order(options):
        known = declaration(each)
        if known.group != group:
            group = known.group
            lines += ["", f"**{group}**", "", "| option | default | try | what it does |", "|---|---|---|---|"]
        name = ", ".join(flags_of(each))
        default = _shown_default(each) if _is_shown(each.default) else ""
        separator = f" {flags_of(each)[0]} " if _is_repeated(each, type_of(options, each.name)) else ","
        tries = ", ".join(f"`{_shown(value, separator)}`" for value in known.values)
        lines.append(f"| `{name}` | {default} | {tries} | {known.help.replace('|', chr(92) + '|')} |")
    return "\n".join(lines).strip()
