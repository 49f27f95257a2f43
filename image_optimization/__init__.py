"""The engine: gradient descent on an input image. It knows nothing of neurons or styles."""
