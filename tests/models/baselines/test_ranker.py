from __future__ import annotations

import dataclasses

import torch

from models.aif import AIF
from models.baselines.parts import BaselineConfig
from models.baselines.ranker import Ranker, similar_values
from models.batch import Batch
from models.config import ModelConfig


def test_the_ranker_reads_the_whole_long_history(batch: Batch, config: ModelConfig, sizes: BaselineConfig) -> None:
    """A behaviour beyond AIF's own length changes the ranker's scores and leaves AIF's as they were."""
    config = dataclasses.replace(config, long_behaviours=config.behaviours)
    torch.manual_seed(1)
    ranker, aif = Ranker(config, sizes), AIF(config)
    beyond = batch.present.clone()
    beyond[:-1, config.behaviours :] = 1 - beyond[:-1, config.behaviours :]
    other = dataclasses.replace(batch, present=beyond)
    with torch.no_grad():
        assert not torch.equal(ranker(batch)[:-1], ranker(other)[:-1])
        torch.testing.assert_close(aif(batch), aif(other))


def test_at_the_defaults_aif_costs_at_most_a_seventh_online() -> None:
    """At the default sizes AIF pays less than 15 % of the ranker's multiply-adds per candidate."""
    config = ModelConfig()
    ranker = Ranker(config, BaselineConfig()).online_multiply_adds()
    assert AIF(config).online_multiply_adds() <= 0.15 * ranker


def test_similar_values_equal_their_formula() -> None:
    """Weights are the softmax of scaled similarities over known behaviours; without any the value is zero."""
    random = torch.Generator().manual_seed(0)
    similarity, values = torch.rand(2, 3, 4, generator=random), torch.randn(2, 4, 5, generator=random)
    known = torch.tensor([[1.0, 1, 0, 1], [0, 0, 0, 0]])
    found = similar_values(similarity, known, values, torch.tensor(6.0))
    for candidate in range(3):
        expected = torch.softmax(6 * similarity[0, candidate, [0, 1, 3]], dim=0) @ values[0, [0, 1, 3]]
        torch.testing.assert_close(found[0, candidate], expected)
    assert (found[1] == 0).all()
