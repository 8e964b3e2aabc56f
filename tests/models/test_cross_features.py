from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from models.aif import AIF
from models.config import ModelConfig
from models.cross_features import HARD_SEARCH_COLUMNS, hard_search, similar_values
from models.examples import Batches, examples_of
from models.export import export
from models.log import Log
from schemas.errors import BadInput


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


def test_hard_search_counts_the_candidates_own_category() -> None:
    """Actions are counted where categories are equal, known and present; the newest of them gives the recency."""
    categories = torch.tensor([[3, 5, 0]])
    theirs, actions = torch.tensor([[3, 3, 5, 0, 3]]), torch.tensor([[2, 2, 9, 1, 2]])
    ages = torch.tensor([[1.0, 0.5, 3.0, 0.1, 0.0]])
    present = torch.tensor([[1.0, 1, 1, 1, 0]])
    found = hard_search(categories, theirs, actions, ages, present)[0]
    expected = np.zeros((3, HARD_SEARCH_COLUMNS), dtype=np.float32)
    expected[0, 2], expected[0, -1] = np.log1p(2), 1 / 1.5
    expected[1, 9], expected[1, -1] = np.log1p(1), 1 / 4
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("option", [{"din": "softmax"}, {"hard_search": True}, {"bea": "B"}])
def test_options_change_scores(option: dict[str, object], log: Log, config: ModelConfig) -> None:
    """Each option gives another model of the same batch, with finite scores and gradients for all its parameters."""
    batch = Batches(log, config, 2).batch(examples_of(log).take(slice(0, 200)), np.random.default_rng(0))
    torch.manual_seed(1)
    plain = AIF(config)(batch)
    torch.manual_seed(1)
    model = AIF(dataclasses.replace(config, **option))  # type: ignore[arg-type]
    found = model(batch)
    assert torch.isfinite(found).all()
    assert not torch.allclose(found, plain)
    found.sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in model.parameters() if each.requires_grad)


@pytest.mark.parametrize("option", [{"din": "softmax"}, {"hard_search": True}])
def test_options_that_do_not_fold_are_not_exported(option: dict[str, object], config: ModelConfig, tmp_path) -> None:
    """An artifact of a model that serving could not compute is refused."""
    with pytest.raises(BadInput, match="comparison"):
        export(AIF(dataclasses.replace(config, **option)), {}, tmp_path)  # type: ignore[arg-type]


def test_variant_b_is_exported_and_pools_by_combined_weights(config: ModelConfig, tmp_path) -> None:
    """Variant B's folded form equals pooling fields by w_u a_i, and its artifact passes the export's own check."""
    torch.manual_seed(3)
    model = AIF(dataclasses.replace(config, bea="B"))
    d, fields_of = config.vector_dim, torch.randn(1, config.behaviours, config.vector_dim)
    present = torch.ones(1, config.behaviours)
    present[0, 3:] = 0
    windows = torch.rand(1, config.dimensions.user_features)
    arguments = windows, fields_of * present.unsqueeze(-1), torch.zeros_like(present).long(), present * 0, present
    with torch.no_grad():
        context = model.user.context(*arguments)
        encoded = model.user.encode(*arguments)
        fields = torch.cat((encoded.rows[0, :3], encoded.profile), dim=0)  # [4, d] of those there
        weights = torch.softmax(fields @ model.user.bridges.T / d**0.5, dim=-1)  # w_u [4, n]
        a = torch.rand(config.bridges)
        expected = (weights @ a) @ fields / len(fields)
    torch.testing.assert_close(a @ context.bridged[0], expected)
    assert export(model, {}, tmp_path).manifest.dimensions == config.dimensions
