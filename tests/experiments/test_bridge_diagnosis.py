"""What is said of trained bridges is true of bridges that were made to be so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments import bridges
from experiments.bridge_cures import Watched
from experiments.bridge_diagnosis import diagnosed, diagnosis, effective_rank
from experiments.measured import Data
from models.config import ModelConfig
from models.metrics import gauc


def test_effective_rank_counts_directions() -> None:
    """n orthogonal rows have rank n, copies of one row rank 1, and scaling changes nothing."""
    rows = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    assert effective_rank(3 * rows) == pytest.approx(6)
    assert effective_rank(rows[:1].expand(5, 6)) == pytest.approx(1)


def test_copies_of_a_bridge_are_redundant_and_ignored(data: Data, small: ModelConfig) -> None:
    """Copies have one direction; every item uses all alike, and nothing is lost where all items are alike."""
    model = _model(small)
    with torch.no_grad():
        model.tower.bridges.copy_(torch.ones(small.bridges, small.vector_dim))
    found = diagnosis(model, data, data.held)
    assert found.pop("seen") == gauc(data.held.users, data.held.labels, data.held.scores(model))
    del found["weights_rank"]  # of nothing but rounding
    assert found == pytest.approx(
        {
            "relied_on": 0, "cosine": 1, "rank": 1, "used": small.bridges, "used_by_an_item": small.bridges,
            "of_category": 0,
        },
        abs=1e-3,
    )  # fmt: skip


def test_chosen_bridges_are_in_use(data: Data, small: ModelConfig) -> None:
    """Long orthogonal bridges have as many directions as there are; an item uses fewer of them than all items do."""
    model = _model(small)
    with torch.no_grad():
        model.tower.bridges.copy_(1e4 * torch.eye(small.bridges, small.vector_dim))
    found = diagnosis(model, data, data.held)
    assert found["cosine"] == 0 and found["rank"] == pytest.approx(small.bridges)
    assert found["used_by_an_item"] < found["used"] <= small.bridges


def test_items_are_alike_only_for_a_while(data: Data, small: ModelConfig) -> None:
    """Other weights give other scores, and the model's own are back afterwards."""
    model = _model(small)
    own = data.held.scores(model)
    with model.all_items_alike(torch.eye(small.bridges)[0]):
        assert not np.array_equal(data.held.scores(model), own)
    np.testing.assert_array_equal(data.held.scores(model), own)


def test_without_bridges_only_the_fit_is_told(data: Data, small: ModelConfig) -> None:
    """A model without bridges has nothing to look at but how far it fits."""
    assert set(diagnosed([_model(replace(small, bea="none"))], data, data.held, 0.5)) == {"seen_minus_judged"}


@pytest.mark.parametrize("curve", bridges.CURVES)
def test_a_curve_begins_without_bridges_and_differs_in_them_alone(curve: str) -> None:
    """Every variant has the parts that the curve names; the whole one is AIF as it is by default."""
    config = ModelConfig()
    made = {name: each.make() for name, each in bridges.variants(curve, config).items()}
    assert next(iter(made)) == "none"
    for name, model in made.items():
        assert isinstance(model, Watched)
        count = None if name == "none" else int(name.partition(",")[0])
        expected = replace(config, **bridges.CURVES[curve])
        expected = replace(expected, bea="none") if count is None else replace(expected, bridges=count)
        assert model.config == expected
    if not bridges.CURVES[curve]:
        assert made[str(config.bridges)].config == config


def _model(config: ModelConfig) -> Watched:
    torch.manual_seed(1)
    return Watched(config).eval()
