from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from planted import item_update, user_event

from models.bridge_choice import mutual_information
from models.config import ModelConfig
from models.examples import Batches, examples_of
from models.log import Log
from models.training import Progress, Trained, TrainingOptions, train
from schemas.errors import BadInput


def test_training_finds_the_planted_truth(trained: Trained) -> None:
    """On a log whose users like one cluster each, the loss falls and held-out AUC and GAUC are far above chance."""
    assert np.mean(trained.losses[-10:]) < 0.8 * np.mean(trained.losses[:5])
    assert trained.metrics["auc"] > 0.8
    assert trained.metrics["gauc"] > 0.8
    assert trained.metrics["logloss"] < 0.45


def test_equal_seeds_give_equal_weights(log: Log, config: ModelConfig) -> None:
    """Training twice with one seed gives the same model bit for bit, another seed another one."""
    options = TrainingOptions(epochs=1, max_examples=600, batch_size=128)
    first, second = train(log, config, options), train(log, config, options)
    other = train(log, config, dataclasses.replace(options, seed=2))
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert first.metrics == second.metrics
    assert first.losses == second.losses != other.losses


def test_progress_reaches_its_end_and_torch_is_left_as_it_was(log: Log, config: ModelConfig) -> None:
    """Every step is reported once, and threads, determinism and torch's random state are restored."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.random.get_rng_state()
    seen: list[Progress] = []
    train(log, config, TrainingOptions(epochs=2, max_examples=300, batch_size=64), seen.append)
    assert [each.step for each in seen] == list(range(1, seen[-1].steps + 1))
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[:2]
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_a_loss_that_is_not_finite_stops_and_names_its_step(log: Log, config: ModelConfig) -> None:
    """Training that diverges ends with the step at which it did, and what to do."""
    with pytest.raises(BadInput, match=r"step \d+ of \d+.*learning rate"):
        train(log, config, TrainingOptions(epochs=2, learning_rate=1e30, batch_size=64, max_examples=600))


def test_a_taught_model_says_who_taught_it(log: Log, config: ModelConfig) -> None:
    """With distillation or alignment the ranker is trained first, is judged, and changes what the model becomes."""
    short = TrainingOptions(epochs=1, max_examples=600, batch_size=128)
    seen: list[str] = []
    models = []
    for options in (short, dataclasses.replace(short, distill=0.5), dataclasses.replace(short, align=1.0)):
        found = train(log, config, options, lambda at: seen.append(at.model))
        models.append(found.model.head.third.weight)
        taught = options is not short
        assert ("teacher_gauc" in found.metrics) == taught
        assert list(dict.fromkeys(seen)) == (["teacher", "model"] if taught else ["model"])
        seen.clear()
    assert not any(torch.equal(models[0], each) for each in models[1:])


def test_items_choose_among_bridges_where_they_are_pressed_to(log: Log, config: ModelConfig) -> None:
    """With the term items and bridges share more information than without it, nothing looks at the trained tower any
    more, and a model without bridges is refused."""
    short = TrainingOptions(epochs=1, batch_size=64, max_examples=1200, learning_rate=5e-3)
    newest = examples_of(log).take(slice(-100, None))
    batch = Batches(log, config, negatives=2).batch(newest, np.random.default_rng(0))
    shared = []
    for weight in (0.0, 0.5):
        tower = train(log, config, dataclasses.replace(short, choose_bridges=weight)).model.tower
        with torch.no_grad():
            shared.append(float(mutual_information(tower(*batch.items)[1])))
        assert not tower._forward_hooks
    assert shared[1] > 10 * shared[0]
    with pytest.raises(BadInput, match="choose_bridges"):
        train(log, dataclasses.replace(config, bea="none"), dataclasses.replace(short, choose_bridges=0.1))


def test_chances_are_calibrated_and_nothing_else_changes(log: Log, config: ModelConfig, trained: Trained) -> None:
    """Calibration leaves AUC and GAUC alone and makes held-out chances at least as likely; it can be left out."""
    options = TrainingOptions(epochs=1, batch_size=128, learning_rate=5e-3, held_out=0.3)
    few = train(log, config, dataclasses.replace(options, max_examples=600, held_out=0.1))
    assert few.calibration is None, "some 60 positives, of which half the users have half, say too little"
    plain = train(log, config, dataclasses.replace(options, calibrate=False))
    calibrated = train(log, config, options)
    assert plain.calibration is None and calibrated.calibration is not None
    folded = calibrated.calibration.slope * plain.model.head.third.weight
    assert torch.equal(calibrated.model.head.third.weight, folded)
    assert calibrated.metrics["gauc"] == pytest.approx(plain.metrics["gauc"])
    assert calibrated.metrics["logloss"] < plain.metrics["logloss"] + 0.01
    assert trained.metrics["calibration_error"] < 0.1


@pytest.mark.parametrize("events", [0, 1, 2])
def test_too_short_a_log_is_refused(events: int, config: ModelConfig) -> None:
    """A log without enough examples to split is refused with their number."""
    entries: list[tuple[str, Any]] = [("item", item_update(1, 0))]
    entries += [("user", user_event(n, 1, 1, 5)) for n in range(events)]
    with pytest.raises(BadInput, match=f"gives {events} examples"):
        train(Log.of(entries, config), config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"max_examples": 1},
        {"held_out": 1.0},
        {"distill": 1.5},
        {"align": -1.0},
        {"choose_bridges": -1.0},
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    """Options that cannot be are refused by name."""
    with pytest.raises(BadInput, match=next(iter(wrong))):
        TrainingOptions(**wrong)
