"""Objectives: what an image is to maximize.

An objective answers with one value per image, and is built from others with ``+ - *`` and numbers:
``channel("conv2", 3) - 0.5 * channel("conv2", 7)``. A list of units means one image for each:
``channel("conv2", range(12))`` is an objective for a batch of twelve.

To add one, write a function here that returns an :class:`Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IMAGE = "image"
"""The name under which an objective finds the image itself, (N, C, H, W) in [0, 1], among the activations."""


@dataclass(frozen=True)
class Objective:
    """Something to maximize. Called with the activations by layer name, it returns a value per image, (N,)."""

    name: str
    layers: frozenset[str]
    """What it reads: names of layers, or :data:`IMAGE`."""
    value: Callable[[Mapping[str, Tensor]], Tensor]
    images: int = 1
    """How many images it is made for: 1 also goes with any number."""

    def __call__(self, activations: Mapping[str, Tensor]) -> Tensor:
        return self.value(activations)

    def __str__(self) -> str:
        return self.name

    def __add__(self, other: Objective | float) -> Objective:
        return _combine("+", self, _objective(other), lambda a, b: a + b)

    def __radd__(self, other: float) -> Objective:
        return _objective(other) + self

    def __sub__(self, other: Objective | float) -> Objective:
        return _combine("-", self, _objective(other), lambda a, b: a - b)

    def __rsub__(self, other: float) -> Objective:
        return _objective(other) - self

    def __mul__(self, other: Objective | float) -> Objective:
        return _combine("*", self, _objective(other), lambda a, b: a * b)

    def __rmul__(self, other: float) -> Objective:
        return _objective(other) * self

    def __neg__(self) -> Objective:
        return -1 * self


def channel(layer: str, unit: int | Iterable[int]) -> Objective:
    """The mean of a channel over its positions: a filter of a convolution, or an embedding dimension over all tokens.

    For images of one size, what maximizes the mean maximizes the sum; the mean can be compared between sizes.
    """
    units, images, label = _units(unit)
    return Objective(f"{layer}:{label}", frozenset([layer]), lambda a: _mean(_of_unit(a[layer], layer, units)), images)


def neuron(layer: str, unit: int | Iterable[int], position: tuple[int, ...] | None = None) -> Objective:
    """One neuron: of a fully connected layer, or of a channel at ``position``.

    Args:
        layer: its name.
        unit: number of the neuron or channel; a list of them is one image for each.
        position: (row, column) in a convolution's output, (token,) in a transformer's; by default the middle.
    """
    units, images, label = _units(unit)

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        responses = _of_unit(activations[layer], layer, units)
        middle = tuple(side // 2 for side in responses.shape[1:])
        place: tuple[slice | int, ...] = (slice(None), *(position or middle))
        return responses[place]

    where = f"@{','.join(map(str, position))}" if position else ""
    return Objective(f"{layer}:{label}{where}", frozenset([layer]), value, images)


def logit(unit: int | Iterable[int], layer: str = "logits") -> Objective:
    """A class's output neuron before the softmax, which could also rise by lowering the other classes."""
    return neuron(layer, unit)


def _units(unit: int | Iterable[int]) -> tuple[list[int], int, str]:
    """The units, how many images they ask for, and their label."""
    if isinstance(unit, int):
        return [unit], 1, str(unit)
    units = list(unit)
    if not units:
        raise ValueError("no units given")
    return units, len(units), ",".join(map(str, units))


def _of_unit(activation: Tensor, layer: str, units: list[int]) -> Tensor:
    """The response of image i's unit, (N, ...).

    The unit is a channel of (N, C, H, W), a feature of (N, F), or an embedding dimension of tokens (N, T, F).
    """
    if activation.ndim == 3:
        activation = activation.movedim(2, 1)
    count = activation.shape[1]
    for unit in units:
        if not 0 <= unit < count:
            raise ValueError(f"no unit {unit} in layer {layer!r}: its {count} units are 0-{count - 1}")
    if len(units) == 1:
        return activation[:, units[0]]
    if len(units) != len(activation):
        raise ValueError(f"{len(units)} units of layer {layer!r} need as many images, not {len(activation)}")
    return activation[range(len(units)), units]


def _mean(responses: Tensor) -> Tensor:
    return responses.reshape(len(responses), -1).mean(1)


def _objective(value: Objective | float) -> Objective:
    if isinstance(value, Objective):
        return value
    return Objective(f"{value:g}", frozenset(), lambda activations: value)  # type: ignore[arg-type, return-value]  # a number broadcasts


def _combine(sign: str, a: Objective, b: Objective, operation: Callable[[Tensor, Tensor], Tensor]) -> Objective:
    if a.images != b.images and 1 not in (a.images, b.images):
        raise ValueError(f"{a} is for {a.images} images and {b} for {b.images}: they do not go together")
    return Objective(f"({a} {sign} {b})", a.layers | b.layers, lambda x: operation(a(x), b(x)), max(a.images, b.images))
