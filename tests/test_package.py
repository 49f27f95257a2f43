"""What holds for the package as a whole: what it imports, what it costs to ask for help, what is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "image_optimization", "activation_maximization", "style_transfer")


def imports(package: str) -> set[str]:
    found: set[str] = set()
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found & set(PACKAGES)


def test_nothing_climbs_the_stairs() -> None:
    assert imports("models") <= {"models"}
    assert imports("image_optimization") <= {"image_optimization"}
    assert "style_transfer" not in imports("activation_maximization")
    assert "activation_maximization" not in imports("style_transfer")


@pytest.mark.parametrize("module", ["activation_maximization.cli", "style_transfer.cli"])
def test_help_imports_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module} as cli\n"
        "sys.argv = ['x', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit as ending: assert not ending.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'matplotlib', 'tqdm', 'safetensors', 'psutil', 'cv2'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Usage:" in run.stdout


def test_core_dependencies_and_commands() -> None:
    core = {line.split(">")[0] for line in requires("dreamgram") or [] if "extra ==" not in line}
    assert core == {
        "torch",
        "torchvision",
        "numpy",
        "pillow",
        "matplotlib",
        "safetensors",
        "typer",
        "tqdm",
        "jinja2",
        "psutil",
        "opencv-python-headless",
    }
    commands = {entry.name: entry.value for entry in entry_points(group="console_scripts")}
    assert commands["dream"] == "activation_maximization.cli:main"
    assert commands["stylize"] == "style_transfer.cli:main"


@pytest.mark.parametrize("tool", ["dream", "stylize"])
def test_the_commands_are_on_path(tool: str) -> None:
    program = Path(sys.executable).with_name(tool)
    run = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    assert f"Usage: {tool}" in run.stdout
