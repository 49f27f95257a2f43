"""The code that the programs ``dream`` and ``stylize`` share: options, jobs, recipes and the command line.

A job is a task that is running, such as the painting of a photo. A recipe is the record of settings that is stored in a
picture file. This package imports nothing from the packages ``activation_maximization`` and ``style_transfer``.
"""
