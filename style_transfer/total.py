"""The loss of an image: terms, each a loss of one layer with its weight, and the total variation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import interpolate

from image_optimization.images import fit, fitted_size
from image_optimization.memory import release_kept_memory
from style_transfer.flow import Previous
from style_transfer.losses import ContentLoss, Loss, TemporalLoss, total_variation
from style_transfer.presets import Preset
from style_transfer.tiling import Tile

Read = Callable[[Tensor], dict[str, Tensor]]
"""From an image (1, C, H, W) to its activations."""


Statistics = dict[tuple[str, int], Any]
"""By layer and number of the region."""

STRIP = 256
"""Rows of the image whose own losses are computed at a time, where the picture is tiled."""

Known = dict[tuple[int, tuple[int, int]], Statistics]
"""By the number and size (H, W) of a painting."""


class Style(NamedTuple):
    """A painting, and what of it is wanted where."""

    image: Tensor
    """(1, 3, H, W) in [0, 1], of any size and on any device."""
    size: int
    """Of its longer side, in pixels, as it is to be seen."""
    shares: Sequence[float]
    """Of each region of the photo; for a region the styles' shares are 1 in sum."""
    masks: Sequence[Tensor | None] = (None,)
    """For each region of the photo, where in the painting its style is: (1, 1, H, W) in [0, 1], None for everywhere."""


PixelLoss = Callable[[Tensor, slice], Tensor]
"""From rows of an image, and the one below them, and which of the whole they are: its loss is the sum of theirs."""


class Term(NamedTuple):
    part: str
    """What it is counted under: ``content`` or ``style``."""
    layer: str
    weight: float
    loss: Loss


@dataclass(frozen=True)
class TotalLoss:
    """The loss of an image (1, 3, H, W) in [0, 1].

    In several tiles it is the same, to rounding, and so is its gradient: a first pass without gradients adds up what
    the losses measure, a second one takes the gradient of the whole's loss through each tile.
    """

    read: Read
    terms: Sequence[Term]
    tiles: Sequence[Tile]
    of_pixels: Mapping[str, tuple[float, PixelLoss]]
    """Losses of the image itself by name, each with its weight."""
    latest: dict[str, Tensor] = field(default_factory=dict)
    """What ``content``, ``style`` and each loss of the image itself had of the loss last computed."""

    def __call__(self, image: Tensor) -> Tensor:
        if len(self.tiles) > 1:
            tiled: Tensor = _Tiled.apply(image, self)
            return tiled
        measured = self.measure(image, self.tiles[0], self.terms)
        parts = self.parts(self.terms, measured) | self.pixels(image, slice(0, image.shape[2]))
        self.latest.update({name: part.detach() for name, part in parts.items()})
        return _sum(parts)

    def parts(self, terms: Sequence[Term], measured: Sequence[Tensor]) -> dict[str, Tensor]:
        """What ``terms`` have of the loss, from what they have measured of the whole image, by :attr:`Term.part`."""
        weighed: dict[str, list[Tensor]] = {}
        for term, sums in zip(terms, measured, strict=True):
            weighed.setdefault(term.part, []).append(term.weight * term.loss(sums))
        return {name: torch.stack(values).sum() for name, values in weighed.items()}

    def pixels(self, image: Tensor, rows: slice) -> dict[str, Tensor]:
        """The losses of the image itself, weighed: those of ``rows``; ``image`` is these and the one below."""
        return {name: weight * loss(image, rows) for name, (weight, loss) in self.of_pixels.items()}

    def measure(self, image: Tensor, tile: Tile, terms: Sequence[Term]) -> list[Tensor]:
        """What each of ``terms`` measures of the tile that ``image`` is."""
        seen = tile.own(self.read(image))
        return [term.loss.measure(seen[term.layer], tile.windows[term.layer]) for term in terms]


class _Tiled(torch.autograd.Function):
    """The gradient is computed on the way, tile by tile, since no more than a tile's activations fit."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, total: TotalLoss) -> Tensor:
        release_kept_memory()
        local = [term for term in total.terms if term.loss.local]
        others = [term for term in total.terms if not term.loss.local]
        sums: list[Tensor] = []
        for tile in total.tiles if others else ():
            measured = total.measure(tile.show(image), tile, others)
            sums = [before + of_tile for before, of_tile in zip(sums, measured, strict=True)] if sums else measured
        with torch.enable_grad():
            sums = [each.detach().requires_grad_() for each in sums]
            parts = total.parts(others, sums)
            slopes = list(torch.autograd.grad(_sum(parts), sums)) if sums else []
        parts = {name: part.detach() for name, part in parts.items()}
        gradient = torch.zeros_like(image)
        for tile in total.tiles:
            with torch.enable_grad():
                part = tile.show(image).detach().requires_grad_()
                measured = total.measure(part, tile, [*local, *others])
                here = total.parts(local, measured[: len(local)])
                rest = [(slope * each).sum() for slope, each in zip(slopes, measured[len(local) :], strict=True)]
                [of_part] = torch.autograd.grad(torch.stack([*here.values(), *rest]).sum(), part)
            _add(parts, here)
            tile.show(gradient).add_(of_part)
        for top in range(0, image.shape[2], STRIP):
            with torch.enable_grad():
                part = image[:, :, top : top + STRIP + 1].detach().requires_grad_()
                here = total.pixels(part, slice(top, min(top + STRIP, image.shape[2])))
                [of_part] = torch.autograd.grad(_sum(here), part)
            _add(parts, here)
            gradient[:, :, top : top + STRIP + 1] += of_part
        ctx.gradient = gradient
        release_kept_memory()  # tiles leave holes that whole pictures do not fill, and the other way round
        total.latest.update(parts)
        return _sum(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope * ctx.gradient, None


def _sum(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([*parts.values()]).sum()


def _add(parts: dict[str, Tensor], others: Mapping[str, Tensor]) -> None:
    for name, value in others.items():
        parts[name] = parts[name] + value.detach() if name in parts else value.detach()


def total_loss(
    read: Read,
    photo: Tensor,
    styles: Sequence[Style],
    preset: Preset,
    tiles_of: Callable[[Tensor], Sequence[Tile]],
    regions: Sequence[Tensor | None] = (None,),
    previous: Previous | None = None,
    known: Known | None = None,
) -> TotalLoss:
    """The loss of an image of the size of ``photo``; its targets are computed here, once.

    Args:
        read: a :func:`image_optimization.capture.capture` of the preset's layers.
        photo: (1, 3, H, W) in [0, 1].
        styles: the paintings.
        preset: how the losses are weighed.
        tiles_of: how a picture is divided.
        regions: where in the photo each region is, (1, 1, H, W) in [0, 1]; None for everywhere.
        previous: the frame before.
        known: statistics of paintings; those that are not there are added.
    """
    tiles = tiles_of(photo)
    with torch.no_grad():
        known = {} if known is None else known
        of_styles = []
        for number, style in enumerate(styles):
            key = number, fitted_size(style.image, style.size)
            if key not in known:
                painting = fit(style.image, style.size).to(photo.device)
                known[key] = statistics(read, painting, style, preset, tiles_of(painting))
            of_styles.append(known[key])
        targets: dict[str, list[Tensor]] = {layer: [] for layer in preset.content}
        sizes: dict[str, tuple[int, int]] = {}
        for _, seen in _passes(read, photo, tiles):
            sizes = {layer: _size(tiles, layer, seen[layer]) for layer in preset.style}
            for layer, parts in targets.items():
                parts.append(seen[layer])
        terms = [
            Term("content", layer, preset.content[layer], ContentLoss(join(tiles, layer, targets.pop(layer))))
            for layer in [*targets]
        ]
        for number, region in enumerate(regions):
            area = 1.0 if region is None else region.mean().item()
            for layer, weight in preset.style.items():
                positions = position_weights(region, sizes[layer], photo.device)
                paintings = [
                    (style.shares[number], of_style[layer, number])
                    for style, of_style in zip(styles, of_styles, strict=True)
                    if (layer, number) in of_style
                ]
                if positions is not None and paintings:
                    terms.append(Term("style", layer, area * weight, preset.style_loss(paintings, positions)))
    if preset.relative:
        terms = [term._replace(weight=term.weight / term.loss.scale) for term in terms]
    variation, temporal = preset.of_pixels(photo.numel())
    of_pixels: dict[str, tuple[float, PixelLoss]] = {"variation": (variation, total_variation)}
    if previous is not None:
        of_pixels["temporal"] = temporal, TemporalLoss(previous)
    return TotalLoss(read, terms, tiles, of_pixels)


def statistics(read: Read, painting: Tensor, style: Style, preset: Preset, tiles: Sequence[Tile]) -> Statistics:
    """What the losses need to know of a ``painting``, by layer and region: of those where the ``style`` has a share."""
    found: Statistics = {}
    for tile, seen in _passes(read, painting, tiles):
        for layer in preset.style:
            for number, (share, mask) in enumerate(zip(style.shares, style.masks, strict=True)):
                positions = position_weights(mask, _size(tiles, layer, seen[layer]), painting.device)
                if positions is not None and share:
                    statistic = preset.style_loss.statistic(seen[layer], positions, tile.windows[layer])
                    before = found.get((layer, number))
                    found[layer, number] = statistic if before is None else preset.style_loss.join([before, statistic])
    return found


def position_weights(mask: Tensor | None, size: tuple[int, int], device: torch.device) -> Tensor | None:
    """Of a layer's positions, of which there are ``size`` (H, W): 1 in sum. None where the mask has nothing there."""
    if mask is None:
        return torch.tensor(1 / (size[0] * size[1]), device=device)
    weights = interpolate(mask.to(device), size, mode="bilinear", antialias=True)[0, 0]
    return weights / weights.sum() if weights.sum() > 0 else None


def _passes(read: Read, image: Tensor, tiles: Sequence[Tile]) -> Iterator[tuple[Tile, dict[str, Tensor]]]:
    for tile in tiles:
        yield tile, tile.own(read(tile.show(image)))
    if len(tiles) > 1:
        release_kept_memory()


def _size(tiles: Sequence[Tile], layer: str, activation: Tensor) -> tuple[int, int]:
    """How many positions (H, W) a layer has in the whole picture; ``activation`` is of a tile."""
    rows, columns = tiles[-1].windows[layer]
    return rows.stop or activation.shape[2], columns.stop or activation.shape[3]


def join(tiles: Sequence[Tile], layer: str, parts: Sequence[Tensor]) -> Tensor:
    """The activations of a layer in the whole picture, from those of its tiles."""
    if len(tiles) == 1:
        return parts[0]
    whole = parts[0].new_empty(*parts[0].shape[:2], *_size(tiles, layer, parts[0]))
    for tile, part in zip(tiles, parts, strict=True):
        rows, columns = tile.windows[layer]
        whole[:, :, rows, columns] = part
    return whole
