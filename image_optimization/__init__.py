"""The engine: gradient descent on an input image.

It does not depend on what the loss measures, such as the activation of a neuron or the style of a painting.
"""
