"""The workbench: options, jobs, recipes and the console, which all front ends share.

It does not depend on either of the two applications.
"""
