"""Default layers of the content loss and of the style losses."""

# PyTorch is not imported here, because the command line reads these layers without PyTorch.
from __future__ import annotations

CONTENT_LAYERS = {"relu4_2": 1.0}
"""Content layers of style losses that name none, each with the factor that multiplies the content weight."""

FIVE = dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), 1.0)
"""The five style layers of Gatys et al., arXiv:1508.06576, with equal weights."""

FOUR = {name: weight for name, weight in FIVE.items() if name != "relu5_1"}
"""The style layers without relu5_1. A position of relu5_1 sees a large part of a face. If the statistics of the
painting are matched in this layer, faces and hair are replaced by shapes of the painting."""
