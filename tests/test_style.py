"""Rules of style that can be checked automatically. CONTRIBUTING.md gives the reasons."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import make_options
from tests.test_package import PACKAGES, ROOT

FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
FRONT_ENDS = {
    *(ROOT / "workbench" / "console.py", ROOT / "workbench" / "interrupts.py"),
    *(ROOT / "dreamgram" / "cli.py", ROOT / "models" / "train_digits.py"),
}
"""Files that may print and exit."""

PRINTING = {
    *("print", "exit", "quit", "SystemExit", "sys.exit", "os._exit", "os.write", "os.fdopen"),
    *("sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "warnings.warn", "traceback.print_exc"),
}
"""Names with which code could print or exit."""

OPENINGS = {
    *("of", "in", "whose", "which", "what", "that", "those", "by", "to", "from", "with", "as", "where", "how"),
    *("whether", "for", "at", "on", "before", "after", "between", "beside", "around", "without", "per", "within"),
    *("if", "when"),
}
"""Words that begin a fragment rather than a sentence."""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Yield each Python file of the packages with its syntax tree."""
    for file in FILES:
        yield file, ast.parse(file.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module, its classes, its functions, and the constants and fields assigned in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text
        if isinstance(node, ast.Module | ast.ClassDef):
            for name, text_of in zip(node.body, node.body[1:], strict=False):
                if isinstance(name, ast.Assign | ast.AnnAssign) and isinstance(text_of, ast.Expr):
                    yield ast.literal_eval(text_of.value)


def test_docstrings_open_as_sentences() -> None:
    texts = [text for _, tree in trees() for text in docstrings(tree)]
    fragments = [text for text in texts if text.split()[0].lower() in OPENINGS]
    assert len(fragments) <= 0.02 * len(texts), fragments


def test_functions_fit_on_a_screen() -> None:
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                lines = (
                    node.end_lineno - node.lineno + 1 - len((ast.get_docstring(node, clean=False) or "").splitlines())
                )
                assert lines <= 60, f"{file}: {node.name} has {lines} lines"


def test_few_imports_inside_functions() -> None:
    found = [
        f"{file.name}:{inner.lineno}"
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert len(found) <= 40, found


@pytest.mark.parametrize("file", sorted(ROOT.glob("*/cli.py")), ids=lambda file: file.parent.name)
def test_command_lines_are_thin(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 300


def test_only_front_ends_print_and_exit() -> None:
    for file, tree in trees():
        if file in FRONT_ENDS:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call | ast.Attribute):
                used = ast.unparse(node.func if isinstance(node, ast.Call) else node)
                assert used not in PRINTING, f"{file}:{node.lineno}"


def test_only_the_command_lines_know_flags() -> None:
    """An error of the engine is also read by those who call it from Python.

    Help texts are written for the command line. One function returns a whole command that resumes a run.
    """
    known = {*FRONT_ENDS, ROOT / "style_transfer" / "unfinished.py"}
    for file, tree in trees():
        if file in known or file.name in ("cli.py", "options.py"):
            continue
        comments = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]  # such as docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in comments:
                assert not re.search(r"(?<![\w-])--[a-z]", node.value), f"{file}:{node.lineno}"


def test_ctrl_c_has_two_homes() -> None:
    """The optimization loop ends a run with the result so far. The job turns a run without a result into none.

    Code that puts something back may see Ctrl-C, too, but must raise it again.
    """
    homes = {
        file.relative_to(ROOT).as_posix()
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and node.type is not None
        and "KeyboardInterrupt" in ast.unparse(node.type)
        and ast.unparse(node.body[-1]) != "raise"
    }
    assert homes == {"image_optimization/optimize.py", "workbench/job.py"}


def test_the_page_of_options_is_up_to_date() -> None:
    assert make_options.DOCUMENT.read_text(encoding="utf-8") == make_options.text(), "run make docs"
    assert make_options.KEYWORDS.read_text(encoding="utf-8") == make_options.keywords(), "run make docs"


def test_the_tree_can_travel() -> None:
    """Weights and pictures are in the repository, where together they must stay below 60 MB."""
    tracked = [
        path
        for folder in ("models/weights", "outputs/gallery", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*")
    ]
    assert sum(path.stat().st_size for path in tracked if path.is_file()) < 60e6


def test_a_constant_has_one_meaning() -> None:
    """No public constant, alias or class has the name of one in another file."""
    homes: dict[str, set[Path]] = {}
    for file, tree in trees():
        for node in tree.body:
            targets = list(node.targets) if isinstance(node, ast.Assign) else []
            targets += [node.target] if isinstance(node, ast.AnnAssign) else []
            names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
            names += [node.name] if isinstance(node, ast.ClassDef) else []
            for name in names:
                if name[0].isupper():
                    homes.setdefault(name, set()).add(file)
    assert not {name: files for name, files in homes.items() if len(files) > 1}
