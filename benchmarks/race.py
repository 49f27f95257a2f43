"""Race against neural-style on its own loss: ``python -m benchmarks.race`` (an hour on two cores, a minute on a GPU).

Both programs minimize the same function: neural-style's total loss, for a photo and a painting that already have the
size of the result, so that neither program resizes them. For neural-style, we use the loss that it prints, which is
computed for an image whose pixels may have any value. For Dreamgram, we compute the loss, in float32, of the finished
picture, whose pixels are rounded to 8 bits. The time of neural-style includes only its iterations. The time of
Dreamgram is that of a whole call of ``stylize``, in a process in which everything is already loaded. ``--device cuda``
runs both on a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import dreamgram as dg
from benchmarks.peers import FOLDER, PYTHON, environment, install
from benchmarks.process import PICTURES
from dreamgram.image_optimization import images
from dreamgram.image_optimization.capture import capture
from dreamgram.style_transfer.presets import PRESETS
from dreamgram.style_transfer.tiling import whole
from dreamgram.style_transfer.total_loss import Style, total_loss

PAIRS = (("astronaut.jpg", "the_scream.png"), ("chelsea.jpg", "shipwreck.jpg"), ("rocket.jpg", "the_scream.png"))
"""File names of the photo and the painting of each race."""

ITERATIONS = (200, 250, 300, 500)
"""Numbers of iterations of neural-style after which its loss is compared with ours."""

STEPS = (10, 15, 20, 30, 40, 50, 64, 80, 90, 100, 112, 125, 137, 150, 175, 200, 250, 300)
"""Values of the option ``steps`` to try with Dreamgram, in this order."""


def theirs(photo: Path, painting: Path, size: int, device: str) -> dict[int, tuple[float, float]]:
    """Run neural-style, and return its time in seconds and its loss after each of :data:`ITERATIONS`."""
    install()
    where = "-gpu 0 -backend cudnn -cudnn_autotune" if device == "cuda" else "-gpu c"
    options = f"{where} -image_size {size} -num_iterations {ITERATIONS[-1]} -print_iter 50 -save_iter 0 -seed 0"
    files = ["-content_image", photo, "-style_image", painting, "-output_image", photo.with_name("theirs.png")]
    weights = ["-model_file", FOLDER / "vgg16.pth", "-disable_check"]
    command = [*PYTHON, "-m", "neural_style.neural_style", *options.split(), *map(str, files + weights)]
    stamps: dict[int, float] = {}
    losses: dict[int, float] = {}
    with subprocess.Popen(command, env=environment(device), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.split()
            if line.startswith("Iteration"):
                stamps[int(words[1])] = time.perf_counter()
            elif "Total loss" in line:
                losses[list(stamps)[-1]] = float(words[-1])
    if process.returncode:
        raise RuntimeError("neural-style failed")
    iteration = (stamps[ITERATIONS[-1]] - stamps[50]) / (ITERATIONS[-1] - 50)
    return {count: (count * iteration, losses[count]) for count in ITERATIONS}


def loss_of(picture: Tensor, photo: Tensor, painting: Tensor, model: nn.Module) -> float:
    """Return neural-style's loss of ``picture``, in float32, after its pixels are rounded to 8 bits."""
    preset, device = PRESETS["gatys"], next(model.parameters()).device
    style = Style(painting, max(painting.shape), [1.0])
    with torch.no_grad(), capture(model, preset.layers) as activations_of:
        loss = total_loss(activations_of, photo.to(device), [style], preset, lambda _: [whole(preset.layers)])
        return loss((picture * 255).round().to(device) / 255).item()


def ours(photo: Tensor, painting: Tensor, size: int, model: nn.Module, target: float) -> list[tuple[int, float, float]]:
    """Run Dreamgram with more and more steps, until the loss is at most ``target``.

    Return the number of steps, the time in seconds and the loss of each run. Before these runs, a run with four steps
    loads everything. It is not included in the result.
    """
    runs = []
    for steps in (4, *STEPS):
        start = time.perf_counter()
        made = dg.stylize(photo, [painting], model=model, size=size, preset="gatys", steps=steps)
        runs.append((steps, time.perf_counter() - start, loss_of(made.image, photo, painting, model)))
        if runs[-1][2] <= target:
            break
    return runs[1:]


def race(pair: tuple[str, str], size: int, model: nn.Module, device: str) -> None:
    """Print how long both programs take to reach neural-style's loss after each number of :data:`ITERATIONS`."""
    with tempfile.TemporaryDirectory() as folder:
        files = [
            images.save(images.fit(images.load(PICTURES / name), size), Path(folder, f"{name}.png")) for name in pair
        ]
        peer = theirs(*files, size, device)
        photo, painting = map(images.load, files)
    runs = ours(photo, painting, size, model, min(loss for _, loss in peer.values()))
    for count, (seconds, loss) in peer.items():
        first = next((run for run in runs if run[2] <= loss), None)
        result = (
            f"{first[0]} steps, {first[1]:.2f} s, {seconds / first[1]:.1f} times sooner" if first else "not reached"
        )
        print(f"| {pair[0]}, {pair[1]}, {size} px | {count}: {seconds:.1f} s, {loss:.4g} | {result} |", flush=True)


def main() -> None:
    """Print a table of all races."""
    parser = argparse.ArgumentParser(description="Race against neural-style on its own loss.")
    parser.add_argument("--device", default="cpu", help="Device on which both programs run: cpu or cuda.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="Longer sides of the pictures.")
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="Number of pairs of a photo and a painting.")
    given = parser.parse_args()
    model = dg.load("vgg16").to(given.device)
    print("| pictures | neural-style: iterations, time, loss | Dreamgram |\n|---|---|---|")
    for size in given.sizes:
        for pair in PAIRS[: given.pairs]:
            race(pair, size, model, given.device)


if __name__ == "__main__":
    main()
