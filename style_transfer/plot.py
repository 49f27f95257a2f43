"""Plots of the loss against the optimization step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dreamgram.image_optimization.images import replacing


def save_plot(history: Sequence[Tensor], scales: Sequence[int], path: Path) -> None:
    """Plot the loss against the optimization step and save the plot as PNG, SVG or PDF.

    Args:
        history: one tensor (steps,) for each scale (a size at which the image was optimized), with the loss before each
            step. If the run was interrupted, ``history`` may be shorter than ``scales``.
        scales: the longer side of the image at each scale, in pixels.
        path: the file to write; its extension determines the format.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xlabel="step", ylabel="loss", yscale="log" if all((losses > 0).all() for losses in history) else "linear"
    )
    first = 1
    for losses, scale in zip(history, scales, strict=False):  # an interrupted run has fewer losses
        axes.plot(range(first, first + len(losses)), losses.tolist(), label=f"{scale} px")
        first += len(losses)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=150, format=path.suffix[1:])
