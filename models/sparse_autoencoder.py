"""A top-k sparse autoencoder, which writes activations as sums of a few learned directions.

See Gao et al., "Scaling and Evaluating Sparse Autoencoders", arXiv:2406.04093.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu


class SparseAutoencoder(nn.Module):
    """A sparse autoencoder for activations (..., C). Of its F latents, at most ``active`` are not zero.

    The module ``decoder`` maps the latents to activations: (..., F) -> (..., C).
    """

    def __init__(self, units: int, latents: int, active: int) -> None:
        """Make an untrained autoencoder for ``units`` units C, with ``latents`` latents F.

        Raises:
            ValueError: ``active`` is not from 1 to ``latents``.
        """
        if not 1 <= active <= latents:
            raise ValueError(f"the number of active latents must be from 1 to {latents}, not {active}")
        super().__init__()
        self.active = active
        self.encoder = nn.Linear(units, latents)
        self.decoder = nn.Linear(latents, units)
        with torch.no_grad():
            # If both matrices start with the same directions of length 1, few latents die.
            self.decoder.weight.copy_(normalize(torch.randn(latents, units)).T)
            self.encoder.weight.copy_(self.decoder.weight.T)
            self.encoder.bias.zero_()
            self.decoder.bias.zero_()

    def forward(self, activations: Tensor) -> Tensor:
        """Return the latents before all but the largest are set to zero: (..., C) -> (..., F).

        Like the outputs of the digit networks' layers, they have a nonzero gradient even where they are not active.
        """
        latents: Tensor = self.encoder(activations - self.decoder.bias)
        return latents

    def encode(self, activations: Tensor) -> Tensor:
        """Return the latents, of which at most ``active`` are not zero and none is negative: (..., C) -> (..., F)."""
        latents = self(activations)
        values, indices = latents.topk(self.active)
        return torch.zeros_like(latents).scatter(-1, indices, relu(values))


def train_sparse_autoencoder(
    activations: Tensor, latents: int, active: int, *, steps: int, batch: int = 256, learning_rate: float = 1e-3
) -> SparseAutoencoder:
    """Train a sparse autoencoder to reconstruct ``activations`` (N, C) with the smallest squared error.

    The optimizer is Adam, and the learning rate falls linearly to zero. After each step, the directions of the decoder
    are scaled to length 1. PyTorch's default generator draws the ``batch`` vectors of each step.
    """
    sae = SparseAutoencoder(activations.shape[1], latents, active).to(activations)
    with torch.no_grad():
        sae.decoder.bias.copy_(activations.mean(0))
    optimizer = torch.optim.Adam(sae.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=steps)
    for _ in range(steps):
        some = activations[torch.randint(len(activations), (batch,))]
        loss = (sae.decoder(sae.encode(some)) - some).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            sae.decoder.weight.copy_(normalize(sae.decoder.weight, dim=0))
    return sae.eval()
