"""Sampling, the queue and the thread of scoring in the shadow; what scores is a fake here."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from domain.shadow import Pair, ShadowSums
from serving.rollout.shadow import MOST_WAITING, Compared, Shadow
from serving.rollout.shadow_board import ShadowBoard
from serving.user.user_side import Asked

LIVE, OTHER = SimpleNamespace(name="00000000000000bb"), SimpleNamespace(name="00000000000000aa")
PAIR = Pair(OTHER.name, 7, LIVE.name)
NOW = Compared(PAIR, LIVE, OTHER)
ASKED = Asked(1, None, 1_000, 6)
ONE = ShadowSums(requests=1, overlap_sum=0.5)


@pytest.fixture
def board(tmp_path):
    """A host's board."""
    return ShadowBoard(tmp_path)


def shadow(board, score=lambda sampled: ONE, share=1.0, versions=lambda: NOW, chance=lambda: 0.0) -> Shadow:
    """A shadow that has looked once."""
    made = Shadow(share, board.claim(), versions, score, chance)
    made.turn(0)
    return made


def offer(made, version=LIVE, behaviours=None, user=1) -> None:
    """Offer one answered request."""
    made.offer(version, ASKED._replace(user_id=user), behaviours, np.arange(3), 2)


def test_a_sampled_request_is_scored_as_it_was_asked(board) -> None:
    """User, time, candidates, top k and the wished number of behaviours reach the scorer; its sums reach the board."""
    scored = []
    made = shadow(board, lambda sampled: scored.append(sampled) or ONE)
    offer(made, behaviours=4)
    made.turn(0)
    offer(made)
    made.turn(0)
    first, second = scored
    assert (first.versions, first.asked, first.top_k) == (NOW, ASKED._replace(behaviours=4), 2)
    assert first.candidates.tolist() == [0, 1, 2]
    assert second.asked.behaviours > 1_000, "as many as there are"
    assert board.sums(PAIR) == ONE + ONE


def test_the_share_says_who_is_sampled(board) -> None:
    """A request is sampled where chance is below the share; at share 0 none is."""
    chances = iter([0.0, 0.2499, 0.25, 0.9])
    made = shadow(board, share=0.25, chance=lambda: next(chances))
    for _ in range(4):
        offer(made)
    assert len(made) == 2
    none = shadow(board, share=0.0)
    offer(none)
    assert len(none) == 0


def test_only_answers_of_the_live_version_of_a_pair_are_sampled(board) -> None:
    """Without a covered version, and where another version answered, nothing is queued."""
    offer(without := shadow(board, versions=lambda: None))
    offer(made := shadow(board), version=OTHER)
    assert (len(without), len(made)) == (0, 0)


def test_a_scorer_that_blocks_delays_no_offer(board) -> None:
    """Requests beyond the queue are dropped at once and counted; those in it keep their turn; ending does not wait."""
    begun, free = threading.Event(), threading.Event()

    def block(sampled):
        begun.set()
        free.wait()
        return ONE

    made = shadow(board, block)
    made.start()
    offer(made)
    assert begun.wait(30)
    for _ in range(MOST_WAITING + 5):
        offer(made)
    assert len(made) == MOST_WAITING
    free.set()
    end_s = time.monotonic() + 30
    while (seen := board.sums(PAIR)).requests <= MOST_WAITING and time.monotonic() < end_s:
        time.sleep(0.005)
    assert (seen.requests, seen.dropped) == (MOST_WAITING + 1, 5)
    begun.clear()
    free.clear()
    offer(made)
    assert begun.wait(30)
    made.stop(within_s=0.01)
    free.set()


def test_what_waited_for_another_pair_is_not_counted(board) -> None:
    """A request that was sampled beside one pair says nothing of the next one, and nothing after the last one."""
    now = [NOW]
    made = shadow(board, versions=lambda: now[0])
    for after in (NOW._replace(pair=PAIR._replace(build_epoch=9)), None):
        now[0] = NOW
        made.turn(0)
        offer(made)
        now[0] = after
        made.turn(0)
        assert len(made) == 0
    assert board.sums(PAIR) == board.sums(PAIR._replace(build_epoch=9)) == ShadowSums()


def test_the_thread_outlives_what_goes_wrong(board) -> None:
    """A state that cannot be read for a moment costs that turn alone."""
    failures = [OSError("the state is being replaced")]

    def versions():
        if made and failures:
            raise failures.pop()
        return NOW

    made: list[Shadow] = []
    scored = threading.Event()
    made.append(shadow(board, lambda sampled: scored.set() or ONE, versions=versions))
    offer(made[0])
    made[0].start()
    assert scored.wait(30)
    made[0].stop()
    assert not failures


def test_what_goes_wrong_for_longer_is_said_once(board, monkeypatch, caplog) -> None:
    """While a state cannot be read the thread looks a few times a second, and the log has one fault."""
    turns = []

    def versions():
        turns.append(1)
        raise OSError("no state")

    monkeypatch.setattr("serving.rollout.shadow._LOOK_S", 0.02)
    made = Shadow(1.0, board.claim(), versions, lambda sampled: ONE)
    made.start()
    end_s = time.monotonic() + 30
    while len(turns) < 3 and time.monotonic() < end_s:
        time.sleep(0.005)
    made.stop()
    assert len(turns) >= 3
    assert [each.message for each in caplog.records] == ["scoring in the shadow failed; it is tried again"]
