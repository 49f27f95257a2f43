"""The command line ``dream``: a thin wrapper around :mod:`dreamgram.activation_maximization.commands`."""

# PyTorch is imported only when a command runs, so that help appears at once.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dreamgram.activation_maximization.options import (
    AccentuateOptions,
    AmplifyOptions,
    CaricatureOptions,
    ClassesOptions,
    DigitsOptions,
    ExamplesOptions,
    InvertOptions,
    LayersOptions,
    MaximizeOptions,
    UnitsOptions,
)
from dreamgram.workbench.console import Command, run
from dreamgram.workbench.job import Done, Job
from dreamgram.workbench.options import ReplayOptions

ABOUT = "Make pictures of what a filter, a neuron or a class looks for, by gradient ascent on the input of a network."


def _later(name: str, help: str) -> Callable[[Any, Job], Done]:
    """Return a function that, when it is called, imports the implementation of the command ``name`` and runs it.

    ``help`` becomes the docstring of the returned function, which the command line shows as the command's help.
    """

    def work(options: Any, job: Job) -> Done:
        from dreamgram.activation_maximization import commands

        done: Done = getattr(commands, name)(options, job)
        return done

    work.__doc__ = help
    return work


DREAM_COMMANDS = {
    "layers": Command(
        LayersOptions, _later("layers", "List the layers of a network, with the names to give to --layer.")
    ),
    "units": Command(
        UnitsOptions,
        _later(
            "units",
            "Show what the units (channels or neurons) of a layer look for. A channel of a convolution looks for the "
            "same pattern at every position, so its image is filled with this pattern. A neuron of a fully connected "
            "layer responds to the image as a whole. The contact sheet shows one image for each unit, with the unit's "
            "index and activation.",
        ),
    ),
    "examples": Command(
        ExamplesOptions,
        _later(
            "examples",
            "Show what each unit (channel or neuron) of a layer looks for, beside the real pictures that activate the "
            "unit most. Each real picture is cropped to the part that the unit responds to.",
        ),
    ),
    "classes": Command(
        ClassesOptions,
        _later(
            "classes",
            "Show what the classes of a classifier look like. The contact sheet shows one picture for each class, with "
            "the name of the class and the activation of its output neuron.",
        ),
    ),
    "digits": Command(
        DigitsOptions,
        _later(
            "digits",
            "Show what the output neurons of a digit classifier look for. The pictures in the first row maximize only "
            "the activation. In the second row, the class must also stand out from the other classes, and penalties "
            "on ink, above all near the border, and on sharp edges make the digits readable.",
        ),
    ),
    "maximize": Command(
        MaximizeOptions,
        _later(
            "maximize",
            "Make pictures that maximize an objective, which is written as an expression. The expression can combine "
            "the objectives channel, neuron, logit, log_odds, log_probability, direction, deepdream, diversity, match "
            "and caricature, and can subtract the regularizers total_variation, blur, border, l1, l2, pixel_sum and "
            "sparing. The function ramp gives a weight that changes over the steps. The function share scales a "
            "regularizer so that the same weight suits every network. A single picture is saved by itself, and "
            "several pictures are saved as a contact sheet.",
        ),
    ),
    "amplify": Command(
        AmplifyOptions, _later("amplify", "Make a deep dream: amplify the patterns that a layer detects in a photo.")
    ),
    "invert": Command(
        InvertOptions,
        _later(
            "invert",
            "Show how much of a photo a layer preserves. The picture starts from noise and is optimized so that the "
            "activations of the layer come close to those for the photo.",
        ),
    ),
    "caricature": Command(
        CaricatureOptions,
        _later("caricature", "Exaggerate the features that a layer detects in a photo. The picture starts from noise."),
    ),
    "accentuate": Command(
        AccentuateOptions,
        _later(
            "accentuate",
            "Show which parts of a photo activate a unit (a channel or a neuron). The photo is changed so that these "
            "parts stand out, while the activations of an earlier layer stay almost the same.",
        ),
    ),
    "replay": Command(
        ReplayOptions,
        _later(
            "replay",
            "Make a picture again from its recipe, the settings that are stored in the picture file. On the same "
            "machine, the new picture is bit-identical to the original, except on a GPU with random transforms.",
        ),
    ),
}


def main(program: str = "dream") -> None:
    """Run the ``dream`` command line. The help shows ``program`` as the name of the program."""
    run(program, DREAM_COMMANDS, about=ABOUT, implementation="dreamgram.activation_maximization.commands")


if __name__ == "__main__":
    main()
