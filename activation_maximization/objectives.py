"""Objectives: functions of a network's activations. Images are optimized to maximize an objective.

An objective returns one value for each image. Objectives can be combined with each other and with numbers by ``+ - *``,
as in ``channel("conv2", 3) - 0.5 * channel("conv2", 7)``, and can be divided by numbers. With a list of units, one
image is made for each unit: ``channel("conv2", range(12))`` is an objective for twelve images.

To add an objective, write a function that returns an :class:`Objective` and decorate the function with
:func:`objective`. Expressions on the command line can then call your function. The function can be in this file or in a
file of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import FunctionType
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from dreamgram.activation_maximization.encoders import Encoder, as_encoder, encode
from dreamgram.image_optimization.capture import Activations
from dreamgram.image_optimization.checks import as_number, as_whole, as_wholes
from dreamgram.image_optimization.images import ImageLike, as_images
from dreamgram.image_optimization.names import described, shorten
from dreamgram.image_optimization.recording import is_own

Maker = TypeVar("Maker", bound="Callable[..., Objective]")

IMAGE = "<image>"
"""Key of the images themselves, (N, C, H, W) in [0, 1], in the mapping of activations that an objective receives.

No layer should have this name.
"""

PROGRESS = "<progress>"
"""Key of the progress, in the mapping of activations that an objective receives.

The progress is a scalar tensor on the images' device. It rises linearly from 0 at the first step to 1 at the last step.
"""

PHOTO = "<photo>"
"""Prefix of the keys that belong to the objective's photo, in the mapping of activations that an objective receives.

``PHOTO + layer`` is the key of the layer's activations for the objective's photo. The photo has been transformed in the
same way as the images.
"""

NUMBER = "<number>"
"""Key of the images' indices, (N,), in the mapping of activations that an objective receives.

The tensor is on the images' device. The indices start at 0 and refer to all images of the objective, not only to the
images of the current batch.
"""

SCALE = "<scale>"
"""Key of the scale of the objective's gradient, (N,), in the mapping of activations that an objective receives.

The key exists only if :attr:`Objective.scaled` is true. The scale for an image is the root mean square, over all pixels
and channels, of the gradient of those terms of the objective that do not depend on the scale. In a run, the scale is
computed once, for the initial image. :func:`evaluate` computes the scale for the images that it evaluates.
"""

MOST_LISTED, LONGEST_NAME = 100, 2000
"""Largest number of units that an objective's name lists one by one, and largest number of characters in this name."""

OBJECTIVES: dict[str, Callable[..., Objective]] = {}
"""Functions that make an objective, by name. Expressions can call these functions."""


def objective(make: Maker) -> Maker:
    """Register ``make``, a function that returns an objective, so that expressions can call it by its name."""
    OBJECTIVES[make.__name__] = make
    return make


@dataclass(frozen=True)
class Objective:
    """A quantity to maximize: a function from the activations, by layer name, to one value for each image, (N,).

    Example:
        >>> largest = Objective("largest", frozenset(["conv2"]), lambda a: a["conv2"].flatten(1).amax(1))
    """

    name: str
    """Name of the objective for captions and messages. If it has more than 2000 characters, its middle is left out."""
    layers: frozenset[str]
    """Names of the layers whose activations the objective needs."""
    value: Callable[[Mapping[str, Tensor]], Tensor]
    """Function from the activations, by layer name, to one value for each image, (N,)."""
    images: int = 1
    """Number of images that the objective is for. An objective for 1 image can be used with any number of images."""
    joint: bool = False
    """True if the objective's value for an image depends on the other images.

    All images are then optimized in one batch, and each image starts from different noise.
    """
    photo: Tensor | None = None
    """Photo to compare the images with, (1, C, H, W) in [0, 1], or (N, C, H, W) with one photo per image.

    The images must be the same size as the photo.
    """
    units: tuple[int, ...] = ()
    """Indices, for use in captions, of the units that the images are made for, one index for each image.

    ``units`` is empty if an image is made for several units or for no unit.
    """
    recordable: bool | None = None
    """Whether ``value`` does the same operations in every step, all on the device of the activations.

    If ``recordable`` is True, steps are recorded and replayed on an NVIDIA GPU, which is faster
    (:mod:`dreamgram.image_optimization.recording`). The default, None, means True if ``value`` is a function of this
    package, and False otherwise.
    """

    scaled: bool = False
    """Whether the objective reads :data:`SCALE`, the scale of its gradient, as :func:`share` does."""

    __array_ufunc__ = None  # NumPy then leaves arithmetic between NumPy numbers and objectives to this class.

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not callable(self.value):
            raise TypeError(
                "an Objective has a name, the names of its layers and a function of their activations, not "
                f"{described(self.name)}, {described(self.layers)} and {described(self.value)}"
            )
        if len(self.name) > LONGEST_NAME:
            half = LONGEST_NAME // 2 - 2
            object.__setattr__(self, "name", f"{self.name[:half]}...{self.name[-half:]}")
        given = [self.layers] if isinstance(self.layers, str) else self.layers
        object.__setattr__(self, "layers", frozenset().union(*map(_layers, given)))

    @property
    def is_recordable(self) -> bool:
        """Return :attr:`recordable` or, if it is None, whether :attr:`value` is a function of this package."""
        return is_own(self.value) if self.recordable is None else self.recordable

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

    def __truediv__(self, number: float) -> Objective:
        if isinstance(number, Objective):
            raise TypeError(f"an objective can be divided by a number, not by another objective: {self} / {number}")
        if number == 0:
            raise ValueError(f"{self} cannot be divided by 0")
        return _combine("/", self, _objective(number), lambda a, b: a / b)

    def __neg__(self) -> Objective:
        return -1 * self


@objective
def channel(layer: str, unit: int | Iterable[int]) -> Objective:
    """Return an objective: the mean activation of a channel over all positions.

    A channel is the output of one filter of a convolution, a neuron of a fully connected layer or an embedding
    dimension of tokens. For images of one size, maximizing the mean is the same as maximizing the sum. Unlike sums,
    means can be compared between images of different sizes.

    Args:
        layer: name of the layer.
        unit: index of the channel. With several indices, one image is made for each.
    """
    layers = _layers(layer)
    units, label = _units_and_label(unit)
    indices = _OnDevices(torch.tensor(units, device="cpu"))
    return Objective(
        f"{layer}:{label}",
        layers,
        lambda a: _mean(_of_unit(a, layer, units, indices)),
        len(units),
        units=tuple(units),
    )


@objective
def neuron(layer: str, unit: int | Iterable[int], position: Sequence[int] | None = None) -> Objective:
    """Return an objective: the activation of one neuron.

    The neuron is in a fully connected layer, or it is the neuron at ``position`` in a channel.

    Args:
        layer: name of the layer.
        unit: index of the neuron or channel. With several indices, one image is made for each.
        position: (row, column) in the output of a convolution, or (token,) in the output of a transformer layer. The
            default is the middle. Negative numbers count from the end.
    """
    layers = _layers(layer)
    units, label = _units_and_label(unit)
    indices = _OnDevices(torch.tensor(units, device="cpu"))
    wanted = None if position is None else tuple(as_wholes(position, "a position"))

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        responses = _of_unit(activations, layer, units, indices)
        sides = responses.shape[1:]
        place = tuple(side // 2 for side in sides) if wanted is None else wanted
        if len(place) != len(sides) or not all(-side <= at < side for at, side in zip(place, sides, strict=True)):
            raise ValueError(f"no position {place} in layer {layer!r}: it has {' x '.join(map(str, sides)) or 'none'}")
        index: tuple[slice | int, ...] = (slice(None), *place)
        return responses[index]

    where = "middle" if wanted is None else ",".join(map(str, wanted))
    return Objective(f"{layer}:{label}@{where}", layers, value, len(units), units=tuple(units))


@objective
def logit(unit: int | Iterable[int], layer: str = "logits") -> Objective:
    """Return an objective: the logit of a class, which is the activation of its output neuron before the softmax.

    The softmax is omitted because its output also rises when the logits of the other classes fall.
    """
    return replace(neuron(layer, unit), name=f"{layer}:{_units_and_label(unit)[1]}")


@objective
def log_odds(unit: int | Iterable[int], layer: str = "logits") -> Objective:
    """Return an objective: the log-odds of a class, log(p / (1 - p)), where p is the softmax probability of the class.

    The log-odds equal the logit of the class minus the log of the sum of the exponentials of the other logits.
    """
    units, label = _units_and_label(unit)
    indices = _OnDevices(torch.tensor(units, device="cpu"))

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        logits = activations[layer]
        if logits.ndim != 2:
            raise ValueError(f"layer {layer!r} has positions: it does not have one logit for each class")
        own = _of_unit(activations, layer, units, indices)
        classes = indices.of_batch(activations, logits).expand(len(logits))
        return own - logits.scatter(1, classes[:, None], -torch.inf).logsumexp(1)

    return Objective(f"log-odds of {layer}:{label}", _layers(layer), value, len(units), units=tuple(units))


@objective
def log_probability(unit: int | Iterable[int], layer: str = "logits") -> Objective:
    """Return an objective: the log of the softmax probability of a class.

    Its gradient vanishes when the network is sure of the class, so that other terms can then shape the picture.
    """
    odds = log_odds(unit, layer)
    _, label = _units_and_label(unit)

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        return torch.nn.functional.logsigmoid(odds.value(activations))

    return Objective(f"log-probability of {layer}:{label}", odds.layers, value, odds.images, units=odds.units)


def feature(layer: str, encoder: Encoder, unit: int | Iterable[int]) -> Objective:
    """Return an objective: a feature that ``encoder`` computes from a layer's activations, averaged over positions.

    Examples are the latents of a sparse autoencoder and the outputs of a linear probe. A latent that is zero has no
    gradient, so the values before a ReLU or a top-k selection are easier to maximize. Expressions cannot call this
    function, because an encoder is a Python object.

    Example:
        >>> dreams = maximize(load("digits"), feature("hidden", torch.nn.Linear(100, 2), [0, 1]))

    Args:
        layer: name of the layer.
        encoder: module, method of a module such as ``sae.encode``, or function. It takes the activations with the units
            on the last axis, such as (N, H, W, C) for a convolution, (N, T, C) for tokens or (N, C) for a fully
            connected layer. It returns features of each position, (N, positions..., F), or of the whole image, (N, F).
            A module, or the module of a method, is used in evaluation mode with constant weights, and its state is
            restored afterwards. The activations get its device and data type. Any other function is called as it is.
        unit: index of the feature. With several indices, one image is made for each.

    Raises (when the objective is computed):
        TypeError, ValueError: the encoder fails, passes no gradient back, or does not return ``unit`` for each image.
    """
    layers, encoder = _layers(layer), as_encoder(encoder)
    units, label = _units_and_label(unit)
    indices = _OnDevices(torch.tensor(units, device="cpu"))
    return Objective(
        f"feature of {layer}:{label}",
        layers,
        lambda a: _mean(_of_unit(*with_features(a, layer, encoder), units, indices)),
        len(units),
        units=tuple(units),
        recordable=False,
    )


@objective
def direction(
    layer: str, vector: Tensor | NDArray[Any], cosine: bool = False, encoder: Encoder | None = None
) -> Objective:
    """Return an objective: the dot product of a layer's activations with ``vector``, averaged over positions.

    The objective :func:`channel` is the special case of a vector with a single 1 and zeros elsewhere. If ``vector`` is
    an embedding of a text or of a different image, as in CLIP (Radford et al., arXiv:2103.00020), the image is made to
    resemble this text or image.

    Example:
        >>> dreams = maximize(clip, direction("visual_projection", text_embedding, cosine=True))

    Args:
        layer: name of the layer, which has C units.
        vector: a vector (C,) for all images, or (N, C) with one vector per image.
        cosine: if True, use the cosine of the angle between the activations and the vector in place of the dot
            product, so that the magnitude of the activations does not matter.
        encoder: encoder whose C features to use in place of the activations, as for :func:`feature`. It can, for
            example, project a class token to an embedding. Expressions have no encoders.
    """
    layers, encoder = _layers(layer), None if encoder is None else as_encoder(encoder)
    try:
        # The default device may have no values.
        given = torch.as_tensor(vector, device=vector.device if isinstance(vector, Tensor) else "cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"a direction is a vector of numbers, not {described(vector)}") from None
    if not 1 <= given.ndim <= 2 or not given.numel():
        raise ValueError(f"a direction in layer {layer!r} is a vector (C,), or (N, C) for one image each")
    if not given.isfinite().all():
        raise ValueError(f"the direction in layer {layer!r} has numbers that are not finite")
    vectors = given.reshape(-1, given.shape[-1])
    # Apple's GPUs have no float64.
    on_devices = _OnDevices(vectors.float() if vectors.is_floating_point() else vectors)

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        seen, key = (activations, layer) if encoder is None else with_features(activations, layer, encoder)
        features = features_of(seen, key)
        along = on_devices.of_batch(activations, features).to(features.dtype)[:, :, None]
        if along.shape[1] != features.shape[1]:
            raise ValueError(
                f"a direction of {along.shape[1]} numbers in layer {key!r}, which has {features.shape[1]} units"
            )
        return (cosine_similarity(features, along) if cosine else (features * along).sum(1)).mean(1)

    kind = "cosine with a direction" if cosine else "direction"
    read = layer if encoder is None else features_name(layer)
    recordable = None if encoder is None else False
    return Objective(f"{kind} of {read}", layers, value, len(vectors), recordable=recordable)


@objective
def deepdream(layer: str) -> Objective:
    """Return an objective: the mean square of all activations of a layer.

    Maximizing this objective amplifies all patterns that the layer detects. See Mordvintsev, Olah, Tyka, "Inceptionism:
    Going Deeper into Neural Networks", 2015.
    """
    return Objective(f"all of {layer}", _layers(layer), lambda a: a[layer].square().flatten(1).mean(1))


@objective
def diversity(layer: str, images: int) -> Objective:
    """Return an objective that measures how much each of several images differs from the others.

    The value for an image is minus the mean cosine similarity between its Gram matrix and the Gram matrices of the
    other images. The Gram matrix of an image holds the dot product, over all positions, of each pair of the layer's
    channels. Add ``diversity`` to an objective that is the same for all images, such as ``channel`` with one unit. See
    Olah et al., "Feature Visualization", Distill 2017, section "Diversity".

    Args:
        layer: name of the layer.
        images: number of images, at least 2.

    Raises:
        ValueError: ``images`` is below 2 or above :data:`~dreamgram.image_optimization.checks.MOST_THINGS`.
    """
    images = as_whole(images, "the number of images of diversity", least=2)

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        features = features_of(activations, layer)
        grams = normalize((features @ features.transpose(1, 2)).flatten(1))
        return -(grams @ grams.T).fill_diagonal_(0).sum(1) / (len(grams) - 1)

    return Objective(f"diversity of {layer}", _layers(layer), value, images, joint=True)


@objective
def match(layer: str, photo: ImageLike) -> Objective:
    """Return an objective that measures how well a layer's activations for an image match those for ``photo``.

    The value is minus the squared distance between the activations for the image and those for the photo, divided by
    the squared norm of the activations for the photo. The largest possible value is 0. Used alone, this objective
    inverts the network: see Mahendran, Vedaldi, "Understanding Deep Image Representations by Inverting Them", CVPR
    2015. Added to a unit's objective, it keeps the image close to the photo: see Hamblin et al., "Feature
    Accentuation", arXiv:2402.10039.

    Args:
        layer: name of the layer.
        photo: photo (1, C, H, W) in [0, 1] for all images, or (N, C, H, W) with one photo per image. Other forms, such
            as a Pillow image, are accepted, too; see :func:`dreamgram.image_optimization.images.as_images`.
    """

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        ours, theirs = _and_photos(activations, layer)
        return -(ours - theirs).square().sum(1) / theirs.square().sum(1).clamp(min=1e-12)

    layers, name = _layers(layer), f"match of {layer}"
    photos = as_images(photo, f"the photo of {name}")
    return Objective(name, layers, value, len(photos), photo=photos)


@objective
def caricature(layer: str, photo: ImageLike, power: float = 4) -> Objective:
    """Return an objective that exaggerates the features that a layer detects in ``photo``.

    The value is a dot product times a power of a cosine similarity. The dot product and the cosine similarity are
    computed from two vectors: the layer's activations for the image and the layer's activations for the photo. The
    cosine similarity is clamped to at least 0.1. The dot product is divided by the squared norm of the activations for
    the photo, so that the photo itself has the value 1. The dot product grows with the magnitude of the activations,
    while the cosine similarity keeps their direction close to that for the photo. See "Feature Inversion Caricatures",
    a notebook of the library Lucid. Similar pictures are shown in Olah et al., "The Building Blocks of
    Interpretability", Distill 2018.

    Args:
        layer: name of the layer.
        photo: photo (1, C, H, W) in [0, 1] for all images, or (N, C, H, W) with one photo per image. Other forms, such
            as a Pillow image, are accepted, too; see :func:`dreamgram.image_optimization.images.as_images`.
        power: exponent of the cosine similarity. A larger exponent keeps the image closer to the photo.
    """

    def value(activations: Mapping[str, Tensor]) -> Tensor:
        ours, theirs = _and_photos(activations, layer)
        product = (ours * theirs).sum(1) / theirs.square().sum(1).clamp(min=1e-12)
        return product * cosine_similarity(ours, theirs).clamp(min=0.1) ** power

    layers, name = _layers(layer), f"caricature in {layer}"
    photos = as_images(photo, f"the photo of {name}")
    power = as_number(power, "power")
    return Objective(name, layers, value, len(photos), photo=photos)


@objective
def ramp(start: float, end: float) -> Objective:
    """Return an objective whose value changes linearly from ``start`` at the first step to ``end`` at the last step.

    Use this objective as a weight that changes over the steps: ``ramp(0, 0.1) * pixel_sum(1)``.
    """
    start, end = as_number(start, "start"), as_number(end, "end")
    return Objective(f"({start:g} to {end:g})", frozenset(), lambda a: start + (end - start) * a[PROGRESS])


@objective
def share() -> Objective:
    """Return a factor that makes the weight of a regularizer relative to the gradient of the objective's other terms.

    Multiply the regularizer by this factor: ``share() * blur(7)``. The regularizer must be a mean over pixels. Its
    gradient at a pixel is then measured in units of the root mean square of the gradient of the other terms
    (:data:`SCALE`), so that the same weight suits every image size, every unit and every network. For example,
    subtracting ``share() * l1(0.4, center=0)`` makes a pixel darker unless, at this pixel, the gradient of the other
    terms is positive and exceeds 0.4 times its root mean square over all pixels.
    """
    return Objective(
        "share",
        frozenset(),
        lambda a: a[SCALE] * a[IMAGE][0].numel() if SCALE in a else a[IMAGE].new_ones(()),
        scaled=True,
    )


def _layers(layer: str) -> frozenset[str]:
    """Return ``layer``, the only layer that an objective reads, as a set, after checking that it is a string."""
    if not isinstance(layer, str):
        kind = type(layer).__name__
        raise TypeError(f"a layer is given by its name, such as 'conv2', not as {kind}; list_layers lists names")
    return frozenset([layer])


def as_units(units: int | Iterable[int]) -> list[int]:
    """Return ``units``, which is one index or several, as a list of indices.

    Raises:
        TypeError: an index is not a whole number.
        ValueError: ``units`` is empty.
    """
    found = as_wholes(units, "a unit")
    if not found:
        raise ValueError("no units given")
    return found


def _units_and_label(unit: int | Iterable[int]) -> tuple[list[int], str]:
    """Return the list of units, one for each image, and a label such as ``3,7`` that names them.

    The label of more than :data:`MOST_LISTED` units has ranges, such as ``0-4095``.
    """
    units = as_units(unit)
    if len(units) <= MOST_LISTED:
        return units, ",".join(map(str, units))
    # In a range, the difference between a unit and its index in the list is constant.
    runs = (list(run) for _, run in groupby(enumerate(units), lambda pair: pair[1] - pair[0]))
    ends = ((run[0][1], run[-1][1]) for run in runs)
    return units, ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in ends)


class _OnDevices:
    """Constants of an objective, such as the indices of its units. They are copied to each device only once."""

    def __init__(self, values: Tensor) -> None:
        """Store ``values``, (N, ...) with one value for each image of the objective, or (1, ...) for all images."""
        with torch.inference_mode(False):
            # A tensor that was made in inference mode could not be used where gradients are computed.
            values = values.clone() if values.is_inference() else values
        self.copies = {values.device: values}
        self.values = values

    def of_batch(self, activations: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """Return the stored values for the images of the current batch, on the device of ``like``.

        The indices of the batch's images are in ``activations`` under the key :data:`NUMBER`.
        """
        if like.device not in self.copies:
            with torch.inference_mode(False):
                self.copies[like.device] = self.values.to(like.device)
        values = self.copies[like.device]
        return values if len(values) == 1 or NUMBER not in activations else values[activations[NUMBER]]


def _of_unit(activations: Mapping[str, Tensor], layer: str, units: list[int], indices: _OnDevices) -> Tensor:
    """Return, for each image, the activation of its unit at every position, (N, positions...).

    A unit is a channel of (N, C, H, W) or (N, C, L), a feature of (N, F), or an embedding dimension of tokens
    (N, T, F). ``indices`` holds the ``units`` as a tensor.
    """
    activation = units_first(activations, layer)
    check_units(layer, units, activation.shape[1])
    if len(units) == 1:
        return activation[:, units[0]]
    own = indices.of_batch(activations, activation)
    if len(own) != len(activation):
        raise ValueError(f"{len(own)} units of layer {layer!r} need as many images, not {len(activation)}")
    return activation.take_along_dim(own.view(-1, *[1] * (activation.ndim - 1)), 1)[:, 0]


def check_units(layer: str, units: Iterable[int], count: int) -> None:
    """Raise a ValueError unless all ``units`` are valid indices in ``layer``, which are 0 to ``count - 1``."""
    for unit in units:
        if not 0 <= unit < count:
            raise ValueError(f"no unit {unit} in layer {layer!r}: its {count} units are 0-{count - 1}")


def units_first(activations: Mapping[str, Tensor], layer: str) -> Tensor:
    """Return the activations of ``layer`` with the units on the second axis, (N, units, positions...).

    The axis of the units is known if :func:`capture` computed ``activations``. Otherwise, activations with three axes
    are assumed to be tokens, (N, T, F), and in all other activations, the units are assumed to be on the second axis.
    """
    activation = activations[layer]
    known: Mapping[str, int] = getattr(activations, "unit_axes", {})
    axis = known.get(layer, 2 if activation.ndim == 3 else 1)
    return activation if axis == 1 else activation.movedim(axis, 1)


def features_name(layer: str) -> str:
    """Return the name that messages use for the features of an encoder of ``layer``."""
    return f"features of {layer}"


def with_features(activations: Mapping[str, Tensor], layer: str, encoder: Encoder) -> tuple[Activations, str]:
    """Return ``activations`` with the features of ``encoder`` for ``layer`` as another layer, and this layer's name.

    The features are (N, F, positions...), or (N, F) if they describe the whole image.
    """
    features = encode(encoder, units_first(activations, layer).movedim(1, -1), layer).movedim(-1, 1)
    name = features_name(layer)
    return Activations({**activations, name: features}, {**getattr(activations, "unit_axes", {}), name: 1}), name


def features_of(activations: Mapping[str, Tensor], layer: str) -> Tensor:
    """Return the activations of ``layer`` as (N, units, positions). A fully connected layer has one position."""
    activation = units_first(activations, layer)
    return activation.reshape(*activation.shape[:2], -1)


def _and_photos(activations: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    """Return the flattened activations of a layer for the images and for their photos, (N, number of elements) each."""
    return activations[layer].flatten(1), activations[PHOTO + layer].flatten(1)


def _mean(responses: Tensor) -> Tensor:
    """Return the mean (N,) of ``responses`` over all axes except the first."""
    return responses.reshape(len(responses), -1).mean(1)


def describe_given(value: Any) -> str:
    """Describe ``value``, which a caller has passed in place of an objective, for an error message."""
    makes_one = isinstance(value, FunctionType) and (is_own(value) or value in OBJECTIVES.values())
    return f"{described(value)}{', which must be called' if makes_one else ''}"


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two photos are the same tensor, or have the same device, shape and values."""
    return a is b or (a.device == b.device and a.shape == b.shape and torch.equal(a, b))


def _objective(value: Objective | float) -> Objective:
    """Convert a number to an objective that has this number as its value for every image.

    If ``value`` is already an objective, return it as it is.
    """
    if isinstance(value, Objective):
        return value
    try:
        name = f"{value:g}"
    except (TypeError, ValueError):
        given = describe_given(value) if callable(value) else shorten(value)
        raise TypeError(f"an objective is combined with objectives and numbers, not with {given}") from None
    return Objective(name, frozenset(), lambda activations: value)  # type: ignore[arg-type, return-value]  # a number broadcasts


def _combine(sign: str, a: Objective, b: Objective, operation: Callable[[Tensor, Tensor], Tensor]) -> Objective:
    """Return the objective whose value is ``operation`` applied to the values of ``a`` and ``b``.

    In the name of the returned objective, ``sign`` stands for the operation.

    Raises:
        ValueError: the objectives are for different numbers of images, or compare images with different photos.
    """
    if a.images != b.images and 1 not in (a.images, b.images):
        raise ValueError(f"{a} is for {a.images} images and {b} for {b.images}: they cannot be combined")
    if a.photo is not None and b.photo is not None and not _same(a.photo, b.photo):
        raise ValueError(f"{a} and {b} compare with different photos: they cannot be combined")
    count = max(a.images, b.images)
    units = {each.units for each in (a, b) if each.units and each.images == count}
    return Objective(
        f"({a} {sign} {b})",
        a.layers | b.layers,
        lambda activations: operation(a(activations), b(activations)),
        count,
        a.joint or b.joint,
        a.photo if b.photo is None else b.photo,
        units.pop() if len(units) == 1 else (),
        None if a.is_recordable and b.is_recordable else False,
        a.scaled or b.scaled,
    )
