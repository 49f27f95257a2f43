"""``load(name)``: a network by name, ready to be looked at.

Names are this package's own (``digits``, ``vgg16``, ...), ``torchvision:NAME``, ``timm:NAME``, or
``path/to/file.py:function`` for a function of yours that returns a ``torch.nn.Module``.

To add a network to the package, write a function decorated with :func:`network` in any module of this folder.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"

Builder = TypeVar("Builder", bound="Callable[[Path], nn.Module]")


@dataclass(frozen=True)
class _Network:
    build: Callable[[Path], nn.Module]
    weights: Path


_networks: dict[str, _Network] = {}


def network(name: str, weights: str) -> Callable[[Builder], Builder]:
    """Register the decorated function, from a weights file to the network, as ``load(name)``.

    ``weights`` is the file in ``models/weights/`` that it gets unless the user names another.
    """

    def register(build: Builder) -> Builder:
        _networks[name] = _Network(build, WEIGHTS / weights)
        return build

    return register


def names() -> list[str]:
    """The names of the networks that are in the package."""
    package = Path(__file__).parent
    for module in pkgutil.iter_modules([str(package)]):
        importlib.import_module(f"models.{module.name}")
    return sorted(_networks)


def load(name: str, weights: Path | None = None) -> nn.Module:
    """The network called ``name`` with its trained weights, in evaluation mode, on the CPU.

    It takes images (N, C, H, W), RGB or gray in [0, 1]: mean, scale and channel order are its own affair. Its
    ``input_shape`` is the (C, H, W) it was trained for.

    Args:
        name: see this module.
        weights: a local file (safetensors or a PyTorch state dict) to use in place of the network's own.

    Raises:
        ValueError: no such network, or weights that do not fit it.
        FileNotFoundError: no such file.
        OSError: weights that could not be downloaded.
        ModuleNotFoundError: an optional package is missing.
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
    elif name in names():
        entry = _networks[name]
        model = _fitting(name, weights, lambda: entry.build(weights or entry.weights))
    else:
        own = "torchvision:NAME, timm:NAME or path/to/file.py:function"
        raise ValueError(_unknown("network", name, names()) + f", or {own}")
    return model.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a PyTorch state dict."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # whose advice is to run whatever is in there
        raise ValueError("it holds no tensors that torch.save or safetensors wrote") from None
    return state


def _fitting(name: str, weights: Path | None, build: Callable[[], nn.Module]) -> nn.Module:
    """``build()``, with one line said of weights of the user's that cannot be read or do not fit."""
    try:
        return build()
    except Exception as error:  # safetensors, pickle and load_state_dict have no exception in common
        if weights is None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the weights in {weights} do not fit {name}: {reason}") from error


def _take_images(model: nn.Module, shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Let ``model`` take images in [0, 1] by normalizing what goes in; its layers keep their names."""
    import torch

    model.register_buffer("image_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
    model.register_buffer("image_std", torch.tensor(std).view(-1, 1, 1), persistent=False)
    model.register_forward_pre_hook(lambda module, args: ((args[0] - module.image_mean) / module.image_std, *args[1:]))
    model.input_shape = tuple(shape)  # type: ignore[assignment]
    return model


def _torchvision(name: str, weights: Path | None) -> nn.Module:
    import torchvision.models as zoo

    # The quantized ones keep no gradient.
    known = [each for each in zoo.list_models() if not each.startswith("quantized_")]
    if name not in known:
        raise ValueError(_unknown("torchvision network", name, known))
    pretrained = zoo.get_model_weights(name).DEFAULT
    if weights is None:
        try:
            model: nn.Module = zoo.get_model(name, weights=pretrained)  # which checks the hash
        except (OSError, RuntimeError, HTTPException) as error:  # no network, a wrong hash, half a file
            reason = getattr(error, "reason", error)
            raise OSError(_unfetched(f"{pretrained.url} ({reason})")) from error
    else:
        # What the builder would set of itself if it were to fetch the weights.
        parts = {"weights_backbone": None, "aux_loss": True}
        accepted = inspect.signature(zoo.get_model_builder(name)).parameters
        empty = zoo.get_model(name, weights=None, **{key: parts[key] for key in parts if key in accepted})
        if hasattr(empty, "transform_input"):
            empty.transform_input = True
        model = _fitting(name, weights, lambda: _filled(empty, weights))
    preset = pretrained.transforms()
    # Detection and segmentation presets have no crop or mean: those networks normalize for themselves.
    size = getattr(preset, "crop_size", [224])[0]
    mean, std = getattr(preset, "mean", [0.0] * 3), getattr(preset, "std", [1.0] * 3)
    return _take_images(model, (3, size, size), mean, std)


def _timm(name: str, weights: Path | None) -> nn.Module:
    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("timm:NAME needs the package timm: pip install 'dreamgram[timm]'") from error
    if not timm.is_model(name):
        raise ValueError(_unknown("timm network", name, timm.list_models()))
    if weights is None:
        try:
            model: nn.Module = timm.create_model(name, pretrained=True)
        except Exception as error:  # each of timm's download libraries has errors of its own
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
    name = f"_dreamgram_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a stranger's file raises
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    build = getattr(module, function, None)
    if not callable(build):
        functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ValueError(_unknown(f"function in {path}", function, functions))
    try:
        model = build()
    except Exception as error:
        raise ValueError(f"{function}() in {path} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{function} in {path} must return a torch.nn.Module, not {type(model).__name__}")
    return model if weights is None else _fitting(f"{path}:{function}", weights, lambda: _filled(model, weights))


def _filled(model: nn.Module, weights: Path) -> nn.Module:
    model.load_state_dict(read_weights(weights))
    return model


def _unfetched(what: str) -> str:
    return f"could not fetch {what}; give a local file with --weights FILE"


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1)
    listed = ", ".join(known) if len(known) <= 20 else f"{', '.join(known[:20])} and {len(known) - 20} more"
    return f"no {kind} {name!r}; {f'did you mean {near[0]!r}? ' if near else ''}there are {listed}"
