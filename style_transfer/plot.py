"""Plots of the loss over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dreamgram.image_optimization.images import replacing


def save_plot(history: Sequence[Tensor], sizes: Sequence[int], path: Path) -> None:
    """Plot the loss over the steps and save the plot as PNG, SVG or PDF.

    Args:
        history: the losses (steps,) of each scale. ``history`` is shorter than ``sizes`` if the run was interrupted.
        sizes: the longer side of each scale, in pixels.
        path: the file to write.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xlabel="step", ylabel="loss", yscale="log" if all((losses > 0).all() for losses in history) else "linear"
    )
    first = 1
    for losses, size in zip(history, sizes, strict=False):  # an interrupted run has fewer losses
        axes.plot(range(first, first + len(losses)), losses.tolist(), label=f"{size} px")
        first += len(losses)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=150, format=path.suffix[1:])
