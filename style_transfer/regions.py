"""Regions of the photo, each of which can take a different style. The colors of a mask mark the regions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from dreamgram.image_optimization.images import LUMA, fit

SMALLEST_SHARE = 0.005
"""Minimum fraction of a mask's pixels that a color must cover to mark a region. A color that covers a smaller fraction
is treated as part of an edge between two regions."""

MOST_REGIONS = 16
"""Maximum number of regions in a mask that is not a map of labels, for example because JPEG compression has changed its
colors. For a map of labels, the limit is :data:`LABELS`."""

LABELS = 64
"""Maximum number of colors in a map of labels, a mask in which each color is the exact label of one region. A gray mask
is a map of labels if all its gray levels, on a scale from 0 to 255, are below this number. Any other mask with at most
this number of colors is a map of labels if every color covers enough pixels (:data:`RARE`) and forms solid areas
(:data:`INSIDE`)."""

INSIDE = 0.25
"""Minimum fraction of the pixels of each color that must be surrounded by pixels of the same color. A mask in which
the fraction is smaller for some color is not a map of labels, unless all its colors are gray levels below
:data:`LABELS`."""

RARE = 0.001
"""Minimum fraction of a mask's pixels that each color must cover. A mask in which some color covers a smaller
fraction is not a map of labels, unless all its colors are gray levels below :data:`LABELS`."""

WIDEST = 2048
"""Maximum length of a mask's longer side, in pixels. A larger mask is subsampled before the program tests whether the
mask is a map of labels (:data:`LABELS`)."""

STEEP = 0.008
"""Threshold, in [0, 1], for the detection of soft edges. A pixel is on a soft edge if the pixel two columns to its left
differs from the pixel two columns to its right by at least this value in a color channel, or if the pixel two rows
above it differs that much from the pixel two rows below it. The threshold corresponds to two of 255 levels."""

FINEST = 1024
"""Maximum length of the longer side, in pixels, of the masks that :func:`find_regions` computes for the regions. If the
original mask is larger, the computed masks are reduced to this size."""

APART = 0.1
"""Maximum Euclidean distance between two RGB colors in [0, 1] that count as the same color. JPEG compression changes
colors by up to about this distance."""


def find_regions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Find the regions that the colors of a mask (1, 3, H, W) in [0, 1] mark.

    If the mask is a map of labels (:data:`LABELS`), such as a gray picture with the levels 0, 1 and 2 out of 255, each
    color marks one region. Otherwise, each color that covers at least the fraction :data:`SMALLEST_SHARE` of the mask
    marks a region. A pixel whose color lies between the colors of two regions belongs partly to each of them, so that
    soft edges stay soft. Any other pixel belongs to the region with the nearest color. If the longer side of the mask
    exceeds :data:`FINEST`, the returned masks are reduced to that size.

    Returns:
        The colors of the R regions from dark to light, (R, 3), and the mask of each region, (R, 1, H, W) in [0, 1].

    Raises:
        ValueError: the mask is not a map of labels, and the number of its regions is 0 or exceeds
            :data:`MOST_REGIONS`. Such a mask is probably an ordinary picture.
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
        if counts[number] >= SMALLEST_SHARE * len(pixels) and all((color - other).norm() > APART for other in main):
            main.append(color)
    if not 0 < len(main) <= MOST_REGIONS:
        raise ValueError(f"the mask looks like a picture: a mask has at most {MOST_REGIONS} colors, one per region")
    colors = _sorted(main)
    return colors, _shares(pixels, colors).T.reshape(len(colors), 1, *mask.shape[2:])


def _labels(mask: Tensor) -> list[Tensor] | None:
    """Return the colors, (3,) each, of a mask (1, 3, H, W), or None if it is not a map of labels (:data:`LABELS`)."""
    levels = (mask[0] * 255).round()
    if (levels - mask[0] * 255).abs().max() > 0.01:
        return None
    codes = (levels * torch.tensor([65536.0, 256, 1]).view(3, 1, 1)).sum(0)  # below 2^24, so exact in float32
    found, places, counts = codes.flatten().unique(return_inverse=True, return_counts=True)
    if len(found) > LABELS:
        return None
    first = torch.zeros_like(places[: len(found)]).scatter(0, places, torch.arange(len(places)))  # one pixel per color
    colors = mask[0].flatten(1).T[first]
    if (colors == colors[:, :1]).all() and levels.max() < LABELS:
        return list(colors)
    inside = torch.bincount(places[_amid_its_like(codes)], minlength=len(found))
    return None if (inside < INSIDE * counts).any() or counts.min() < RARE * len(places) else list(colors)


def _amid_its_like(codes: Tensor) -> Tensor:
    """Return a boolean tensor (H W,) that is True for each pixel which is surrounded by pixels of the same color.

    ``codes`` (H, W) holds a number for the color of each pixel. A pixel is surrounded if four other pixels have the
    same number. Each of the four is at a distance of two pixels: one to the left, one to the right, one above and one
    below.
    """
    wide = pad(codes[None, None], (2, 2, 2, 2), mode="replicate")[0, 0]
    around = wide[2:-2, 4:], wide[2:-2, :-4], wide[4:, 2:-2], wide[:-4, 2:-2]
    return torch.stack([side == codes for side in around]).all(0).flatten()


def _sorted(colors: Sequence[Tensor]) -> Tensor:
    """Sort the colors, (3,) each, from dark to light and stack them into a tensor (R, 3)."""
    return torch.stack(sorted(colors, key=lambda color: ((color * LUMA[:, 0, 0]).sum().item(), color.tolist())))


def _plain(mask: Tensor) -> Tensor:
    """Return a boolean tensor (H W,) that is True for each pixel of a mask (1, 3, H, W) that is not on a soft edge.

    A pixel is not on a soft edge if the pixel two columns to its left has almost the same color as the pixel two
    columns to its right, and the pixel two rows above it has almost the same color as the pixel two rows below it.
    """
    wide = pad(mask, (2, 2, 2, 2), mode="replicate")
    across = (wide[:, :, 2:-2, 4:] - wide[:, :, 2:-2, :-4]).abs()
    down = (wide[:, :, 4:, 2:-2] - wide[:, :, :-4, 2:-2]).abs()
    return (torch.maximum(across, down).amax(1) < STEEP).flatten()


def _shares(pixels: Tensor, colors: Tensor) -> Tensor:
    """Return the fraction of each of P pixels that belongs to each of R regions, (P, R).

    ``pixels`` (P, 3) are the colors of the pixels, and ``colors`` (R, 3) are the colors of the regions. If the color of
    a pixel lies between the colors of the two regions with the nearest colors, the pixel is divided between these two
    regions. Any other pixel belongs to the region with the nearest color. The fractions of a pixel add up to 1.
    """
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
    """Divide the photo among the styles, each of which is given by one painting.

    Args:
        content_mask: a mask (1, 3, H, W) in [0, 1] whose colors mark the regions of the photo; see
            :func:`find_regions`. If it is None, the whole photo is one region.
        style_masks: one mask for each style. In the mask, the part of the painting to use for a region has the color
            that the region has in ``content_mask``. If there are no style masks, the region with the darkest color
            takes the first style, and so on to the lightest.
        shares: the weights by which several styles are blended in the same region, one for each style.

    Returns:
        Three lists. The first holds one mask for each region of the photo. The second holds one list for each style,
        with one mask for each region, which marks the part of the style's painting to use in the region. The third
        holds one list for each style, with the style's weight in each region. The masks are (1, 1, H, W) in [0, 1];
        None means the whole picture. In each region, the weights of all styles add up to 1.

    Raises:
        ValueError: there are style masks but no content mask; the number of style masks differs from the number of
            styles; there are no style masks, and the number of regions in the content mask differs from the number of
            styles; the color of a region is missing from all style masks; or a mask has no regions or too many regions.
    """
    style_count = len(shares)
    if content_mask is None:
        if style_masks:
            raise ValueError("style masks refer to the regions of a content mask: give a content mask too")
        return [None], [[None]] * style_count, [[share] for share in shares]
    colors, regions = find_regions(content_mask)
    region_count = len(colors)
    masks: list[list[Tensor | None]] = [[None] * region_count for _ in range(style_count)]
    if not style_masks:
        if style_count != region_count:
            found = ", ".join(map(describe, colors))
            raise ValueError(
                f"the content mask has {region_count} region{'s' * (region_count != 1)}, from dark to light {found}, "
                f"but {style_count} style{'s are' if style_count != 1 else ' is'} given"
            )
        own = torch.eye(region_count)
    else:
        if len(style_masks) != style_count:
            raise ValueError(
                f"{style_count} style{'s' * (style_count != 1)} but {len(style_masks)} style "
                f"mask{'s' * (len(style_masks) != 1)}; give one for each"
            )
        own = torch.zeros(style_count, region_count)
        apart = torch.pdist(colors).min().item() / 2 if region_count > 1 else math.inf
        for number, mask in enumerate(style_masks):
            for color, part in zip(*find_regions(mask), strict=True):
                distances = (colors - color).norm(dim=1)
                if distances.min() < min(2 * APART, apart):
                    nearest = int(distances.argmin())
                    before = masks[number][nearest]
                    masks[number][nearest] = part[None] if before is None else torch.maximum(before, part[None])
                    own[number, nearest] = shares[number]
        missing = [describe(color) for color, column in zip(colors, own.T, strict=True) if not column.any()]
        if missing:
            raise ValueError(f"no style mask has the color {' or '.join(missing)} of the content mask")
    parts = own / own.sum(0)
    return [region[None] for region in regions], masks, parts.tolist()


def without_margin(painting: Tensor, margin: float) -> Tensor:
    """Return ``painting`` (1, 3, H, W) without strips along its edges, where scans often show a frame.

    ``margin`` is the width of the strips, as a fraction of the painting's shorter side, from 0 up to but not including
    0.5.
    """
    height, width = painting.shape[2:]
    strip = int(margin * min(height, width))
    return painting[:, :, strip : height - strip, strip : width - strip]


def check_proportions(name: str, mask: Tensor, picture: Tensor) -> None:
    """Check that ``mask`` has approximately the same aspect ratio as ``picture``.

    ``mask`` is a mask or the image from which the optimization starts. It is later resized to the size of ``picture``.
    ``name`` describes ``mask`` in the error message.

    Raises:
        ValueError: the aspect ratios differ too much.
    """
    (height, width), (tall, wide) = mask.shape[2:], picture.shape[2:]
    if abs(height * wide - width * tall) > 0.02 * height * wide + max(tall, wide):
        raise ValueError(
            f"the {name} has {width}x{height} pixels; its proportions differ from those of its picture, {wide}x{tall}"
        )


def describe(color: Tensor) -> str:
    """Return the hexadecimal code, such as #1f77b4, of a color (3,) in [0, 1]."""
    return "#" + "".join(f"{round(level * 255):02x}" for level in color.tolist())
