"""Regions: which part of the photo takes which style."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from image_optimization.images import LUMA, fit

SMALLEST = 0.005
"""Share of a mask's pixels below which a colour is the edge between two regions, not a region."""

MOST = 16
"""Regions of a mask whose colours are not exact."""

LABELS = 64
"""A gray mask of levels below that, out of 255, is a map of labels; so is one of no more colours than that, if
:data:`INSIDE` of each one's pixels have only their like around, and it is on :data:`RARE` of all at least."""

INSIDE, RARE = 0.25, 0.001

WIDEST = 2048
"""Pixels of the longer side of such a map that are looked at."""

STEEP = 0.008
"""Difference of two pixels four apart, in [0, 1], from which on they are on a soft edge: two levels of 8 bits."""

FINEST = 1024
"""Pixels of a mask's longer side that are looked at."""

APART = 0.1
"""Distance of two colours, in [0, 1] of each channel, below which they are the same: JPEG's, say."""


def find_regions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The colours of a mask (1, 3, H, W) in [0, 1], dark to light, (R, 3), and where they are: (R, 1, H, W) in [0, 1].

    In a mask of few exact colours, such as labels 0, 1, 2, each is a region. Otherwise each pixel belongs to the
    nearest of the colours that cover a good part of the mask; one of a shade between two of them to both, in parts, so
    that soft edges stay soft. A large mask is made smaller.

    Raises:
        ValueError: there are more than :data:`MOST`, or none: this is a picture, not a mask.
    """
    size = min(FINEST, max(mask.shape[2:]))
    every = -(-max(mask.shape[2:]) // WIDEST)
    exact = mask[:, :, ::every, ::every]
    if (labels := _labels(exact)) is not None:
        colors = _sorted(labels)
        where = ((exact == color[:, None, None]).all(1, True).float() for color in colors)
        return colors, torch.cat([fit(each, size) for each in where])
    mask = fit(mask, size)
    pixels = mask[0].flatten(1).T
    levels, counts = (pixels[_plain(mask)] * 31).round().unique(dim=0, return_counts=True)
    main: list[Tensor] = []
    for number in counts.argsort(descending=True).tolist():
        color = levels[number] / 31
        if counts[number] >= SMALLEST * len(pixels) and all((color - other).norm() > APART for other in main):
            main.append(color)
    if not 0 < len(main) <= MOST:
        raise ValueError(f"a mask has at most {MOST} plain colours, one for each region: this is a picture")
    colors = _sorted(main)
    return colors, _shares(pixels, colors).T.reshape(len(colors), 1, *mask.shape[2:])


def _labels(mask: Tensor) -> list[Tensor] | None:
    """The colours of an exact mask (1, 3, H, W), each (3,); None, if it is not exact."""
    levels = (mask[0] * 255).round()
    if (levels - mask[0] * 255).abs().max() > 0.01:
        return None
    codes = (levels * torch.tensor([65536.0, 256, 1]).view(3, 1, 1)).sum(0)  # below 2^24: exact in float32
    found, places, counts = codes.flatten().unique(return_inverse=True, return_counts=True)
    if len(found) > LABELS:
        return None
    first = torch.zeros_like(places[: len(found)]).scatter(0, places, torch.arange(len(places)))  # or any other
    colors = mask[0].flatten(1).T[first]
    if (colors == colors[:, :1]).all() and levels.max() < LABELS:
        return list(colors)
    inside = torch.bincount(places[_amid_its_like(codes)], minlength=len(found))
    return None if (inside < INSIDE * counts).any() or counts.min() < RARE * len(places) else list(colors)


def _amid_its_like(codes: Tensor) -> Tensor:
    """Which (P,) of numbers (H, W) have the same number two places away, on all four sides."""
    wide = pad(codes[None, None], (2, 2, 2, 2), mode="replicate")[0, 0]
    around = wide[2:-2, 4:], wide[2:-2, :-4], wide[4:, 2:-2], wide[:-4, 2:-2]
    return torch.stack([side == codes for side in around]).all(0).flatten()


def _sorted(colors: Sequence[Tensor]) -> Tensor:
    """Dark to light, (R, 3)."""
    return torch.stack(sorted(colors, key=lambda color: ((color * LUMA[:, 0, 0]).sum().item(), color.tolist())))


def _plain(mask: Tensor) -> Tensor:
    """Which pixels (P,) of a mask (1, 3, H, W) are not on a soft edge: two pixels to each side it is the same."""
    wide = pad(mask, (2, 2, 2, 2), mode="replicate")
    across = (wide[:, :, 2:-2, 4:] - wide[:, :, 2:-2, :-4]).abs()
    down = (wide[:, :, 4:, 2:-2] - wide[:, :, :-4, 2:-2]).abs()
    return (torch.maximum(across, down).amax(1) < STEEP).flatten()


def _shares(pixels: Tensor, colors: Tensor) -> Tensor:
    """Of each pixel (P, 3) between the nearest two of ``colors`` (R, 3): (P, R), 1 in sum."""
    if len(colors) == 1:
        return torch.ones(len(pixels), 1)
    first, second = torch.cdist(pixels, colors).topk(2, largest=False).indices.T
    way = colors[second] - colors[first]
    part = ((pixels - colors[first]) * way).sum(1) / way.square().sum(1)
    aside = (pixels - colors[first] - part[:, None] * way).norm(dim=1)
    part = torch.where((part > APART) & (aside < APART), part, 0)
    shares = torch.zeros(len(pixels), len(colors))
    return shares.scatter(1, first[:, None], 1 - part[:, None]).scatter(1, second[:, None], part[:, None])


def divide(
    content_mask: Tensor | None, style_masks: Sequence[Tensor], shares: Sequence[float]
) -> tuple[list[Tensor | None], list[list[Tensor | None]], list[list[float]]]:
    """Who paints what: the regions of the photo, and for each style its own regions and its shares of the photo's.

    Regions are masks (1, 1, H, W) in [0, 1]; None is everywhere. For a region the shares are 1 in sum.

    Raises:
        ValueError: masks and styles do not go together.
    """
    styles = len(shares)
    if content_mask is None:
        if style_masks:
            raise ValueError("style masks say where the styles of the content mask's regions are: give that one too")
        return [None], [[None]] * styles, [[share] for share in shares]
    colors, regions = find_regions(content_mask)
    count = len(colors)
    masks: list[list[Tensor | None]] = [[None] * count for _ in range(styles)]
    if not style_masks:
        if styles != count:
            found = ", ".join(map(describe, colors))
            raise ValueError(
                f"the content mask has {count} region{'s' * (count != 1)}, from dark to light {found}, "
                f"but {styles} style{'s are' if styles != 1 else ' is'} given"
            )
        own = torch.eye(count)
    else:
        if len(style_masks) != styles:
            raise ValueError(
                f"{styles} style{'s' * (styles != 1)} but {len(style_masks)} style "
                f"mask{'s' * (len(style_masks) != 1)}; give one for each"
            )
        own = torch.zeros(styles, count)
        apart = torch.pdist(colors).min().item() / 2 if count > 1 else math.inf
        for style, mask in enumerate(style_masks):
            for color, part in zip(*find_regions(mask), strict=True):
                distances = (colors - color).norm(dim=1)
                if distances.min() < min(2 * APART, apart):
                    region = int(distances.argmin())
                    before = masks[style][region]
                    masks[style][region] = part[None] if before is None else torch.maximum(before, part[None])
                    own[style, region] = shares[style]
        missing = [describe(color) for color, column in zip(colors, own.T, strict=True) if not column.any()]
        if missing:
            raise ValueError(f"no style mask has the colour {' or '.join(missing)} of the content mask")
    parts = own / own.sum(0)
    return [region[None] for region in regions], masks, parts.tolist()


def check_proportions(name: str, mask: Tensor, picture: Tensor) -> None:
    """A mask is stretched over its picture, if it is clear that it belongs to it.

    Raises:
        ValueError: the proportions differ.
    """
    (height, width), (tall, wide) = mask.shape[2:], picture.shape[2:]
    if abs(height * wide - width * tall) > 0.02 * height * wide + max(tall, wide):
        raise ValueError(f"the {name} has {width}x{height} pixels: other proportions than its picture's {wide}x{tall}")


def describe(color: Tensor) -> str:
    """A colour as #rrggbb."""
    return "#" + "".join(f"{round(level * 255):02x}" for level in color.tolist())
