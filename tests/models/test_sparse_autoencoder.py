from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dreamgram.models.sparse_autoencoder import SparseAutoencoder, train_sparse_autoencoder
from tests.test_package import ROOT


def test_a_sparse_autoencoder_by_hand() -> None:
    sae, vectors = SparseAutoencoder(6, 10, 3).requires_grad_(False), torch.randn(4, 5, 6)
    sae.decoder.bias.normal_()
    sae.encoder.bias.normal_()
    centered = vectors[3, 4] - sae.decoder.bias
    values = [float(sae.encoder.weight[unit] @ centered + sae.encoder.bias[unit]) for unit in range(10)]
    kept = [max(value, 0) if value >= sorted(values)[-3] else 0 for value in values]
    assert sae(vectors)[3, 4].tolist() == pytest.approx(values, abs=1e-5)
    assert sae.encode(vectors)[3, 4].tolist() == pytest.approx(kept, abs=1e-5)
    with pytest.raises(ValueError, match="the number of active latents must be from 1 to 8, not 9"):
        SparseAutoencoder(6, 8, 9)


def test_training_finds_the_directions_in_the_data() -> None:
    directions = torch.linalg.qr(torch.randn(12, 12))[0]
    amounts = torch.zeros(4000, 12).scatter(1, torch.rand(4000, 12).argsort(1)[:, :2], torch.rand(4000, 2) + 1)
    sae = train_sparse_autoencoder(amounts @ directions, 24, 2, steps=300, learning_rate=0.01)
    torch.testing.assert_close(sae.decoder.weight.norm(dim=0), torch.ones(24))
    cosines = (directions @ sae.decoder.weight).detach()
    assert (cosines.amax(1) > 0.9).all(), cosines.amax(1)


def test_the_command_that_trains_and_shows_latents(tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "latents.png"
    fewer = ["--latents", "40", "--steps", "50", "--copies", "1", "--shown", "3", "--output", str(sheet)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.latents", *fewer], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "of 40 latents are dead" in run.stdout
    assert "of the variance is not explained by 8 of 40 latents" in run.stdout
    assert Image.open(sheet).width > 900
    sae = SparseAutoencoder(100, 40, 8)
    sae.load_state_dict(load_file(sheet.with_suffix(".safetensors")))
