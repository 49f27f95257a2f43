"""Measured figures, such as times, for the table in docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A measured figure, such as a time or a ratio of times: one row of the table in docs/benchmarks.md."""

    name: str
    """Name of the figure, as in the first column of the table."""
    value: float
    """Measured value; NaN if Dreamgram did not reach the loss or activation of the program that it is compared with."""
    unit: str
    """Unit of the value."""
    target: str
    """Target value, such as ``>= 5``; empty if there is no target."""
    result: str = ""
    """Details, such as the loss or the activation that was reached."""

    def __str__(self) -> str:
        """Return the figure as one line of text for the terminal."""
        return f"{self.name}: {self.value:.3g} {self.unit} (target {self.target}) {self.result}".rstrip()
