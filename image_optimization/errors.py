"""Errors with messages to which a user interface, such as the command line, may add advice.

Importing this module does not import PyTorch.
"""

from __future__ import annotations


class OutputExistsError(FileExistsError):
    """The error raised if an output file already exists and the caller has not allowed overwriting it.

    In Python, the argument ``overwrite`` allows overwriting; on the command line, a flag does. The message mentions
    neither the argument nor the flag, but the command line adds the name of the flag to the message.
    """


class TooLargeError(ValueError):
    """The error raised if a picture or video is too large to be decoded.

    The message ends with a value of the argument ``max_pixels`` that allows the picture. The command line shows the
    flag with this value instead.
    """

    def __init__(self, problem: str, enough: int) -> None:
        """Make an error from ``problem``, the message without advice, and ``enough``, the value to advise."""
        super().__init__(problem, enough)
        self.problem = problem
        self.enough = enough

    def __str__(self) -> str:
        return f"{self.problem} (max_pixels={self.enough:_})"


class NotWrittenError(OSError):
    """The error raised if a finished picture could not be written to its file.

    The message names the file in which the picture was saved instead.
    """
