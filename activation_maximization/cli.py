"""The command line ``dream``: a thin wrapper around :mod:`dreamgram.activation_maximization.commands`."""

# PyTorch is imported only when a command runs, so that help appears at once.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dreamgram.activation_maximization.options import (
    AccentuateOptions,
    AmplifyOptions,
    CaricatureOptions,
    DigitsOptions,
    ExamplesOptions,
    InvertOptions,
    LayersOptions,
    MaximizeOptions,
    ReplayOptions,
    UnitsOptions,
)
from dreamgram.workbench.console import Command, run
from dreamgram.workbench.job import Done, Job

ABOUT = "Make pictures of what a filter, a neuron or a class looks for, by gradient ascent on the input of a network."


def _later(name: str, help: str) -> Callable[[Any, Job], Done]:
    """Return a function that imports and runs the command called ``name``; ``help`` becomes its docstring."""

    def work(options: Any, job: Job) -> Done:
        from dreamgram.activation_maximization import commands

        done: Done = getattr(commands, name)(options, job)
        return done

    work.__doc__ = help
    return work


COMMANDS = {
    "layers": Command(LayersOptions, _later("layers", "List the layers of a network by the names that --layer takes.")),
    "units": Command(
        UnitsOptions,
        _later(
            "units",
            "Show what the units of a layer look for. A unit of a convolution gives a texture, and a neuron of a fully "
            "connected layer gives a whole image. The sheet shows each unit with its index and its activation.",
        ),
    ),
    "examples": Command(
        ExamplesOptions,
        _later(
            "examples",
            "Show units beside the real pictures that activate them most. Each picture is cropped to the part that the "
            "unit responds to.",
        ),
    ),
    "digits": Command(
        DigitsOptions,
        _later(
            "digits",
            "Show what the output neurons of a digit network look for. The first row maximizes the activation alone. "
            "The second row also favors little ink and soft edges, so that people can read the digits.",
        ),
    ),
    "maximize": Command(
        MaximizeOptions,
        _later(
            "maximize",
            "Make pictures that maximize any objective. The expression combines the objectives channel, neuron, logit, "
            "log_odds, direction, deepdream, diversity, match and caricature, and subtracts the regularizers "
            "total_variation, blur, l1, l2, pixel_sum and sparing. A single picture is saved by itself, and several "
            "pictures are saved as a sheet.",
        ),
    ),
    "amplify": Command(
        AmplifyOptions, _later("amplify", "Make a deep dream: amplify whatever a layer sees in a photo.")
    ),
    "invert": Command(
        InvertOptions,
        _later(
            "invert",
            "Show what a layer still knows of a photo. The picture starts from noise and is optimized until the layer "
            "responds to it as to the photo.",
        ),
    ),
    "caricature": Command(
        CaricatureOptions,
        _later("caricature", "Exaggerate what a layer sees in a photo. The picture starts from noise."),
    ),
    "accentuate": Command(
        AccentuateOptions,
        _later(
            "accentuate",
            "Show where a unit finds in a photo what it looks for. The photo is changed so that this stands out, while "
            "it stays the same to an earlier layer.",
        ),
    ),
    "replay": Command(
        ReplayOptions,
        _later(
            "replay",
            "Make a picture again from the recipe stored in it. On the same machine, the result is bit-identical.",
        ),
    ),
}


def main(program: str = "dream") -> None:
    """Run the ``dream`` command line; ``program`` is its name in the help."""
    run(program, COMMANDS, about=ABOUT)


if __name__ == "__main__":
    main()
