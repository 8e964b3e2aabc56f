from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiments.logs import PLANS, Plan, open_log
from experiments.measured import Data, Variant, about, against, interval, measured
from models.aif import AIF
from models.baselines.two_tower import TwoTower
from models.config import ModelConfig
from models.evaluation.bootstrap import Estimate
from schemas.errors import BadInput


def test_equal_variants_are_equal_whoever_stands_beside_them(data: Data, small: ModelConfig) -> None:
    """A variant under two names has the same scores: their difference is 0 with an interval of 0; another's is not."""
    heard: list[tuple[str, int, int]] = []
    variants = {
        "first": Variant(lambda: AIF(small)),
        "other": Variant(lambda: TwoTower(small)),
        "again": Variant(lambda: AIF(small)),
    }
    found = measured(data, variants, 2, lambda *at: heard.append(at))
    assert (len({at[0] for at in heard}), heard[-1][1]) == (2, heard[-1][2])
    rows = {row["name"]: row for row in against(found, "first")}
    assert rows["again"]["difference"] == {"value": 0, "low": 0, "high": 0}
    assert rows["again"]["gauc"] == rows["first"]["gauc"]
    assert rows["other"]["difference"]["value"] != 0
    assert rows["first"]["online_multiply_adds"] == AIF(small).online_multiply_adds()
    own = found.gauc("other").value - found.gauc("first").value
    assert rows["other"]["difference"]["value"] == pytest.approx(own, abs=1e-6)


def test_a_penalty_reaches_its_variant_alone(data: Data, small: ModelConfig) -> None:
    """A penalty on its bridges makes them shorter, and leaves the same model without it as it was."""
    plain = Variant(lambda: AIF(small))
    penalised = Variant(lambda: AIF(small), lambda model: model.get_parameter("tower.bridges").square().sum())
    found = measured(data, {"plain": plain, "penalised": penalised}, 1, lambda *_: None)
    alone = measured(data, {"plain": plain}, 1, lambda *_: None)
    lengths = {
        name: float(models[0].get_parameter("tower.bridges").detach().norm())
        for name, models in [*found.models.items(), ("alone", alone.models["plain"])]
    }
    assert lengths["penalised"] < lengths["plain"] == lengths["alone"]


def test_what_was_used_is_told(data: Data) -> None:
    """The page's counts are those of the judged part: every candidate once, users with both kinds alone."""
    found = about(data, 3)
    assert found["judged_candidates"] == len(data.held.labels)
    assert found["judged_positives"] == int(data.held.labels.sum())
    assert 0 < found["users_with_auc"] <= 40


def test_no_number_is_none() -> None:
    """JSON has no nan: a number that cannot be made is null."""
    nothing = Estimate(float("nan"), np.full(3, np.nan))
    assert interval(nothing) == {"value": None, "low": None, "high": None}


def test_logs_are_opened_by_their_plans(small: ModelConfig) -> None:
    """The planted log has the plan's users, a small one an eighth; a data set that is not there is refused by name."""
    plan = replace(PLANS["planted"], users=16)
    assert len(np.unique(open_log("planted", plan, small).events.user_id)) == 16
    assert len(np.unique(open_log("planted", plan.small, small).events.user_id)) == 2
    with pytest.raises(BadInput, match="nothing"):
        open_log("nothing", Plan(1, 0.5, 1, 1), small)
