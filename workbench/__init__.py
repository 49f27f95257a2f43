"""The code that the programs ``dream`` and ``stylize`` share: options, jobs, recipes and the command line.

A job is a piece of work in progress, and a recipe is the record of settings that is stored in a picture. This package
depends neither on activation maximization nor on style transfer.
"""
