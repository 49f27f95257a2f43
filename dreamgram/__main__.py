"""The entry point of ``python -m dreamgram``, which also works in a checkout that is not installed."""

from dreamgram.start import dreamgram

dreamgram()
