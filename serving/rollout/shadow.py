"""A covered version scored in the shadow: a share of the requests, again and by both versions, after their answers.

A request does nothing for it but to put itself into a bounded queue when its answer is made: no lock is taken and
nothing is waited for; where the queue is full it is dropped and counted. One thread takes requests out and has them
scored (shadow_scorer.py) by the version that answered and by the covered one, and adds what it finds to this process's
row of the board (shadow_board.py).

A request counts for the pair of versions that there was when it came, and only while there still is that pair.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from domain.sequence import SEQUENCE
from domain.shadow import Pair, ShadowSums, to_compare
from serving.quiet import yield_to_requests
from serving.rollout.shadow_board import ShadowRow
from serving.rollout.versions import Version, Versions
from serving.tables.store import SlabKey, Store
from serving.user.user_side import Asked

__all__ = ["MOST_WAITING", "Compared", "Sampled", "Shadow", "compared_now"]

#: Requests in the queue; threads that add at the same moment may exceed it by one each.
MOST_WAITING: Final = 32
#: How often the thread looks which versions there are to compare.
_LOOK_S: Final = 0.2

_log = logging.getLogger(__name__)


class Compared(NamedTuple):
    """The versions that are to be compared now."""

    pair: Pair
    live: Version
    other: Version  #: covered, and loaded here


class Sampled(NamedTuple):
    """An answered request, as far as scoring it again needs it."""

    versions: Compared
    asked: Asked  #: with the user's row, the time that the answer's user state is of, and how many behaviours at most
    candidates: npt.NDArray[np.int64]  #: [n] distinct
    top_k: int


class Shadow:
    """The queue and the thread of one process. Any thread may `offer`."""

    def __init__(
        self,
        share: float,
        row: ShadowRow,
        versions: Callable[[], Compared | None],
        score: Callable[[Sampled], ShadowSums],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`share` of the requests is sampled, 0 to 1. `score` must not raise: a request that fails is counted."""
        self.share = share
        self.target: Compared | None = None  #: as of the thread's last look
        self._row = row
        self._versions = versions
        self._score = score
        self._chance = chance
        self._waiting: SimpleQueue[Sampled | None] = SimpleQueue()
        self._counting = threading.Lock()
        self._dropped = 0  #: since the thread last counted them
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def __len__(self) -> int:
        return self._waiting.qsize()

    def start(self) -> None:
        """Begin in a thread of its own."""
        self._thread.start()

    def stop(self, within_s: float = 5.0) -> None:
        """End after the request under way; give it up after a while, and the row back."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join(within_s)
        self._row.release()

    def offer(
        self, version: Version, asked: Asked, behaviours: int | None, candidates: npt.NDArray[np.int64], top_k: int
    ) -> None:
        """Sample a request that `version` has answered, or not. Returns at once.

        `asked` is what the answer's user phase was asked for, `behaviours` how many the request said are to be read.
        """
        target = self.target
        if target is None or target.live is not version or self._chance() >= self.share:
            return
        if len(self) < MOST_WAITING:
            wanted = asked._replace(behaviours=behaviours or SEQUENCE)
            self._waiting.put(Sampled(target, wanted, candidates, top_k))
        else:
            with self._counting:  # which is held only to count
                self._dropped += 1

    def turn(self, wait_s: float) -> None:
        """Look which versions there are, and score the request that has waited longest, if one comes in time."""
        self.target = self._versions()
        try:
            sampled = self._waiting.get(timeout=wait_s)
        except Empty:
            sampled = None
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        if (target := self.target) is None:
            return
        seen = ShadowSums(dropped=dropped)
        if sampled is not None and sampled.versions.pair == target.pair:
            seen += self._score(sampled)
        if seen != ShadowSums():
            self._row.add(target.pair, seen)

    def _run(self) -> None:
        yield_to_requests()
        failing = False
        while not self._stopping.is_set():
            try:
                self.turn(_LOOK_S)
                failing = False
            except Exception:  # a state that is being replaced, say: the shadow is never worth an answer
                if not failing:
                    _log.exception("scoring in the shadow failed; it is tried again")
                failing = True
                self._stopping.wait(_LOOK_S)


def compared_now(versions: Versions, store: Store) -> Compared | None:
    """The live and the covered version, where this process has both loaded and this host has the rows of both.

    A version that workers have covered may still be on its way here; what it lacks until then is not its fault.
    """
    state, live, other = versions.rollout, versions.live, versions.upcoming
    pair, covered = to_compare(state), state.upcoming
    if pair is None or covered is None or live is None or other is None:
        return None
    if (pair.version, pair.live) != (other.name, live.name):
        return None
    if store.coverage(SlabKey(covered.slot, covered.tag)) < covered.terms.gate:
        return None
    return Compared(pair, live, other)
