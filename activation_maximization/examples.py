"""Examples: the patches of real pictures that activate a unit most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torch.utils.data import Dataset

from dreamgram.activation_maximization.arguments import as_layers
from dreamgram.activation_maximization.defaults import EXAMPLES
from dreamgram.activation_maximization.encoders import Encoder, as_encoder
from dreamgram.activation_maximization.objectives import (
    as_units,
    check_units,
    features_name,
    units_first,
    with_features,
)
from dreamgram.activation_maximization.pictures import Batch, batches
from dreamgram.image_optimization.capture import Activations, ActivationsOf, capture
from dreamgram.image_optimization.checks import as_model, as_whole
from dreamgram.image_optimization.layers import Layer, device_of, dry_run, find_layer
from dreamgram.image_optimization.settings import usual_settings
from dreamgram.image_optimization.trial import blank_image

Pictures = Iterable[Any] | Dataset[Any] | str | Path
"""Type of the pictures to search: a folder, a data set, a data loader or any other iterable."""

Box = tuple[int, int, int, int]
"""Type of a rectangle in a picture: its first row and column, and the row and column after its last."""

ROW = 2**20
"""Factor with which a position (row, column) is stored as one number: row x ``ROW`` + column."""

MAPS = 512
"""Largest number of activation maps whose maxima are located at the same time. The limit saves memory."""


@dataclass(frozen=True)
class Example:
    """A picture that is among those that activate a unit most, and the part of it that activates the unit."""

    picture: Tensor
    """The picture, (C, H, W) in [0, 1]. Examples of different units share it."""
    activation: float
    """Largest activation of the unit in the picture."""
    name: str
    """Name of the picture, such as ``frog #4194``, which consists of a label and the index of the picture."""
    box: Box | None = None
    """Receptive field of the largest activation: the first row and column, and the row and column after the last. A box
    can extend beyond the picture.

    If the layer's receptive field is unknown, the box is the smallest rectangle that contains all pixels for which the
    gradient of the activation is not zero. The box is None, which stands for the whole picture, if each unit of the
    layer sees the whole picture, if the receptive field is both higher and wider than the picture, or if the layer's
    activations are tokens of a transformer.
    """

    @property
    def patch(self) -> Tensor:
        """Return the part of the picture inside the box, (C, h, w) in [0, 1], which is gray beyond the picture."""
        if self.box is None:
            return self.picture.clone()
        top, left, bottom, right = self.box
        height, width = self.picture.shape[1:]
        patch = self.picture.new_full((len(self.picture), bottom - top, right - left), 0.5)
        # A field that consists only of padding lies outside the picture, so both ends are clamped.
        down = slice(*(min(max(row, 0), height) for row in (top, bottom)))
        across = slice(*(min(max(column, 0), width) for column in (left, right)))
        inside = self.picture[:, down, across]
        patch[:, down.start - top : down.stop - top, across.start - left : across.stop - left] = inside
        return patch


@overload
def top_examples(  # type: ignore[overload-overlap]  # text is a sequence of texts
    model: nn.Module,
    layer: str | nn.Module,
    units: int | Iterable[int],
    pictures: Pictures,
    count: int = EXAMPLES,
    encoder: Encoder | None = None,
) -> list[list[Example]]: ...


@overload
def top_examples(
    model: nn.Module,
    layer: Sequence[str | nn.Module],
    units: int | Iterable[int] | Mapping[Any, Iterable[int]],
    pictures: Pictures,
    count: int = EXAMPLES,
    encoder: Encoder | None = None,
) -> dict[str, list[list[Example]]]: ...


@usual_settings
def top_examples(
    model: nn.Module,
    layer: str | nn.Module | Sequence[str | nn.Module],
    units: int | Iterable[int] | Mapping[Any, Iterable[int]],
    pictures: Pictures,
    count: int = EXAMPLES,
    encoder: Encoder | None = None,
) -> list[list[Example]] | dict[str, list[list[Example]]]:
    """Find, for each of ``units``, the ``count`` pictures that activate the unit most.

    For a single layer, the result holds one list for each unit, with the unit's examples in descending order of
    activation. For a list of layers, the result is a dictionary that maps the name of each layer to the result for this
    layer. During the search, each picture passes through the network only once, even for several layers. Each picture
    in the result is cropped to the part that activates the unit most. See Zeiler, Fergus, "Visualizing and
    Understanding Convolutional Networks", arXiv:1311.2901. The memory that the search needs does not grow with the
    number of pictures.

    Example:
        >>> data = torchvision.datasets.CIFAR10("data", transform=torchvision.transforms.ToTensor())
        >>> [best] = top_examples(model, "layer3", [7], data)
        >>> best[0].name
        'frog #4194'

    Args:
        model: any network that takes images (N, C, H, W) in [0, 1]. The search runs on the network's device.
        layer: name of the layer, or a list of names. A module of the network can be given in place of its name. The
            pictures are not cropped for a layer in which each unit sees the whole image.
        units: indices of the layer's channels, neurons or embedding dimensions. For several layers, ``units`` holds
            either indices to use in every layer, or a dictionary that maps each layer, given by name or as a module, to
            the indices of its units.
        pictures: path of a folder, or a data set, a data loader or any other iterable. The items of an iterable are
            images (C, H, W) or (N, C, H, W) in [0, 1], pairs (image, label) or pairs (name, image). Images can also be
            given in other forms, such as Pillow images, see :func:`dreamgram.image_optimization.images.as_images`. If
            no name is given for an image, its name consists of its label, if there is one, and its index among all
            images. If the data set has a list ``classes`` of names, an integer label is replaced by the class name
            ``classes[label]``. The network processes the batches of a data loader without splitting or
            combining them. Consecutive single pictures of the same size are combined into batches. The pictures of a
            folder and its subfolders are resized and cropped to the network's input size, and named after their paths.
            A file that cannot be read is skipped, and a warning is logged.
        count: largest number of examples for each unit. A picture yields at most one example for each unit. A picture
            for which the unit's largest activation is 0, as with an inactive ReLU, is never an example. Activations
            that are NaN are ignored.
        encoder: encoder, as for :func:`dreamgram.activation_maximization.objectives.feature`, whose features ``units``
            then selects. Pictures are cropped only if the encoder returns features for each position of the layer.

    Raises:
        ValueError: no layer is given, a layer or a unit does not exist, there are no pictures, a pixel value is outside
            [0, 1], or the encoder fails or returns features of a wrong shape.
        TypeError: an item of ``pictures`` is not an image, or the encoder does not return a tensor.
    """
    single = isinstance(layer, str | nn.Module)
    names = list(dict.fromkeys(as_layers(as_model(model), layer)))
    if not names:
        raise ValueError("no layer given: layer must be the name of a layer or a list of names")
    if isinstance(units, Mapping):
        units = dict(zip(as_layers(model, units.keys()), units.values(), strict=True))
    wanted = {name: as_units(_units_of(name, units)) for name in names}
    count = as_whole(count, "count", least=1)
    keys = names if encoder is None else [features_name(name) for name in names]
    device = device_of(model)
    best: dict[str, _Best] = {}
    shown = _Shown()
    with torch.no_grad(), capture(model, names) as read:
        activations_of = read if encoder is None else _with_encoder(read, names, as_encoder(encoder))
        for batch in batches(pictures, model):
            activations = activations_of(batch.images.to(device, non_blocking=True))
            if not best:
                # An error in a layer after the last one does no harm, because only the layers up to it are needed.
                layers, _ = dry_run(model, blank_image(batch.images.shape[1:]), receptive_fields=True)
                for name, key in zip(names, keys, strict=True):
                    activation, layer_found = units_first(activations, key), find_layer(name, layers)
                    check_units(key, wanted[name], activation.shape[1])
                    if activation.shape[2:] != units_first(activations, name).shape[2:]:
                        layer_found = replace(layer_found, whole_image=True)  # the encoder has merged the positions
                    best[name] = _Best(key, layer_found, torch.tensor(wanted[name], device=device), count)
            for name, key in zip(names, keys, strict=True):
                shown.keep(batch, best[name].see(units_first(activations, key), shown.count))
            shown.count += len(batch.images)
            shown.forget(best.values())
        if not best:
            raise ValueError("there are no pictures to search for examples")
        found = {name: each.examples(shown, activations_of) for name, each in best.items()}
    return found[names[0]] if single else found


def _with_encoder(activations_of: ActivationsOf, layers: Sequence[str], encoder: Encoder) -> ActivationsOf:
    """Return a function that adds the features of ``encoder`` for ``layers`` to the result of ``activations_of``."""

    def read(images: Tensor) -> Activations:
        activations = activations_of(images)
        for layer in layers:
            activations, _ = with_features(activations, layer, encoder)
        return activations

    return read


def _units_of(layer: str, units: Any) -> Any:
    """Return the entry for ``layer`` if ``units`` is a dictionary, and otherwise ``units`` itself.

    Raises:
        ValueError: ``units`` is a dictionary without an entry for ``layer``.
    """
    if isinstance(units, Mapping) and layer not in units:
        raise ValueError(f"units must have an entry for every layer, and there is none for {layer!r}")
    return units[layer] if isinstance(units, Mapping) else units


class _Shown:
    """The pictures that the network has processed. Only pictures that might become examples are kept in memory."""

    def __init__(self) -> None:
        """Begin with no pictures."""
        self.count = 0
        """Number of pictures in all batches before the current one."""
        self.pictures: dict[int, tuple[str, Tensor]] = {}
        """Name and image (C, H, W) of each picture that is kept, by the index of the picture among all pictures."""
        self.limit = 0
        """Number of kept pictures above which :meth:`forget` removes the pictures that are no longer needed."""

    def keep(self, batch: Batch, rows: Iterable[int]) -> None:
        """Keep the pictures whose indices in ``batch`` are ``rows``."""
        for row in rows:
            if self.count + row not in self.pictures:
                # A view would keep the whole batch in memory.
                self.pictures[self.count + row] = batch.name(row), batch.images[row].clone()

    def forget(self, best: Iterable[_Best]) -> None:
        """Remove the pictures that no longer have one of a unit's largest activations, if more than ``limit`` are kept.

        ``best`` holds the largest activations in each layer.
        """
        if len(self.pictures) > self.limit:
            needed = torch.cat([each.numbers.flatten() for each in best]).unique().tolist()
            self.pictures = {number: self.pictures[number] for number in needed}
            self.limit = 2 * len(needed)


class _Best:
    """The largest activations found so far for some units of a layer. The tensors are on the network's device."""

    def __init__(self, name: str, layer: Layer, unit_indices: Tensor, count: int) -> None:
        """Begin with no activations. For each unit, the ``count`` largest activations will be kept.

        ``unit_indices`` holds the indices of the units of ``layer``. ``name`` is the layer's name as the caller of
        :func:`top_examples` gave it, or the name of its features.
        """
        self.name, self.layer, self.unit_indices, self.count = name, layer, unit_indices, count
        self.values = torch.empty(0, len(unit_indices), device=unit_indices.device)
        """Largest activations of each unit in descending order, (at most count, units)."""
        self.numbers = torch.empty_like(self.values, dtype=torch.long)
        """Indices, among all pictures, of the pictures with these activations, (at most count, units)."""
        self.places = torch.empty_like(self.values, dtype=torch.long)
        """Positions of these activations in the layer, (at most count, units), stored as row x :data:`ROW` + column."""

    def see(self, activation: Tensor, first: int) -> list[int]:
        """Add the activations of a batch, and return which of its pictures have one of the largest activations so far.

        The result lists the indices of these pictures in the batch. The units are on the second axis of ``activation``.
        ``first`` is the index, among all pictures, of the first picture in the batch.
        """
        values = _largest(activation)[:, self.unit_indices]
        if bool(values.isnan().any()):
            activation = activation.masked_fill(activation.isnan(), -torch.inf)
            values = _largest(activation)[:, self.unit_indices]
        kept_count = len(self.values)
        if kept_count == self.count and not bool((values > self.values[-1]).any()):
            return []
        # If activations are equal, the earlier picture is kept, regardless of how the pictures are batched.
        merged = torch.cat([self.values, values])
        order = merged.argsort(dim=0, descending=True, stable=True)[: self.count]
        self.values = merged.gather(0, order)
        numbers = first + torch.arange(len(values), device=order.device)[:, None].expand_as(values)
        self.numbers = torch.cat([self.numbers, numbers]).gather(0, order)
        self.places = torch.cat([self.places, torch.zeros_like(numbers)]).gather(0, order)
        ranks, columns = (order >= kept_count).nonzero(as_tuple=True)
        rows = order[ranks, columns] - kept_count
        features = _with_positions(activation)
        # Positions are computed only for the few new best activations, and for at most MAPS at a time to save memory.
        parts = zip(rows.split(MAPS), self.unit_indices[columns].split(MAPS), strict=True)
        position = torch.cat([features[row, unit].argmax(1) for row, unit in parts])
        width = activation.shape[-1]
        self.places[ranks, columns] = position // width * ROW + position % width
        return rows.unique().tolist()  # type: ignore[no-any-return]

    def examples(self, shown: _Shown, activations_of: ActivationsOf) -> list[list[Example]]:
        """Return the examples of each unit, in descending order of their activations."""
        found: list[list[Example]] = []
        columns = (each.T.tolist() for each in (self.values, self.numbers, self.places))
        for unit, values, numbers, places in zip(self.unit_indices.tolist(), *columns, strict=True):
            found.append([])
            for value, number, place in zip(values, numbers, places, strict=True):
                if value not in (0, -math.inf):
                    name, picture = shown.pictures[number]
                    box = self._box(picture, unit, divmod(place, ROW), activations_of)
                    found[-1].append(Example(picture, value, name, box))
        return found

    def _box(self, picture: Tensor, unit: int, place: tuple[int, int], activations_of: ActivationsOf) -> Box | None:
        """Return the part of ``picture`` (C, H, W) that ``unit`` sees at the position ``place`` (row, column)."""
        # For tokens, pictures are not cropped, because it is unknown which part of a picture a token represents.
        if len(self.layer.shape) != 3 or self.layer.whole_image:
            return None
        if self.layer.receptive_field is not None:
            return _field(picture, self.layer, place)
        with torch.enable_grad():
            image = picture[None].detach().clone().requires_grad_()
            activation = activations_of(image.to(self.unit_indices.device))[self.name][(0, unit, *place)]
        return _influence(activation, image)


def _with_positions(activation: Tensor) -> Tensor:
    """Flatten the axes of the positions: (N, units, positions...) -> (N, units, positions).

    A neuron of a fully connected layer has one position.
    """
    return activation.flatten(2) if activation.ndim > 2 else activation[:, :, None]


def _largest(activation: Tensor) -> Tensor:
    """Return the largest activation of each unit in each picture: (N, units, positions...) -> (N, units)."""
    if activation.ndim == 4 and not activation.is_cuda:
        # On a CPU, this is up to nine times as fast as amax if the channels are last in memory.
        return max_pool2d(activation, activation.shape[2:]).flatten(1)
    return _with_positions(activation).amax(2)


def _influence(activation: Tensor, image: Tensor) -> Box | None:
    """Return the smallest rectangle with all pixels of ``image`` (1, C, H, W) that influence ``activation``, a scalar.

    A pixel influences the activation if the gradient at this pixel is not zero. If no pixel does, the result is None.
    """
    if not activation.requires_grad:
        return None
    [gradient] = torch.autograd.grad(activation, image)
    pixels = (gradient[0] != 0).any(0)
    rows, columns = (pixels.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    return (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if rows else None


def _field(picture: Tensor, layer: Layer, place: tuple[int, int]) -> Box | None:
    """Return the receptive field, in ``picture`` (C, H, W), of the position ``place`` (row, column) in ``layer``.

    The receptive field must be known. If it is both higher and wider than the picture, the result is None, because a
    gray border could take far more memory than the picture.
    """
    side, stride, start = layer.receptive_field, layer.stride, layer.start
    assert side is not None
    assert stride is not None
    assert start is not None
    if side > max(picture.shape[1:]):
        return None
    top, left = (round(start + stride * at) for at in place)
    return top, left, top + side, left + side
