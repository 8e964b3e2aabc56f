from __future__ import annotations

import torch

from models.baselines.two_tower import TwoTower
from models.batch import Batch
from models.config import ModelConfig


def test_scores_are_a_product_of_two_vectors(batch: Batch, config: ModelConfig) -> None:
    """Scores of all users and items form a table whose rank is at most that of the vectors and the item bias."""
    model = TwoTower(config)
    with torch.no_grad():
        inputs = model.inputs(batch, config.behaviours)
        everything = torch.arange(40).expand(6, -1)
        wide = Batch(**{**batch.__dict__, "candidates": everything})
        table = model(wide)
        vectors = model.item.vector(*batch.items)
        expected = inputs.user @ vectors.T / config.vector_dim**0.5 + model.bias(vectors).T
    torch.testing.assert_close(table, expected, rtol=1e-4, atol=1e-5)
    assert model.online_multiply_adds() == config.vector_dim
