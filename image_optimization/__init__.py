"""Optimization of an input image by gradient descent.

The code works with any differentiable loss, whether it measures the activation of a neuron or the style of a painting.
"""
