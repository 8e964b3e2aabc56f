from __future__ import annotations

import numpy as np
import torch
from torch import nn

from models.aif import AIF
from models.baselines.two_tower import TwoTower
from models.batch import Batch
from models.config import ModelConfig
from models.examples import Batches, examples_of
from models.fitting import Budget, Distillation, Progress, fit, reproducible
from models.log import Log

_BUDGET = Budget(epochs=2, batch_size=64)


class _Certain(nn.Module):
    """A teacher that thinks every candidate is wanted."""

    def forward(self, batch: Batch) -> torch.Tensor:
        return torch.full(batch.candidates.shape, 50.0)


def test_company_does_not_change_a_model(log: Log, config: ModelConfig) -> None:
    """A model trained beside another one is the model trained alone: same batches, own optimiser."""
    known = examples_of(log).take(slice(0, 300))

    def trained(together: bool) -> dict[str, torch.Tensor]:
        with reproducible(1, 1):
            torch.manual_seed(1)
            model = AIF(config)
            others: dict[str, nn.Module] = {"two_tower": TwoTower(config)} if together else {}
            fit({**others, "aif": model}, Batches(log, config, 2), known, _BUDGET, 1)
            return model.state_dict()

    alone, beside = trained(False), trained(True)
    assert all(torch.equal(value, beside[name]) for name, value in alone.items())


def test_progress_counts_every_step(log: Log, config: ModelConfig) -> None:
    """Each step of each epoch is reported once, and every model has a loss of each."""
    seen: list[Progress] = []
    known = examples_of(log).take(slice(0, 150))
    losses = fit({"aif": AIF(config)}, Batches(log, config, 2), known, _BUDGET, 1, seen.append)
    assert [each.step for each in seen] == list(range(1, 7))
    assert len(losses["aif"]) == seen[0].steps == 6


def test_a_student_learns_what_its_teacher_thinks(log: Log, config: ModelConfig) -> None:
    """Taught by one who wants everything, negatives score above where labels alone would put them."""
    examples = examples_of(log).take(slice(0, 600))
    batch = Batches(log, config, 2).batch(examples, np.random.default_rng(0))
    means = []
    for distillation in (None, Distillation(_Certain(), share=1.0)):
        with reproducible(1, 1):
            model = AIF(config)
            fit({"aif": model}, Batches(log, config, 2), examples, _BUDGET, 1, distillation=distillation)
            with torch.no_grad():
                means.append(float(model(batch).mean()))
    assert means[1] > 1 > means[0]


def test_a_penalty_is_part_of_one_models_loss(log: Log, config: ModelConfig) -> None:
    """A penalty on its bridges makes that model's bridges small, and leaves a model beside it as it was."""
    known = examples_of(log).take(slice(0, 300))

    def lengths(penalised: bool) -> tuple[float, float]:
        with reproducible(1, 1):
            models: dict[str, nn.Module] = {"plain": AIF(config), "penalised": AIF(config)}
            penalties = {"penalised": lambda model: model.tower.bridges.square().sum()} if penalised else None
            fit(models, Batches(log, config, 2), known, _BUDGET, 1, penalties=penalties)
            plain, other = (float(model.tower.bridges.detach().norm()) for model in models.values())  # type: ignore[union-attr]
        return plain, other

    (plain, other), (same, smaller) = lengths(False), lengths(True)
    assert (same, smaller < 0.99 * other) == (plain, True)


class _Constant(nn.Module):
    """One number for every candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(-9.0))

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.logit.expand(batch.candidates.shape)


def test_steps_shorten_towards_the_end(log: Log, config: ModelConfig) -> None:
    """The learning rate falls linearly: with a gradient of one sign and size, each step is shorter by the same."""
    model, at, known = _Constant(), [], examples_of(log).take(slice(0, 640))
    positives = Batches(log, config, 1)
    fit({"constant": model}, positives, known, Budget(1, 64, 0.01), 1, lambda _: at.append(model.logit.item()))
    steps = np.diff([-9.0, *at])
    np.testing.assert_allclose(steps, 0.01 * np.arange(10, 0, -1) / 10, rtol=0.05)
