"""Fill a network with the tensors of a weights file, even if a training program added prefixes to their names."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Names that wrappers such as ``nn.DataParallel``, ``torch.compile`` and those of ``torch.distributed`` insert into the
names of a network's modules."""

NAMES_SHOWN = 3
"""Largest number of missing tensors that an error message names. The same limit applies to unexpected tensors, and to
tensors that have a wrong shape."""


def fitting(name: str, weights: Path | None, build: Callable[[], nn.Module]) -> nn.Module:
    """Return the network that ``build`` makes. If ``weights`` is not None, an error of ``build`` becomes a ValueError.

    ``weights`` is the user's weights file, from which ``build`` fills the network. ``name`` names the network in the
    error message.

    Raises:
        ValueError: ``weights`` cannot be read or does not fit the network; the message is one line.
    """
    try:
        return build()
    except Exception as error:  # safetensors, pickle and load_state_dict share no exception.
        if weights is None:
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"the weights in {weights} do not fit {name}: {reason}") from error


def take_images(model: nn.Module, shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Make ``model`` take images in [0, 1] and normalize them itself, and set its default input shape (C, H, W).

    The result is ``model``. ``mean`` and ``std`` hold one number for each channel. A forward pre-hook subtracts
    ``mean`` from the images and divides the differences by ``std``. Because this is a hook and not a wrapper, the
    layers of ``model`` keep their names.
    """
    import torch

    model.register_buffer("image_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
    model.register_buffer("image_std", torch.tensor(std).view(-1, 1, 1), persistent=False)
    model.register_forward_pre_hook(lambda module, args: ((args[0] - module.image_mean) / module.image_std, *args[1:]))
    model.input_shape = tuple(shape)  # type: ignore[assignment]
    return model


def prepare_timm(timm: Any, model: nn.Module, published: bool) -> nn.Module:
    """Make ``model``, a network of the library ``timm``, take images in [0, 1], name its classes, and return it.

    The names are those in the network's configuration. If it has none, the names are those of ImageNet, but only if
    ``published`` says that timm published the weights: other weights can have 1000 classes of their own.
    """
    config = timm.data.resolve_model_data_config(model)
    names = model.pretrained_cfg.get("label_names") or ()  # type: ignore[union-attr, operator]
    # The library recognizes a set of classes, such as that of ImageNet, by the number of its classes.
    if not names and published and (classes := timm.data.infer_imagenet_subset(model)):
        names = timm.data.ImageNetInfo(classes).label_descriptions()
    name_classes(model, names if isinstance(names, list | tuple) else ())
    return take_images(model, config["input_size"], config["mean"], config["std"])


def name_classes(model: nn.Module, names: Sequence[str]) -> None:
    """Store ``names``, the names of the classes in the order of the outputs, in the attribute ``class_names``."""
    model.class_names = tuple(names)  # type: ignore[assignment]


def unfetched(what: str, error: Exception, instead: str = "a local file as the weights") -> OSError:
    """Return an error whose message says that ``what``, such as a URL, could not be fetched because of ``error``.

    The message asks the user to give ``instead`` in place of ``what``.
    """
    reason = (str(getattr(error, "reason", error)).strip() or type(error).__name__).splitlines()[0]
    return OSError(f"could not fetch {what} ({reason}); give {instead}")


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Copy the tensors of the state dict ``state`` into ``model``, and return ``model``.

    :func:`renamed` first adapts the names of the tensors to those in ``model``.

    Raises:
        ValueError: ``state`` lacks a tensor of the network, contains it in a different shape, or contains a tensor that
            the network lacks. The message names the first few such tensors.
    """
    own: dict[str, Tensor] = model.state_dict()
    fitted = renamed(state, own)
    try:
        model.load_state_dict(fitted)
    except RuntimeError as error:
        raise ValueError(_mismatch(fitted, own) or " ".join(str(error).split())[:200]) from error
    return model


def renamed(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Rename the tensors in ``state`` so that as many as possible match ``names``, the tensor names of a network.

    First, the components that are listed in :data:`WRAPPERS` are removed from the dotted names in ``state``. A
    component that also occurs in one of ``names`` is kept. Then, one prefix is removed from all names or added to all
    names. Examples of removed prefixes are ``module.``, ``model.``, ``state_dict.`` and ``state_dict.net.``. Tensors
    without the removed prefix are omitted. If several prefixes fit equally well, the first one found is used.
    """
    wanted = set(names)
    wrappers = WRAPPERS - {part for name in wanted for part in name.split(".")}
    bare = {_without(wrappers, name): name for name in state}
    # Each pair of names with the same end votes for the prefix that one of them has and the other lacks.
    removed: Counter[str] = Counter(prefix for name in bare for prefix, end in _splits(name) if end in wanted)
    added: Counter[str] = Counter(prefix for name in names for prefix, end in _splits(name) if end in bare)
    strip, stripped = max(removed.items(), key=lambda item: item[1], default=("", 0))
    add, extended = max(added.items(), key=lambda item: item[1], default=("", 0))
    if extended > stripped:
        return {add + name: state[full] for name, full in bare.items()}
    # PyTorch stores the versions of modules beside the tensors. Some modules cannot be filled without them. The version
    # of a wrapper is replaced by that of the wrapped module, which comes later.
    versions = {f"{_without(wrappers, name)}.": each for name, each in getattr(state, "_metadata", {}).items()}
    kept = OrderedDict((name.removeprefix(strip), state[full]) for name, full in bare.items() if name.startswith(strip))
    if versions:
        kept._metadata = {  # type: ignore[attr-defined]
            name.removeprefix(strip).removesuffix("."): each
            for name, each in versions.items()
            if name.startswith(strip)
        }
    return kept


def _without(wrappers: Collection[str], name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in wrappers)


def classes_of(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, int]:
    """Return ``{"num_classes": N}`` if a weights file is for N classes, and the network for a different number.

    ``own`` holds the tensors of the network, and ``state`` those of the weights file. The network's number of classes
    is the size of the first dimension of the last tensor in ``own``. N is the size of the first dimension of the tensor
    of the same name in ``state``. The result is an empty dictionary if N equals the network's number of classes, if the
    two tensors differ in any other dimension, or if ``state`` has no tensor of this name.
    """
    if not own or (last := list(own)[-1]) not in state or state[last].shape == own[last].shape:
        return {}
    return {"num_classes": len(state[last])} if state[last].shape[1:] == own[last].shape[1:] else {}


def _splits(name: str) -> list[tuple[str, str]]:
    """Return all pairs of a prefix and a remainder into which a dotted name can be split. The prefix can be empty."""
    starts = [0, *(place + 1 for place, character in enumerate(name) if character == ".")]
    return [(name[:start], name[start:]) for start in starts]


def _mismatch(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Describe in one line how the tensors ``state`` differ from the network's tensors ``own``; "" if they match."""
    parts = []
    if missing := [name for name in own if name not in state]:
        parts.append(f"missing {_first(missing)}")
    if unexpected := [name for name in state if name not in own]:
        parts.append(f"unexpected {_first(unexpected)}")
    both = [name for name in own if name in state and hasattr(own[name], "shape")]  # extra state has no shape
    shapes = [(name, tuple(state[name].shape), tuple(own[name].shape)) for name in both]
    if other := [f"{name} is {its} in the file, not {ours}" for name, its, ours in shapes if its != ours]:
        parts.append(_first(other))
    return "; ".join(parts)


def _first(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
