"""The notebook in docs/ runs from its first cell to its last, and its pictures are stored in it."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"

FEWER_STEPS = {"size=96, steps=32,": "size=96, steps=4,", "size=192, steps=12)": "size=192, steps=2)"}
"""Changes to the two cells with a large network, whose steps take long. The pictures need not be good."""


def pictures(notebook: nbformat.NotebookNode) -> list[int]:
    """Return the number of pictures that each code cell shows."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in cells]


def test_the_tour_runs() -> None:
    kept = nbformat.read(TOUR, as_version=4)
    again = nbformat.read(TOUR, as_version=4)
    for many, few in FEWER_STEPS.items():
        [cell] = [cell for cell in again.cells if many in cell.source]
        cell.source = cell.source.replace(many, few)
    NotebookClient(again, timeout=300, resources={"metadata": {"path": str(TOUR.parent)}}).execute()
    assert sum(pictures(again)) == 10
    assert pictures(again) == pictures(kept)
    kinds = [kind for cell in again.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert "application/vnd.jupyter.widget-view+json" in kinds  # the progress bar


def test_it_stays_small() -> None:
    assert TOUR.stat().st_size < 1_000_000
