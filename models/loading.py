"""Load a network by its name.

A name is one of this package's own (``digits``, ``vgg16``, ...), ``torchvision:NAME``, ``timm:NAME``, or
``path/to/file.py:function`` for your own function that returns a ``torch.nn.Module``. Your file may import modules from
its folder: see :class:`dreamgram.models.project.Project`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamgram.image_optimization.names import unknown
from dreamgram.models.project import Project
from dreamgram.models.registry import Network, read_weights, registered

if TYPE_CHECKING:
    from torch import nn

_projects: dict[Path, Project] = {}
"""Dictionary from the absolute path of each Python file to the :class:`Project` made when the file was last loaded."""


def networks() -> dict[str, Network]:
    """Return a dictionary from the name of each network in this package to its :class:`Network`, sorted by name."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return dict(sorted(registered.items()))


def load(name: str, weights: Path | None = None) -> nn.Module:
    """Load the network called ``name`` with its trained weights, in evaluation mode, on the CPU.

    The network takes images (N, C, H, W), RGB or gray in [0, 1], and normalizes them itself. Its attribute
    ``input_shape`` is the default shape (C, H, W) of an image. A network from your own file should follow the same
    conventions.

    Args:
        name: a network of this package, such as ``vgg16``, or ``torchvision:NAME``, ``timm:NAME`` or
            ``path/to/file.py:function``.
        weights: local file with weights (safetensors or a PyTorch state dict) to use instead of the default weights.

    Raises:
        ValueError: there is no such network, the weights do not fit it, or the user's file raises an error.
        FileNotFoundError: the Python file or the weights file does not exist.
        OSError: the weights could not be downloaded.
        ModuleNotFoundError: an optional package that the network needs, such as timm, is not installed.
    """
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"no weights file {weights}")
    source, _, rest = name.rpartition(":")
    if source == "torchvision":
        model = _torchvision(rest, weights)
    elif source == "timm":
        model = _timm(rest, weights)
    elif source.endswith(".py"):
        model = _from_file(Path(source), rest, weights)
    elif name in (shipped := networks()):
        entry = shipped[name]
        model = _fitting(name, weights, lambda: entry.build(weights or entry.weights))
    else:
        others = "torchvision:NAME, timm:NAME or path/to/file.py:function"
        raise ValueError(unknown("network", name, shipped) + f", or {others}")
    return model.eval()


def loaded_files(path: Path) -> list[Path]:
    """List the user's Python file ``path`` and the user's modules that it has imported so far.

    The first item is ``path``, unchanged. If :func:`load` has loaded ``path``, the other items are the files of
    the modules that ``path`` has imported from its folder, its package or the current folder, in alphabetical order.
    The path of a module inside the current folder is relative to that folder. The path of any other module is absolute.
    """
    project = _projects.get(path.resolve())
    here = Path.cwd()
    others = sorted(project.files - {project.path}) if project else []
    return [path, *(file.relative_to(here) if file.is_relative_to(here) else file for file in others)]


def _fitting(name: str, weights: Path | None, build: Callable[[], nn.Module]) -> nn.Module:
    """Return the network that ``build`` makes. If the user gave ``weights``, errors of ``build`` become a ValueError.

    Raises:
        ValueError: the user's ``weights`` cannot be read or do not fit; the message is one line.
    """
    try:
        return build()
    except Exception as error:  # safetensors, pickle and load_state_dict share no exception.
        if weights is None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the weights in {weights} do not fit {name}: {reason}") from error


def _take_images(model: nn.Module, shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Make ``model`` take images in [0, 1] and normalize them itself, and set its default input shape.

    The result is ``model``. A hook normalizes the images, so that the layers of ``model`` keep their names.
    """
    import torch

    model.register_buffer("image_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
    model.register_buffer("image_std", torch.tensor(std).view(-1, 1, 1), persistent=False)
    model.register_forward_pre_hook(lambda module, args: ((args[0] - module.image_mean) / module.image_std, *args[1:]))
    model.input_shape = tuple(shape)  # type: ignore[assignment]
    return model


def _torchvision(name: str, weights: Path | None) -> nn.Module:
    import torchvision.models as zoo

    # Quantized networks compute no gradients.
    known = [each for each in zoo.list_models() if not each.startswith("quantized_")]
    if name not in known:
        raise ValueError(unknown("torchvision network", name, known))
    pretrained = zoo.get_model_weights(name).DEFAULT
    if weights is None:
        try:
            model: nn.Module = zoo.get_model(name, weights=pretrained)  # This checks the hash of the file.
        except (OSError, RuntimeError, HTTPException) as error:  # The download failed, or the hash is wrong.
            reason = getattr(error, "reason", error)
            raise OSError(_unfetched(f"{pretrained.url} ({reason})")) from error
    else:
        # The builder sets these arguments itself when it downloads the weights.
        parts = {"weights_backbone": None, "aux_loss": True}
        accepted = inspect.signature(zoo.get_model_builder(name)).parameters
        empty = zoo.get_model(name, weights=None, **{key: parts[key] for key in parts if key in accepted})
        if hasattr(empty, "transform_input"):
            empty.transform_input = True
        model = _fitting(name, weights, lambda: _filled(empty, weights))
    preset = pretrained.transforms()
    # Presets for detection and segmentation have no crop or no mean: those networks normalize images themselves.
    size = getattr(preset, "crop_size", [224])[0]
    mean, std = getattr(preset, "mean", [0.0] * 3), getattr(preset, "std", [1.0] * 3)
    return _take_images(model, (3, size, size), mean, std)


def _timm(name: str, weights: Path | None) -> nn.Module:
    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("timm:NAME needs the package timm: pip install 'dreamgram[timm]'") from error
    if not timm.is_model(name):
        raise ValueError(unknown("timm network", name, sorted(timm.list_models())))
    if weights is None:
        try:
            model: nn.Module = timm.create_model(name, pretrained=True)
        except Exception as error:  # Each of timm's download libraries has its own errors.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise OSError(_unfetched(f"the weights of timm:{name} ({reason})")) from error
    else:
        empty = timm.create_model(name, pretrained=False)
        model = _fitting(name, weights, lambda: _filled(empty, weights))
    config = timm.data.resolve_model_data_config(model)
    return _take_images(model, config["input_size"], config["mean"], config["std"])


def _from_file(path: Path, function: str, weights: Path | None) -> nn.Module:
    from torch import nn

    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    project = _projects[path.resolve()] = Project(path)
    try:
        module = project.run()
    except (Exception, SystemExit) as error:  # The user's file may raise anything.
        raise ValueError(f"{path} cannot be run: {project.explain(error)}") from error
    build = getattr(module, function, None)
    if not callable(build):
        functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ValueError(unknown(f"function in {path}", function, sorted(functions)))
    try:
        model = build()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{function}() in {path} failed: {project.explain(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{function} in {path} must return a torch.nn.Module, not {type(model).__name__}")
    return model if weights is None else _fitting(f"{path}:{function}", weights, lambda: _filled(model, weights))


def _filled(model: nn.Module, weights: Path) -> nn.Module:
    model.load_state_dict(read_weights(weights))
    return model


def _unfetched(what: str) -> str:
    return f"could not fetch {what}; give a local file as the weights"
