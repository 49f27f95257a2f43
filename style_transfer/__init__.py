"""Style transfer: an image is optimized to match a photo's content and a painting's style."""
