from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from domain.sequence import BEHAVIOUR_DTYPE
from domain.user_features import user_inputs
from schemas.errors import VersionMismatch
from serving.joining import MISMATCHES, ItemRows, one_version
from serving.kernels import prepare, score_rows
from serving.ranking.explain import User, explained
from serving.ranking.merger import Ask
from serving.ranking.scorer import Scorer
from serving.rollout.versions import Version
from serving.stages import StageClock
from tests.serving.conftest import NOW_MS, SIZES, item_rows, n2o_records, user_rows

ITEMS = range(100, 130)
USER = 1
IDS = np.array(ITEMS, dtype=np.int64)


@pytest.fixture
def pair(world, make_artifact):
    """Two versions with rows of the same items, the second one live, the first retained; a user."""
    world.apply("items", item_rows(ITEMS))
    world.apply("users", user_rows(USER, [100, 101, 102]))
    world.go_live(make_artifact(1), ITEMS, seed=1)
    world.go_live(make_artifact(2), ITEMS, seed=2)
    return world.versions.retained, world.versions.live


def rows(version) -> ItemRows:
    """All rows of a version."""
    return version.slab.rows(IDS, np.empty((len(IDS), SIZES.layout.stride), dtype=np.uint8))


def nobody(count: int):
    """Inputs of a user of so many behaviours, of whom nothing else is known."""
    inputs = user_inputs([None], [np.zeros(0, dtype=BEHAVIOUR_DTYPE)], np.array([NOW_MS]), SIZES)
    shape = 1, count
    return replace(
        inputs, item_ids=np.zeros(shape, np.int64), actions=np.zeros(shape, np.int64),
        ages=np.ones(shape, np.float32), present=np.ones(shape, np.bool_),
    )  # fmt: skip


def folded(version, of=None):
    """The version's user phase over rows of `of`, or of its own."""
    return version.phase.run(nobody(len(IDS)), rows(of or version))[0]


JOINS = {
    "a user phase": lambda one, other: folded(one, of=other),
    "a user's state": lambda one, other: prepare(other.head, SIZES, folded(one)),
    "scores": lambda one, other: score_rows(prepare(one.head, SIZES, folded(one)), rows(other)),
    "a version": lambda one, other: replace(one, slab=other.slab),
    "item rows": lambda one, other: ItemRows.checked(one.tag, n2o_records(other.tag, ITEMS)),
    "an explanation": lambda one, other: explained(
        rows(other), np.ones(len(IDS), np.bool_), User(nobody(len(IDS)), rows(one), folded(one)), one.head, SIZES, 0
    ),
}


@pytest.mark.parametrize("made", list(JOINS))
def test_unlike_parts_are_refused_wherever_they_meet(pair, made) -> None:
    """Graph and rows, graph and head, state and rows: each join of two versions raises, and is counted by its name."""
    one, other = pair
    JOINS[made](one, one)
    before = MISMATCHES[made]
    for parts in ((one, other), (other, one)):
        with pytest.raises(VersionMismatch, match=rf"^{made}: .*{one.name}.*{other.name}|^{made}: .*{other.name}"):
            JOINS[made](*parts)
    assert MISMATCHES[made] == before + 2


@pytest.mark.parametrize("part", ["phase", "head", "slab"])
def test_a_version_is_made_of_its_own_parts_alone(pair, part) -> None:
    """A graph, a head or a slab of another version, or a name that is none of theirs, makes no version."""
    one, other = pair
    with pytest.raises(VersionMismatch, match="a version"):
        replace(one, **{part: getattr(other, part)})
    with pytest.raises(VersionMismatch, match="a version"):
        Version(other.name, one.sizes, one.layout, one.phase, one.head, one.slab)


def test_a_slab_takes_no_row_of_another_version(world, pair) -> None:
    """Not one of them, whatever else comes with it; those of its own version stay as they were."""
    one, other = pair
    [writer] = [slab for key, slab in world.writer.slabs.items() if key.tag == one.tag]
    before = rows(one).raw.copy()
    mixed = n2o_records(one.tag, [100, 101], seed=9)
    mixed["version"][1] = other.tag
    with pytest.raises(VersionMismatch, match="a slab"):
        writer.put(mixed.view(np.uint8).reshape(2, -1))
    np.testing.assert_array_equal(rows(one).raw, before)


def test_a_user_state_kept_across_a_flip_scores_nothing_of_the_other_version(world, pair, make_artifact) -> None:
    """Cached states of the version before stay its own: handed to the new version's rows they are refused, and the
    next request computes one of its own."""
    _, live = pair
    begun = world.service.merger.prepare(Ask(USER, NOW_MS))
    kept = world.service.merger.score_here(begun, IDS, 5, StageClock())
    state = begun.pending.state
    assert state.version_tag == live.tag
    world.go_live(make_artifact(3), ITEMS, seed=3)
    with pytest.raises(VersionMismatch, match="scores"):
        Scorer().rank(world.versions.live, state, IDS, 5, StageClock())
    again = world.service.merger.prepare(Ask(USER, NOW_MS))
    now = world.service.merger.score_here(again, IDS, 5, StageClock())
    assert again.pending.state.version_tag == world.versions.live.tag
    assert np.abs(now.ranked.scores - kept.ranked.scores).max() > 1e-3


def test_a_refused_join_is_an_answer_of_503_and_a_metric(world, pair, client, monkeypatch) -> None:
    """Whoever asks is told to ask again, and /metrics counts what was refused."""
    one, _ = pair
    stale = world.service.merger.users.default(one)
    monkeypatch.setattr(world.service.merger.users, "state", lambda pending, windows_ms=0.0: (stale, None))
    response = client.rank(user_id=USER, candidates=[100, 101])
    assert response.status_code == 503 and "do not belong together" in response.json()["detail"]
    assert 'aif_version_mismatches_total{made="scores"}' in client.get("/metrics").text


def test_like_parts_have_one_version() -> None:
    """What is of one version is said to be of that version."""
    assert one_version("anything", head=7, rows=7, user=7) == 7
