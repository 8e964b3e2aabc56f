from __future__ import annotations

import numpy as np
import pytest

from domain.n2o import Flag
from domain.user_features import user_inputs
from domain.user_row import behaviours_of
from models.reference import score, user_feed
from schemas.errors import Corrupt
from serving.ranking.scorer import Scorer
from serving.stages import STAGES, StageClock
from serving.user.user_side import Asked
from serving.user.user_state import StateMaker
from tests.serving.conftest import NOW_MS, SIZES, item_rows, n2o_records, n2o_rows, tiny_head, tiny_weights, user_rows

USER = 77
ITEMS = range(100, 130)


def rank(world, head, candidates, at_ms, top_k, clock, scorer=None):
    """Rank candidates for the user at a time, from a state made for it."""
    version = world.versions.live
    state = StateMaker(world.store.users)(version, [Asked(USER, head, at_ms, SIZES.long_behaviours)])[0]
    return (scorer or Scorer()).rank(version, state, candidates, top_k, clock)


def plain_scores(seed, by_id, head, candidates, at_ms) -> np.ndarray:
    """The formula of the model: the tiny user phase from its weights, the rest by models/reference.py's plain loops."""
    weights, h1 = tiny_weights(seed), SIZES.hidden[0]
    users = user_inputs([head], [behaviours_of(head)[::-1]], np.array([at_ms]), SIZES)
    records = np.concatenate([row[None] for row in by_id.values()])
    feed, categories = user_feed(users, records, SIZES)
    feed = {name: value[0] for name, value in feed.items()}
    there = feed["present"]
    pooled = feed["vectors"].astype("f8").sum(0)
    folded = {
        "bias": feed["windows"] @ weights["window_weight"] + pooled @ weights["pooled_weight"] + weights["b1"]
        + (there @ feed["ages"]) * weights["age_weight"][0] + (there @ feed["actions"]) * weights["action_weight"][0],
        "bridge_weight": (pooled @ weights["bridge_of"]).reshape(SIZES.bridges, h1),
        "signature_weight": feed["signatures"].T @ feed["vectors"] @ weights["din_weight"],
        "attention_weight": feed["vectors"][: SIZES.attended] @ weights["attention_of"],
        "category_weight": feed["cross"] @ weights["category_of"],
    }  # fmt: skip
    blank = SIZES.layout.empty(1)[0]
    rows = [by_id.get(int(candidate), blank) for candidate in candidates]
    rows = [blank if row["flags"] & Flag.DELETED else row for row in rows]
    return score(SIZES, tiny_head(seed), folded, feed, categories[0], np.array(rows, dtype=SIZES.layout.dtype))


@pytest.fixture
def filled(world, make_artifact):
    """A live version of 30 items, some without signature, one deleted; a user with known and unknown behaviours."""
    artifact = make_artifact(3)
    world.apply("items", item_rows(ITEMS))
    records = n2o_records(artifact.manifest.version_tag, ITEMS, seed=5)
    records["flags"][::4] = 0
    records["flags"][1] |= Flag.DELETED
    records["category_id"] = np.arange(len(records)) % 4
    records["flags"][::3] |= np.uint32(Flag.HAS_CATEGORY)
    world.apply("users", user_rows(USER, [103, 109, 100, 101, 999, 104, 105, 106, 107, 105]))
    world.go_live(artifact, ITEMS, seed=5)
    world.apply("n2o_a", n2o_rows(records))
    return world, {int(row["item_id"]): row for row in records}


@pytest.mark.parametrize("at_ms", [NOW_MS, NOW_MS - 150_000, NOW_MS + 86_400_000, 0])
def test_scores_equal_the_formula(filled, at_ms) -> None:
    """Served scores are those of a plain recompute, now, in the past and when everything has aged."""
    world, by_id = filled
    head = world.store.users.head(USER)
    candidates = np.array([*ITEMS, 5000])
    ranked = rank(world, head, candidates, at_ms, len(candidates), StageClock())
    expected = plain_scores(3, by_id, head, candidates, at_ms)
    assert np.allclose(ranked.scores, expected, atol=2e-6)
    assert len(set(np.round(expected, 4))) > 10
    assert (ranked.missing, ranked.deleted) == (1, 1)


def test_what_is_not_servable_is_ranked_last_with_the_default_score(filled) -> None:
    """A deleted and an unknown candidate score as a row of zeros and come after all others, by id."""
    world, _ = filled
    head = world.store.users.head(USER)
    candidates = np.array([5000, *ITEMS, -3])
    ranked = rank(world, head, candidates, NOW_MS, len(candidates), StageClock())
    assert candidates[ranked.order][-3:].tolist() == [-3, 101, 5000]
    assert not ranked.known[ranked.order][-3:].any()
    assert len(set(ranked.scores[ranked.order][-3:].tolist())) == 1
    best = ranked.scores[ranked.order][:-3]
    assert (np.diff(best) <= 0).all()


def test_behaviours_are_counted_by_whether_they_have_a_row(filled) -> None:
    """Of the ten behaviours the one whose item has no row is masked and counted."""
    world, _ = filled
    head = world.store.users.head(USER)
    ranked = rank(world, head, np.array([100]), NOW_MS, 1, StageClock())
    assert (ranked.behaviours_used, ranked.behaviours_missing) == (9, 1)


def test_unknown_users_are_scored_from_empty_behaviours(filled) -> None:
    """A user without a row gets the scores of a user who never did anything."""
    world, by_id = filled
    candidates = np.array(ITEMS)
    ranked = rank(world, None, candidates, NOW_MS, 5, StageClock())
    assert np.allclose(ranked.scores, plain_scores(3, by_id, None, candidates, NOW_MS), atol=2e-6)
    assert (ranked.behaviours_used, ranked.behaviours_missing) == (0, 0)
    assert len(ranked.order) == 5


def test_requests_of_any_size_reuse_buffers_and_never_each_others_rows(filled) -> None:
    """A small request after a large one gives what it gives alone."""
    world, _ = filled
    scorer, head = Scorer(), world.store.users.head(USER)
    many = np.array([*ITEMS, *range(10_000, 13_000)])

    def scores(candidates):
        return rank(world, head, candidates, NOW_MS, 1, StageClock(), scorer).scores

    alone = scores(np.array([102, 103]))
    large = scores(many)
    assert scores(np.array([102, 103])).tolist() == alone.tolist()
    assert np.allclose(large[2:4], alone, atol=1e-6)


def test_every_stage_is_timed(filled) -> None:
    """Each of the scorer's four stages takes time; ingress is the API's."""
    world, _ = filled
    clock = StageClock()
    rank(world, None, np.array(ITEMS), NOW_MS, 5, clock)
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
        rank(world, None, np.array([100]), NOW_MS, 1, StageClock())
