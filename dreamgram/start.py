"""The entry points of the programs. They react to Ctrl-C as soon as Python has started, before other modules load."""

import signal
from importlib import import_module

from dreamgram.workbench.interrupts import leave


def dreamgram() -> None:
    """Run the program ``dreamgram`` with the command-line arguments."""
    _start("dreamgram.cli")


def dream() -> None:
    """Run the program ``dream`` with the command-line arguments."""
    _start("dreamgram.activation_maximization.cli")


def stylize() -> None:
    """Run the program ``stylize`` with the command-line arguments."""
    _start("dreamgram.style_transfer.cli")


def _start(module: str) -> None:
    """Run the function ``main`` of a module, and let Ctrl-C end the process with a one-line message at any time."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a program in the background ignores Ctrl-C
    if heard:
        signal.signal(signal.SIGINT, leave)
    try:
        import_module(module).main()
    finally:
        if heard:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # else Ctrl-C at exit would print a traceback
