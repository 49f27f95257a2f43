"""The loss over the steps, as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def save_plot(history: Sequence[Tensor], sizes: Sequence[int], path: Path) -> None:
    """Write a plot of the losses (steps,) at each scale; ``sizes`` are the longer sides. PNG, SVG or PDF."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from image_optimization.images import whole

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xlabel="step", ylabel="loss", yscale="log" if all((losses > 0).all() for losses in history) else "linear"
    )
    first = 1
    for losses, size in zip(history, sizes, strict=False):  # fewer, if it was interrupted
        axes.plot(range(first, first + len(losses)), losses.tolist(), label=f"{size} px")
        first += len(losses)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with whole(path) as beside:
        figure.savefig(beside, dpi=150, format=path.suffix[1:])
