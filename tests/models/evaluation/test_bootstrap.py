from __future__ import annotations

import numpy as np
import pytest

from models.evaluation.bootstrap import Estimate, Paired, gap_recovered

_WEIGHTS = np.array([1.0, 4, 2, 3])
_VALUES = np.arange(12, dtype=np.float64).reshape(3, 4) ** 1.5


def test_an_estimate_equals_resampling_by_hand() -> None:
    """Every draw is the weighted mean over the users drawn, averaged over the seeds drawn; the value is over all."""
    paired = Paired(3, _WEIGHTS, draws=50)
    found = paired.estimate(_VALUES)
    random = np.random.default_rng(20251112)
    seed_counts = random.multinomial(3, np.full(3, 1 / 3), size=50)
    user_counts = random.multinomial(4, np.full(4, 1 / 4), size=50)
    for draw in range(50):
        seeds = [seed for seed in range(3) for _ in range(seed_counts[draw, seed])]
        users = [user for user in range(4) for _ in range(user_counts[draw, user])]
        means = [
            sum(_WEIGHTS[user] * _VALUES[seed, user] for user in users) / sum(_WEIGHTS[user] for user in users)
            for seed in seeds
        ]
        assert found.draws[draw] == pytest.approx(sum(means) / len(means))
    assert found.value == pytest.approx(np.average(_VALUES, axis=1, weights=_WEIGHTS).mean())


def test_pairing_cancels_what_users_and_seeds_share() -> None:
    """Two models that differ by a constant differ by it in every draw, however users and seeds vary."""
    paired = Paired(3, _WEIGHTS)
    difference = paired.estimate(_VALUES + 0.25) - paired.estimate(_VALUES)
    np.testing.assert_allclose(difference.draws, 0.25)
    assert difference.smallest_detectable == pytest.approx(0, abs=1e-9)
    assert paired.estimate(_VALUES).smallest_detectable > 1


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of many samples with a known mean, about 95 % have it inside their interval."""
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        users = random.normal(0.6, 0.2, size=200)
        estimate = Paired(5, np.ones(200), draws=400).estimate(users + random.normal(0, 0.02, size=(5, 200)))
        inside += estimate.low <= 0.6 <= estimate.high
    assert 0.9 <= inside / 200 <= 0.99


def test_the_gap_is_a_ratio_of_paired_differences() -> None:
    """Value and every draw are (model - floor) / (ceiling - floor); equal floor and ceiling have none."""
    floor, ceiling = Estimate(0.5, np.array([0.5, 0.5, 0.6])), Estimate(0.7, np.array([0.7, 0.6, 0.6]))
    model = Estimate(0.65, np.array([0.6, 0.6, 0.65]))
    found = gap_recovered(model, floor, ceiling)
    assert found.value == pytest.approx(0.75)
    np.testing.assert_allclose(found.draws[:2], [0.5, 1.0])
    assert np.isnan(found.draws[2])
    assert np.isnan(gap_recovered(model, floor, floor).value)


def test_without_units_there_is_no_estimate() -> None:
    """No user with an AUC gives nan and not a number."""
    assert np.isnan(Paired(2, np.empty(0)).estimate(np.empty((2, 0))).value)
