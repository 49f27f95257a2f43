"""Declare the options of commands, check their values, and convert the values to entries of a recipe and back.

Each option is declared once, as a field of a dataclass. Its name on the command line, for example, is derived from the
declaration. The packages ``activation_maximization`` and ``style_transfer`` declare their options as follows::

    @dataclass(frozen=True, kw_only=True)
    class StyleOptions(Options):
        size: int = option(512, "Longer side in pixels.", group="Picture", least=1, values=(256, 512, 1024))

The declaration determines the command line and its help (:mod:`dreamgram.workbench.console`), and the checks of values
given in Python or read from a file. The declaration also determines the tables of ``docs/options.md``, and how the
option is stored in a recipe, the record of settings in a picture file (:mod:`dreamgram.workbench.recipe`). To add an
option, it is therefore enough to declare the option and to write the code that uses its value.
"""

from __future__ import annotations

import math
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from dreamgram.image_optimization.limits import MOST_PIXELS
from dreamgram.image_optimization.names import LONGEST, must_be, shorten, unknown
from dreamgram.image_optimization.precision import Precision

if TYPE_CHECKING:
    from typing_extensions import Self

KINDS = ("photo", "folder", "video")
"""Kinds of input that commands can process."""

GROUPS = ("Input", "Objective", "Picture", "Losses", "Optimization", "Network", "Output")
"""Headings of the groups of options, in the order in which the help shows them."""

NETWORKS = (
    "digits, digits-robust, digits-mlp, vgg16, vgg19, efficientnet-lite0, torchvision:NAME, timm:NAME, hf:NAME or "
    "path/to/file.py:function"
)
"""List of networks in the help of the option ``--model``.

The list is written by hand, because loading the registry of networks would import PyTorch.
"""


MOST_VALUES = 1000
"""Largest allowed number of values in an option that holds a list, or a table such as layer weights."""

MOST_CHARACTERS, LONGEST_PATH = 100_000, 4096
"""Largest allowed lengths of an option's value: of a text, in characters, and of a path, in bytes."""

MOST = 1_000_000
"""Largest allowed value of an option that holds a whole number, such as the number of steps.

The limit does not apply to an option whose declaration sets ``most`` or ``parse``.
"""

ImageShape = tuple[int, int, int]
"""Type of the shape (C, H, W) of an image."""

Size = int | tuple[int, int]
"""Type of the size of a picture in pixels: the side of a square picture, or (height, width). On the command line, a
height of 64 and a width of 96, for example, are written ``64x96``."""


class OptionError(ValueError):
    """The error raised if an option has an invalid value, or cannot be used with the kind of input, such as a video.

    The message begins with the option's name in Python, such as ``style_weight``.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}")
        self.name = name
        self.problem = problem


@dataclass(frozen=True)
class Declaration:
    """The properties of an option other than its name, type and default."""

    help: str
    """Help text in whole sentences."""
    group: str
    """Heading under which the help lists the option, one of :data:`GROUPS`."""
    values: Sequence[Any] = ()
    """Three representative values, or both values if only two are allowed. The documentation lists them, tests try
    them, and a graphical interface can mark them on a slider. A Boolean option needs no such values. A value can also
    be the text that a user would type on the command line, such as ``4G``."""
    flags: Sequence[str] = ()
    """Names of the option on the command line. By default, there is one name, derived from that of the field:
    ``--style-weight`` for ``style_weight``."""
    formerly: str = ""
    """Name that the option had in an earlier version, and still has in the recipes stored by that version."""
    missing: Any = None
    """Value of the option in a recipe that lacks it, because it was stored before the option existed. None means the
    default of the option."""
    metavar: str = ""
    """Placeholder for the value in the help, such as ``FILE``. By default, the option's type determines the
    placeholder."""
    least: float = -math.inf
    """Smallest allowed value of a number. This limit and the next two also apply to each number in a list or table."""
    most: float = math.inf
    """Largest allowed value of a number. By default, a whole number is limited to :data:`MOST` unless the option has a
    ``parse`` function, and other numbers have no upper limit."""
    above: float = -math.inf
    """Exclusive lower limit: the value must be larger than this limit."""
    choices: Callable[[], Sequence[str]] | None = None
    """Function that returns the allowed names, if the type does not list them as a ``Literal``."""
    parse: Callable[[str], Any] | None = None
    """Function that converts text to the option's value. If the text is not valid, the function raises a ValueError. By
    default, the option's type determines the conversion."""
    positional: bool = False
    """True if the value is given on the command line without a flag. Such a value is the main input of the command,
    usually a path."""
    applies: Sequence[str] = KINDS
    """Kinds of input that the option can be used with: some or all of :data:`KINDS`."""
    files: Callable[[str], Sequence[Path]] | None = None
    """Function that returns the files and folders that are named in a text. If the option's value is a list of texts,
    the function is called for each of them. An option of the type Path needs no such function."""
    adds_file: bool = False
    """True if the option makes the command write an additional file, such as an animation. The command ``replay``
    ignores such an option, because ``replay`` makes only the picture again."""
    recorded: bool = True
    """True if the recipe, the record of settings that is stored in a picture, includes the option. Names of output
    files, for example, are not included."""

    def __post_init__(self) -> None:
        """Check the names of the group and of the kinds of input as soon as the option is declared.

        Raises:
            ValueError: the group or a kind of input does not exist.
        """
        if self.group not in GROUPS:
            raise ValueError(unknown("group of options", self.group, GROUPS))
        for kind in self.applies:
            if kind not in KINDS:
                raise ValueError(unknown("kind of input", kind, KINDS))


def option(default: Any = MISSING, help: str = "", *, group: str, compare: bool = True, **declared: Any) -> Any:
    """Declare a dataclass field as an option.

    Args:
        default: value of the option if the user does not set it. An option without a default is required. A default
            that is a list is copied for each instance of the dataclass.
        help: help text for artists, in whole sentences. For a number, the text should say what a larger value does and
            which values are typical.
        group: heading under which the help shows the option, one of :data:`GROUPS`.
        compare: True if recipes with different values of the option count as recipes of different pictures. It is
            False, for example, for the path of the output, and for the main input, whose contents are compared instead
            of its path.
        **declared: values of the other fields of :class:`Declaration`, by name.

    Raises:
        ValueError: the group or a kind of input does not exist.
    """
    metadata = {"declaration": Declaration(help=help, group=group, **declared)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), compare=compare, metadata=metadata)
    return field(default=default, compare=compare, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base class of a command's options: a frozen dataclass whose fields are declared with :func:`option`.

    Raises (on construction):
        OptionError: a value has the wrong type, is out of range or is not one of the allowed values.
    """

    VARIABLE: ClassVar[Sequence[str]] = ()
    """Names of the options that can have several values on the command line, separated by commas. A class with such
    options has an option ``vary``, which holds texts such as ``style_weight=1,3``."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = _read(each, type_of(type(self), each.name), getattr(self, each.name))
            object.__setattr__(self, each.name, value)

    def change(self, **changes: Any) -> Self:
        """Return a copy of these options with the new values in ``changes``, which are given by name.

        Raises:
            ValueError: an option does not exist, or a value is not allowed. For an option that does not exist, the
                message suggests a similar name if there is one.
        """
        known = [each.name for each in fields(self)]
        for name in changes:
            if name not in known:
                raise ValueError(unknown("option", name, known))
        return replace(self, **changes)

    def resolved(self, shape: ImageShape | None = None) -> Self:
        """Return these options with each placeholder, such as None, replaced by the value that it stands for.

        For example, None can stand for a weight that depends on a different option. A subclass whose options can have
        placeholders overrides this method. The placeholders are replaced before the options are stored in a picture,
        so that the picture can be made again even if a later version has different defaults.

        ``shape`` is the shape (C, H, W) of the images that the network takes. If ``shape`` is None, the placeholders
        whose values depend on the shape remain.
        """
        return self

    def files(self) -> list[tuple[str, Path]]:
        """Return (name of the option, path) for each file or folder that an option names.

        Options that are not stored in the recipes of pictures are left out. The files need not exist. A value of the
        option ``style`` always counts as a file, even ``marbling``, the name of a style that the program can draw.
        """
        found: list[tuple[str, Path]] = []
        for each in fields(self):
            known, value = declaration(each), getattr(self, each.name)
            for one in value if isinstance(value, list) else [value]:
                paths = [one] if isinstance(one, Path) else known.files(one) if known.files and one is not None else []
                found += [(each.name, path) for path in paths if known.recorded]
        return found

    def only_picture(self) -> Self:
        """Return a copy of these options with which a command writes the picture but no additional file."""
        return self.change(**{each.name: each.default for each in fields(self) if declaration(each).adds_file})

    def record(self) -> dict[str, Any]:
        """Return a dictionary, to be stored as JSON, from the names of the options to their values.

        Options that are declared with ``recorded=False``, such as the names of output files, are omitted.
        """
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self) if declaration(each).recorded}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> tuple[Self, list[str]]:
        """Return the options that are stored in ``record``, and a list of the keys of ``record`` that are not options.

        ``record`` has the form of the dictionary that :meth:`record` returns. Keys that are not options come, for
        example, from a different version of Dreamgram. An option that is missing in ``record`` gets the value that its
        declaration calls ``missing``, or else its default. The value of an option that was renamed is found under the
        old name or the new name.

        Raises:
            OptionError: a value has the wrong type or is out of range.
            ValueError: ``record`` lacks an option that has no default.
        """
        known = {each.name: each for each in fields(cls)}
        renamed = {declaration(each).formerly: name for name, each in known.items() if declaration(each).formerly}
        record = {renamed.get(name, name): value for name, value in record.items()}
        recorded = {name for name, each in known.items() if declaration(each).recorded}
        older = {name: declaration(each).missing for name, each in known.items()}
        values = {name: value for name, value in older.items() if value is not None}
        values |= {name: value for name, value in record.items() if name in recorded}
        missing = [name for name in recorded - set(values) if is_required(known[name])]
        if missing:
            raise ValueError(f"the recipe does not say {', '.join(sorted(missing))}")
        return cls(**values), [name for name in record if name not in known]

    @classmethod
    def of_first_version(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record of version 0.1.0 with that version's value for each default that has changed since then."""
        return dict(record)

    def difference(self, other: Options) -> str:
        """Describe the first option that has a different value in ``other``; return "" if all values are the same.

        An example is "size 256, not 512", where 256 is the value in ``other``. Options that are declared with
        ``compare=False`` are ignored.
        """
        for each in fields(self):
            theirs, ours = getattr(other, each.name), getattr(self, each.name)
            if each.compare and _plain(theirs) != _plain(ours):
                return f"{each.name} {_brief(theirs)}, not {_brief(ours)}"
        return ""


def parse_bytes(text: str) -> int:
    """Convert text such as ``4G``, ``800M``, ``1.5GB`` or ``0`` to a number of bytes. The units are powers of 1000.

    Raises:
        ValueError: ``text`` is neither 0 nor a positive number with such a unit.
    """
    if text.strip() == "0":
        return 0
    number = _parse_amount(text, "B?")
    if number <= 0:
        raise ValueError(f"must be an amount of memory such as 4G or 800M, not {shorten(text)}")
    return number


def parse_pixels(text: str) -> int:
    """Convert text such as ``180M``, ``1.5G`` or ``400MP`` to a number of pixels. The units are powers of 1000.

    Raises:
        ValueError: ``text`` is not a positive number with such a unit.
    """
    number = _parse_amount(text, "P?")
    if number <= 0:
        raise ValueError(f"must be a number of pixels such as 180M or 1G, not {shorten(text)}")
    return number


def describe_amount(amount: int) -> str:
    """Return an amount of memory or a number of pixels as it is typed, such as ``180M`` for 180,000,000."""
    power = max(power for power in range(5) if amount % 1000**power == 0) if amount else 0
    return f"{amount // 1000**power}{' kMGT'[power].strip()}"


def _parse_amount(text: str, ending: str) -> int:
    """Convert text such as ``1.5GB`` to a whole number, or return 0 if the text does not have this form.

    At most 15 digits are allowed before the decimal point. ``ending`` is a regular expression for the text after the
    prefix ``k``, ``M``, ``G`` or ``T``, such as ``B?``.
    """
    found = re.fullmatch(rf"(\d{{1,15}}(?:\.\d*)?|\.\d+) *([kMGT]){ending}", text.strip(), re.IGNORECASE)
    return int(float(found[1]) * 1000 ** (1 + "kmgt".index(found[2].lower()))) if found else 0


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(Options):
    """The option that all commands that read pictures or videos have in common."""

    max_pixels: int = option(
        MOST_PIXELS,
        "Largest number of pixels in an input picture or video frame; 400M means 400 million. Most kinds of pictures "
        "have smaller limits (docs/files.md). A small file can fill the memory, so increase this only for files "
        "you trust.",
        group="Input",
        compare=False,
        recorded=False,
        parse=parse_pixels,
        least=1,
        metavar="PIXELS",
        values=("50M", "180M", "1G"),
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """The options of every optimization, whether it is started in Python or on the command line."""

    precision: Precision = option(
        "auto",
        "Number format in which the network computes. auto uses bfloat16 where that is faster, else float32. "
        "Use float32 if you compare numerical results, such as losses, between machines.",
        group="Network",
        values=("auto", "float32", "bfloat16"),
    )
    compile: bool = option(
        False,
        "Compile the network before the first step. This takes about ten seconds for each picture size, or about one "
        "second if it was done before. Every step on an NVIDIA GPU might then take less time. This depends on the "
        "network, so try it before a long job, such as many pictures of the same size. With VGG, it hardly saves "
        "time. On a CPU, it hardly saves time with any network. "
        "Compiling needs a C compiler. A network that cannot be compiled runs uncompiled.",
        group="Network",
    )
    seed: int = option(
        0,
        "Random seed. On the same machine, the same seed gives the same picture, and a different seed gives a "
        "variation of it.",
        group="Optimization",
        least=-(2**63),  # the range that PyTorch accepts
        most=2**64 - 1,
        values=(0, 1, 42),
    )


def model_files(name: str) -> list[Path]:
    """Return the paths of the user's files and folders that are read when the network called ``name`` is loaded.

    The list is empty unless ``name`` is ``path/to/file.py:function`` or ``hf:FOLDER``.
    """
    from dreamgram.models.provenance import sources  # imports an HTTP client, which the help does not need

    return sources(name, None)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Options):
    """The options that choose the network that a command uses."""

    SEVERAL = False
    """True if the command accepts several networks, to compare them."""

    model: list[str] | str = option(
        "digits",
        f"Network to use: {NETWORKS}.",
        group="Network",
        metavar="NAME",
        files=model_files,
        values=("digits", "vgg16", "torchvision:resnet50"),
    )
    weights: list[Path] | Path | None = option(
        None,
        "Weights file to use instead of the network's own weights: safetensors, a PyTorch state dict, or a checkpoint "
        "of a training program. Prefixes such as module. and model. are removed from the names of the tensors.",
        group="Network",
        metavar="FILE",
        values=("cnn.safetensors", "vgg16-397923af.pth", "trained/last.pt"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in {"model": "network", "weights": "file"}.items():
            given = _listed(getattr(self, name))
            if len(given) > 1 and not self.SEVERAL:
                raise OptionError(name, f"must be a single {kind} for this command, not {len(given)}")
        if any(model.startswith("-") for model in _listed(self.model)):  # it is another option, not a name
            raise OptionError("model", f"must be the name of a network, not {shorten(self.model)}")
        models, weights = len(_listed(self.model)), len(_listed(self.weights))
        if weights > 0 and models > 1 and weights != models:
            raise OptionError(
                "weights", f"must be given once for each of the {models} models or never, not {weights} times"
            )

    @property
    def networks(self) -> list[tuple[str, Path | None]]:
        """List of (name, weights file) for each network, where None as the file means the network's own weights.

        If one model and several weights files are given, the list contains that model once with each file.
        """
        models, weights = _listed(self.model), _listed(self.weights) or [None]
        count = max(len(models), len(weights))
        return list(zip(models * (count // len(models)), weights * (count // len(weights)), strict=True))


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """The options for the file that a command writes."""

    output: Path | None = option(
        None,
        "File to write. By default, the command writes a new file in outputs/.",
        group="Output",
        compare=False,
        recorded=False,
        flags=("--output", "-o"),
        metavar="FILE",
        values=("picture.png", "picture.webp", "pictures/picture.tif"),
    )
    overwrite: bool = option(
        False,
        "Replace the output file if it exists already.",
        group="Output",
        compare=False,
        recorded=False,
    )


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(OutputOptions, ReadingOptions):
    """The options of the commands that follow the recipe in a file: ``replay`` and ``resume``."""

    trust: bool = option(
        False,
        "Trust the recipe, which is the record of settings stored in the picture or the unfinished run. The recipe is "
        "then allowed to run a Python file that defines a network, and to read and write files outside the current "
        "folder and the folder of the recipe's file. Without this option, a recipe that would do either is refused.",
        group="Input",
        compare=False,
        recorded=False,
    )


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(RecipeOptions):
    """The options of the commands that make a picture again from its recipe."""

    picture: Path = option(
        help="Picture to make again. Its file contains its recipe.",
        group="Input",
        positional=True,
        values=("outputs/picture.png", "picture.jpg", "picture.webp"),
    )


@dataclass(frozen=True, kw_only=True)
class PictureOptions(OutputOptions, ReadingOptions, NetworkOptions, RunOptions):
    """The options of every command that optimizes a picture and writes it to a file."""

    device: str = option(
        "auto",
        "Device to compute on: auto, cpu, cuda, cuda:1 or mps. auto uses an accelerator, such as a GPU, if there is "
        "one.",
        group="Network",
        compare=False,
        metavar="NAME",
        values=("auto", "cpu", "cuda:1"),
    )
    timelapse: Literal["webp", "gif", "mp4"] | None = option(
        None,
        "Also save an animation of the optimization in this file format, in the same folder as the picture. mp4 needs "
        "PyAV (pip install 'dreamgram[video]').",
        group="Output",
        compare=False,
        adds_file=True,
        applies=("photo", "folder"),
        values=("webp", "gif", "mp4"),
    )


def _listed(value: Any) -> list[Any]:
    """Return an option's ``value`` as a list: empty for None, or with one item for a value that is not a list."""
    return [] if value is None else value if isinstance(value, list) else [value]


def check_applies(options: Options, kind: str) -> None:
    """Check that all options whose values differ from the defaults can be used with input of the given ``kind``.

    ``kind`` is one of :data:`KINDS`.

    Raises:
        OptionError: an option cannot be used with this kind of input.
    """
    for each in fields(options):
        applies = declaration(each).applies
        if kind not in applies and getattr(options, each.name) != each.default:
            what = "one photo" if applies == ("photo",) else "photos"
            raise OptionError(each.name, f"is for {what}, not for a {kind}")


def declaration(declared: Field[Any]) -> Declaration:
    """Return the declaration of an option, given its dataclass field."""
    found: Declaration = declared.metadata["declaration"]
    return found


@cache
def _hints(options: Any) -> dict[str, Any]:
    return get_type_hints(options)


def type_of(options: type[Options], name: str) -> Any:
    """Return the type hint of the option called ``name`` in the class ``options``."""
    known: Any = options  # mypy considers a dataclass unhashable
    hints: dict[str, Any] = _hints(known)
    return hints[name]


def choices_of(declared: Field[Any], hint: Any) -> Sequence[Any]:
    """Return the allowed values of an option if its declaration or its type lists them, or else an empty sequence.

    ``declared`` is the dataclass field of the option, and ``hint`` is the type of the option.
    """
    found = declaration(declared).choices
    if found is not None:
        return found()
    for part in [hint, *get_args(hint)]:
        if get_origin(part) is Literal:
            return get_args(part)
    return ()


def is_list(hint: Any) -> bool:
    """Return whether an option of the type ``hint`` can hold a list of values."""
    return any(get_origin(part) is list for part in (hint, *get_args(hint)))


def may_be_one(hint: Any) -> bool:
    """Return whether an option of the type ``hint`` can hold either a list or a single value that is not in a list."""
    parts = set(get_args(hint))
    return any(get_origin(part) is list and set(get_args(part)) <= parts for part in parts)


def is_flag(hint: Any) -> bool:
    """Return whether an option of the type ``hint`` is a Boolean flag, which takes no value on the command line."""
    return hint is bool


def is_required(declared: Field[Any]) -> bool:
    """Return whether an option has no default, so that the user must set it."""
    return declared.default is MISSING and declared.default_factory is MISSING


def _read(declared: Field[Any], hint: Any, value: Any) -> Any:
    """Convert ``value``, given in Python, on a command line or in a file, to the option's type, and check the result.

    Raises:
        OptionError: ``value`` cannot be converted or is not allowed.
    """
    known = declaration(declared)
    value = value.tolist() if hasattr(value, "tolist") else value  # numbers of NumPy or PyTorch
    _check_length(declared.name, value)
    if isinstance(value, str) and known.parse is not None:
        try:
            value = known.parse(value)
        except ValueError as error:
            raise OptionError(declared.name, str(error)) from None
    else:
        one = is_list(hint) and value is not None and not isinstance(value, list | tuple)
        value = _convert(declared.name, hint, [value] if one else value)
        if isinstance(value, list) and len(value) == 1 and may_be_one(hint):
            [value] = value
    choices = choices_of(declared, hint)
    missing = value is None and type(None) in get_args(hint)
    if choices and not missing and value not in choices:
        raise OptionError(declared.name, must_be(value, choices))
    for number in _numbers(value):
        _check_range(declared.name, known, number)
    return value


def _check_length(name: str, value: Any) -> None:
    """Check that ``value`` is not too long; ``name`` is the name of the option, for the error message.

    A list or table must have at most :data:`MOST_VALUES` values. A text, each text in a list and each key of a table
    must have at most :data:`MOST_CHARACTERS` characters.

    Raises:
        OptionError: there are too many characters or values.
    """
    several = isinstance(value, list | tuple | Mapping)
    if several and len(value) > MOST_VALUES:
        raise OptionError(name, f"must have at most {MOST_VALUES} values, not {len(value)}")
    for text in value if several else [value]:
        if isinstance(text, str) and len(text) > MOST_CHARACTERS:
            raise OptionError(name, f"must have at most {MOST_CHARACTERS} characters, not {len(text)}")


def _convert(name: str, hint: Any, value: Any) -> Any:
    parts = get_args(hint) if isinstance(hint, types.UnionType) or get_origin(hint) is typing.Union else (hint,)
    if type(None) in parts and (value is None or value in ([], ())):  # version 0.1.0 recorded a missing list as []
        return None
    if set(get_args(Size)) <= set(parts):
        return _size(name, value)
    [kind, *_] = [part for part in parts if part is not type(None)]
    base = get_origin(kind) or kind
    if base is Literal:
        # Early pictures recorded a missing choice, such as that of an animation, as false.
        if value is False and type(None) in parts:
            return None
        return next((choice for choice in get_args(kind) if str(choice) == str(value)), value)  # a number can be text
    if base is bool and isinstance(value, bool):
        return value
    if base in (int, float) and not isinstance(value, bool):
        return _number(name, base, value)
    if base is Path and isinstance(value, str | Path):
        return file_name(name, value)
    if base is str and isinstance(value, str):
        return value
    if base is list and isinstance(value, list | tuple) and (value or not may_be_one(hint)):
        return [_convert(name, get_args(kind)[0], each) for each in value]
    if base is dict and isinstance(value, Mapping):
        return {str(key): _number(name, float, each) for key, each in value.items()}
    raise OptionError(name, f"must be {_describe(base)}, not {shorten(value)}")


def file_name(name: str, value: str | Path) -> Path:
    """Return ``value`` as a path; ``name`` is the name of the option, for the error message.

    Raises:
        OptionError: ``value`` is empty, is too long or contains a character that no file name can contain.
    """
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        encoded = b"\0"
    if not encoded or b"\0" in encoded or len(encoded) > LONGEST_PATH:  # Path("") would be the current folder
        raise OptionError(name, f"must be a file name, not {shorten(str(value))}")
    return Path(value)


def _number(name: str, kind: type, value: Any) -> Any:
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise OptionError(name, f"must be {_describe(kind)}, not {shorten(value)}") from None
    if kind is int and not isinstance(value, str) and number != value:
        raise OptionError(name, f"must be a whole number, not {shorten(value)}")
    return number


def _size(name: str, value: Any) -> Size:
    """Return ``value`` as a size: one number for a square, or else (height, width).

    Raises:
        OptionError: ``value`` does not consist of one or two whole numbers.
    """
    given = value.lower().split("x") if isinstance(value, str) else value
    sides = list(given) if isinstance(given, list | tuple) else [given]
    try:
        numbers = [_convert(name, int, side) for side in sides]
    except OptionError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise OptionError(name, f"must be a whole number, or HEIGHTxWIDTH such as 64x96, not {shorten(value)}")
    return numbers[0] if numbers[0] == numbers[-1] else (numbers[0], numbers[1])


def describe_size(size: tuple[int, ...]) -> str:
    """Return a size (H, W) as text, such as ``64x96``."""
    return "x".join(map(str, size))


def _describe(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", Path: "a file name", bool: "true or false"}
    return names.get(kind, "a table of numbers" if kind is dict else "a list")


def _numbers(value: Any) -> list[float]:
    found = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return [each for each in found if isinstance(each, int | float) and not isinstance(each, bool)]


def _check_range(name: str, known: Declaration, number: float) -> None:
    if isinstance(number, float) and not math.isfinite(number):
        raise OptionError(name, f"must be a finite number, not {number}")
    if number <= known.above:
        raise OptionError(name, f"must be above {known.above:g}, not {shorten(number)}")
    if not known.least <= number <= known.most:
        limits = f"at least {known.least:g}" if known.most == math.inf else f"from {known.least:g} to {known.most:g}"
        raise OptionError(name, f"must be {limits}, not {shorten(number)}")
    counted = isinstance(number, int) and known.parse is None  # a number of bytes, for example, is parsed
    if counted and known.most == math.inf and number > MOST:
        raise OptionError(name, f"must be at most {MOST:,}, not {shorten(number)}")


def _brief(value: Any) -> str:
    """Return ``value`` as text for a message.

    A size, or a text of at most :data:`LONGEST` characters, is returned as a user would type it. Any other value is
    converted to text by :func:`shorten`.
    """
    if isinstance(value, tuple):
        return describe_size(value)
    plain = _plain(value)
    return plain if isinstance(plain, str) and len(plain) <= LONGEST else shorten(plain)


def _plain(value: Any) -> Any:
    """Return ``value`` as it would be after being stored as JSON and read back."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def parse_numbers(text: str) -> list[float]:
    """Convert comma-separated numbers, such as ``2,1``, to a list of numbers.

    Raises:
        ValueError: ``text`` does not consist of numbers separated by commas.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"must be numbers such as 2,1, not {shorten(text)}") from None


def parse_layer_weights(text: str) -> dict[str, float]:
    """Convert text such as ``relu1_1=1,relu3_1=0.5`` to a dictionary from layer names to weights.

    A layer that is named without a weight, as in ``relu1_1,relu3_1``, gets the weight 1.

    Raises:
        ValueError: a weight is not a number, or a layer is named twice.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        layer, _, weight = part.strip().partition("=")
        if layer in weights:
            raise ValueError(f"must name every layer once, but {shorten(text)} has {layer} twice")
        try:
            weights[layer] = float(weight or 1)
        except ValueError:
            raise ValueError(
                f"must be layers with weights such as relu1_1=1,relu3_1=0.5, not {shorten(text)}"
            ) from None
    return weights
