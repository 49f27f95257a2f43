"""Find the layers of a network by name, with a dry run: forward passes that only record the layers.

If the image is large and the network supports PyTorch's meta device, the dry run uses this device, which computes only
shapes.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dreamgram.image_optimization.axes import Images, Units, find_images
from dreamgram.image_optimization.checks import MOST_THINGS, as_model, as_wholes
from dreamgram.image_optimization.input_shapes import find_shape
from dreamgram.image_optimization.names import shorten, unknown
from dreamgram.image_optimization.receptive_fields import Field
from dreamgram.image_optimization.settings import usual_settings, without_collecting
from dreamgram.image_optimization.state import unwrapped
from dreamgram.image_optimization.trial import (
    Seen,
    Trial,
    Way,
    blank_image,
    is_about_sizes,
    try_out,
    try_shapes,
    try_two,
)


class RowsError(ValueError):
    """Exception that reports that the rows of a layer's output cannot be assigned to the images of a batch.

    A batch of one image can still pass through the network.
    """


class OneByOneError(RowsError):
    """Exception that asks for batches of one image, because images have to pass through the network one at a time."""


@dataclass(frozen=True)
class Layer:
    """One tensor in the output of one call of a module during a forward pass."""

    name: str
    """Name of the module. If one forward pass calls the module several times, the index of the call is appended, as in
    ``name:0``. Then :attr:`key` is appended."""
    module: str
    """Name of the module without the index of the call, as in ``torch.nn.Module.named_modules``."""
    call: int
    """Zero-based index of this call among the calls to the same module in one forward pass."""
    kind: str
    """Name of the module's class, such as "Conv2d"."""
    shape: tuple[int, ...]
    """Shape of the output for one image, without the batch axis."""
    receptive_field: int | None
    """Side, in pixels, of the square receptive field of each output position. None if the receptive fields are unknown,
    if they are the whole image (:attr:`whole_image`), or if they are not all squares of the same size.

    Receptive fields are known only in the results of :func:`list_layers` and of :func:`dry_run` with
    ``receptive_fields=True``."""
    stride: float | None
    """Distance, in pixels, between the receptive fields of neighboring output positions; None if
    :attr:`receptive_field` is None."""
    start: float | None
    """Coordinate, in pixels, at which the receptive field of the first output position begins; negative if padding
    extends this field beyond the image. None if :attr:`receptive_field` is None."""
    overwritten: bool
    """Whether a later in-place operation, such as an in-place ReLU, overwrites the output."""
    whole_image: bool = False
    """Whether each output position depends on the whole image. A border of the image that is narrower than one stride,
    and that no window of an earlier layer reaches, is ignored."""
    local: bool = False
    """Whether a part of the image, if it passes through the network alone, gives the same activations as it does within
    the whole image. Positions whose receptive fields reach beyond the borders of the part are ignored. False if
    :attr:`receptive_field` is None."""
    key: str = ""
    """Index or key of the layer's tensor in the module's output, such as "[0]" for the first tensor of a tuple; empty
    if the output is a single tensor. The name of the layer ends with this text."""
    unit_axis: int = 0
    """Zero-based index, in :attr:`shape`, of the axis of the units, such as the channels of a convolution. The method
    :meth:`dreamgram.image_optimization.axes.Units.axis` describes how this axis is found."""
    image_axis: int | None = 0
    """Zero-based index of the batch axis in the module's output; None if the output has no such axis, so that the
    images have to pass through the network one at a time."""
    rows_per_image: int = 1
    """Number of rows of the output, along :attr:`image_axis`, that belong to one image. It is above 1 if the network
    treats parts of an image, such as windows, as separate images."""
    singly: bool = False
    """Whether images have to pass through the network one at a time, because a batch gives no separate output for each
    image."""

    @property
    def channels(self) -> int:
        """Return the number of units in the output."""
        return self.shape[self.unit_axis] if self.shape else 1

    def of_images(self, output: Tensor, count: int) -> Tensor:
        """Return the layer's ``output`` for ``count`` images, with the batch axis as the first axis.

        The other axes keep their order, with one exception: if the result has four or more axes, the unit axis becomes
        the second axis. If the layer gives one number for each image, the shape of the result is (``count``, 1).

        Raises:
            ValueError: the output does not have :attr:`rows_per_image` rows for each image; or it has no batch axis,
                and ``count`` is not 1.
        """
        if self.image_axis is None:
            if count != 1:
                raise ValueError(f"{self.name} does not give one output for each image")
            output = output[None]
        elif count == 1 and self.rows_per_image == 1 and output.shape == self.shape:
            output = output[None]  # the network has squeezed the axis of the only image away
        else:
            if output.shape[self.image_axis] != count * self.rows_per_image:
                raise RowsError(
                    f"{self.name} has {output.shape[self.image_axis]} rows for {count} images, and "
                    f"{self.rows_per_image} for each of two: pass one image at a time"
                )
            if self.rows_per_image > 1:
                output = output.unflatten(self.image_axis, (count, self.rows_per_image))
            output = output.movedim(self.image_axis, 0) if self.image_axis else output
        if output.ndim == 1:
            return output[:, None]
        return output.movedim(self.unit_axis + 1, 1) if self.unit_axis and output.ndim > 3 else output


def list_layers(model: nn.Module, shape: Sequence[int]) -> list[Layer]:
    """Return the layers of ``model`` in the order in which they run on one image of ``shape`` (C, H, W).

    Raises:
        ValueError: the forward pass of the network fails on an image of this shape; an image of this shape has more
            than :data:`~dreamgram.image_optimization.checks.MOST_THINGS` elements; or ``model`` is a TorchScript
            program, whose layers cannot be observed.
    """
    if isinstance(shape, str) or not isinstance(shape, Sequence) or len(shape) != 3:
        raise TypeError(f"shape must be the shape (C, H, W) of an image, such as (3, 224, 224), not {shorten(shape)}")
    shape = as_wholes(shape, "a number in shape", least=1)
    if math.prod(shape) > MOST_THINGS:
        raise ValueError(f"shape must have at most {MOST_THINGS} elements, not {shorten(tuple(shape))}")
    layers, failure = dry_run(as_model(model), blank_image(shape), receptive_fields=True)
    if failure is not None:
        raise ValueError(_refusal(model, shape, "", failure)) from failure
    return layers


def find_layer(name: str, layers: Sequence[Layer]) -> Layer:
    """Return the layer called ``name``.

    The name of a module that returns several tensors, such as ``lstm``, selects the first tensor, ``lstm[0]``.

    Raises:
        ValueError: there is no layer called ``name``; the message then lists the names and suggests a similar one. Or
            ``name`` is a module that runs several times in one forward pass; the message then lists the names of its
            calls.
    """
    if not layers:
        raise ValueError(f"no layer {shorten(name)}: a forward pass calls no modules inside the network")
    names = [layer.name for layer in layers]
    for wrapper in ("", "module.", "_orig_mod."):  # nn.DataParallel and torch.compile put these before all names
        inner = name.removeprefix(wrapper)
        if inner in names:
            return layers[names.index(inner)]
        first = next((layer for layer in layers if layer.key and layer.name.removesuffix(layer.key) == inner), None)
        if first is not None:
            return first
    calls = list(dict.fromkeys(layer.name.removesuffix(layer.key) for layer in layers if layer.module == name))
    if calls:
        raise ValueError(f"layer {name!r} runs {len(calls)} times in one forward pass; choose one: {', '.join(calls)}")
    raise ValueError(unknown("layer", name, names))


def reach_layers(model: nn.Module, image: Tensor, names: Sequence[str]) -> list[Layer]:
    """Return the layers called ``names``, after checking that a forward pass of ``image`` (N, C, H, W) reaches them.

    Raises:
        ValueError: a layer is unknown, or the forward pass fails before it reaches the layer.
    """
    return reach_layers_among_all(model, image, names)[0]


def reach_layers_among_all(model: nn.Module, image: Tensor, names: Sequence[str]) -> tuple[list[Layer], list[Layer]]:
    """Return the layers called ``names``, as in :func:`reach_layers`, and all layers."""
    layers, failure = dry_run(model, image)
    try:
        return [find_layer(name, layers) for name in names], layers
    except ValueError:
        if failure is None:
            raise
        last = layers[-1].name if layers else "its input"
        beyond = f" beyond {last}, so {', '.join(names)} cannot be reached"
        raise ValueError(_refusal(model, image.shape[1:], beyond, failure)) from failure


def output_layer(model: nn.Module, image: Tensor) -> Layer:
    """Return the layer called ``logits`` or, if there is none, the last layer of ``model`` that is not a softmax.

    A layer that contains other layers does not count. ``image`` (N, C, H, W) is an image that the network takes.

    Raises:
        ValueError: the forward pass fails, or there is no such layer.
    """
    layers, failure = dry_run(model, image)
    if failure is not None:
        raise ValueError(_refusal(model, image.shape[1:], "", failure)) from failure
    single = {name for name, module in unwrapped(model).named_modules() if next(module.children(), None) is None}
    plain = [each for each in layers if each.module in single and "softmax" not in each.kind.lower()]
    # The units of a layer with several positions are no classes.
    found = [each for each in plain[-1:] if math.prod(each.shape) == each.channels]
    found += [each for each in plain if each.name == "logits"]
    if not found:
        raise ValueError(f"{type(unwrapped(model)).__name__} has no layer whose units are classes: name a layer")
    return found[-1]


@usual_settings
def smallest_size(model: nn.Module, layers: Sequence[str]) -> int:
    """Return the side, in pixels, of the smallest square image whose forward pass reaches all of ``layers``.

    Raises:
        ValueError: a layer is unknown, or a forward pass of an image of the network's default size does not reach the
            layer.
    """
    shape = find_shape(model).shape
    reach_layers(model, blank_image(shape), layers)
    most = min(shape[1:])

    def reaches(size: int, alone: bool) -> bool:
        image = blank_image((shape[0], size, size))
        if alone:
            seen = _layers(try_shapes(unwrapped(model), image), {}, Units((size, size)))
        else:
            seen = dry_run(model, image)[0]
        try:
            return all(find_layer(name, seen) for name in layers)
        except ValueError:
            return False

    # A pass of one image takes less than half the time, but in some networks, its layers have other names.
    alone = reaches(most, True)
    return bisect.bisect_left(range(most), True, lo=1, key=lambda size: reaches(size, alone))


@usual_settings
@without_collecting
def dry_run(model: nn.Module, image: Tensor, receptive_fields: bool = False) -> tuple[list[Layer], Exception | None]:
    """Find the layers of ``model`` with forward passes of copies of the first image in ``image`` (N, C, H, W).

    Every tensor in the output of a module is a layer. Passes of two and of three copies show which axis of an output is
    the batch axis. The passes compute only shapes, unless the shapes depend on the values of tensors. If one of these
    passes fails, or if they do not show a batch axis in every output, the layers of a pass of a single copy are
    returned. The passes also call any hooks that you added to the network. Afterwards, the network is restored to its
    previous state. If ``receptive_fields`` is True, the receptive field of every layer is computed, too.

    Returns:
        The layers in the order in which they ran, and the error that stopped the forward pass, or None. The layers that
        ran before the error can still be used: a forward pass that computes their activations stops before it reaches
        the error.
    """
    model = unwrapped(model)
    image = blank_image(image.shape[1:]) if image.is_meta else image[:1].detach()
    one, images = _passes(model, image)
    size = image.shape[2], image.shape[3]
    units = Units(size)
    layers = _layers(one, images, units)
    if receptive_fields or units.uncertain:
        fields = {seen.place: seen.field for seen in try_shapes(model, image, follow_fields=True).seen}
        if units.uncertain:
            layers = _layers(one, images, Units(size), fields)
        if receptive_fields:
            layers = [_with_field(layer, fields.get(seen.place)) for layer, seen in zip(layers, one.seen, strict=True)]
    return layers, one.failure


def _passes(model: nn.Module, image: Tensor) -> tuple[Trial, dict[tuple[str, int, str], Images]]:
    """Run the network on one, two and three copies of ``image`` (1, C, H, W).

    Return the trial of one image, and the batch axes of outputs by :attr:`Seen.place`. If the trials of two and of
    three images succeed, reach the same layers, and show a batch axis in every output, no trial of one image is run,
    and the trial of two images is returned in its place.
    """

    def passes(count: int, way: Way) -> Trial:
        return try_out(model, image.expand(count, *image.shape[1:]), way)

    several = [try_two(model, image), passes(3, "shapes")]
    images = _images_of(several, True)
    if all(trial.failure is None for trial in several):
        places = [[seen.place for seen in trial.seen] for trial in several]
        if places[0] == places[1] and images.keys() == set(places[0]):
            return several[0], images
    one = passes(1, "shapes")
    if one.failure is None or is_about_sizes(one.failure):
        return one, images
    return passes(1, "values"), _images_of([passes(count, "values") for count in (2, 3)], False)


def _images_of(several: Sequence[Trial], sure: bool) -> dict[tuple[str, int, str], Images]:
    """Find the batch axes of all outputs, given the trials of two and of three images.

    The result is a dictionary from :attr:`Seen.place`, which identifies an output, to the batch axis of this output.
    Outputs without a batch axis are left out. If ``sure`` is False, shapes might depend on the values of tensors, and
    outputs with several rows for each image are left out, too.
    """
    two, three = ({seen.place: seen for seen in trial.seen} for trial in several)
    # The calls of a module cannot be told apart if their number depends on the number of images.
    calls = [Counter(name for name, _ in {place[:2] for place in trial}) for trial in (two, three)]
    found = {
        place: find_images(seen.shape, three[place].shape)
        for place, seen in two.items()
        if place in three and calls[0][place[0]] == calls[1][place[0]]
    }
    return {place: images for place, images in found.items() if images and (sure or images.fold == 1)}


def _layers(
    trial: Trial,
    images: Mapping[tuple[str, int, str], Images],
    unit_finder: Units,
    fields: Mapping[tuple[str, int, str], Field | None] | None = None,
) -> list[Layer]:
    """Return the layers that ran in ``trial``.

    ``images`` and ``fields`` map :attr:`Seen.place` to batch axes and to receptive fields, if these are known.
    """
    calls = Counter(name for name, _ in {(seen.name, seen.call) for seen in trial.seen})
    return [
        _layer(seen, calls[seen.name] > 1, images.get(seen.place), unit_finder, (fields or {}).get(seen.place))
        for seen in trial.seen
    ]


def _layer(seen: Seen, several_calls: bool, images: Images | None, unit_finder: Units, field: Field | None) -> Layer:
    """Return the layer for the tensor ``seen``.

    ``images`` describes the batch axis of the tensor. None means that the batch axis is unknown, so that each forward
    pass is limited to a single image. ``field`` holds the receptive fields of the tensor, if they are known.
    """
    shape = list(seen.shape)
    axis = images.axis if images else 0 if len(shape) > 1 and shape[0] == 1 else None
    rows = images.fold if images else 1
    if axis is not None:
        del shape[axis]
    places = (field.axes if field else None) or ()
    positions = [place - (axis is not None and place > axis) for place in places if place != axis]
    unit_axis = unit_finder.axis(seen.module, shape, positions)
    if rows > 1 and axis is not None:
        shape.insert(axis, rows)
        unit_axis += axis <= unit_axis and len(shape) > 1
    return Layer(
        name=f"{seen.name}:{seen.call}{seen.key}" if several_calls else seen.name + seen.key,
        module=seen.name,
        call=seen.call,
        kind=type(seen.module).__name__,
        shape=tuple(shape),
        receptive_field=None,
        stride=None,
        start=None,
        overwritten=seen.overwritten,
        key=seen.key,
        unit_axis=unit_axis,
        image_axis=axis,
        rows_per_image=rows,
        singly=images is None,
    )


def _with_field(layer: Layer, field: Field | None) -> Layer:
    """Return a copy of ``layer`` with the receptive field that ``field`` describes."""
    square = field.square() if field else None
    if field is None or square is None:
        return replace(layer, whole_image=field is not None and field.whole)
    return replace(layer, receptive_field=square.side, stride=square.stride, start=square.start, local=field.local)


def describe(shape: Sequence[int]) -> str:
    """Describe an image shape (C, H, W) in words, such as "an image of 64x64 pixels and 3 channels".

    If the image is not a square, the description says which number is the width.
    """
    channels, height, width = shape
    order = "" if width == height else " (width x height)"
    return f"an image of {width}x{height} pixels{order} and {channels} channel{'s' * (channels != 1)}"


def _refusal(model: nn.Module, shape: Sequence[int], beyond: str, failure: Exception) -> str:
    """Return the error message for an image of ``shape`` (C, H, W) on which the forward pass of ``model`` failed.

    ``beyond`` is a phrase that says which layer the forward pass reached. If the error ``failure`` is about sizes, the
    message names the size of the image. Otherwise, the message says that the network does not run. The message ends
    with the first line of the message of ``failure``.
    """
    words = (str(failure).strip() or type(failure).__name__).splitlines()[0]
    name = type(model).__name__
    if is_about_sizes(failure):
        return f"{describe(shape)} does not pass through {name}{beyond}: {words}"
    return f"{name} does not run{beyond}: {type(failure).__name__}: {words}"


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the network's first parameter, or the CPU if the network has no parameters."""
    return next((weights.device for weights in model.parameters()), torch.device("cpu"))
