"""Read the pictures of a folder, a data set or a data loader in batches, with a name for each picture."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dreamgram.activation_maximization.arguments import as_batch
from dreamgram.activation_maximization.gradient_ascent import batch_size
from dreamgram.image_optimization import images
from dreamgram.image_optimization.image_opening import READABLE
from dreamgram.image_optimization.input_shapes import default_shape
from dreamgram.image_optimization.limits import MOST_PIXELS
from dreamgram.image_optimization.names import described

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Consecutive pictures of the same size."""

    images: Tensor
    """The pictures, (N, C, H, W) in [0, 1]."""
    labels: Sequence[int | str]
    """Label of each picture, which is "" for a picture without a label."""
    first: int | None
    """Index, among all pictures, of the first picture in the batch; None if the labels are the pictures' names."""
    classes: Sequence[str]
    """Names of the classes, by which integer labels are replaced; empty if the classes have no known names."""

    def name(self, row: int) -> str:
        """Return the name of the picture with the index ``row`` in the batch, such as ``frog #4194``.

        The name consists of the label, or the name of its class, and the index of the picture among all pictures. If
        :attr:`first` is None, the name is the label alone.
        """
        label = self.labels[row]
        if self.first is None:
            return str(label)
        known = isinstance(label, int) and 0 <= label < len(self.classes)
        return f"{self.classes[int(label)] if known else label} #{self.first + row}".lstrip()


def batches(pictures: Any, model: nn.Module) -> Iterator[Batch]:
    """Yield the pictures of a folder, a data set, a data loader or any other iterable in batches.

    The batches of a data loader are neither split nor combined. Consecutive single pictures of the same size are
    combined into batches.

    Args:
        pictures: path of a folder, or any other form that :func:`top_examples` accepts for ``pictures``.
        model: network that the pictures are for. The pictures of a folder are resized and cropped to the network's
            input size, and all pictures are converted to the number of channels that the network takes.

    Raises:
        ValueError: a pixel value is outside [0, 1], or ``pictures`` is the path of a folder that does not exist.
        TypeError: an item of ``pictures`` is not an image.
    """
    if isinstance(pictures, str | Path):
        pictures = read_folder(Path(pictures), default_shape(model))
    waiting: list[Batch] = []
    for batch in _items(pictures, model):
        if len(batch.images) > 1 or (waiting and not _fits(batch, waiting)):
            yield from _joined(waiting)
            waiting = []
        if len(batch.images) > 1:
            yield batch
        else:
            waiting.append(batch)
    yield from _joined(waiting)


def _fits(batch: Batch, waiting: Sequence[Batch]) -> bool:
    """Return whether ``batch`` can be combined with the batches in ``waiting``. Each batch holds a single picture."""
    [other, *_] = waiting
    alike = batch.images.shape == other.images.shape and (batch.first is None) == (other.first is None)
    return alike and len(waiting) < batch_size(batch.images[0].numel())


def _joined(waiting: Sequence[Batch]) -> Iterator[Batch]:
    if waiting:
        labels = [batch.labels[0] for batch in waiting]
        joined = torch.cat([batch.images for batch in waiting])
        yield Batch(joined, labels, waiting[0].first, waiting[0].classes)


def _items(pictures: Any, model: nn.Module) -> Iterator[Batch]:
    """Yield a batch for each item of ``pictures``."""
    if getattr(pictures, "ndim", 4) != 4 or isinstance(pictures, Image.Image):
        pictures = [pictures]  # a single image
    if not hasattr(pictures, "__iter__") and not hasattr(pictures, "__getitem__"):
        raise TypeError(f"pictures must be a folder, a data set, a data loader or a list, not {described(pictures)}")
    classes = _classes(pictures)
    number = 0
    # A data set may define only __len__ and __getitem__, and a plain loop over it may never end.
    by_index = not hasattr(pictures, "__iter__") and hasattr(pictures, "__len__")
    for item in (pictures[index] for index in range(len(pictures))) if by_index else pictures:
        parts = list(item) if isinstance(item, Sequence) and not isinstance(item, str) else [item]
        if len(parts) > 1 and isinstance(parts[0], str):
            pictured = as_batch(parts[1], f"picture {parts[0]!r}", model)
            yield Batch(pictured, [parts[0]] * len(pictured), None, ())
            continue
        pictured = as_batch(parts[0] if parts else None, f"picture {number}", model)
        yield Batch(pictured, _labels(parts[1:], len(pictured)), number, classes)
        number += len(pictured)


def _classes(data: Any, depth: int = 8) -> Sequence[str]:
    """Return the names of the classes of a data set or data loader, or () if they are unknown.

    The names are in the list ``classes`` of the data set. If there is none, they are those of the data sets that it is
    made of, like a ``Subset`` or a ``ConcatDataset``, if these agree. ``depth`` is the largest number of data sets
    inside each other.
    """
    classes: Any = getattr(data, "classes", None)
    classes = classes.tolist() if hasattr(classes, "tolist") else classes
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        return classes
    parts = [data.dataset] if hasattr(data, "dataset") else getattr(data, "datasets", ())
    found = [_classes(part, depth - 1) for part in parts] if depth else []
    return found[0] if found and all(list(each) == list(found[0]) for each in found) else ()


def _labels(rest: Sequence[Any], count: int) -> list[int | str]:
    """Return the labels of ``count`` images.

    ``rest`` holds the values that follow the images in an item of a data set or data loader. The first of these values
    holds the labels. If it does not hold one integer or text for each image, every label is "".
    """
    label = rest[0] if rest else ""
    labels = label.tolist() if hasattr(label, "tolist") else label
    labels = list(labels) if isinstance(labels, list | tuple) else [labels]
    return labels if len(labels) == count and all(isinstance(each, int | str) for each in labels) else [""] * count


def read_folder(
    folder: Path,
    shape: tuple[int, int, int],
    tell: Callable[[str], None] = _logger.warning,
    fail: Callable[[str, Exception], None] | None = None,
    max_pixels: int = MOST_PIXELS,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the image (1, C, H, W) of each picture in ``folder`` and its subfolders, sorted by path.

    The name is the path relative to ``folder``, without the file's extension. The pictures are resized and cropped at
    the center to ``shape`` (C, H, W), because networks are usually tested on center crops. A file that cannot be read,
    or that has more than ``max_pixels`` pixels, is skipped. For a skipped file, ``fail`` is called with a message and
    the error. If ``fail`` is None, ``tell`` is called with the message.

    Raises:
        ValueError: ``folder`` is not an existing folder.
    """
    if not folder.is_dir():
        raise ValueError(f"pictures must be a folder, and there is no folder {folder}")
    channels, height, width = shape
    for path in sorted(each for each in folder.rglob("*") if each.suffix.lower() in READABLE and not each.is_dir()):
        try:
            picture = images.read(path, channels, max_pixels=max_pixels)
        except (OSError, ValueError) as error:
            message = f"skipped: {' '.join(str(error).split())}"  # a file name may have several lines
            if fail:
                fail(message, error)
            else:
                tell(message)
            continue
        if picture.notice:
            tell(picture.notice)
        name = path.relative_to(folder).with_suffix("").as_posix()
        name = os.fsencode(name).decode(errors="replace")  # The name of a file need not be valid text.
        yield name, crop_middle(picture.image, (height, width))


def crop_middle(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop ``picture`` (1, C, H, W) at its center, and resize the crop to ``size`` (H, W).

    The crop is as large as possible and has the aspect ratio of ``size``.
    """
    height, width = size
    scale = max(height / picture.shape[2], width / picture.shape[3])
    whole = images.resize(picture, (round(picture.shape[2] * scale), round(picture.shape[3] * scale)))
    top, left = (whole.shape[2] - height) // 2, (whole.shape[3] - width) // 2
    return whole[:, :, top : top + height, left : left + width]
