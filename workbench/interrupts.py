"""The handler of Ctrl-C that is active while a program starts. This module imports only ``os``, so it loads fast."""

import os


def leave(*_: object) -> None:
    """Print one line of text and end the process at once. This function is a handler of the signal SIGINT.

    Python's default handler would raise KeyboardInterrupt in the middle of an import, and a traceback would be printed.
    """
    os.write(2, b"interrupted\n")
    os._exit(130)
