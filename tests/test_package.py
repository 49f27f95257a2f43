"""The package as a whole: its imports, its public names, the weight of its help, and what is installed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import import_module
from importlib.metadata import Distribution, distributions
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

import dreamgram as dg

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "image_optimization", "workbench", "activation_maximization", "style_transfer", "dreamgram")
BELOW = {
    "models": {"models"},
    "image_optimization": {"image_optimization"},
    "workbench": {"workbench", "image_optimization", "models"},
    "activation_maximization": {"activation_maximization", "workbench", "image_optimization", "models"},
    "style_transfer": {"style_transfer", "workbench", "image_optimization", "models"},
    "dreamgram": set(PACKAGES),
}
"""For each package, the packages that it may import: itself and packages below it on the stairs."""

HEAVY = {"torch", "torchvision", "numpy", "PIL", "matplotlib", "tqdm", "safetensors", "psutil", "cv2"}
"""Modules that take long to import."""


FOR_ALL = "dreamgram.image_optimization.names"
"""The module that every package may import. It makes error messages and imports nothing of Dreamgram."""


def names_imported(source: str, package: str) -> set[str]:
    """Return the absolute names of the modules, and of the names in modules, that the Python code ``source`` imports.

    ``source`` is the code of a module directly in ``package``. The calls of ``import_module`` and ``__import__`` with a
    text count as imports.
    """
    found: set[str] = set()
    inside = "dreamgram" if package == "dreamgram" else f"dreamgram.{package}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), inside)
            found |= {f"{home}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            texts = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
            # Of an f-string, only the beginning of the name is known, such as "dreamgram.style_transfer.".
            names = [text.rstrip(".") for text in texts if isinstance(text, str)]
            found |= {resolve_name(name, inside) for name in names if name}
    return found


def imported(source: str, package: str) -> set[str]:
    """Return the packages of the project that ``source``, the Python code of a module in ``package``, imports."""
    names = {name for name in names_imported(source, package) if not f"{name}.".startswith(f"{FOR_ALL}.")}
    parts = [name.split(".") for name in names if name.split(".")[0] == "dreamgram"]
    # A name of ``dreamgram`` itself, such as ``dreamgram.load``, counts as an import of the topmost package.
    return {part[1] if len(part) > 1 and part[1] in PACKAGES else "dreamgram" for part in parts}


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_climbs_the_stairs(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        assert imported(file.read_text(encoding="utf-8"), package) <= BELOW[package], file


def test_the_module_for_all_imports_nothing_of_dreamgram() -> None:
    file = ROOT.joinpath(*FOR_ALL.split(".")[1:]).with_suffix(".py")
    assert not {
        name for name in names_imported(file.read_text(encoding="utf-8"), "image_optimization") if "dreamgram" in name
    }


def modules_imported(file: Path) -> set[Path]:
    """Return the files of the checkout that ``file`` imports, including imports inside functions."""
    found: set[Path] = set()
    for name in names_imported(file.read_text(encoding="utf-8"), file.parent.name):
        for module in (name, name.rpartition(".")[0]):
            place = ROOT.joinpath(*module.split(".")[1:]) if module.startswith("dreamgram.") else ROOT / "nothing"
            found |= {path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()}
    return found - {file}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_between_files(package: str) -> None:
    files = {file: modules_imported(file) for file in (ROOT / package).rglob("*.py")}
    while free := [file for file, others in files.items() if not others & set(files)]:
        for file in free:
            del files[file]
    assert not files, f"these files import each other: {sorted(map(str, files))}"


@pytest.mark.parametrize(
    "climbing",
    [
        "from dreamgram.style_transfer.presets import PRESETS",
        "from dreamgram import style_transfer",
        "import dreamgram.style_transfer",
        "def f():\n    import dreamgram as dg",
        "from dreamgram import stylize",
        "from ..style_transfer.presets import PRESETS",
        "from .. import style_transfer",
        "from .. import stylize",
        "import importlib\nimportlib.import_module('dreamgram.style_transfer.presets')",
        "def f():\n    return import_module('..style_transfer', __package__)",
        "import_module(name='dreamgram.style_transfer')",
        "import_module(f'dreamgram.style_transfer.{name}')",
        "__import__('dreamgram.style_transfer')",
    ],
)
@pytest.mark.parametrize("package", ["image_optimization", "activation_maximization"])
def test_a_deliberate_climb_is_seen(climbing: str, package: str) -> None:
    assert not imported(climbing, package) <= BELOW[package]


@pytest.mark.parametrize(
    "allowed",
    [
        "from . import adam",
        "from .adam import Adam",
        "from dreamgram.image_optimization.names import unknown",
        "import_module('timm')",
        "import_module(f'{__package__}.{name}')",
        "import_module(f'.{name}', __package__)",
    ],
)
def test_an_import_within_a_package_is_no_climb(allowed: str) -> None:
    assert imported(allowed, "image_optimization") <= BELOW["image_optimization"]


def test_every_package_may_import_the_module_for_all() -> None:
    assert imported(f"from {FOR_ALL} import unknown", "models") <= BELOW["models"]
    assert not imported("from dreamgram.image_optimization import names, images", "models") <= BELOW["models"]


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("dreamgram.activation_maximization.cli", ["--help"]),
        ("dreamgram.style_transfer.cli", ["--help"]),
        ("dreamgram.cli", ["--help"]),
        ("dreamgram.cli", ["dream", "--help"]),
        ("dreamgram.cli", ["stylize", "--help"]),
    ],
)
def test_help_imports_nothing_heavy(module: str, arguments: list[str]) -> None:
    code = (
        f"import sys, {module} as cli\n"
        f"sys.argv = ['x', *{arguments}]\n"
        "try: cli.main()\n"
        "except SystemExit as ending: assert not ending.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "usage:" in run.stdout.lower()


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, dreamgram; heavy = {HEAVY | {'typer', 'click'}} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_stub_declares_the_public_names_with_their_types() -> None:
    tree = ast.parse((ROOT / "dreamgram" / "__init__.pyi").read_text(encoding="utf-8"))
    declared = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None
            declared |= {alias.asname: (node.module, alias.name) for alias in node.names}
    assert set(declared) == set(dg.__all__)
    for name, (home, original) in declared.items():
        assert name == original
        module = import_module(home)
        value = getattr(module, name, None) or import_module(f"{home}.{name}")
        assert getattr(dg, name) is value


def test_only_images_is_a_module() -> None:
    assert [name for name in dg.__all__ if isinstance(getattr(dg, name), ModuleType)] == ["images"]


def test_the_public_names_are_listed() -> None:
    assert set(dg.__all__) <= set(dir(dg))
    names: dict[str, object] = {}
    exec("from dreamgram import *", names)
    assert set(dg.__all__) <= set(names)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"'dreamgram' has no attribute 'stylise'; did you mean 'stylize'\?$"):
        _ = dg.stylise  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"'dreamgram' has no attribute 'zzz'$"):
        _ = dg.zzz  # type: ignore[attr-defined]
    assert not hasattr(dg, "__wrapped__")


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["--help"], 0, "usage: dreamgram COMMAND", ""),
        (["-h"], 0, "stylize  Paint photos", ""),
        (["-h"], 0, "\nExit codes: 0 done; 1 some files failed", ""),
        ([], 0, "dream    Make pictures", ""),
        (["--version"], 0, f"dreamgram {dg.__version__}\n", ""),
        (["stilize"], 2, "", "error: no command 'stilize'; did you mean 'stylize'? there are dream, stylize\n"),
        (["--versoin"], 2, "", "error: no option '--versoin'; did you mean '--version'? there are --help, --version\n"),
        (["dream", "--help"], 0, "usage: dreamgram dream", ""),
        (["stylize", "--help"], 0, "usage: dreamgram stylize", ""),
    ],
)
def test_the_command_dreamgram(arguments: list[str], code: int, out: str, err: str) -> None:
    run = subprocess.run([sys.executable, "-m", "dreamgram", *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == code
    assert out in run.stdout
    assert run.stderr == err


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the files of the checkout that are installed or needed to install them."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, because building leaves files behind
    shutil.copytree(checkout, source)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, source)
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a folder."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--target", folder, wheel)
    return folder


def pip(command: str, *arguments: object) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", command, *options, *map(str, arguments)], check=True)


def test_the_wheel_has_one_name_and_every_file_of_the_packages(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"dreamgram", f"dreamgram-{dg.__version__}.dist-info"}
    files = [file.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.*")]
    files = [file for file in files if "__pycache__" not in file.parts]
    installed = {file.as_posix() if file.parts[0] == "dreamgram" else f"dreamgram/{file.as_posix()}" for file in files}
    assert {name for name in names if name.startswith("dreamgram/")} == installed
    data = {"image_optimization/natural_magnitude.npz", "activation_maximization/page.html", "py.typed", "__init__.pyi"}
    data |= {"models/weights/vgg16.fp16.safetensors", "models/weights/mnist-sample.npz", "models/weights/README.md"}
    assert {f"dreamgram/{file}" for file in data} <= installed


def test_core_dependencies_and_commands(site: Path) -> None:
    [package] = distributions(name="dreamgram", path=[str(site)])
    assert isinstance(package, Distribution)
    assert package.version == dg.__version__
    core = {line.split(">")[0] for line in package.requires or [] if "extra ==" not in line}
    assert core == {
        "torch",
        "torchvision",
        "numpy",
        "pillow",
        "matplotlib",
        "safetensors",
        "tqdm",
        "jinja2",
        "psutil",
        "typing_extensions",
        "opencv-python-headless",
    }
    commands = {entry.name: entry.value for entry in package.entry_points if entry.group == "console_scripts"}
    assert commands == {
        "dream": "dreamgram.start:dream",
        "stylize": "dreamgram.start:stylize",
        "dreamgram": "dreamgram.start:dreamgram",
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a user's folder that contains modules with the names of Dreamgram's packages."""
    for package in PACKAGES[:-1]:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('this is a package of the user')")
    for module in ("models", "workbench", "cli", "version"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('this is a module of the user')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "out"),
    [
        (["dream", "layers"], "pool2"),
        (["stylize", "--list-styles"], "stained-glass"),
        (["dreamgram", "stylize", "--list-styles"], "stained-glass"),
        ([sys.executable, "-c", "import dreamgram as dg; print(dg.__file__, dg.load('digits'))"], "DigitCNN"),
    ],
)
@pytest.mark.usefixtures("project")
def test_installed_in_a_folder_whose_modules_have_the_same_names(site: Path, command: list[str], out: str) -> None:
    program = [str(site / "bin" / command[0]), *command[1:]] if command[0] != sys.executable else command
    environment = os.environ | {"PYTHONPATH": f".{os.pathsep}{site}"}
    run = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert out in run.stdout
    if command[0] == sys.executable:
        assert str(site) in run.stdout


def test_a_checkout_that_is_not_installed(checkout: Path, photo_file: Path, tmp_path: Path) -> None:
    """Python runs Dreamgram from a checkout, with all installed packages except Dreamgram itself."""
    others = tmp_path / "others"
    others.mkdir()
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(folder).iterdir():
            if "dreamgram" not in path.name:
                (others / path.name).symlink_to(path)
    environment = os.environ | {"PYTHONPATH": str(others)}
    python = [sys.executable, "-S"]
    probe = "import importlib.util as u, importlib.metadata as m; assert u.find_spec('dreamgram') is None; "
    probe += "assert u.find_spec('torch'); assert not list(m.distributions(name='dreamgram'))"
    subprocess.run([*python, "-c", probe], cwd=tmp_path, env=environment, check=True)
    picture = tmp_path / "picture.png"
    options = ["--style", "brushwork", "--size", "32", "--steps", "2", "--output", str(picture)]
    command = [*python, "-m", "dreamgram", "stylize", str(photo_file), *options]
    run = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert picture.is_file()
