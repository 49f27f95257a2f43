"""Compare the speed of ``top_examples`` with that of plain inference: ``python -m benchmarks.examples``.

This takes five minutes. Plain inference is a loop that only computes the network's outputs. ``top_examples`` finds, in
one pass over the pictures, the 9 pictures that activate each unit of some layers most. These layers always include the
network's last layer, so that ``top_examples`` runs the whole network, as plain inference does. Both use the same data
loader and the same network, and are measured in turn. The table shows the median number of pictures per second.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dreamgram.activation_maximization.examples import top_examples
from dreamgram.image_optimization.layers import device_of, list_layers
from dreamgram.models import load
from dreamgram.models.digits import digit_sample
from dreamgram.workbench.device import find_device

ROUNDS = 5
"""Number of times that plain inference and ``top_examples`` are measured."""

PER_BATCH = 32
"""Number of pictures in a batch of the data loader."""

CASES: Sequence[tuple[str, int, int, Sequence[str]]] = (
    ("digits", 28, 10_000, ("logits",)),
    ("digits", 28, 10_000, ("conv1", "conv2", "hidden", "logits")),
    ("vgg16", 64, 128, ("pool5",)),
    ("vgg16", 128, 64, ("pool5",)),
    ("vgg16", 128, 64, ("relu3_1", "relu4_1", "relu5_1", "pool5")),
    ("efficientnet-lite0", 128, 128, ("logits",)),
)
"""Network, side of the pictures in pixels, number of pictures, and layers of each row of the table."""


def main() -> None:
    """Print the table for docs/benchmarks.md."""
    print("| network | pictures | layers, all units | plain loop, pictures/s | top_examples, pictures/s | ratio |")
    print("|---|---|---|---|---|---|")
    for name, side, count, layers in CASES:
        rates = _rates(name, side, count, layers)
        many = f"{count:,} of {side} px"
        print(
            f"| {name} | {many} | {', '.join(layers)} | {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[1] / rates[0]:.2f} |"
        )


def _rates(name: str, side: int, count: int, layers: Sequence[str]) -> list[float]:
    """Return the median numbers of pictures per second of plain inference and of ``top_examples``, in this order."""
    network = load(name).to(find_device("auto"))
    loader = DataLoader(_data(name, side, count), batch_size=PER_BATCH)
    shape = loader.dataset[0][0].shape
    units = {layer.name: range(layer.channels) for layer in list_layers(network, shape) if layer.name in layers}
    plain, ours = [], []
    for _ in range(ROUNDS + 1):
        plain.append(_time(lambda: _infer(network, loader), network))
        ours.append(_time(lambda: top_examples(network, list(layers), units, loader), network))
    return [count / statistics.median(times[1:]) for times in (plain, ours)]  # The first round warms up.


def _data(name: str, side: int, count: int) -> TensorDataset:
    """Return digits with their labels for a digit network, and smooth random pictures for other networks."""
    if name.startswith("digits"):
        images, labels = digit_sample()
        chosen = torch.randint(len(images), (count,), generator=torch.Generator().manual_seed(0))
        return TensorDataset(images[chosen], labels[chosen])
    small = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(nn.functional.interpolate(small, (side, side), mode="bilinear"), torch.arange(count))


def _infer(network: nn.Module, loader: DataLoader[tuple[torch.Tensor, ...]]) -> None:
    device = device_of(network)
    with torch.inference_mode():
        for images, _ in loader:
            network(images.to(device))


def _time(run: Callable[[], object], network: nn.Module) -> float:
    """Return how many seconds ``run`` takes, including work on a GPU that is unfinished when ``run`` returns."""
    start = time.perf_counter()
    run()
    if device_of(network).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
