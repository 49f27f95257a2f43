"""Activation maximization: images to which a filter, a neuron or a class responds most strongly."""
