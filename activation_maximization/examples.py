"""What excites a unit among real pictures: the patches to which it answers most."""

# Torch is imported where it is needed, so that the command line can be read without it.
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from image_optimization.layers import Layer


@dataclass(frozen=True)
class Example:
    """One patch."""

    patch: Tensor
    """(C, h, w) in [0, 1]: what the unit's receptive field saw, gray where that reaches beyond the picture."""
    activation: float
    name: str
    """Of the picture."""


def top_examples(
    model: nn.Module, layer: str, units: Sequence[int], pictures: Iterable[tuple[str, Tensor]], count: int = 9
) -> list[list[Example]]:
    """For each of ``units``, the ``count`` pictures in which it is most excited, best first, cropped to where.

    Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901.

    Args:
        model: any network that takes images (N, C, H, W) in [0, 1], on the device to work on.
        layer: its name; what sees the whole image is not cropped.
        units: numbers of its channels, neurons or embedding dimensions.
        pictures: names and images (1, C, H, W) in [0, 1], of any sizes; looked at one at a time.
        count: at most; one of each picture.

    Raises:
        ValueError: there is no such layer or unit, or no picture.
    """
    import torch

    from activation_maximization.objectives import check_units, features_of
    from image_optimization.capture import capture
    from image_optimization.layers import device_of, find_layer, list_layers

    device = device_of(model)
    found: list[list[Example]] = [[] for _ in units]
    reached: Layer | None = None
    with torch.no_grad(), capture(model, [layer]) as activations_of:
        for name, picture in pictures:
            activation = activations_of(picture.to(device))[layer]
            features = features_of(activation)[0]
            if reached is None:
                reached = find_layer(layer, list_layers(model, picture.shape[1:]))
                check_units(layer, units, len(features))
            values, positions = features[list(units)].max(1)
            for best, value, position in zip(found, values.tolist(), positions.tolist(), strict=True):
                if len(best) < count or value > best[-1].activation:
                    # Tokens are not cropped: which part of the picture one belongs to, only its network knows.
                    place = divmod(position, activation.shape[-1]) if activation.ndim == 4 else None
                    best.append(Example(_crop(picture[0], reached, place), value, name))
                    best.sort(key=lambda example: -example.activation)
                    del best[count:]
    if reached is None:
        raise ValueError("there are no pictures to find examples among")
    return found


def _crop(picture: Tensor, layer: Layer, place: tuple[int, int] | None) -> Tensor:
    """What a position (row, column) of ``layer`` sees of ``picture`` (C, H, W)."""
    side = layer.receptive_field
    if side is None or place is None:
        return picture
    height, width = picture.shape[1:]
    top, left = (round(layer.start + layer.stride * at) for at in place)
    patch = picture.new_full((len(picture), side, side), 0.5)
    down = slice(max(top, 0), min(top + side, height))
    across = slice(max(left, 0), min(left + side, width))
    patch[:, down.start - top : down.stop - top, across.start - left : across.stop - left] = picture[:, down, across]
    return patch
