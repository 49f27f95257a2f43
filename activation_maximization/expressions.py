"""Expressions: objectives, transforms and parameterizations written as text, for the command line.

Examples are ``logit(0-9) - sparing()`` and ``channel(layer3.1.conv2, 3) - 0.5 * channel(layer3.1.conv2, 7)``. An
expression means the same as in Python code, with three differences: names need no quotes, the indices of units can be
ranges or ``all``, and the argument ``photo`` is left out, because it is always the photo that was given to the command.
An expression can call every function that is registered with :func:`objective` or :func:`regularizer`. The text is
parsed and never evaluated as Python. The grammar is:

    sum       = product {("+" | "-") product}
    product   = factor {("*" | "/") factor}
    factor    = {"+" | "-"} (number | "(" sum ")" | call)
    call      = name ["(" [argument {"," argument}] ")"]
    argument  = [name "="] value, which is parsed according to the type of the parameter

The text of a transform is a sum of calls, such as ``jitter(0.1) + robust(5)``. The transforms are applied from left to
right:

    transform = call {"+" call}
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreamgram.activation_maximization.objectives import OBJECTIVES, Objective, check_units
from dreamgram.activation_maximization.regularizers import REGULARIZERS
from dreamgram.image_optimization.files import check_regular
from dreamgram.image_optimization.names import described, did_you_mean, shorten, unknown
from dreamgram.image_optimization.parameterizations import PARAMETERIZATIONS, Parameterization
from dreamgram.image_optimization.transforms import Chain, Transform, noise, robust

VECTOR_FILES = (".npy", ".safetensors")
"""Extensions of the files that :func:`load_vector` can read."""

DEEPEST = 50
"""Maximum nesting depth of parentheses. The limit keeps malformed text from exhausting Python's stack."""

MOST_CALLS = 100
"""Largest number of function calls in one expression.

An objective that combines other objectives calls them to compute its value. The limit keeps these nested calls from
exhausting Python's stack.
"""

NOT_WRITTEN = ("photo", "encoder")
"""Names of parameters that have no argument in an expression."""

MOST_UNITS = 100_000
"""Largest allowed number of units in one call in an expression.

Layers have fewer units, so a longer list is taken for a mistake.
"""


def parse_objective(
    text: str, photo: Tensor | None = None, count_units: Callable[[str], int] | None = None
) -> Objective:
    """Return the objective that ``text`` describes.

    Example:
        >>> parse_objective("channel(conv2, 3) - 0.5 * channel(conv2, 7)").layers
        frozenset({'conv2'})

    Args:
        text: expression that combines calls of registered objectives and regularizers with numbers, ``+ - * /`` and
            parentheses.
        photo: photo for the objectives that compare images with a photo, (1, C, H, W) in [0, 1].
        count_units: function that returns the number of units of a layer, given the layer's name. The function is
            needed if the text selects the units of a layer with ``all``. If the function is given, a unit in the text
            that does not exist in its layer raises a ValueError.

    Raises:
        ValueError: the text is malformed, calls an unknown function, or calls a function with wrong arguments.
    """
    parser = _Parser(text, {**OBJECTIVES, **REGULARIZERS}, photo, count_units)
    value = parser.sum()
    parser.end()
    if not isinstance(value, Objective):
        raise parser.error("a number alone is nothing to maximize")
    return value


def parse_regularizer(text: str) -> Objective | None:
    """Return the regularizer that ``text`` describes, such as ``share() * blur(7)``, or None if ``text`` is ``none``.

    The expression can call the regularizers and the functions ``ramp`` and ``share``.

    Raises:
        ValueError: the text is malformed, calls an unknown function, or calls a function with wrong arguments.
    """
    if isinstance(text, str) and text.strip() == "none":
        return None
    parser = _Parser(text, {**REGULARIZERS, **{name: OBJECTIVES[name] for name in ("ramp", "share")}})
    value = parser.sum()
    parser.end()
    if not isinstance(value, Objective):
        raise parser.error("a number alone is no regularizer")
    return value


def vector_files(text: str) -> list[Path]:
    """List the vector files (.npy or .safetensors) that are named in ``text``, whether they exist or not.

    ``text`` is the text of an objective.
    """
    words = [Path(_name(word)) for word in re.findall(NAME, text)]
    return [path for path in dict.fromkeys(words) if path.suffix in VECTOR_FILES]


def parse_transform(text: str) -> Transform:
    """Return the transform that ``text`` describes, such as ``none``, ``jitter(0.1)`` or ``robust(degrees=5)``.

    Several transforms that are joined by ``+`` are applied from left to right.

    Raises:
        ValueError: the text is malformed, calls an unknown function, or calls a function with wrong arguments.
    """
    transforms = _parse_transforms(text, TRANSFORMS)
    return transforms[0] if len(transforms) == 1 else Chain(tuple(transforms))


def write_out_transform(text: str) -> str:
    """Return ``text``, the text of a transform, with the values of all parameters written out.

    Parameters that are left out in ``text`` have their default values. For example, ``jitter`` becomes
    ``jitter(translate=0.05)``.

    Raises:
        ValueError: the text is not a valid transform.
    """
    return " + ".join(_parse_transforms(text, {name: _writer(name, TRANSFORMS[name]) for name in TRANSFORMS}))


def _parse_transforms(text: str, functions: Mapping[str, Callable[..., Any]]) -> list[Any]:
    """Parse ``text``, the text of a transform, and return the results of its calls as a list, from left to right.

    ``functions`` maps each function name that is allowed in ``text`` to the function to call.
    """
    parser = _Parser(text, functions)
    wanted = f"a transform: {', '.join(functions)}"
    results = [parser.call(wanted)]
    while parser.take(r"\+"):
        results.append(parser.call(wanted))
    parser.end("'+' or the end")
    return results


def _writer(name: str, function: Callable[..., Any]) -> Callable[..., str]:
    """Return a function that takes the arguments of ``function`` and returns the text of a call of ``function``.

    The text contains the values of all parameters. ``name`` is the name of ``function`` in this text.
    """

    @wraps(function)
    def write(**given: Any) -> str:
        bound = inspect.signature(function).bind(**given)
        bound.apply_defaults()
        arguments = [f"{key}={_written(value)}" for key, value in bound.arguments.items()]
        return f"{name}({', '.join(arguments)})" if arguments else name

    return write


def _written(value: Any) -> str:
    """Return the text of a number, or of a tuple of numbers, as a user would type it in an expression."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_written, value))})"
    return repr(value).removesuffix(".0")


def parse_parameterization(name: str) -> type[Parameterization]:
    """Return the parameterization class that has the key ``name`` in :data:`PARAMETERIZATIONS`.

    Raises:
        ValueError: there is no parameterization with this name.
    """
    if name not in PARAMETERIZATIONS:
        raise ValueError(unknown("parameterization", name, PARAMETERIZATIONS))
    return PARAMETERIZATIONS[name]


def default_parameterization(channels: int) -> str:
    """Return the name of the default parameterization for images with ``channels`` channels."""
    return "fourier" if channels == 3 else "pixels"


def none() -> Transform:
    """Return the transform that leaves the images unchanged."""
    return lambda images: images


def jitter(translate: float = 0.05) -> Transform:
    """Return a transform that only shifts the images at random.

    This transform suits pictures that must stay upright, such as spectrograms.

    Args:
        translate: largest horizontal shift as a fraction of the image's width, and largest vertical shift as a fraction
            of its height.
    """
    return robust(degrees=0, translate=translate, scale=(1, 1), shear=0)


TRANSFORMS: Mapping[str, Callable[..., Transform]] = {
    "none": none,
    "jitter": jitter,
    "robust": robust,
    "noise": noise,
}
"""Functions that return transforms, by name."""


def load_vector(path: Path) -> Tensor:
    """Read a vector (C,), or several vectors (N, C), from a .npy file or from a .safetensors file with one tensor.

    Raises:
        ValueError: the file's extension is not .npy or .safetensors, or the file does not contain one tensor of
            finite numbers, (C,) or (N, C).
        OSError: the file cannot be read.
    """
    if path.suffix not in VECTOR_FILES:
        raise ValueError(f"a vector is read from a .npy or .safetensors file, not from {str(path)!r}")
    check_regular(path)
    try:
        found = [np.load(path, allow_pickle=False)] if path.suffix == ".npy" else list(load_file(path).values())
        [vector] = [torch.as_tensor(each).float() for each in found]
    except (EOFError, ValueError, TypeError, SafetensorError) as error:
        raise ValueError(f"{str(path)!r} holds no vector, or several tensors, or is damaged") from error
    if vector.ndim not in (1, 2) or not vector.numel() or not vector.isfinite().all():
        raise ValueError(f"{str(path)!r} holds no finite vector (C,) or vectors (N, C)")
    return vector


INTEGER = r"-?[0-9]{1,9}"
NUMBER_PATTERN = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.])"
ENDS = r"(?=\s*(?:[,)\]]|$))"
NAME = r"\"[^\"]+\"|'[^']+'|[^\s\"',()\[\]=]+(?:\[\w+\])*"
"""Regular expression for a name.

A name without quotes contains no spaces, quotes, commas, parentheses, brackets or ``=``. The name can be followed by an
index in brackets, as in ``lstm[0]``, which selects one of the tensors that a layer returns.
"""
RANGE = rf"[0-9]{{1,9}}(?:\s*-\s*[0-9]{{1,9}})?{ENDS}"
RANGES = rf"{RANGE}(?:\s*,\s*{RANGE})*"
"""Regular expression for a list of units, such as ``0-2, 7``.

A comma belongs to the list only if a number or a range follows the comma.
"""


def _number(text: str) -> float:
    """Convert ``text`` to a number. Raise a ValueError if the number is infinite."""
    if not math.isfinite(number := float(text)):
        raise ValueError("a number is too large")
    return number


def _pair(text: str) -> tuple[float, ...]:
    """Convert text such as ``(0.9, 1.1)`` to a tuple of numbers."""
    return tuple(map(_number, text.strip("()").split(",")))


def _position(text: str) -> tuple[int, ...]:
    """Convert text such as ``(4, 5)`` to a tuple of integers."""
    return tuple(map(int, re.findall(INTEGER, text)))


def _units(text: str) -> list[int] | Literal["all"]:
    """Convert text such as ``0-2,7`` to a list of units, here 0, 1, 2 and 7. Return the text ``all`` unchanged."""
    if text == "all":
        return "all"
    units: list[int] = []
    for part in text.strip("[]").split(","):
        first, _, last = part.partition("-")
        some = range(int(first), int(last or first) + 1)
        if not some:
            raise ValueError(f"the range of units {part.strip()} is empty: the smaller number comes first")
        if len(units) + len(some) > MOST_UNITS:
            raise ValueError(f"there are more than {MOST_UNITS} units")
        units += some
    return units


def _name(text: str) -> str:
    """Return the name ``text`` without its quotes, if it has any."""
    return text[1:-1] if text[0] in "\"'" else text


def _vector(text: str) -> Tensor:
    """Load the vector, or several vectors, from the file whose name is ``text``."""
    path = Path(_name(text))
    try:
        return load_vector(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


class _Kind(NamedTuple):
    """Rules for parsing the arguments of one type in an expression."""

    words: str
    """Description of an argument of this type for error messages."""
    pattern: str
    """Regular expression that the argument's text must match."""
    read: Callable[[str], Any]
    """Function that converts the argument's text to the argument's value."""


UNIT_LIST = "int | Iterable[int]"

ARGUMENT_KINDS: Mapping[str, _Kind] = {
    "str": _Kind("a name", NAME, _name),
    "float": _Kind("a number", NUMBER_PATTERN, _number),
    "int": _Kind("a whole number", rf"{INTEGER}(?![\w.])", int),
    "bool": _Kind("true or false", r"(?i:true|false)(?!\w)", lambda text: text.lower() == "true"),
    UNIT_LIST: _Kind("units such as 3, 0-11 or all", rf"all{ENDS}|\[{RANGES}\s*\]|{RANGES}", _units),
    "Sequence[int] | None": _Kind(
        "a position such as (4, 5)",
        rf"\(\s*{INTEGER}(?:\s*,\s*{INTEGER})*\s*,?\s*\)|{INTEGER}{ENDS}",
        _position,
    ),
    "tuple[float, float]": _Kind(
        "two numbers such as (0.9, 1.1)", rf"\(\s*{NUMBER_PATTERN}\s*,\s*{NUMBER_PATTERN}\s*\)", _pair
    ),
    "Tensor | NDArray[Any]": _Kind("a .npy or .safetensors file", NAME, _vector),
}
"""Map from the type annotation of a function's parameter, as text, to the rules for parsing an argument for this
parameter."""


class _Parser:
    """A recursive-descent parser of expressions.

    The text is not split into tokens first, because the same characters mean different things in different positions.
    """

    def __init__(
        self,
        text: str,
        functions: Mapping[str, Callable[..., Any]],
        photo: Tensor | None = None,
        count_units: Callable[[str], int] | None = None,
    ) -> None:
        if not isinstance(text, str):
            raise TypeError(f"an expression is text, such as 'logit(3)', not {described(text)}")
        self.text = text
        self.functions = functions
        self.photo = photo
        self.count_units = count_units
        self.at = self.depth = self.calls = 0

    def take(self, pattern: str) -> str | None:
        """Match the regular expression ``pattern`` at the current position, after any whitespace.

        If the pattern matches, advance past the match and return the matched text. Otherwise, return None.
        """
        found = re.compile(rf"\s*({pattern})").match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[1]

    def error(self, problem: str) -> ValueError:
        """Return a ValueError whose message is ``problem`` and the text of the expression."""
        return ValueError(f"{problem} (in {shorten(self.text)})")

    def unexpected(self, wanted: str) -> ValueError:
        """Return a ValueError whose message says that ``wanted`` was expected at the current position."""
        rest = self.text[self.at :].strip()
        return self.error(f"expected {wanted}, not {shorten(rest) if rest else 'the end'}")

    def end(self, wanted: str = "the end") -> None:
        """Raise a ValueError if text is left to parse. The message says that ``wanted`` was expected instead."""
        if self.text[self.at :].strip():
            raise self.unexpected(wanted)

    def sum(self) -> float | Objective:
        """Parse a sum of one or more products, joined by ``+`` or ``-``, and return the value of the sum."""
        value = self.product()
        while sign := self.take(r"[+-]"):
            other = self.product()
            value = self.finite(value + other if sign == "+" else value - other)
        return value

    def product(self) -> float | Objective:
        """Parse a product of one or more factors, joined by ``*`` or ``/``, and return the value of the product.

        A divisor must be a number other than 0.
        """
        value = self.factor()
        while sign := self.take(r"\*(?!\*)|/(?!/)"):
            other = self.factor()
            if sign == "/" and (isinstance(other, Objective) or other == 0):
                raise self.error("a divisor must be a number other than 0")
            value = self.finite(value * other if sign == "*" else value / other)  # type: ignore[operator]
        return value

    def factor(self) -> float | Objective:
        """Parse a factor, which consists of any number of signs and an atom, and return the value of the factor."""
        negative = False
        while sign := self.take(r"[+-]"):
            negative ^= sign == "-"
        value = self.atom()
        return -value if negative else value

    def atom(self) -> float | Objective:
        """Parse an atom, which is a number, a call or a sum in parentheses, and return the value of the atom."""
        if not self.take(r"\("):
            number = self.take(NUMBER_PATTERN)
            value: float | Objective = self.call() if number is None else self.finite(float(number))
            return value
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.error(f"more than {DEEPEST} parentheses are open at once")
        value = self.sum()
        if not self.take(r"\)"):
            raise self.unexpected("')'")
        self.depth -= 1
        return value

    def finite(self, value: float | Objective) -> float | Objective:
        """Return ``value`` unchanged, or raise a ValueError if ``value`` is infinite or NaN."""
        if not isinstance(value, Objective) and not math.isfinite(value):
            raise self.error("a number is too large")
        return value

    def call(self, wanted: str = "a number, a function or '('") -> Any:
        """Parse a function's name and arguments, and return the result of calling the function with these arguments.

        If there is no name at the current position, the error message says that ``wanted`` was expected.
        """
        name = self.take(r"[^\W\d]\w*")
        if name is None:
            raise self.unexpected(wanted)
        if name not in self.functions:
            raise self.error(unknown("function", name, self.functions))
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise self.error(f"more than {MOST_CALLS} functions are called")
        parameters = dict(inspect.signature(self.functions[name]).parameters)
        given = self.arguments(name, parameters) if self.take(r"\(") else {}
        if "photo" in parameters:
            if self.photo is None:
                raise self.error(f"{name} compares with a photo, and no photo was given")
            given["photo"] = self.photo
        for parameter in parameters.values():
            if parameter.name not in given and parameter.default is parameter.empty:
                raise self.error(f"{parameter.name} is missing: {_usage(name, parameters)}")
        layer = given.get("layer", parameters["layer"].default if "layer" in parameters else None)
        for key in given:
            if _kind(parameters[key]) == UNIT_LIST:
                given[key] = self.units_of(layer, given[key])
        return self.functions[name](**given)

    def arguments(self, name: str, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
        """Parse the arguments of the function ``name``, up to and including the closing parenthesis.

        Return a dictionary from the names of parameters to the arguments. ``parameters`` holds the parameters of the
        function.
        """
        given: dict[str, Any] = {}
        named = False
        while not self.take(r"\)"):
            if given and not self.take(","):
                raise self.unexpected("',' or ')'")
            keyword = self.take(r"[^\W\d]\w*(?=\s*=)")
            if named and not keyword:
                raise self.unexpected("a name and '=', as for the previous argument")
            named = keyword is not None
            parameter = self.parameter(name, parameters, given, keyword)
            if named:
                self.take("=")
            kind = ARGUMENT_KINDS[_kind(parameter)]
            text = self.take(kind.pattern)
            if text is None:
                raise self.unexpected(f"{kind.words} for {parameter.name} of {name}")
            try:
                given[parameter.name] = kind.read(text)
            except ValueError as error:
                raise self.error(str(error)) from error
        return given

    def parameter(
        self,
        name: str,
        parameters: Mapping[str, inspect.Parameter],
        given: Mapping[str, Any],
        keyword: str | None,
    ) -> inspect.Parameter:
        """Return the parameter that receives the next argument.

        If ``keyword`` is None, this is the first parameter that has no argument yet. Otherwise, it is the parameter
        called ``keyword``. ``parameters`` holds all parameters of the function ``name``, and ``given`` holds the
        arguments that have been parsed so far.
        """
        usage = _usage(name, parameters)
        free = [each for each in parameters if each not in NOT_WRITTEN]
        if keyword is None:
            if len(given) == len(free):
                raise self.unexpected(f"')' after the last argument of {usage}")
            return parameters[free[len(given)]]
        if keyword in given:
            raise self.error(f"{keyword} is given twice: {usage}")
        if keyword not in free:
            raise self.error(f"{usage} has no argument {keyword!r}; {did_you_mean(keyword, free)}".rstrip("; "))
        return parameters[keyword]

    def units_of(self, layer: str | None, units: list[int] | Literal["all"]) -> list[int]:
        """Return ``units`` as a list of indices. The text ``all`` stands for all units of the layer.

        Raises:
            ValueError: a unit does not exist in the layer, or ``units`` is ``all`` and the layer's number of units is
                unknown.
        """
        if self.count_units is None or layer is None:
            if units == "all":
                raise self.error("the units 'all' are known only with a network: give the units' numbers")
            return units
        count = self.count_units(layer)
        if units == "all":
            return list(range(count))
        check_units(layer, units, count)
        return units


def _kind(parameter: inspect.Parameter) -> str:
    """Return the type annotation of a parameter as text, without the names of modules.

    Raises:
        ValueError: the type is not supported in expressions.
    """
    declared = parameter.annotation
    text = declared if isinstance(declared, str) else inspect.formatannotation(declared)
    kind = re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", text)
    if kind not in ARGUMENT_KINDS and parameter.name != "photo":
        raise ValueError(f"{parameter.name} is declared as {text}; an expression can hold {', '.join(ARGUMENT_KINDS)}")
    return kind


def _usage(name: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """Return the signature of the function ``name``, such as ``channel(layer, unit)``, for an error message."""
    return f"{name}({', '.join(each for each in parameters if each not in NOT_WRITTEN)})"
