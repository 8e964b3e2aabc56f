"""A request scored by the live and the covered version, by real kernels, and the answer that waits for neither."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from domain.comparison import Scored, compared
from domain.n2o import Flag
from domain.sequence import SEQUENCE
from domain.shadow import ShadowSums, to_compare
from schemas.errors import Corrupt
from serving.ranking.service import Service
from serving.rollout.shadow import Shadow, compared_now
from serving.rollout.shadow_board import ShadowBoard
from serving.rollout.shadow_scorer import ShadowScorer
from serving.stages import StageClock
from serving.user.user_side import Asked
from tests.serving.conftest import NOW_MS, item_rows, n2o_records, n2o_rows, plain_request, user_rows

ITEMS = range(100, 130)


@pytest.fixture
def both(world, make_artifact):
    """A live and a covered version of 30 items, and a user."""
    world.apply("items", item_rows(ITEMS))
    world.apply("users", user_rows(1, [100, 101, 105, 140]))
    artifacts = make_artifact(3), make_artifact(4)
    world.go_live(artifacts[0], ITEMS, seed=1)
    world.cover(artifacts[1], ITEMS, seed=2)
    return artifacts


@pytest.fixture
def shadow(world, both) -> Shadow:
    """A shadow that samples everything; its thread does not run."""
    row, versions = ShadowBoard(world.folder.folder).claim(), partial(compared_now, world.versions, world.store)
    made = Shadow(1.0, row, versions, ShadowScorer(world.store.users), chance=lambda: 0.0)
    made.turn(0)
    return made


@pytest.fixture
def service(world, shadow) -> Service:
    """The world's service with the shadow behind it."""
    parts = world.deployment, world.store, world.versions, world.progress, world.metrics
    return Service(*parts, shadow=shadow)


def seen(world) -> ShadowSums:
    """What the board has of the pair."""
    return ShadowBoard(world.folder.folder).sums(to_compare(world.state))


def test_what_is_compared_is_what_both_would_have_answered(world, both, shadow, service) -> None:
    """The sums are those of the answer and of the other version's, once it is live itself."""
    candidates = [*ITEMS, 1, 2]
    before = service.rank_here(plain_request(candidates, top_k=7), StageClock())
    shadow.turn(0)
    found = seen(world)
    world.decide("live", both[1])
    assert world.advance()
    after = service.rank_here(plain_request(candidates, top_k=7), StageClock())
    assert (before.model_version, after.model_version) == (both[0].version, both[1].version)
    sides = [Scored(each.ranked.scores, each.ranked.known, each.ranked.order) for each in (before, after)]
    expected = compared(*sides, 7)
    assert found.requests == 1 and found.overlap == expected.overlap < 1
    assert found.correlation == pytest.approx(expected.correlation)
    assert found.drift == pytest.approx(expected.drift) and found.shift == pytest.approx(expected.shift)
    assert found.live_ms > 0 and found.shadow_ms > 0


def test_a_version_compared_with_itself_is_the_same(world, shadow) -> None:
    """Overlap and correlation 1, no drift: nothing but the version differs between the two."""
    now = compared_now(world.versions, world.store)
    shadow.offer(now.live, Asked(1, None, NOW_MS, SEQUENCE), None, np.array(ITEMS), 5)
    sampled = shadow._waiting.get()
    again = ShadowScorer(world.store.users)(sampled._replace(versions=now._replace(other=now.live)))
    assert (again.requests, again.overlap_sum, again.drift_sum, again.shift_sum) == (1, 1.0, 0.0, 0.0)
    assert again.correlation_sum == pytest.approx(1.0)


def test_an_answer_is_the_same_with_and_without_a_shadow(world, both, shadow, service) -> None:
    """Scores, order and version do not change, and nothing of the request is touched."""
    request = plain_request(ITEMS, top_k=5)
    plain, beside = (each.rank_here(request, StageClock()) for each in (world.service, service))
    shadow.turn(0)
    again = service.rank_here(request, StageClock())
    for other in (beside, again):
        assert other.model_version == plain.model_version
        assert np.array_equal(other.ranked.scores, plain.ranked.scores) and np.array_equal(other.order, plain.order)


def test_answers_do_not_wait_for_a_scorer_that_never_ends(world, both, service, monkeypatch) -> None:
    """A hundred requests are answered while the shadow's thread stands; what its queue does not hold is dropped."""
    begun, free = threading.Event(), threading.Event()
    stuck = Shadow(
        1.0, ShadowBoard(world.folder.folder).claim(), partial(compared_now, world.versions, world.store),
        lambda sampled: (begun.set(), free.wait()) and ShadowSums(requests=1), chance=lambda: 0.0,
    )  # fmt: skip
    stuck.turn(0)
    monkeypatch.setattr(service, "_shadow", stuck)
    stuck.start()
    service.rank_here(plain_request(ITEMS), StageClock())
    assert begun.wait(30)
    answers = [service.rank_here(plain_request(ITEMS), StageClock()) for _ in range(100)]
    assert len(answers) == 100 and not free.is_set()
    assert stuck._dropped == 100 - len(stuck)
    free.set()
    stuck.stop()


def test_a_version_that_cannot_score_has_failed_and_the_live_one_is_incomparable(
    world, shadow, service, monkeypatch
) -> None:
    """Whose fault it is is told apart, whoever is asked first, and no error leaves the scorer."""
    now = compared_now(world.versions, world.store)
    for broken, counted in ((now.other, ShadowSums(failed=2)), (now.live, ShadowSums(incomparable=2))):
        scorer = ShadowScorer(world.store.users)

        def rank(version, *rest, broken=broken, rank=scorer._scorer.rank):
            if version is broken:
                raise Corrupt("not a number")
            return rank(version, *rest)

        monkeypatch.setattr(scorer._scorer, "rank", rank)
        service.rank_here(plain_request(ITEMS), StageClock())
        sampled = shadow._waiting.get()
        assert scorer(sampled) + scorer(sampled) == counted


def test_nothing_is_compared_before_this_host_has_the_rows(world, make_artifact) -> None:
    """Live alone, building, covered by workers with rows under way, covered here: only the last is compared."""
    world.apply("items", item_rows(ITEMS))
    live, other = make_artifact(3), make_artifact(4)
    world.go_live(live, ITEMS)
    assert compared_now(world.versions, world.store) is None
    world.build(other)
    world.fill(other, ITEMS[:20])
    world.load()
    assert compared_now(world.versions, world.store) is None
    world.decide("cover", other)
    world.versions.settle()
    assert compared_now(world.versions, world.store) is None
    world.fill(other, ITEMS)
    found = compared_now(world.versions, world.store)
    assert found.pair == to_compare(world.state)
    assert (found.live.name, found.other.name) == (live.version, other.version)


def test_one_candidate_in_common_is_not_compared(world, shadow, service) -> None:
    """A request of one item, or of items that only one version knows, counts apart."""
    service.rank_here(plain_request([100, 1, 2, 3]), StageClock())
    shadow.turn(0)
    assert seen(world) == ShadowSums(incomparable=1)


def test_deleted_items_are_nobodys(world, both, shadow, service) -> None:
    """Candidates whose row says deleted in one version are not compared."""
    gone = n2o_records(both[1].tag, [101], flags=Flag.HAS_SIGNATURE | Flag.DELETED)
    world.apply(world.state.upcoming.slot, n2o_rows(gone))
    world.apply("items", item_rows([101], deleted=True))
    service.rank_here(plain_request([100, 101]), StageClock())
    shadow.turn(0)
    assert seen(world) == ShadowSums(incomparable=1)


def test_a_request_reads_as_many_behaviours_as_it_wants(world, shadow, service) -> None:
    """With fewer behaviours both versions score otherwise than with all."""
    for fields in ({}, {"behaviours": 1}):
        service.rank_here(plain_request(ITEMS, **fields), StageClock())
    one, two = (shadow._waiting.get() for _ in range(2))
    assert (one.asked.behaviours, two.asked.behaviours) == (SEQUENCE, 1)
    scorer = ShadowScorer(world.store.users)
    assert replace(scorer(one), live_ms_sum=0, shadow_ms_sum=0) != replace(scorer(two), live_ms_sum=0, shadow_ms_sum=0)
