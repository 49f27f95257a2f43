"""Check the numbers and the networks that callers pass to the functions of this project.

A value of an unexpected type is converted if its meaning is clear. For a count, for example, the float 3.0 and NumPy's
integer 3 are both converted to the int 3. Any other wrong value raises an error, whose message says in one line what
was expected and what was received.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from torch import nn

from dreamgram.image_optimization.names import described, shorten

MOST_THINGS = 2**31 - 1
"""Largest allowed value of a count, such as the number of steps or the number of elements of an image."""


def as_number(value: Any, name: str) -> float:
    """Return ``value``, a number that a caller has given, as a float.

    ``name`` is the name of the number in the error messages, such as ``degrees``.

    Raises:
        TypeError: ``value`` is not a number.
        ValueError: ``value`` is not finite.
    """
    number = as_plain(value)
    if not isinstance(number, Real) or isinstance(number, bool):
        raise TypeError(f"{name} must be a number, not {shorten(value)}")
    if not _is_finite(number):
        raise ValueError(f"{name} must be a finite number, not {shorten(number)}")
    return float(number)


def as_whole(value: Any, name: str, least: int | None = None, most: int | None = None) -> int:
    """Return ``value``, a whole number that a caller has given, as an int.

    ``name`` is the name of the number in the error messages, such as ``steps``. If ``least`` is given but ``most`` is
    not, the number is considered a count, and the largest allowed value is :data:`MOST_THINGS`.

    Raises:
        TypeError: ``value`` is not a whole number.
        ValueError: ``value`` is less than ``least`` or more than the largest allowed value.
    """
    number = as_plain(value)
    real = isinstance(number, Real) and not isinstance(number, bool)
    if not real or not (isinstance(number, Integral) or (math.isfinite(number) and number == int(number))):
        raise TypeError(f"{name} must be a whole number, not {shorten(value)}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, not {shorten(value)}")
    if most is None and least is not None:
        most = MOST_THINGS
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, not {shorten(value)}")
    return int(number)


def as_wholes(values: Any, name: str, least: int | None = None) -> list[int]:
    """Return ``values``, one or several whole numbers that a caller has given, as a list of integers.

    ``name`` is the name of each number in the error messages, such as ``a unit``.

    Raises:
        TypeError: a value is not a whole number.
        ValueError: a value is less than ``least``; or ``least`` is given, and a value is more than :data:`MOST_THINGS`.
    """
    several = isinstance(values, Iterable) and not isinstance(values, str) and getattr(values, "ndim", 1) > 0
    return [as_whole(value, name, least) for value in (values if several else [values])]


def as_model(model: Any) -> nn.Module:
    """Return ``model`` after checking that it is a network.

    Raises:
        TypeError: ``model`` is not a ``torch.nn.Module``.
    """
    if isinstance(model, Mapping):
        raise TypeError("model is a state_dict: load it into its network with load_state_dict, and give the network")
    if not isinstance(model, nn.Module):
        hint = ", which must be called" if callable(model) else ""
        raise TypeError(f"model must be a torch.nn.Module, such as load('digits'), not {described(model)}{hint}")
    return model


def as_plain(value: Any) -> Any:
    """Return a zero-dimensional tensor or array as a Python number, and any other value unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _is_finite(number: Any) -> bool:
    """Return whether ``number`` can be converted to a finite float; an integer can be too large for a float."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
