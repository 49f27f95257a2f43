"""One figure of the table in docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str
    target: str
    result: str = ""
    """What was reached in that time: the loss or the activation."""

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.3g} {self.unit} (target {self.target}) {self.result}".rstrip()
