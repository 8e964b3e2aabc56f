from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from domain.quality import Costs, Quality
from schemas.errors import BadInput, Unavailable, VersionMismatch
from serving.ranking import service
from serving.ranking.deadline import Deadline
from serving.ranking.merger import Ask, Merger
from serving.ranking.retrieval import Catalogue, Given, Nearest, Popular, catalogue_of, retrievers_of
from serving.ranking.scorer import Scorer
from serving.ranking.turns import Turns
from serving.stages import StageClock
from serving.user.user_side import Asked, How, UserSide
from serving.user.user_state import StateMaker
from serving.user.user_states import UserStates
from serving.web.rank_request import RankRequest
from tests.serving.conftest import NOW_MS, SIZES, item_rows, n2o_records, n2o_rows, user_rows, watermark_row

ITEMS = range(100, 140)
CANDIDATES = np.array(range(100, 130), dtype=np.int64)
SOON = 0.0


def merger(world, spawn=None, costs=None) -> Merger:
    """A merger over the world's store; user phases run at once unless the test starts them."""
    users = UserSide(StateMaker(world.store.users), UserStates(1 << 20), spawn or (lambda start: start()))
    speeds = SimpleNamespace(of=lambda version: costs)
    return Merger(world.store, world.versions, users, None, speeds)


def ask(user: int = 1, left_s: float | None = None, **fields) -> Ask:
    """A request at NOW_MS."""
    deadline = Deadline() if left_s is None else Deadline(left_s, lambda: 0.0)
    return Ask(user, NOW_MS, deadline=deadline, **fields)


def score(under_test: Merger, begun, candidates=CANDIDATES, top_k: int = 5):
    """Score in this thread."""
    return under_test.score_here(begun, candidates, top_k, StageClock())


@pytest.fixture
def live(world, make_artifact):
    """A world with a live model, items, and users 1 to 3 of different histories."""
    world.apply("items", item_rows(ITEMS))
    world.go_live(make_artifact(3), ITEMS)
    for user, items in ((1, range(100, 104)), (2, range(100, 120)), (3, [105])):
        world.apply("users", user_rows(user, items))
    return world


def test_a_batch_gives_what_single_runs_give(live) -> None:
    """Users of different history lengths folded together score as each folded alone, unknown and idle ones too."""
    make, version, scorer = StateMaker(live.store.users), live.versions.live, Scorer()
    asked = [
        Asked(user, live.store.users.head(user), NOW_MS, behaviours)
        for user, behaviours in ((1, 20), (2, 20), (3, 20), (9, 20), (2, 0), (2, 7))
    ]
    for each, together in zip(asked, make(version, asked), strict=True):
        alone = make(version, [each])[0]
        found = [scorer.rank(version, state, CANDIDATES, 30, StageClock()) for state in (alone, together)]
        np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-6)
        assert found[0].behaviours_used == found[1].behaviours_used
    assert [state.behaviours_used for state in make(version, asked)] == [4, 20, 1, 0, 0, 7]


def test_only_histories_of_like_lengths_share_a_run(live, monkeypatch) -> None:
    """A long history does not pad the short ones of its batch to its own length."""
    version, runs = live.versions.live, []
    run = type(version.phase).run

    def counted(phase, inputs, rows):
        runs.append(inputs.present.shape)
        return run(phase, inputs, rows)

    monkeypatch.setattr(type(version.phase), "run", counted)
    users = live.store.users
    StateMaker(users)(version, [Asked(user, users.head(user), NOW_MS, 20) for user in (1, 2, 3)])
    assert sorted(runs) == [(1, 20), (2, SIZES.behaviours)]


def test_preparing_waits_for_nothing_and_scoring_joins(live) -> None:
    """`prepare` returns before the user phase ran; the score is the same whether it ran before or after retrieval."""
    waiting = []
    under_test = merger(live, waiting.append)
    begun = under_test.prepare(ask())
    assert begun.pending.state is None
    waiting[0]()
    late = score(under_test, begun)
    eager = score(merger(live), merger(live).prepare(ask()))
    assert late.user_phase == How.COMPUTED
    np.testing.assert_array_equal(late.ranked.scores, eager.ranked.scores)
    assert score(under_test, under_test.prepare(ask())).user_phase == How.CACHED


def test_a_request_keeps_the_version_that_it_began_with(live, make_artifact) -> None:
    """A version that goes live between `prepare` and `score` scores the next request, not this one."""
    under_test = merger(live)
    begun = under_test.prepare(ask())
    before = score(under_test, begun)
    live.go_live(make_artifact(4), ITEMS, seed=5)
    again, after = score(under_test, begun), score(under_test, under_test.prepare(ask()))
    np.testing.assert_array_equal(again.ranked.scores, before.ranked.scores)
    assert np.abs(after.ranked.scores - before.ranked.scores).max() > 1e-3
    assert after.user_phase == How.COMPUTED, "the old version's state is no answer of the new one"
    with pytest.raises(VersionMismatch, match="scores: user of version"):
        Scorer().rank(begun.version, under_test.prepare(ask()).pending.state, CANDIDATES, 5, StageClock())


def test_a_late_user_phase_is_said_and_still_scores(live) -> None:
    """Without a state in time the answer comes from windows alone or from nobody's state, and is marked."""
    under_test = merger(live, lambda start: None, Costs(1, 0, 1, 0, 0, fewest=6))
    windows = score(under_test, under_test.prepare(ask(2, left_s=0.1)))
    nobody = score(under_test, under_test.prepare(ask(2, left_s=0.001)))
    unknown = score(under_test, under_test.prepare(ask(99)))
    assert [each.user_phase for each in (windows, nobody, unknown)] == ["windows_only", "default", "default"]
    np.testing.assert_array_equal(nobody.ranked.scores, unknown.ranked.scores)
    assert windows.ranked.behaviours_used == 0
    assert np.abs(windows.ranked.scores - nobody.ranked.scores).max() > 1e-4


def test_quality_follows_the_deadline_and_the_request_overrides_it(live) -> None:
    """A short deadline reads less and scores fewer, an explicit number stays; the answer says what was used."""
    costs = Costs(1.0, 0.1, 0.1, 0.1, 0.0, fewest=6)
    under_test = merger(live, costs=costs)

    def used(**fields) -> Quality:
        merged = score(under_test, under_test.prepare(ask(2, **fields)))
        assert len(merged.ranked.scores) == len(merged.candidates) == min(30, merged.quality.candidates)
        assert merged.ranked.behaviours_used == merged.quality.behaviours
        return merged.quality

    assert used() == Quality(20, 10_000)
    assert used(left_s=0.0061, candidates=20) == Quality(10, 20)
    assert used(left_s=0.003).behaviours == 6
    assert used(left_s=0.003).candidates < 30
    assert used(left_s=0.003, behaviours=13).behaviours == 13


def test_what_waits_for_a_thread_counts_against_the_deadline(live) -> None:
    """With work before it a request is given less to compute, and none where its turn would come too late."""
    under_test = merger(live, costs=Costs(1, 1, 1, 0.1, 0, fewest=6))
    alone = under_test.prepare(ask(2, left_s=0.040, candidates=30))
    under_test.turns = SimpleNamespace(wait_ms=20.0)
    behind = under_test.prepare(ask(2, left_s=0.040, candidates=30))
    assert (alone.quality.behaviours, behind.quality.behaviours) == (20, 10)

    async def asked(left_s: float):
        with ThreadPoolExecutor(1) as executor:
            held = threading.Event()
            under_test.turns = Turns(executor)
            before = asyncio.create_task(under_test.turns.run(30.0, True, lambda: held.wait(10)))
            await asyncio.sleep(0)
            try:
                return await under_test.score(under_test.prepare(ask(2, left_s=left_s)), CANDIDATES, 5, StageClock())
            finally:
                held.set()
                await before

    with pytest.raises(Unavailable, match="1 requests are before this one for about 30 ms, its deadline leaves 20"):
        asyncio.run(asked(0.020))


def test_a_time_within_the_minute_shares_the_state(live) -> None:
    """Requests of "now" share a user's state for a minute; one that names its time gets that very time."""
    under_test = merger(live)
    start = NOW_MS + 120_000
    ways = [
        score(under_test, under_test.prepare(Ask(1, start + ms, exact_time=exact))).user_phase
        for ms, exact in ((5, False), (30_000, False), (30_000, True), (61_000, False))
    ]
    assert ways == ["computed", "cached", "computed", "computed"]


def test_a_storm_on_a_cold_cache_computes_each_user_once(live) -> None:
    """1,000 concurrent requests for 3 users through event loop, batches and a thread: 3 user phases, equal answers."""
    runs = []
    maker = StateMaker(live.store.users)

    def counted(version, asked):
        runs.extend(each.user_id for each in asked if each.head)
        return maker(version, asked)

    async def storm(executor) -> list:
        users = UserSide(counted, UserStates(1 << 20), executor.submit)
        under_test = Merger(live.store, live.versions, users, Turns(executor, 2))
        return await asyncio.gather(
            *(under_test.rank(ask(1 + n % 3), Given(CANDIDATES), 30, 5, StageClock()) for n in range(1000))
        )

    with ThreadPoolExecutor(2) as executor:
        answers = asyncio.run(storm(executor))
    assert sorted(runs) == [1, 2, 3]
    for first, other in zip(answers[:3] * 333, answers, strict=False):
        np.testing.assert_array_equal(first.ranked.scores, other.ranked.scores)


def test_without_a_live_version_there_is_no_answer(world) -> None:
    """Before a model is live, preparing says so."""
    with pytest.raises(Unavailable, match="no model version"):
        merger(world).prepare(ask())


def catalogue(live, under_test: Merger, kind: str = "exact") -> Catalogue:
    """A catalogue over the world's slab, refreshed."""
    made = catalogue_of(kind, under_test.popularity)
    made.refresh([live.versions.live])
    return made


def ranked(under_test: Merger, retriever, user: int = 1, count: int = 10):
    """One whole request."""
    return asyncio.run(under_test.rank(ask(user), retriever, count, count, StageClock()))


def test_popular_is_what_an_unknown_user_would_get(live) -> None:
    """Popular candidates are the best of the whole catalogue for somebody without a row, and the same for everybody."""
    under_test = merger(live)
    everything = score(under_test, under_test.prepare(ask(99)), np.array(ITEMS, dtype=np.int64), top_k=10)
    best = everything.candidates[everything.ranked.order]
    popular = Popular(catalogue(live, under_test))
    np.testing.assert_array_equal(ranked(under_test, popular, 99).candidates, best)
    np.testing.assert_array_equal(ranked(under_test, popular, 1).candidates, best)


def test_nearest_asks_by_the_newest_behaviours_and_fills_up_with_popular(live) -> None:
    """Near items come first and the user's own are among them; an unknown user gets the popular ones."""
    under_test = merger(live)
    shelves = catalogue(live, under_test)
    near = ranked(under_test, Nearest(shelves), 3, count=5).candidates
    assert near[0] == 105
    assert len(set(ranked(under_test, Nearest(shelves), 3, count=40).candidates.tolist())) == 40
    unknown = ranked(under_test, Nearest(shelves), 99).candidates
    np.testing.assert_array_equal(unknown, ranked(under_test, Popular(shelves), 99).candidates)


def test_deleted_items_leave_the_shelf_with_the_next_sweep(live) -> None:
    """Neither kind of retrieval gives an item that was deleted before the sweep."""
    under_test = merger(live)
    shelves = catalogue(live, under_test)
    gone = n2o_records(live.versions.live.slab.tag, [105], flags=9)
    live.apply("n2o_a", n2o_rows(gone))
    shelves.refresh([live.versions.live])
    for retriever in (Nearest(shelves), Popular(shelves)):
        assert 105 not in ranked(under_test, retriever, 3, count=40).candidates


def test_a_version_without_a_shelf_says_so(live, make_artifact) -> None:
    """Candidates of one version never come from another's index: until its own is there, retrieval is refused."""
    under_test = merger(live)
    shelves = catalogue(live, under_test)
    live.go_live(make_artifact(4), ITEMS)
    with pytest.raises(Unavailable, match="being indexed"):
        ranked(under_test, Popular(shelves))


def test_a_request_may_leave_retrieval_to_the_server(live) -> None:
    """`retrieve` takes candidates from the shelf; what this server does not keep is refused with what to do."""
    service, shelves = live.service, catalogue(live, live.service.merger)
    near, popular = (
        RankRequest.of({"user_id": 1, "at_ms": NOW_MS, "top_k": 3, "retrieve": retrieve})
        for retrieve in ({"from": "nearest", "count": 7}, {"from": "popular"})
    )
    with pytest.raises(BadInput, match="--retrieval"):
        asyncio.run(service.rank(near, StageClock()))
    service._retrievers = retrievers_of(shelves)
    answer = asyncio.run(service.rank(near, StageClock()))
    assert len(answer.merged.candidates) == 7
    assert len(answer.order) == 3
    assert asyncio.run(service.rank(popular, StageClock())).merged.candidates.tolist()[:5] == (
        shelves.shelf(live.versions.live).popular[:5].tolist()
    )
    assert list(retrievers_of(catalogue(live, service.merger, "popular"))) == ["popular"]
    assert retrievers_of(None) == {}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"retrieve": {"from": "nowhere"}}, "popular or nearest"),
        ({"retrieve": {"count": 5}}, "popular or nearest"),
        ({"retrieve": {"from": "popular", "count": 0}}, "count"),
        ({"retrieve": {"from": "popular"}, "candidates": [1]}, "not both"),
    ],
)
def test_a_wrong_retrieval_is_refused(fields, says) -> None:
    """Each rule of `retrieve` is named when it is broken."""
    with pytest.raises(BadInput, match=says):
        RankRequest.of({"user_id": 1, **fields})


def test_an_answer_waits_for_an_event_within_bounds(live, monkeypatch) -> None:
    """With `after` an answer contains the event where that is applied in time, and says where it is not."""

    def asked(offset: int) -> bool | None:
        request = RankRequest.of({"user_id": 1, "candidates": [100], "after": {"partition": 0, "offset": offset}})
        return asyncio.run(live.service.rank(request, StageClock())).after_applied

    live.apply("users", watermark_row())
    assert asked(8) is True
    monkeypatch.setattr(service, "_MOST_WAIT_MS", 5.0)
    assert asked(9) is False
    assert live.rank([100]).get("after_applied") is None
    with pytest.raises(BadInput, match="offset"):
        asked(-1)
