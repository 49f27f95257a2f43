"""Load a network from the Hugging Face Hub, or from a local folder with the same files."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamgram.models.fitting import fill, fitting, name_classes, prepare_timm, take_images, unfetched
from dreamgram.models.registry import read_weights

if TYPE_CHECKING:
    from torch import nn


def from_hub(name: str, weights: Path | None) -> nn.Module:
    """Load a network from the Hugging Face Hub, such as ``google/vit-base-patch16-224``, or from a local folder.

    ``name`` is the name on the Hub or the path of the folder. Networks of timm are built by timm, and all others by
    transformers. Code from the Hub is never run. If the network also reads texts, as CLIP does, only its image encoder
    is returned.

    Raises:
        ValueError: the network does not take images, lacks weights, or does not say how images must be normalized, or
            ``weights`` does not fit it.
        OSError: the network does not exist or cannot be downloaded.
        ModuleNotFoundError: a package that ``pip install 'dreamgram[hf]'`` installs is missing.
    """
    folder = Path(name).is_dir()
    if folder and not Path(name, "config.json").is_file():
        raise FileNotFoundError(f"no file {Path(name, 'config.json')}, which describes the network")
    hub = _needed("huggingface_hub")
    try:
        with _few_messages():
            file = Path(name, "config.json") if folder else Path(hub.hf_hub_download(name, "config.json"))
            # For a network of timm, the file names its architecture; for one of transformers, its Python classes.
            build = _from_timm if "architecture" in json.loads(file.read_text(encoding="utf-8")) else _from_transformers
            return build(name, weights, folder)
    except (ValueError, ModuleNotFoundError):
        raise
    except Exception as error:  # Each of the libraries has its own errors.
        if folder:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"the network in the folder {name} cannot be loaded: {reason}") from error
        raise unfetched(f"hf:{name}", error, "a local folder, as hf:FOLDER") from error


@contextmanager
def _few_messages() -> Iterator[None]:
    """Hide the warnings that the libraries log inside the context. Their exceptions say what goes wrong."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "transformers", "timm")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"hf:NAME needs the package {package}: pip install 'dreamgram[hf]'") from error


def _from_timm(name: str, weights: Path | None, folder: bool) -> nn.Module:
    timm = _needed("timm")
    model: nn.Module = timm.create_model(f"{'local-dir' if folder else 'hf-hub'}:{name}", pretrained=False)
    # Some versions of timm would run code in a pickled file of weights.
    file = _weights_file(name, folder) if weights is None else weights
    model = fitting(f"hf:{name}", file, lambda: fill(model, read_weights(file)))
    return prepare_timm(timm, model, published=weights is None and not folder and name.startswith("timm/"))


def _weights_file(name: str, folder: bool) -> Path:
    """Return the weights file of a network of timm. Unless ``name`` is a folder, the file is downloaded."""
    hub = _needed("huggingface_hub")
    for file in ("model.safetensors", "pytorch_model.bin"):
        if folder and Path(name, file).is_file():
            return Path(name, file)
        if not folder and hub.file_exists(name, file):
            return Path(hub.hf_hub_download(name, file))
    raise ValueError(f"hf:{name} has no weights: neither model.safetensors nor pytorch_model.bin is there")


def _from_transformers(name: str, weights: Path | None, folder: bool) -> nn.Module:
    transformers = _needed("transformers")
    known: dict[str, Any] = {"local_files_only": folder, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(name, **known)
    names: list[str] = config.architectures or ["AutoModel"]
    network: Any = getattr(transformers, names[0], None)
    if not (isinstance(network, type) and issubclass(network, transformers.PreTrainedModel)):
        network = transformers.AutoModel
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, **known)
    except Exception as error:
        reason = "it has no readable preprocessor_config.json, which says how images are normalized"
        raise ValueError(f"hf:{name} cannot be used: {reason}") from error
    if weights is None:
        model, report = network.from_pretrained(name, config=config, output_loading_info=True, **known)
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"hf:{name} has no weights for {', '.join(missing[:3])}")
    else:
        model = getattr(network, "from_config", network)(config)
        model = fitting(f"hf:{name}", weights, lambda: fill(model, read_weights(weights)))
    vision = getattr(model, "vision_model", model)
    if vision.main_input_name != "pixel_values":
        raise ValueError(f"hf:{name} takes {vision.main_input_name}, not images")
    labels: dict[int, str] = getattr(config, "id2label", None) or {}
    name_classes(vision, [labels[number] for number in sorted(labels)])
    return _with_processor(vision.float(), processor, _input_shape(vision.config, processor))


def _input_shape(config: Any, processor: Any) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the input images of a network, from its configuration or its image processor."""
    size = getattr(config, "image_size", None)
    if size is None:
        measures = dict(
            (processor.crop_size if getattr(processor, "do_center_crop", False) else None) or processor.size
        )
        known = {key: value for key, value in measures.items() if value is not None}
        either = next(iter(known.values()))
        size = (known.get("height", either), known.get("width", either))
    height, width = (size, size) if isinstance(size, int) else size
    return getattr(config, "num_channels", 3), height, width


def _with_processor(model: nn.Module, processor: Any, shape: tuple[int, int, int]) -> nn.Module:
    """Make ``model`` prepare images in [0, 1] as ``processor`` does, but without resizing or cropping them."""
    # The processor takes values from 0 to 255.
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    normalized = getattr(processor, "do_normalize", False)
    mean = [value / scale for value in processor.image_mean] if normalized else [0.0]
    std = [value / scale for value in processor.image_std] if normalized else [1 / scale]
    take_images(model, shape, mean, std)
    if getattr(processor, "do_flip_channel_order", False):
        model.register_forward_pre_hook(lambda module, args: (args[0].flip(1), *args[1:]))
    return model
