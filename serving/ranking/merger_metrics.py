"""What /metrics shows of user phases and of requests' turns, read when scraped."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.ranking.turns import Turns
from serving.rollout.versions import Version
from serving.user.user_side import How, UserSide
from serving.user.user_state import UserState

__all__ = ["MergerMetrics"]


class MergerMetrics(Collector):
    """A collector over the user side and the turns of one process."""

    def __init__(self, users: UserSide[Version, UserState], turns: Turns) -> None:
        self._users, self._turns = users, turns

    def collect(self) -> Iterator[Metric]:
        """Counters of requests, cache and batches; gauges of memory and queues."""
        yield from self._collect_turns()
        users, states, batches = self._users, self._users.states, self._users.batches
        ways = CounterMetricFamily("aif_user_phases", "Requests by where their user's state came from.", labels=["how"])
        for how in How:
            ways.add_metric([how], users.ways[how])
        yield ways
        failures = CounterMetricFamily("aif_user_phase_failures", "User phases that failed.", labels=["reason"])
        for reason, count in list(users.failures.items()):
            failures.add_metric([reason], count)
        yield failures
        cache = CounterMetricFamily(
            "aif_user_state_lookups",
            "Lookups in the cache of user states: hit, miss, or shared flight.",
            labels=["outcome"],
        )
        for outcome, count in (("hit", states.hits), ("miss", states.misses), ("shared", states.shared)):
            cache.add_metric([outcome], count)
        yield cache
        yield CounterMetricFamily("aif_user_states_evicted", "Entries that had to go.", value=states.evictions)
        yield GaugeMetricFamily("aif_user_states", "Entries held.", value=len(states))
        yield GaugeMetricFamily("aif_user_state_bytes", "Memory of the entries.", value=states.nbytes)
        yield GaugeMetricFamily("aif_user_state_most_bytes", "The bound on it.", value=states.most_bytes)
        yield CounterMetricFamily("aif_user_phase_batches", "Runs of the user phase.", value=batches.runs)
        yield CounterMetricFamily("aif_user_phase_batched", "User phases in these runs.", value=batches.jobs)
        yield CounterMetricFamily("aif_user_phases_refused", "User phases beyond the queue.", value=batches.refused)
        yield GaugeMetricFamily("aif_user_phases_waiting", "User phases in the queue.", value=len(batches))

    def _collect_turns(self) -> Iterator[Metric]:
        turns = self._turns
        scored = CounterMetricFamily(
            "aif_rank_turns",
            "Requests by where they were scored: the event loop, a thread; or refused, their turn being too late.",
            labels=["where"],
        )
        for where, count in (("loop", turns.on_loop), ("thread", turns.on_threads), ("refused", turns.refused)):
            scored.add_metric([where], count)
        yield scored
        yield GaugeMetricFamily("aif_rank_waiting", "Requests at or before a scoring thread.", value=turns.under_way)
        yield GaugeMetricFamily(
            "aif_rank_wait_seconds", "How long a request that comes now waits for its turn.", value=turns.wait_ms / 1000
        )
