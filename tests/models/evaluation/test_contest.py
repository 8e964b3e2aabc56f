from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.baselines.parts import BaselineConfig
from models.config import ModelConfig
from models.evaluation.contest import CEILING, Contest, ContestOptions, contest
from models.evaluation.summary import over_logs, summary, text
from models.fitting import Budget, Progress
from models.log import Log
from models.metrics import gauc
from models.planted_log import PlantedSizes, planted_log

_SIZES = BaselineConfig(long_behaviours=12, attention_hidden=8, searched=4, ranker_hidden=(32, 16))


_OPTIONS = ContestOptions(seeds=(1, 2), budget=Budget(epochs=1, batch_size=256), held_out=0.25, queries=3)


@pytest.fixture(scope="module")
def run(config: ModelConfig) -> Callable[..., Contest]:
    """Runs a contest of seconds on a small planted log."""
    planted = planted_log(1, PlantedSizes(users=60, pages=4, topics=8, series=60, embedding_dim=config.embedding_dim))
    log = Log.of(planted.entries, config)

    def run_it(options: ContestOptions = _OPTIONS, **more: Any) -> Contest:
        return contest(log, config, _SIZES, options, truth=planted.probabilities, **more)

    return run_it


@pytest.fixture(scope="module")
def found(run: Callable[..., Contest]) -> Contest:
    """A contest of two seeds."""
    return run()


def test_every_model_is_trained_and_judged_with_every_seed(found: Contest) -> None:
    """All models have an AUC per user and hit rates per query of each seed; the teacher agrees with itself."""
    assert list(found.models) == ["popularity", "two_tower", "cold", "din", "eta", "ranker", "aif", "aif_distilled"]
    for measured in found.models.values():
        assert np.stack(measured.user_auc).shape == (2, len(found.user_weights))
        assert np.isfinite(measured.user_auc).all()
        assert {metric: np.stack(rows).shape for metric, rows in measured.hits.items()} == {
            f"hr{cutoff}_{against}": (2, 3) for cutoff in (10, 100) for against in ("teacher", "clicks")
        }
    assert (np.stack(found.models[CEILING].hits["hr10_teacher"]) == 1).all()
    assert (found.models["popularity"].user_auc[0] == found.models["popularity"].user_auc[1]).all()
    assert (found.models["aif"].user_auc[0] != found.models["aif"].user_auc[1]).any()
    assert found.truth is not None
    assert found.truth > 0.7


def test_a_stopped_contest_goes_on_with_the_seeds_that_are_missing(
    found: Contest, run: Callable[..., Contest], tmp_path: Path
) -> None:
    """A run that was stopped in its second seed trains that seed alone when it is started again, and both together
    are, bit for bit, the run that nothing stopped; with other options it believes none of what was kept."""
    heard: list[str] = []

    def stopped(what: str, _: Progress) -> None:
        heard.append(what)
        if what.startswith("seed 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=stopped, keep_in=tmp_path)
    assert heard[0] == "seed 1"
    heard.clear()
    resumed = run(progress=lambda what, _: heard.append(what), keep_in=tmp_path)
    assert {what.partition(",")[0] for what in heard} == {"seed 2"}
    assert resumed.earlier_s > 0 == found.earlier_s
    assert summary(resumed) == summary(found)
    for name, measured in found.models.items():
        np.testing.assert_equal(dataclasses.asdict(resumed.models[name]), dataclasses.asdict(measured))

    heard.clear()
    longer = dataclasses.replace(_OPTIONS, budget=Budget(epochs=2, batch_size=256))
    with pytest.raises(KeyboardInterrupt):
        run(longer, progress=stopped, keep_in=tmp_path)
    assert heard[0] == "seed 1"


def test_a_summary_is_json_with_the_gap_on_top(found: Contest) -> None:
    """The summary survives JSON without nan, its gap is the ratio of its own figures, the smallest is on top."""
    one = summary(found)
    both = over_logs({"a": one, "b": {**one, "gap_recovered": {"value": -9.0}}})
    assert json.loads(json.dumps(both, allow_nan=False))["gap_recovered"] == -9.0
    value = {name: model["gauc"]["value"] for name, model in one["models"].items()}
    assert one["aif_minus_two_tower"]["value"] == pytest.approx(value["aif"] - value["two_tower"], abs=2e-6)
    alone = over_logs({"a": {**one, "gap_recovered": {"value": None}}})
    assert (alone["gap_recovered"], alone["without_a_gap"]) == (None, ["a"])


def test_a_gap_is_a_ratio_where_the_ceiling_is_above_the_floor(found: Contest) -> None:
    """The gap is the ratio of the summary's own figures; a ceiling that cannot be told from the floor has none."""
    users = len(found.user_weights)

    def with_ceiling(lift: float) -> dict[str, Any]:
        models = {name: dataclasses.replace(each) for name, each in found.models.items()}
        for name, height in (("two_tower", 0.5), ("aif", 0.6), ("ranker", 0.5 + lift)):
            models[name].user_auc = [np.full(users, height) for _ in range(2)]
        return summary(dataclasses.replace(found, models=models))

    assert with_ceiling(0.125)["gap_recovered"] == {"value": 0.8, "low": 0.8, "high": 0.8}
    for lift in (0.0, -0.1):
        assert with_ceiling(lift)["gap_recovered"] == {"value": None, "low": None, "high": None}


def test_the_table_names_every_model_and_difference(found: Contest) -> None:
    """People see what JSON has: a row per model and per difference."""
    shown = text(over_logs({"planted": {**summary(found), "command": "aif", "minutes": 1, "machine": "any"}}))
    for name in (*found.models, "the true chances", "aif minus two tower", "gap recovered"):
        assert f"| {name}" in shown


def test_gauc_of_users_adds_up(found: Contest) -> None:
    """The mean of per-user AUCs by weight is GAUC as training reports it."""
    groups, labels = np.repeat([1, 2], [4, 6]), np.array([1, 0, 0, 1, 0, 1, 1, 0, 0, 1], dtype=np.float32)
    scores = np.arange(10, dtype=np.float32)[::-1].copy()
    assert 0 <= gauc(groups, labels, scores) <= 1
    one = summary(found)["models"]["aif"]
    assert np.mean(one["gauc_of_seeds"]) == pytest.approx(one["gauc"]["value"], abs=2e-6)
