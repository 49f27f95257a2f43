"""Run ``python -m dreamgram``, also in a checkout that is not installed."""

from dreamgram.cli import main

main()
