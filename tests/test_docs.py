"""The documentation: its links, the commands that it names, its Python examples, and American spelling."""

from __future__ import annotations

import re
import subprocess
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest

from docs import make_options
from dreamgram.workbench.console import flags_of

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "models/weights/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PYTHON = re.compile(r"^ *```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"python (?:-m benchmarks\.(\w+)|benchmarks/(\w+)\.py)")
BRITISH = re.compile(r"colour|\bgrey|neighbour|behaviour|licence|\bcentre", re.IGNORECASE)
QUOTED = re.compile(r'"[^"\n]*"')
"""Quoted text, such as titles of papers, which keep their original spelling."""

named = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@named
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


@named
def test_benchmarks_that_are_named_exist(page: Path) -> None:
    for name in COMMAND.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / "benchmarks" / f"{''.join(name)}.py").is_file(), name


@named
def test_python_compiles(page: Path) -> None:
    for code in PYTHON.findall(page.read_text(encoding="utf-8")):
        compile(textwrap.dedent(code), str(page), "exec")


def test_every_benchmark_is_in_the_table() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    sources = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")}
    commands = {name for name, source in sources.items() if "__main__" in source} - {"table", "gallery"}  # make
    assert commands == {"".join(name) for name in COMMAND.findall(page)}


def test_american_spelling() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    assert "README.md" in listed.stdout
    for name in set(listed.stdout.split()) - {Path(__file__).relative_to(ROOT).as_posix()}:
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            assert not BRITISH.search(QUOTED.sub("", line)), f"{name}:{number}: {line.strip()}"


def test_an_option_has_the_same_name_in_python() -> None:
    """The page of options says so."""
    for command in make_options.commands().values():
        for each in fields(command.options):
            assert flags_of(each)[0] in (f"--{each.name.replace('_', '-')}", each.name.upper())
