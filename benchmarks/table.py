"""Measure all figures in the first table of docs/benchmarks.md: ``make bench``.

The benchmarks run in turn, several times, each time in a separate process. The median and the range of each figure are
printed, with the difference from the median in the table. ``--write`` replaces the table. With ``--only``, only the
rows of the named benchmarks are measured and replaced.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.figure import Figure

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
MARKS = "<!-- table -->\n", "<!-- end of table -->\n"
COMMITTED = Path(__file__).with_suffix(".json")
"""File that stores the table, so that new measurements can be compared with it."""

BENCHMARKS = ("stylize", "filters", "digits", "roofline", "memory")
"""Benchmarks of the table, in the order of its rows."""

Row = dict[str, Any]
"""A row of the table: its values by name."""


def main(
    runs: Annotated[int, typer.Option(help="Number of times to run each benchmark.")] = 5,
    only: Annotated[list[str], typer.Option(help=f"Benchmark to run: {', '.join(BENCHMARKS)}. Can be repeated.")] = [],  # noqa: B006
    write: Annotated[bool, typer.Option(help="Replace the table in docs/benchmarks.md.")] = False,
) -> None:
    """Measure the figures of the first table in docs/benchmarks.md."""
    figures: dict[str, list[Figure]] = {}
    sources: dict[str, str] = {}
    for number in range(1, runs + 1):
        for benchmark in only or BENCHMARKS:
            for figure in _measure(benchmark):
                figures.setdefault(figure.name, []).append(figure)
                sources[figure.name] = benchmark
                typer.echo(f"{number}/{runs}  {figure}", err=True)
    rows = {name: _row(measured, sources[name]) for name, measured in figures.items()}
    committed = json.loads(COMMITTED.read_text())["rows"] if COMMITTED.exists() else {}
    for name, row in rows.items():
        before = committed.get(name)
        change = f"{100 * (row['median'] / before['median'] - 1):+.0f} % of {before['median']:.3g}" if before else "new"
        typer.echo(f"{name}: {row['median']:.3g} {row['unit']} ({row['low']:.3g} to {row['high']:.3g}), {change}")
    if write:
        kept = {name: row for name, row in committed.items() if row["source"] not in (only or BENCHMARKS)}
        order = sorted([*kept.items(), *rows.items()], key=lambda item: BENCHMARKS.index(item[1]["source"]))
        table = {"machine": _machine(), "runs": runs, "rows": dict(order)}
        COMMITTED.write_text(json.dumps(table, indent=2) + "\n")
        _write(table)


def _measure(benchmark: str) -> list[Figure]:
    """Run a benchmark in a separate process, and return its figures."""
    code = f"import json; from benchmarks.{benchmark} import measure; print(json.dumps([vars(f) for f in measure()]))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return [Figure(**values) for values in json.loads(done.stdout.splitlines()[-1])]


def _machine() -> str:
    """Describe the processor, the number of its cores and the version of PyTorch in one line."""
    import torch

    flags = torch.cpu.get_capabilities()
    units = [name for key, name in {"avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX"}.items() if flags.get(key)]
    processor = ", ".join([flags.get("cpu_name") or platform.processor(), *units])
    return f"{processor}, {os.cpu_count()} cores, PyTorch {torch.__version__.partition('+')[0]}"


def _row(measured: list[Figure], source: str) -> Row:
    """Return the table's row for one figure, which the benchmark ``source`` measured several times."""
    values = [figure.value for figure in measured]
    middle = statistics.median(values)
    typical = min(measured, key=lambda figure: abs(figure.value - middle))
    about = {"unit": typical.unit, "target": typical.target, "result": typical.result, "source": source}
    return {"median": middle, "low": min(values), "high": max(values), **about}


def _write(table: dict[str, Any]) -> None:
    """Put ``table`` into docs/benchmarks.md."""
    lines = [f"Medians and ranges of {table['runs']} runs on {table['machine']}.\n"]
    lines += [
        "| what is measured | median | range | target | in the median run | `python -m` |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in table["rows"].items():
        span = f"{row['low']:.3g} to {row['high']:.3g}"
        middle = f"**{row['median']:.3g} {row['unit']}**"
        lines.append(
            f"| {name} | {middle} | {span} | {row['target']} | {row['result']} | `benchmarks.{row['source']}` |"
        )
    text = DOCUMENT.read_text()
    before, after = text.partition(MARKS[0])[0], text.partition(MARKS[1])[2]
    DOCUMENT.write_text(before + MARKS[0] + "\n".join(lines) + "\n" + MARKS[1] + after)


if __name__ == "__main__":
    typer.run(main)
