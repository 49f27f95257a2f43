"""The command-line interface of ``stylize``: it parses the options and calls :mod:`dreamgram.style_transfer.paint`."""

# PyTorch is imported only when a command runs, so that the help appears at once.
from __future__ import annotations

from dreamgram.style_transfer.options import FadeOptions, ResumeOptions, StylizeOptions
from dreamgram.workbench.console import Command, run
from dreamgram.workbench.job import Done, Job
from dreamgram.workbench.options import ReplayOptions


def stylize(options: StylizeOptions, job: Job) -> Done:
    """Paint a photo in the style of a painting.

    An image is optimized so that its activations in a network match those of the photo, and so that statistics of its
    activations match those of the painting.
    """
    from dreamgram.style_transfer.paint import paint

    return paint(options, job)


def replay(options: ReplayOptions, job: Job) -> Done:
    """Make a picture again from the settings that stylize stored in it.

    On the same machine, the new picture is identical to the original.
    """
    from dreamgram.style_transfer.paint import replay

    return replay(options, job)


def resume(options: ResumeOptions, job: Job) -> Done:
    """Resume a run that was stopped or killed, from its saved state.

    On the same machine, the picture is identical to that of an uninterrupted run.
    """
    from dreamgram.style_transfer.paint import resume

    return resume(options, job)


def fade(options: FadeOptions, job: Job) -> Done:
    """Weaken the style of a finished picture, by mixing the picture with its photo.

    Nothing is painted anew, so that this takes only a moment.
    """
    from dreamgram.style_transfer.fade import fade

    return fade(options, job)


def list_styles() -> str:
    """Return the names and descriptions of the paintings that the program can draw itself, one painting per line."""
    from dreamgram.style_transfer.drawn_styles import DRAWN_STYLES

    return "\n".join(f"{name:15}{(draw.__doc__ or '').strip().splitlines()[0]}" for name, draw in DRAWN_STYLES.items())


STYLIZE_COMMANDS = {
    "stylize": Command(
        StylizeOptions, stylize, {"--list-styles": ("List the styles that the program draws, and exit.", list_styles)}
    ),
    "replay": Command(ReplayOptions, replay),
    "resume": Command(ResumeOptions, resume),
    "fade": Command(FadeOptions, fade),
}


def main(program: str = "stylize") -> None:
    """Run ``stylize`` with the command-line arguments; ``program`` is the program name that the help shows."""
    run(program, STYLIZE_COMMANDS, default="stylize", implementation="dreamgram.style_transfer.paint")


if __name__ == "__main__":
    main()
