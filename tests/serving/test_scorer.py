from __future__ import annotations

import numpy as np
import pytest

from domain.lsh import similarity
from domain.n2o import Flag
from domain.user_row import behaviours_of, window_counts
from schemas.errors import Corrupt
from serving.scorer import Scorer
from serving.stages import STAGES, StageClock
from tests.serving.conftest import NOW_MS, SIZES, item_rows, n2o_records, n2o_rows, tiny_head, tiny_weights, user_rows

USER = 77
ITEMS = range(100, 130)


def plain_scores(seed, by_id, head, candidates, at_ms) -> np.ndarray:
    """The formula of the model in float64 and plain loops: user phase, similarity tiers and head from their weights."""
    user, net = tiny_weights(seed), tiny_head(seed)
    layout, h1 = SIZES.layout, SIZES.hidden[0]
    seen = [each for each in behaviours_of(head)[::-1] if each["event_time_ms"] <= at_ms][: SIZES.behaviours]
    pooled, ages, codes = np.zeros(SIZES.vector_dim), 0.0, 0.0
    din, signed = np.zeros((SIZES.signature_bits, SIZES.vector_dim)), []
    for each in seen:
        row = by_id.get(int(each["item_id"]))
        if row is None:
            continue
        vector = layout.vectors(row[None])[0].astype("f8")
        pooled += vector
        ages += np.log1p((at_ms - each["event_time_ms"]) / 3_600_000)
        codes += each["action"]
        if row["flags"] & Flag.HAS_SIGNATURE:
            signed.append(row["signature"])
            din += np.outer(np.unpackbits(row["signature"]) * 2.0 - 1, vector)
    counts = np.log1p(window_counts([head], np.array([at_ms])).reshape(-1).astype("f8"))
    bias = counts @ user["window_weight"] + pooled @ user["pooled_weight"] + user["b1"]
    bias += ages * user["age_weight"][0] + codes * user["action_weight"][0]
    bridge_weight = (pooled @ user["bridge_of"]).reshape(SIZES.bridges, h1)
    signature_weight = din @ user["din_weight"]
    scores = []
    for candidate in candidates:
        row, hidden = by_id.get(int(candidate)), bias.copy()
        if row is not None and not row["flags"] & Flag.DELETED:
            hidden += layout.vectors(row[None])[0] @ net["vector_weight"]
            hidden += layout.bridge_weights(row[None])[0] @ bridge_weight
            if row["flags"] & Flag.HAS_SIGNATURE:
                hidden += (np.unpackbits(row["signature"]) * 2.0 - 1) @ signature_weight
                tiers = np.zeros(SIZES.tiers)
                for signature in signed:
                    share = float(similarity(row["signature"][None], signature[None])[0, 0])
                    tiers[min(SIZES.tiers - 1, int(share * SIZES.tiers))] += 1 / len(signed)
                hidden += tiers @ net["tier_weight"]
        logit = np.maximum(np.maximum(hidden, 0) @ net["w2"] + net["b2"], 0) @ net["w3"] + net["b3"]
        scores.append(1 / (1 + np.exp(-logit)))
    return np.array(scores)


@pytest.fixture
def filled(world, make_artifact):
    """A live version of 30 items, some without signature, one deleted; a user with known and unknown behaviours."""
    artifact = make_artifact(3)
    world.apply("items", item_rows(ITEMS))
    records = n2o_records(artifact.manifest.version_tag, ITEMS, seed=5)
    records["flags"][::4] = 0
    records["flags"][1] |= Flag.DELETED
    world.apply("users", user_rows(USER, [100, 101, 999, 104, 105, 106, 107, 105]))
    world.go_live(artifact, ITEMS, seed=5)
    world.apply("n2o_a", n2o_rows(records))
    return world, {int(row["item_id"]): row for row in records}


@pytest.mark.parametrize("at_ms", [NOW_MS, NOW_MS - 150_000, NOW_MS + 86_400_000, 0])
def test_scores_equal_the_formula(filled, at_ms) -> None:
    """Served scores are those of a plain recompute, now, in the past and when everything has aged."""
    world, by_id = filled
    head = world.store.users.head(USER)
    candidates = np.array([*ITEMS, 5000])
    ranked = Scorer().rank(world.versions.live, head, candidates, at_ms, len(candidates), StageClock())
    expected = plain_scores(3, by_id, head, candidates, at_ms)
    assert np.allclose(ranked.scores, expected, atol=2e-6)
    assert len(set(np.round(expected, 4))) > 10
    assert (ranked.missing, ranked.deleted) == (1, 1)


def test_what_is_not_servable_is_ranked_last_with_the_default_score(filled) -> None:
    """A deleted and an unknown candidate score as a row of zeros and come after all others, by id."""
    world, _ = filled
    head = world.store.users.head(USER)
    candidates = np.array([5000, *ITEMS, -3])
    ranked = Scorer().rank(world.versions.live, head, candidates, NOW_MS, len(candidates), StageClock())
    assert candidates[ranked.order][-3:].tolist() == [-3, 101, 5000]
    assert not ranked.known[ranked.order][-3:].any()
    assert len(set(ranked.scores[ranked.order][-3:].tolist())) == 1
    best = ranked.scores[ranked.order][:-3]
    assert (np.diff(best) <= 0).all()


def test_behaviours_are_counted_by_whether_they_have_a_row(filled) -> None:
    """Of the newest six behaviours the one whose item has no row is masked and counted."""
    world, _ = filled
    head = world.store.users.head(USER)
    ranked = Scorer().rank(world.versions.live, head, np.array([100]), NOW_MS, 1, StageClock())
    assert (ranked.behaviours_used, ranked.behaviours_missing) == (5, 1)


def test_unknown_users_are_scored_from_empty_behaviours(filled) -> None:
    """A user without a row gets the scores of a user who never did anything."""
    world, by_id = filled
    candidates = np.array(ITEMS)
    ranked = Scorer().rank(world.versions.live, None, candidates, NOW_MS, 5, StageClock())
    assert np.allclose(ranked.scores, plain_scores(3, by_id, None, candidates, NOW_MS), atol=2e-6)
    assert (ranked.behaviours_used, ranked.behaviours_missing) == (0, 0)
    assert len(ranked.order) == 5


def test_requests_of_any_size_reuse_buffers_and_never_each_others_rows(filled) -> None:
    """A small request after a large one gives what it gives alone."""
    world, _ = filled
    scorer, head = Scorer(), world.store.users.head(USER)
    many = np.array([*ITEMS, *range(10_000, 13_000)])

    def scores(candidates):
        return scorer.rank(world.versions.live, head, candidates, NOW_MS, 1, StageClock()).scores

    alone = scores(np.array([102, 103]))
    large = scores(many)
    assert scores(np.array([102, 103])).tolist() == alone.tolist()
    assert np.allclose(large[2:4], alone, atol=1e-6)


def test_every_stage_is_timed(filled) -> None:
    """Each of the scorer's four stages takes time; ingress is the API's."""
    world, _ = filled
    clock = StageClock()
    Scorer().rank(world.versions.live, None, np.array(ITEMS), NOW_MS, 5, clock)
    assert tuple(clock.ms) == STAGES
    assert all(spent > 0 for stage, spent in clock.ms.items() if stage != "ingress")


def test_a_score_that_is_not_a_number_is_no_answer(filled) -> None:
    """Rows with infinite vectors end in an error that names the model, not in a ranking."""
    world, _ = filled
    version = world.versions.live
    records = n2o_records(version.slab.tag, [100])
    records["vector"] = 0x7FC0  # NaN
    world.apply("n2o_a", n2o_rows(records))
    with pytest.raises(Corrupt, match=version.name):
        Scorer().rank(version, None, np.array([100]), NOW_MS, 1, StageClock())
