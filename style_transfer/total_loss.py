"""The total loss of an image: the weighted sum of the losses of the network's layers and of the image's pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import interpolate

from dreamgram.image_optimization.capture import ActivationsOf
from dreamgram.image_optimization.images import fit, fitted_size
from dreamgram.image_optimization.memory import release_kept_memory
from dreamgram.image_optimization.recording import side_by_side
from dreamgram.style_transfer.losses import (
    STYLE_LOSSES,
    ContentLoss,
    Loss,
    Previous,
    TemporalLoss,
    total_variation,
)
from dreamgram.style_transfer.presets import Preset
from dreamgram.style_transfer.seamless import seamless_variation
from dreamgram.style_transfer.targets import Targets, fingerprint
from dreamgram.style_transfer.tiling import Tile

Statistics = dict[tuple[str, int], Any]
"""Statistics of a painting, such as Gram matrices. Each key consists of a layer name and the zero-based index of a
region of the photo."""

STRIP = 256
"""Number of pixel rows in a strip of the image. If the image is processed in tiles, the losses of the image's pixels,
such as the total variation, are computed strip by strip."""


class Style(NamedTuple):
    """A painting, together with its share in the style of each region of the photo."""

    image: Tensor
    """The painting, (1, 3, H, W) in [0, 1], of any size and on any device."""
    size: int
    """Length, in pixels, of the painting's longer side after it is resized for the network."""
    shares: Sequence[float]
    """Share of this painting in the style of each region of the photo. In each region, the shares of all paintings add
    up to 1."""
    masks: Sequence[Tensor | None] = (None,)
    """Part of the painting whose style is used in each region of the photo: a mask (1, 1, H, W) in [0, 1], or None for
    the whole painting."""
    painting_hash: str = ""
    """Fingerprint (hash) of the image and the masks, used in the keys of the cache of targets. If this field is
    empty, the fingerprint is computed when it is needed."""


PixelLoss = Callable[[Tensor, slice], Tensor]
"""A function that computes a loss of the pixels, such as the total variation, for a horizontal strip of the image. Its
arguments are the strip together with the row below it, if any, and the range of the strip's rows in the image. The
losses of all strips add up to the loss of the image."""


class Term(NamedTuple):
    """A weighted term of the total loss: the content loss of a layer, or the style loss of a layer in one region."""

    part: str
    """Name of the part of the total loss to which the term belongs: ``content`` or ``style``."""
    layer: str
    weight: Tensor
    """Weight of the loss, a scalar tensor on the image's device. It can be changed in place between two optimization
    steps."""
    loss: Loss


@dataclass(frozen=True)
class TotalLoss:
    """The total loss of an image (1, 3, H, W) in [0, 1].

    A large image passes through the network in several tiles. The loss and its gradient are the same as without tiles,
    except for rounding. A first pass over the tiles, without gradients, computes the sums over the whole image on which
    the style losses depend. A second pass computes the content loss of each tile. It backpropagates this loss, and the
    gradients of the style losses with respect to the sums, through the tile.
    """

    activations_of: ActivationsOf
    terms: Sequence[Term]
    tiles: Sequence[Tile]
    pixel_losses: Mapping[str, tuple[Tensor, PixelLoss]]
    """Weight and function of each loss of the pixels, by name. The weights are scalar tensors on the image's device.
    They can be changed in place between two optimization steps."""
    latest: dict[str, Tensor] = field(default_factory=dict)
    """Weighted parts of the most recently computed total loss, as scalar tensors, by name: ``content``, ``style``, and
    the names of the losses of the pixels."""

    def __call__(self, image: Tensor) -> Tensor:
        """Return the total loss of an image (1, 3, H, W) in [0, 1], as a scalar tensor."""
        if len(self.tiles) > 1:
            tiled: Tensor = _Tiled.apply(image, self)
            return tiled
        measured = self.measure(image, self.tiles[0], self.terms)
        parts = self.parts(self.terms, measured) | self.pixels(image, slice(0, image.shape[2]))
        self.latest.update({name: part.detach() for name, part in parts.items()})
        return _sum(parts)

    def parts(self, terms: Sequence[Term], measured: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the weighted losses of ``terms``, added up separately for each :attr:`Term.part`, such as ``style``.

        ``measured`` holds, for each term, the sums over the whole image from which the term's loss is computed. For
        terms whose :attr:`Loss.local` is True, ``measured`` can also hold the sums over one tile. The result is then
        the tile's part of the losses.
        """
        weighed: dict[str, list[Tensor]] = {}
        losses = side_by_side([term.loss for term in terms], measured)
        for term, loss in zip(terms, losses, strict=True):
            weighed.setdefault(term.part, []).append(term.weight * loss)
        return {name: torch.stack(values).sum() for name, values in weighed.items()}

    def pixels(self, image: Tensor, rows: slice) -> dict[str, Tensor]:
        """Return the weighted losses of the pixels of a strip of the image, by name.

        ``image`` is the strip together with the row below it, if any. ``rows`` is the range of the strip's rows in the
        whole image.
        """
        return {name: weight * loss(image, rows) for name, (weight, loss) in self.pixel_losses.items()}

    def measure(self, image: Tensor, tile: Tile, terms: Sequence[Term]) -> list[Tensor]:
        """Return a tensor for each of ``terms``: the tile's part of the sums from which the term's loss is computed.

        A :class:`Term` is the loss of one layer, with its weight. ``image`` holds only the pixels that the tile covers
        (see :meth:`Tile.show`).
        """
        activations = tile.own(self.activations_of(image))
        return [term.loss.measure(activations[term.layer], tile.windows[term.layer]) for term in terms]


class _Tiled(torch.autograd.Function):
    """Autograd function that computes a total loss for an image in several tiles.

    The gradient is computed in the forward pass, tile by tile, because only the activations of one tile are kept in
    memory at a time.
    """

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
        release_kept_memory()  # memory blocks freed by tiles do not fit whole pictures, and vice versa
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


@torch.no_grad()
def total_loss(
    activations_of: ActivationsOf,
    photo: Tensor,
    styles: Sequence[Style],
    preset: Preset,
    tiles_of: Callable[[Tensor], Sequence[Tile]],
    regions: Sequence[Tensor | None] = (None,),
    previous: Previous | None = None,
    cache: Targets | None = None,
    key: tuple[object, ...] = (),
    seamless: bool = False,
    emphasis: Tensor | None = None,
) -> TotalLoss:
    """Compute the targets of all losses, and return a function that computes the total loss of an image.

    The image must have the same size as ``photo``.

    Args:
        activations_of: the function that :func:`capture` yields for the preset's layers. It returns the activations of
            an image, by layer name.
        photo: the photo, (1, 3, H, W) in [0, 1].
        styles: the paintings, each with its size and its share in each region.
        preset: the losses and their weights.
        tiles_of: a function that returns the tiles of a picture (1, 3, H, W). Tiles are the parts of the picture that
            pass through the network one at a time.
        regions: for each region of the photo, a mask (1, 1, H, W) in [0, 1], or None for the whole photo.
        previous: in a video, the previous painted frame, warped to line up with ``photo``. If it is None, there is no
            temporal loss.
        cache: a cache of targets, to which missing targets are added. By default, a new cache is used.
        key: all other settings on which the activations depend, besides the network, the pictures and the layers. An
            example is the precision of the network. These settings become part of the keys of the cache.
        seamless: whether the total variation includes the differences between opposite edges of the image.
        emphasis: how much each part of the photo counts in the content loss, (1, 1, h, w) of any height and width. By
            default, all parts count equally.
    """
    cache = Targets() if cache is None else cache
    tiles = tiles_of(photo)
    known = [_of_painting(activations_of, style, preset, tiles_of, photo.device, cache, key) for style in styles]

    def capture_photo() -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
        return _capture_photo(activations_of, photo, preset, tiles)

    if len(tiles) > 1:  # the activations of a tiled photo are too large to be cached
        content, layer_sizes = capture_photo()
    else:
        layers = (tuple(preset.content), tuple(preset.style))
        content, layer_sizes = cache.of_photo((fingerprint(photo), layers, *key), capture_photo)
    terms = [
        _term("content", layer, weight, _content_loss(content[layer], emphasis), preset, photo.device)
        for layer, weight in preset.content.items()
    ]
    terms += _style_terms(styles, known, preset, regions, layer_sizes, photo.device)
    variation, temporal = torch.tensor(preset.pixel_weights(photo.numel())).to(photo.device)
    variation_of = seamless_variation if seamless else total_variation
    pixel_losses: dict[str, tuple[Tensor, PixelLoss]] = {"variation": (variation, variation_of)}
    if previous is not None:
        pixel_losses["temporal"] = temporal, TemporalLoss(previous)
    return TotalLoss(activations_of, terms, tiles, pixel_losses)


def _of_painting(
    activations_of: ActivationsOf,
    style: Style,
    preset: Preset,
    tiles_of: Callable[[Tensor], Sequence[Tile]],
    device: torch.device,
    cache: Targets,
    key: tuple[object, ...],
) -> Statistics:
    """Return the statistics of a painting. If they are not in the ``cache``, compute them and add them to it.

    In the cache, the key of the statistics contains everything on which the statistics depend, except the network. This
    includes the values in ``key``, such as the precision of the network.
    """

    def compute() -> Statistics:
        painting = fit(style.image.to(device), style.size)
        return statistics(activations_of, painting, style, preset, tiles_of(painting))

    size = fitted_size(style.image, style.size)
    painting_hash = style.painting_hash or fingerprint(style.image, *style.masks)
    wanted = tuple(share > 0 for share in style.shares)
    return cache.of_painting((painting_hash, size, wanted, preset.style_loss, tuple(preset.style), *key), compute)


def _capture_photo(
    activations_of: ActivationsOf, photo: Tensor, preset: Preset, tiles: Sequence[Tile]
) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
    """Return the photo's activations in the content layers, and the size (H, W) of its activations in each style layer.

    The result is a pair of dictionaries whose keys are layer names.
    """
    parts: dict[str, list[Tensor]] = {layer: [] for layer in preset.content}
    layer_sizes: dict[str, tuple[int, int]] = {}
    for _, activations in _passes(activations_of, photo, tiles):
        layer_sizes = {layer: _size(tiles, layer, activations[layer]) for layer in preset.style}
        for layer, of_tiles in parts.items():
            of_tiles.append(activations[layer])
    return {layer: join(tiles, layer, parts.pop(layer)) for layer in [*parts]}, layer_sizes


def _content_loss(target: Tensor, emphasis: Tensor | None) -> ContentLoss:
    """Return the content loss of a layer, given the photo's activations (1, C, H, W) in the layer."""
    weights = position_weights(emphasis, (target.shape[2], target.shape[3]), target.device)
    assert weights is not None  # the emphasis is positive everywhere
    return ContentLoss(target, weights)


def _style_terms(
    styles: Sequence[Style],
    known: Sequence[Statistics],
    preset: Preset,
    regions: Sequence[Tensor | None],
    layer_sizes: Mapping[str, tuple[int, int]],
    device: torch.device,
) -> list[Term]:
    """Return the terms of the style loss, one for each combination of a region of the photo and a style layer.

    The weight of a term is proportional to the area of its region. Regions whose style comes from no painting have no
    terms.
    """
    terms = []
    for number, region in enumerate(regions):
        area = 1.0 if region is None else region.mean().item()
        for layer, weight in preset.style.items():
            positions = position_weights(region, layer_sizes[layer], device)
            targets = [
                (style.shares[number], of_style[layer, number])
                for style, of_style in zip(styles, known, strict=True)
                if (layer, number) in of_style
            ]
            if positions is not None and targets:
                loss = STYLE_LOSSES[preset.style_loss](targets, positions)
                terms.append(_term("style", layer, area * weight, loss, preset, device))
    return terms


def _term(part: str, layer: str, weight: float, loss: Loss, preset: Preset, device: torch.device) -> Term:
    """Return a term of the total loss.

    If :attr:`Preset.relative` is True, the term's weight is ``weight`` divided by :attr:`Loss.scale`, the magnitude of
    the loss's target. The term is then ``weight`` times a relative error.
    """
    scale = loss.scale if preset.relative else 1.0
    return Term(part, layer, torch.tensor(weight / scale, device=device), loss)


def statistics(
    activations_of: ActivationsOf, painting: Tensor, style: Style, preset: Preset, tiles: Sequence[Tile]
) -> Statistics:
    """Compute the statistics of ``painting`` (1, 3, H, W) for each style layer and each region that uses the painting.

    For each region of the photo, ``style`` holds the painting's share in the style of the region, and the part of the
    painting that gives the region its style.
    """
    kind = STYLE_LOSSES[preset.style_loss]
    found: Statistics = {}
    for tile, activations in _passes(activations_of, painting, tiles):
        for layer in preset.style:
            for number, (share, mask) in enumerate(zip(style.shares, style.masks, strict=True)):
                positions = position_weights(mask, _size(tiles, layer, activations[layer]), painting.device)
                if positions is not None and share:
                    statistic = kind.statistic(activations[layer], positions, tile.windows[layer])
                    before = found.get((layer, number))
                    found[layer, number] = statistic if before is None else kind.join([before, statistic])
    return found


def position_weights(mask: Tensor | None, size: tuple[int, int], device: torch.device) -> Tensor | None:
    """Return the weights of a layer's positions, (H, W), which are proportional to ``mask`` and add up to 1.

    ``mask`` (1, 1, H, W) is resized to ``size``, the height and width of the layer's activations. Without a mask, all
    weights are equal, and the result is a scalar tensor. If the mask is 0 everywhere, the result is None.
    """
    if mask is None:
        return torch.tensor(1 / (size[0] * size[1]), device=device)
    weights = interpolate(mask.to(device), size, mode="bilinear", antialias=True)[0, 0]
    return weights / weights.sum() if weights.sum() > 0 else None


def _passes(
    activations_of: ActivationsOf, image: Tensor, tiles: Sequence[Tile]
) -> Iterator[tuple[Tile, dict[str, Tensor]]]:
    for tile in tiles:
        yield tile, tile.own(activations_of(tile.show(image)))
    if len(tiles) > 1:
        release_kept_memory()


def _size(tiles: Sequence[Tile], layer: str, activation: Tensor) -> tuple[int, int]:
    """Return the height and width (H, W) of a layer's activations for the whole picture.

    ``activation`` holds the layer's activations in one of the tiles. If there is only one tile, the size of
    ``activation`` is returned. Otherwise, the size is read from the last tile's :attr:`Tile.windows`.
    """
    rows, columns = tiles[-1].windows[layer]
    return rows.stop or activation.shape[2], columns.stop or activation.shape[3]


def join(tiles: Sequence[Tile], layer: str, parts: Sequence[Tensor]) -> Tensor:
    """Assemble ``parts``, a layer's activations in each tile, into the layer's activations for the whole picture."""
    if len(tiles) == 1:
        return parts[0]
    whole = parts[0].new_empty(*parts[0].shape[:2], *_size(tiles, layer, parts[0]))
    for tile, part in zip(tiles, parts, strict=True):
        rows, columns = tile.windows[layer]
        whole[:, :, rows, columns] = part
    return whole
