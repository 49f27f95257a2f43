"""Objectives: what an image is to maximize.

An objective answers with one value per image, and is built from others with ``+ - *`` and numbers:
``channel("conv2", 3) - 0.5 * channel("conv2", 7)``. A list of units means one image for each:
``channel("conv2", range(12))`` is an objective for a batch of twelve.

To add one, write a function here that returns an :class:`Objective`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Values = TypeVar("Values", list[int], "Tensor")

IMAGE = "<image>"
"""The name, which no layer can have, under which an objective finds the image itself among the activations."""

PROGRESS = "<progress>"
"""The name under which it finds how much of the optimization is done, (), from 0 to 1."""

PHOTO = "<photo>"
"""Before a layer's name: its activations for the objective's photo, seen in the same view as the image."""

NUMBER = "<number>"
"""The name under which it finds which of its images these are, (N,), from 0, where not all are made at a time."""


@dataclass(frozen=True)
class Objective:
    """Something to maximize. Called with the activations by layer name, it returns a value per image, (N,)."""

    name: str
    layers: frozenset[str]
    """The names of the layers that it reads."""
    value: Callable[[Mapping[str, Tensor]], Tensor]
    images: int = 1
    """How many images it is made for: 1 also goes with any number."""
    joint: bool = False
    """Whether an image's value depends on the others: they are made together, each from noise of its own."""
    photo: Tensor | None = None
    """What the images are compared with, (1, C, H, W) in [0, 1], or one for each; they have its size."""

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
    units, label = _units(unit)
    return Objective(f"{layer}:{label}", frozenset([layer]), lambda a: _mean(_of_unit(a, layer, units)), len(units))


def neuron(layer: str, unit: int | Iterable[int], position: Sequence[int] | None = None) -> Objective:
    """One neuron: of a fully connected layer, or of a channel at ``position``.

    Args:
        layer: its name.
        unit: number of the neuron or channel; a list of them is one image for each.
        position: (row, column) in a convolution's output, (token,) in a transformer's; by default the middle.
    """
    units, label = _units(unit)

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        responses = _of_unit(activations, layer, units)
        sides = responses.shape[1:]
        place = tuple(side // 2 for side in sides) if position is None else tuple(position)
        if len(place) != len(sides) or not all(-side <= at < side for at, side in zip(place, sides, strict=True)):
            raise ValueError(f"no position {place} in layer {layer!r}: it has {' x '.join(map(str, sides)) or 'none'}")
        index: tuple[slice | int, ...] = (slice(None), *place)
        return responses[index]

    where = "middle" if position is None else ",".join(map(str, position))
    return Objective(f"{layer}:{label}@{where}", frozenset([layer]), value, len(units))


def logit(unit: int | Iterable[int], layer: str = "logits") -> Objective:
    """A class's output neuron before the softmax, which could also rise by lowering the other classes."""
    return replace(neuron(layer, unit), name=f"{layer}:{_units(unit)[1]}")


def log_odds(unit: int | Iterable[int], layer: str = "logits") -> Objective:
    """A class against all others: log(p / (1 - p)), its logit minus the log of the sum of the others' exponentials."""
    units, label = _units(unit)

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        import torch

        logits = activations[layer]
        if logits.ndim != 2:
            raise ValueError(f"layer {layer!r} has positions: it does not answer with one logit for each class")
        own = _of_unit(activations, layer, units)
        classes = torch.tensor(_own(units, activations), device=logits.device).expand(len(logits))
        return own - logits.scatter(1, classes[:, None], -torch.inf).logsumexp(1)

    return Objective(f"log-odds of {layer}:{label}", frozenset([layer]), value, len(units))


def direction(layer: str, vector: Tensor, cosine: bool = False) -> Objective:
    """The mean over positions of the product of a layer's activations with ``vector``: a channel is one axis of these.

    Args:
        layer: its name.
        vector: (C,), or (N, C) for one image each.
        cosine: of the angle between the two instead, so that strength does not count.
    """
    vectors = vector.detach().reshape(-1, vector.shape[-1])

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import cosine_similarity

        features = features_of(activations[layer])
        along = _own(vectors, activations).to(features)[:, :, None]
        if along.shape[1] != features.shape[1]:
            raise ValueError(
                f"a direction of {along.shape[1]} numbers in layer {layer!r}, which has {features.shape[1]} units"
            )
        return (cosine_similarity(features, along) if cosine else (features * along).sum(1)).mean(1)

    kind = "cosine with a direction" if cosine else "direction"
    return Objective(f"{kind} of {layer}", frozenset([layer]), value, len(vectors))


def deepdream(layer: str) -> Objective:
    """The mean square of all activations of a layer: whatever it sees, more of it.

    Mordvintsev, Olah, Tyka, "Inceptionism: Going Deeper into Neural Networks", 2015.
    """
    return Objective(f"all of {layer}", frozenset([layer]), lambda a: a[layer].square().flatten(1).mean(1))


def diversity(layer: str, images: int) -> Objective:
    """How different ``images`` pictures of one thing are: minus the mean cosine between their Gram matrices.

    To be added to what they are pictures of. Olah et al., "Feature Visualization", Distill 2017, section "Diversity".
    """
    if images < 2:
        raise ValueError(f"it takes 2 images to differ, not {images}")

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import normalize

        features = features_of(activations[layer])
        grams = normalize((features @ features.transpose(1, 2)).flatten(1))
        return -(grams @ grams.T).fill_diagonal_(0).sum(1) / (len(grams) - 1)

    return Objective(f"diversity of {layer}", frozenset([layer]), value, images, joint=True)


def match(layer: str, photo: Tensor) -> Objective:
    """Minus the squared distance of a layer's activations from those of ``photo``, as a share of the photo's square.

    0 at best. Alone it inverts the network: Mahendran, Vedaldi, "Understanding Deep Image Representations by
    Inverting Them", CVPR 2015. Added to a unit it keeps that one's image close to the photo: Hamblin et al., "Feature
    Accentuation", arXiv:2402.10039.

    Args:
        layer: its name.
        photo: (1, C, H, W) in [0, 1], or one for each image.
    """

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        ours, theirs = _and_photos(activations, layer)
        return -(ours - theirs).square().sum(1) / theirs.square().sum(1).clamp(min=1e-12)

    return Objective(f"match of {layer}", frozenset([layer]), value, len(photo), photo=photo)


def caricature(layer: str, photo: Tensor, power: float = 4) -> Objective:
    """What a layer sees in a photo, exaggerated: the product of its activations for both, times a power of the cosine.

    The product grows with strength, the cosine keeps it the photo's; 1 for the photo itself. Olah, "Caricatures", in
    Lucid, after Olah et al., "The Building Blocks of Interpretability", Distill 2018.

    Args:
        layer: its name.
        photo: (1, C, H, W) in [0, 1], or one for each image.
        power: of the cosine.
    """

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import cosine_similarity

        ours, theirs = _and_photos(activations, layer)
        product = (ours * theirs).sum(1) / theirs.square().sum(1).clamp(min=1e-12)
        return product * cosine_similarity(ours, theirs).clamp(min=0.1) ** power

    return Objective(f"caricature in {layer}", frozenset([layer]), value, len(photo), photo=photo)


def ramp(start: float, end: float) -> Objective:
    """A number that changes evenly over the steps, to weigh others with: ``logit(3) - ramp(0, 0.1) * pixel_sum(1)``."""
    return Objective(f"({start:g} to {end:g})", frozenset(), lambda a: start + (end - start) * a[PROGRESS])


def _units(unit: int | Iterable[int]) -> tuple[list[int], str]:
    """The units, one for each image, and their label."""
    units = [operator.index(each) for each in (unit if isinstance(unit, Iterable) else [unit])]
    if not units:
        raise ValueError("no units given")
    return units, ",".join(map(str, units))


def _own(values: Values, activations: Mapping[str, Tensor]) -> Values:
    """Of ``values``, one for each image of the objective, those of the images that these activations belong to."""
    if len(values) == 1 or NUMBER not in activations:
        return values
    number = activations[NUMBER]
    return [values[i] for i in number.tolist()] if isinstance(values, list) else values[number]


def _of_unit(activations: Mapping[str, Tensor], layer: str, units: list[int]) -> Tensor:
    """The response of each image's unit, (N, ...).

    The unit is a channel of (N, C, H, W), a feature of (N, F), or an embedding dimension of tokens (N, T, F).
    """
    activation = _units_first(activations[layer])
    check_units(layer, units, activation.shape[1])
    own = _own(units, activations)
    if len(own) == 1:
        return activation[:, own[0]]
    if len(own) != len(activation):
        raise ValueError(f"{len(own)} units of layer {layer!r} need as many images, not {len(activation)}")
    return activation[range(len(own)), own]


def check_units(layer: str, units: Iterable[int], count: int) -> None:
    """Raise a ValueError if any of ``units`` is not among the ``count`` that ``layer`` has."""
    for unit in units:
        if not 0 <= unit < count:
            raise ValueError(f"no unit {unit} in layer {layer!r}: its {count} units are 0-{count - 1}")


def _units_first(activation: Tensor) -> Tensor:
    """(N, F), (N, C, H, W) as they are, tokens (N, T, F) as (N, F, T)."""
    return activation.movedim(2, 1) if activation.ndim == 3 else activation


def features_of(activation: Tensor) -> Tensor:
    """The activations of a layer as (N, units, positions); a fully connected layer has one position."""
    activation = _units_first(activation)
    return activation.reshape(*activation.shape[:2], -1)


def _and_photos(activations: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    """The activations of a layer for the images and for the photo, (N, numbers) each."""
    return activations[layer].flatten(1), activations[PHOTO + layer].flatten(1)


def _mean(responses: Tensor) -> Tensor:
    return responses.reshape(len(responses), -1).mean(1)


def _objective(value: Objective | float) -> Objective:
    if isinstance(value, Objective):
        return value
    return Objective(f"{value:g}", frozenset(), lambda activations: value)  # type: ignore[arg-type, return-value]  # a number broadcasts


def _combine(sign: str, a: Objective, b: Objective, operation: Callable[[Tensor, Tensor], Tensor]) -> Objective:
    if a.images != b.images and 1 not in (a.images, b.images):
        raise ValueError(f"{a} is for {a.images} images and {b} for {b.images}: they do not go together")
    if a.photo is not None and b.photo is not None and a.photo is not b.photo:
        raise ValueError(f"{a} and {b} compare with different photos: they do not go together")
    return Objective(
        f"({a} {sign} {b})",
        a.layers | b.layers,
        lambda activations: operation(a(activations), b(activations)),
        max(a.images, b.images),
        a.joint or b.joint,
        a.photo if b.photo is None else b.photo,
    )
