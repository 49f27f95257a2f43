"""Optimization of an input image by gradient descent.

The code does not depend on what the loss measures, such as the activation of a neuron or the style of a painting.
"""
