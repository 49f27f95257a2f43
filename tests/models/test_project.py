"""Files of the user's that import the modules beside them."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dreamgram.models import load


def write(folder: Path, **sources: str) -> None:
    """Write Python files, named without ``.py`` and from the inside out: ``init_in_zoo`` is zoo/__init__.py."""
    for name, source in sources.items():
        *folders, stem = reversed(name.split("_in_"))
        file = folder.joinpath(*folders, "__init__" if stem == "init" else stem).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)


def width(channels: int) -> str:
    return f"from torch import nn\ndef block():\n    return nn.Conv2d(1, {channels}, 3)\n"


BUILD = "def build():\n    return block()\n"

LAZY = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        from sizes import channels
        self.conv = nn.Conv2d(1, channels, 3)
    def forward(self, x):
        import sizes.factors as f, sizes
        return self.conv(x) * f.factor + sizes.offset
def build():
    return Net()
"""


def channels(model: nn.Module) -> int:
    [conv] = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return conv.out_channels


@pytest.fixture(autouse=True)
def _current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("statement", ["from blocks import block", "from .blocks import block", "from blocks import *"])
def test_a_file_imports_its_neighbor(tmp_path: Path, statement: str) -> None:
    write(tmp_path / "a", net=f"{statement}\n{BUILD}", blocks=width(7))
    before = sys.path.copy()
    assert channels(load("a/net.py:build")) == 7
    assert "blocks" not in sys.modules
    assert "net" not in sys.modules
    assert sys.path == before


def test_two_files_of_one_name_with_neighbors_of_one_name(tmp_path: Path) -> None:
    for folder, count in (("a", 3), ("b", 5)):
        build = "def build():\n    from blocks import block\n    import blocks\n    assert blocks.block is block\n"
        write(tmp_path / folder, net=build + "    return block()\n", blocks=width(count))
    first, second = load("a/net.py:build"), load("b/net.py:build")
    assert (channels(first), channels(second)) == (3, 5)
    assert channels(load("a/net.py:build")) == 3


def test_imports_inside_functions_find_the_modules_of_their_own_project(tmp_path: Path) -> None:
    for folder, factor in (("a", 2), ("b", 3)):
        write(tmp_path / folder, net=LAZY, init_in_sizes="channels = 4\noffset = 10\n")
        write(tmp_path / folder, factors_in_sizes=f"factor = {factor}\n")
    nets = [load(f"{folder}/net.py:build") for folder in "ab"]
    image = torch.rand(1, 1, 8, 8)
    for net, factor in zip(nets, (2, 3), strict=True):
        torch.testing.assert_close(net(image), net.get_submodule("conv")(image) * factor + 10)


def test_a_file_in_a_package(tmp_path: Path) -> None:
    source = "from .blocks import block\nfrom zoo.nets import blocks\nfrom .. import top\nimport types, zoo.top\n"
    source += "assert blocks.block is block and zoo.top is top and types.ModuleType\n" + BUILD
    write(
        tmp_path, init_in_zoo="", top_in_zoo="", init_in_nets_in_zoo="from .net import build", net_in_nets_in_zoo=source
    )
    write(tmp_path, blocks_in_nets_in_zoo=width(6), types_in_nets_in_zoo="this is a module of the package")
    assert channels(load("zoo/nets/net.py:build")) == 6
    assert channels(load("zoo/nets/__init__.py:build")) == 6


@pytest.mark.parametrize("name", ["models", "init_in_models", "workbench", "torch_blocks"])
def test_modules_of_the_current_folder(tmp_path: Path, name: str) -> None:
    module = name.removeprefix("init_in_")
    write(tmp_path, **{name: width(8)}, net_in_lib=f"from {module} import block\n{BUILD}")
    assert channels(load("lib/net.py:build")) == 8


def test_folders_without_init(tmp_path: Path) -> None:
    write(tmp_path, net_in_lib=f"from parts.blocks import block\n{BUILD}", blocks_in_parts_in_lib=width(9))
    assert channels(load("lib/net.py:build")) == 9


def test_installed_packages_are_shared_and_not_hidden(tmp_path: Path) -> None:
    """A folder that is called like an installed package, such as a clone of it, hides nothing."""
    source = "import torch, logging, safetensors\nfrom dreamgram.models.digits import DigitCNN\ndef build():\n"
    write(tmp_path, net=source + "    assert safetensors.safe_open and torch.rand\n    return DigitCNN()\n")
    write(tmp_path, init_in_dreamgram="wrong", notes_in_safetensors="wrong", logging="wrong", notes_in_torch="wrong")
    assert type(load("net.py:build")) is type(load("digits"))


def test_an_edited_neighbor_is_read_anew(tmp_path: Path) -> None:
    write(tmp_path, net=f"from blocks import block\n{BUILD}", blocks=width(3))
    assert channels(load("net.py:build")) == 3
    write(tmp_path, blocks=width(11))
    assert channels(load("net.py:build")) == 11


def test_a_loaded_model_can_be_copied_pickled_and_compiled(tmp_path: Path) -> None:
    write(tmp_path, net=LAZY.replace("import sizes.factors as f, sizes", "f = scale; sizes = scale"))
    write(tmp_path, sizes="channels = 4\n", scale="factor = 2\noffset = 1\n")
    net = tmp_path / "net.py"
    net.write_text("import scale\n" + net.read_text())
    model = load("net.py:build")
    image = torch.rand(1, 1, 8, 8)
    compiled = torch.compile(model, backend="eager")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), compiled):
        torch.testing.assert_close(other(image), model(image))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"net": "import blocs\n"}, r"net\.py cannot be run: ModuleNotFoundError: No module named 'blocs' \(net\.py, "),
        ({"net": "from .blocs import x\n"}, r"No module named 'blocs' \(net\.py, line 1\)"),
        ({"net": "\nimport blocks", "blocks": "\n\nx = y\n"}, r"name 'y' is not defined \(blocks\.py, line 3\)"),
        ({"net": "import blocks", "blocks": "x ="}, r"net\.py cannot be run: SyntaxError: .*\(blocks\.py, line 1\)$"),
        ({"net": "from blocks import x", "blocks": ""}, r"cannot import name 'x' from 'blocks' \(.*blocks\.py\)"),
        ({"net": "raise SystemExit('usage')"}, r"net\.py cannot be run: SystemExit: usage \(net\.py, line 1\)"),
        ({"net": "def build():\n    raise ValueError('a\\nb')"}, r"build\(\) in net\.py failed: ValueError: a b \(net"),
        ({"net": "def build():\n    import blocs"}, r"build\(\) in net\.py failed: .*'blocs' \(net\.py, line 2\)"),
    ],
)
def test_errors_are_one_line_and_name_the_place(tmp_path: Path, sources: dict[str, str], message: str) -> None:
    write(tmp_path, **sources)
    with pytest.raises(ValueError, match=message) as error:
        load("net.py:build")
    assert "\n" not in str(error.value)
    assert "_dreamgram" not in str(error.value)
