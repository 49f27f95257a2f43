"""Examples: the patches of real pictures that activate a unit most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dreamgram.activation_maximization.arguments import as_batch
from dreamgram.activation_maximization.defaults import EXAMPLES
from dreamgram.activation_maximization.gradient_ascent import batch_size
from dreamgram.activation_maximization.objectives import check_units, features_of
from dreamgram.image_optimization.capture import ActivationsOf, capture
from dreamgram.image_optimization.layers import Layer, device_of, dry_run, find_layer
from dreamgram.image_optimization.settings import usual_settings


@dataclass(frozen=True)
class Example:
    """A patch of a picture that strongly activates a unit."""

    patch: Tensor
    """Part of the picture inside the receptive field of the largest activation, (C, h, w) in [0, 1].

    It is gray where the receptive field extends beyond the picture. If receptive fields of this layer are unknown, the
    patch holds the pixels that influence the activation, according to its gradient. The patch is the whole picture if
    the receptive field is the whole picture, or if the layer's activations are tokens.
    """
    activation: float
    """Largest activation of the unit in the picture."""
    name: str
    """Name of the picture, such as ``frog #4194``."""


@usual_settings()
def top_examples(
    model: nn.Module, layer: str, units: Sequence[int], pictures: Iterable[Any] | Dataset[Any], count: int = EXAMPLES
) -> list[list[Example]]:
    """Find, for each of ``units``, the ``count`` pictures that activate the unit most.

    The result has one list of examples for each unit, sorted by activation, largest first. Each picture is cropped to
    the part that activates the unit most. See Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks",
    arXiv:1311.2901.

    Example:
        >>> data = torchvision.datasets.CIFAR10("data", transform=torchvision.transforms.ToTensor())
        >>> [best] = top_examples(model, "layer3", [7], data)
        >>> best[0].name
        'frog #4194'

    Args:
        model: any network that takes images (N, C, H, W) in [0, 1]. The search runs on the network's device.
        layer: name of the layer. If each of its units sees the whole image, the pictures are not cropped.
        units: indices of the layer's channels, neurons or embedding dimensions.
        pictures: a data set, a data loader or any other iterable. Its items are images (C, H, W) or (N, C, H, W) in
            [0, 1], pairs (image, label) or pairs (name, image). An image without a name is named after its label,
            if it has one, and its index in ``pictures``. If ``pictures.classes`` exists, an integer label is
            replaced by the class name ``pictures.classes[label]``. Consecutive pictures of the same size go through the
            network as a batch.
        count: largest number of examples for each unit. A picture yields at most one example for each unit.

    Raises:
        ValueError: the layer or a unit does not exist, there are no pictures, or a picture is not in [0, 1].
        TypeError: an image in ``pictures`` is not a tensor of floating-point numbers.
    """
    device = device_of(model)
    found: list[list[Example]] = [[] for _ in units]
    reached: Layer | None = None
    with torch.no_grad(), capture(model, [layer]) as activations_of:
        for names, batch in _batches(pictures):
            answers = activations_of(batch.to(device))
            activation, features = answers[layer], features_of(answers, layer)
            if reached is None:
                # An error in a layer after ``layer`` does no harm, because only the layers up to ``layer`` are needed.
                layers, _ = dry_run(model, torch.zeros(1, *batch.shape[1:]), receptive_fields=True)
                reached = find_layer(layer, layers)
                check_units(layer, units, features.shape[1])
            values, positions = (each.cpu() for each in features[:, list(units)].max(2))
            # If activations are equal, the earlier picture is kept, regardless of how the pictures are batched.
            orders = values.argsort(dim=0, descending=True, stable=True)[:count].T.tolist()
            for column, (best, order) in enumerate(zip(found, orders, strict=True)):
                for row in order:
                    value = values[row, column].item()
                    if len(best) == count and value <= best[-1].activation:
                        break
                    position = int(positions[row, column])
                    # Pictures are not cropped to tokens: only the network knows which part a token represents.
                    if activation.ndim != 4 or reached.whole_image:
                        patch = batch[row].clone()  # A view would keep the whole batch in memory.
                    elif reached.receptive_field is None:
                        patch = _influence(activations_of, batch[row], layer, units[column], position, device)
                    else:
                        patch = _crop(batch[row], reached, divmod(position, activation.shape[-1]))
                    best.append(Example(patch, value, names[row]))
                    best.sort(key=lambda example: -example.activation)
                    del best[count:]
    if reached is None:
        raise ValueError("there are no pictures to search for examples")
    return found


def _batches(pictures: Iterable[Any] | Dataset[Any]) -> Iterator[tuple[list[str], Tensor]]:
    """Yield the names and the images (N, C, H, W) of each batch of consecutive pictures of the same size."""
    names: list[str] = []
    images: list[Tensor] = []
    for name, image in _named(pictures):
        if images and (image.shape != images[0].shape or len(images) == batch_size(image[0].numel())):
            yield names, torch.stack(images)
            names, images = [], []
        names.append(name)
        images.append(image)
    if images:
        yield names, torch.stack(images)


def _named(pictures: Iterable[Any] | Dataset[Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the image (C, H, W) of each picture."""
    classes: Any = getattr(getattr(pictures, "dataset", pictures), "classes", ())
    number = 0
    for item in _items(pictures):
        parts = list(item) if isinstance(item, Sequence) and not isinstance(item, str) else [item]
        if len(parts) > 1 and isinstance(parts[0], str):
            yield from ((parts[0], image) for image in as_batch(parts[1], f"picture {parts[0]!r}"))
            continue
        images = as_batch(parts[0] if parts else None, f"picture {number}")
        for image, label in zip(images, _labels(parts[1:], len(images)), strict=True):
            known = isinstance(label, int) and 0 <= label < len(classes)
            yield f"{classes[label] if known else label} #{number}".lstrip(), image
            number += 1


def _items(pictures: Any) -> Iterable[Any]:
    """Return an iterable over the items of ``pictures``.

    A map-style data set may define only ``__len__`` and ``__getitem__``. Its items are read by index, because a plain
    loop over such a data set may never end.
    """
    if not hasattr(pictures, "__iter__") and hasattr(pictures, "__len__"):
        return (pictures[number] for number in range(len(pictures)))
    return pictures  # type: ignore[no-any-return]


def _labels(rest: Sequence[Any], count: int) -> list[int | str]:
    """Return the labels of ``count`` images.

    ``rest`` holds what a data set or data loader yields together with the images, usually their labels.
    If ``rest`` does not hold one integer or text for each image, every label is "".
    """
    label = rest[0] if rest else ""
    labels = label.tolist() if hasattr(label, "tolist") else label
    labels = list(labels) if isinstance(labels, list | tuple) else [labels]
    return labels if len(labels) == count and all(isinstance(each, int | str) for each in labels) else [""] * count


def _crop(picture: Tensor, layer: Layer, place: tuple[int, int]) -> Tensor:
    """Crop ``picture`` (C, H, W) to the receptive field of the position ``place`` (row, column) in ``layer``.

    The result is gray where the receptive field extends beyond the picture.
    """
    side, stride, start = layer.receptive_field, layer.stride, layer.start
    assert side is not None
    assert stride is not None
    assert start is not None
    height, width = picture.shape[1:]
    top, left = (round(start + stride * at) for at in place)
    patch = picture.new_full((len(picture), side, side), 0.5)
    down = slice(max(top, 0), min(top + side, height))
    across = slice(max(left, 0), min(left + side, width))
    patch[:, down.start - top : down.stop - top, across.start - left : across.stop - left] = picture[:, down, across]
    return patch


def _influence(
    activations_of: ActivationsOf, picture: Tensor, layer: str, unit: int, position: int, device: torch.device
) -> Tensor:
    """Crop ``picture`` (C, H, W) to the pixels that influence the activation of ``unit`` at ``position``.

    These are the pixels to which the activation passes back a gradient. If there are none, return the whole picture.
    """
    with torch.enable_grad():
        image = picture[None].detach().clone().requires_grad_()
        activation = features_of(activations_of(image.to(device)), layer)[0, unit, position]
    if not activation.requires_grad:
        return picture.clone()
    [gradient] = torch.autograd.grad(activation, image)
    pixels = (gradient[0] != 0).any(0)
    rows, columns = (pixels.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    if not rows:
        return picture.clone()
    return picture[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].clone()
