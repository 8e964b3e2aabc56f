from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from models.aif import AIF
from models.baselines.cold import Cold
from models.baselines.din import Din
from models.baselines.eta import Eta
from models.baselines.parts import Attention, Baseline, BaselineConfig
from models.baselines.ranker import Ranker
from models.baselines.two_tower import TwoTower
from models.batch import Batch
from models.config import ModelConfig
from models.fitting import _loss, _step


def _made(name: str, config: ModelConfig, sizes: BaselineConfig) -> torch.nn.Module:
    torch.manual_seed(1)
    makers = {
        "two_tower": lambda: TwoTower(config), "cold": lambda: Cold(config), "din": lambda: Din(config, sizes),
        "eta": lambda: Eta(config, sizes), "ranker": lambda: Ranker(config, sizes), "aif": lambda: AIF(config),
    }  # fmt: skip
    return makers[name]()


every_model = pytest.mark.parametrize("name", ["two_tower", "cold", "din", "eta", "ranker", "aif"])


@every_model
def test_a_model_can_learn_a_toy_set(name: str, toy: Batch, config: ModelConfig, sizes: BaselineConfig) -> None:
    """Every model, given enough steps, tells the positives of a handful of users from their negatives."""
    model = _made(name, config, sizes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = [_step(optimizer, _loss(model, toy, toy.labels)) for _ in range(100)]
    assert losses[-1] < 0.1 * losses[0]
    with torch.no_grad():
        assert ((model(toy) > 0) == (toy.labels > 0)).all()


@every_model
def test_what_is_absent_changes_nothing(name: str, batch: Batch, config: ModelConfig, sizes: BaselineConfig) -> None:
    """Scores do not depend on what the places of absent behaviours hold, and are finite without any behaviour."""
    model = _made(name, config, sizes)
    absent = batch.present == 0
    other = dataclasses.replace(
        batch,
        behaviours=torch.where(absent, (batch.behaviours + 7) % 40, batch.behaviours),
        actions=torch.where(absent, (batch.actions + 3) % 14, batch.actions),
        ages=torch.where(absent, batch.ages + 9, batch.ages),
    )
    with torch.no_grad():
        found = model(batch)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(model(other), found)


@every_model
def test_candidates_do_not_see_each_other(name: str, batch: Batch, config: ModelConfig, sizes: BaselineConfig) -> None:
    """A candidate scored alone gets the score that it gets among others."""
    model = _made(name, config, sizes)
    with torch.no_grad():
        together = model(batch)
        for place in range(together.shape[1]):
            alone = dataclasses.replace(batch, candidates=batch.candidates[:, place : place + 1])
            torch.testing.assert_close(model(alone)[:, 0], together[:, place], rtol=1e-4, atol=1e-5)


def test_attention_equals_its_formula() -> None:
    """The activation unit equals a loop over candidates and behaviours that follows its docstring."""
    torch.manual_seed(2)
    unit = Attention(6, 4)
    item, values = torch.randn(2, 3, 6), torch.randn(2, 5, 6)
    present = torch.tensor([[1.0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    with torch.no_grad():
        found = unit(item, values, present)
        for user in range(2):
            for candidate in range(3):
                q = item[user, candidate]
                rows = [unit.nothing] + [values[user, place] for place in range(5) if present[user, place]]
                scores = [
                    unit.score(torch.relu((q * k) @ unit.of_product + unit.of_item(q) + unit.of_behaviour(k)))[0]
                    + q @ k / math.sqrt(6)
                    for k in rows
                ]
                weights = torch.softmax(torch.stack(scores), dim=0)
                expected = sum(weight * row for weight, row in zip(weights, rows, strict=True))
                torch.testing.assert_close(found[user, candidate], expected, rtol=1e-4, atol=1e-5)
        spread = unit(item, values.unsqueeze(1).expand(-1, 3, -1, -1), present.unsqueeze(1).expand(-1, 3, -1))
    torch.testing.assert_close(spread, found)


def test_encoders_are_those_of_aif(batch: Batch, config: ModelConfig) -> None:
    """With AIF's weights a baseline's user vector is AIF's, whether or not it looks at more behaviours."""
    aif = AIF(config)
    baseline = Baseline(config)
    baseline.item.load_state_dict(aif.tower.state_dict(), strict=False)
    baseline.user.load_state_dict(aif.user.state_dict(), strict=False)
    with torch.no_grad():
        vectors = aif.tower.vector(*batch.items)
        theirs = vectors[batch.behaviours] * batch.present.unsqueeze(-1)
        expected = aif.user.context(batch.windows, theirs, batch.actions, batch.ages, batch.present)
        for attended in (config.behaviours, 12):
            inputs = baseline.inputs(batch, attended)
            torch.testing.assert_close(inputs.user, expected.user)
            assert inputs.values.shape[1] == inputs.present.shape[1] == attended
            torch.testing.assert_close(inputs.values, expected.behaviours[:, :attended])
