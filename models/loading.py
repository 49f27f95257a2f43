"""Load a network by its name.

The networks in this package have names such as ``digits`` and ``vgg16``. Any other name has the form
``torchvision:NAME``, ``timm:NAME``, ``hf:NAME`` for a network of the Hugging Face Hub, or ``path/to/file.py:function``
for your own function that returns a ``torch.nn.Module``. Your file can import modules from its folder: see
:class:`dreamgram.models.project.Project`.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import pkgutil
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamgram.image_optimization.names import described, unknown
from dreamgram.models.fitting import (
    classes_of,
    fill,
    fitting,
    name_classes,
    prepare_timm,
    renamed,
    take_images,
    unfetched,
)
from dreamgram.models.hub import from_hub
from dreamgram.models.project import Project
from dreamgram.models.registry import Network, read_weights, registered

if TYPE_CHECKING:
    from torch import nn

_projects: dict[Path, Project] = {}
"""Projects by the absolute path of the user's Python file. Each project was created when the file was last loaded."""


def networks() -> dict[str, Network]:
    """Return a dictionary from the name of each network in this package to its :class:`Network`, sorted by name."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return dict(sorted(registered.items()))


def load(name: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """Load the network called ``name`` with its trained weights, in evaluation mode, on the CPU.

    The network takes images (N, C, H, W), RGB or gray in [0, 1], and normalizes them itself. Its attribute
    ``input_shape`` is the default shape (C, H, W) of an image. A network from your own file should follow the same
    conventions: set ``model.input_shape = (3, 64, 96)`` if it was trained on RGB images 64 pixels high and 96 wide.
    Without this attribute, its images have the shape that
    :func:`dreamgram.image_optimization.input_shapes.find_shape` finds by trial, which is sometimes only a guess.

    Args:
        name: a network of this package, such as ``vgg16``, or ``torchvision:NAME``, ``timm:NAME``, ``hf:NAME`` or
            ``path/to/file.py:function``.
        weights: local weights file to use instead of the default weights. It is a safetensors file, or a file that
            ``torch.save`` wrote with a state dict or with a training checkpoint that contains a state dict.
            :func:`dreamgram.models.fitting.renamed` says which prefixes the names of the tensors may have.

    Raises:
        ValueError: there is no such network, the weights do not fit the network, or the user's file raises an error.
        FileNotFoundError: the Python file or the weights file does not exist.
        OSError: the weights could not be downloaded.
        ModuleNotFoundError: an optional package that the network needs, such as timm, is not installed.
        TypeError: ``name`` is neither text nor a path, or ``weights`` is not a path.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"a network is loaded by its name, such as 'digits', not by {described(name)}")
    if not isinstance(weights, str | os.PathLike | None):
        raise TypeError(f"weights must be the path of a file, not {described(weights)}")
    name, weights = os.fspath(name), None if weights is None else Path(weights)
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"no weights file {weights}")
    source, _, rest = name.rpartition(":") if not name.startswith("hf:") else name.partition(":")
    if source == "torchvision":
        model = _torchvision(rest, weights)
    elif source == "timm":
        model = _timm(rest, weights)
    elif source == "hf":
        model = from_hub(rest, weights)
    elif source.endswith(".py"):
        model = _from_file(Path(source), rest, weights)
    elif name in (shipped := networks()):
        entry = shipped[name]
        model = fitting(name, weights, lambda: entry.build(weights or entry.find_weights()))
    else:
        others = "torchvision:NAME, timm:NAME, hf:NAME or path/to/file.py:function"
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


def _torchvision(name: str, weights: Path | None) -> nn.Module:
    import torchvision.models as zoo

    # Quantized networks compute no gradients.
    known = [each for each in zoo.list_models() if not each.startswith("quantized_")]
    if name not in known:
        raise ValueError(unknown("torchvision network", name, known))
    entries: Any = zoo.get_model_weights(name)
    pretrained = entries.DEFAULT
    if weights is None:
        try:
            model: nn.Module = zoo.get_model(name, weights=pretrained)  # This checks the hash of the file.
        except (OSError, RuntimeError, HTTPException) as error:  # The download failed, or the hash is wrong.
            raise unfetched(pretrained.url, error) from error
    else:
        # The name of a file that torchvision published says how images must be prepared for its weights.
        pretrained = next((each for each in entries if Path(each.url).name == weights.name), pretrained)
        model = fitting(name, weights, lambda: _torchvision_filled(name, weights))
    preset = pretrained.transforms()
    # A preset for segmentation has no crop size. One for detection has no mean, either: the network normalizes images.
    size = getattr(model, "image_size", getattr(preset, "crop_size", [224])[0])
    mean, std = getattr(preset, "mean", [0.0] * 3), getattr(preset, "std", [1.0] * 3)
    name_classes(model, pretrained.meta.get("categories", ()))
    return take_images(model, (3, size, size), mean, std)


def _torchvision_filled(name: str, weights: Path) -> nn.Module:
    """Return the network ``name`` of torchvision, filled with the tensors in ``weights``.

    The number of classes and, for a vision transformer, the image size are chosen to fit these tensors.
    """
    import torchvision.models as zoo

    # The builder sets these arguments itself when it downloads the weights.
    parts = {"weights_backbone": None, "aux_loss": True}
    accepted = inspect.signature(zoo.get_model_builder(name)).parameters
    arguments: dict[str, Any] = {key: parts[key] for key in parts if key in accepted}
    state = read_weights(weights)
    by_end = {".".join(key.split(".")[-2:]): tensor for key, tensor in state.items()}
    if name.startswith("vit_") and {"encoder.pos_embedding", "conv_proj.weight"} <= set(by_end):
        patches = by_end["encoder.pos_embedding"].shape[1] - 1  # One of the tokens is the class token.
        arguments["image_size"] = math.isqrt(patches) * by_end["conv_proj.weight"].shape[-1]
    empty: Any = zoo.get_model(name, weights=None, **arguments)
    if name in zoo.list_models(module=zoo):  # Classifiers, not detection or segmentation.
        own = empty.state_dict()
        if classes := classes_of(renamed(state, own), own):
            empty = zoo.get_model(name, weights=None, **arguments, **classes)
    if hasattr(empty, "transform_input"):
        empty.transform_input = True
    return fill(empty, state)


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
            raise unfetched(f"the weights of timm:{name}", error) from error
    else:
        model = fitting(name, weights, lambda: _timm_filled(timm, name, weights))
    return prepare_timm(timm, model, published=weights is None)


def _timm_filled(timm: Any, name: str, weights: Path) -> nn.Module:
    """Return the network ``name`` of timm, filled with the tensors in ``weights``.

    The number of classes is chosen to fit these tensors.
    """
    state = read_weights(weights)
    empty: nn.Module = timm.create_model(name, pretrained=False)
    if more := classes_of(renamed(state, own := empty.state_dict()), own):
        empty = timm.create_model(name, pretrained=False, **more)
    return fill(empty, state)


def _from_file(path: Path, function: str, weights: Path | None) -> nn.Module:
    from torch import nn

    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    project = _projects[path.resolve()] = Project(path)
    try:
        module = project.run()
    except (Exception, SystemExit) as error:  # The user's file can raise any exception.
        raise ValueError(f"{path} cannot be run: {project.explain(error)}") from error
    build = getattr(module, function, None)
    if not callable(build):
        functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ValueError(unknown("function", function, sorted(functions), f"{path} has"))
    try:
        model = build()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{function}() in {path} failed: {project.explain(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{function} in {path} must return a torch.nn.Module, not {type(model).__name__}")
    if weights is None:
        return model
    return fitting(f"{path}:{function}", weights, lambda: fill(model, read_weights(weights)))
