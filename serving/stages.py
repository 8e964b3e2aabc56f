"""The five stages of a rank request, timed: one request's clock, and percentiles over the recent requests.

Percentiles come from HDR histograms (three significant digits of microseconds) by stage, version and outcome. Each is
two histograms that take turns: percentiles are over the last one to two minutes, because those of a process's whole
life stop moving. Counts and sums are of the whole life, as Prometheus wants them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final

from hdrh.histogram import HdrHistogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

__all__ = ["PERCENTILES", "STAGES", "TOTAL", "StageClock", "StageTimes"]

STAGES: Final = ("ingress", "feature_retrieval", "transform", "inference", "post_processing")
#: From the request's last byte to its answer's first, waiting for its turn included.
TOTAL: Final = "total"
PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9)

_TURN_S: Final = 60.0
_LONGEST_US: Final = 60_000_000
_DIGITS: Final = 3
#: Versions and outcomes told apart; what is beyond is the oldest, dropped. 6 histograms of 17 KB each, twice.
_MOST_KINDS: Final = 16


class StageClock:
    """Milliseconds spent in each stage of one request."""

    __slots__ = ("ms", "started_s")

    def __init__(self) -> None:
        self.started_s = time.perf_counter()
        self.ms: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def time(self, stage: str) -> _Span:
        """A context manager that adds the time of its block to a stage."""
        return _Span(self.ms, stage)

    def total_ms(self) -> float:
        """Since the clock was made."""
        return (time.perf_counter() - self.started_s) * 1000

    def server_timing(self) -> str:
        """The value of a `Server-Timing` header (W3C Server Timing)."""
        return ", ".join([f"{stage};dur={spent:.3f}" for stage, spent in self.ms.items()])


class _Span:
    __slots__ = ("_ms", "_stage", "_start")

    def __init__(self, ms: dict[str, float], stage: str) -> None:
        self._ms, self._stage = ms, stage

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ms[self._stage] += (time.perf_counter() - self._start) * 1000


class _Turns:
    """Times of one stage of one kind of request."""

    def __init__(self) -> None:
        self.count, self.sum_us = 0, 0
        self._now, self._before = _histogram(), _histogram()

    def add(self, us: int) -> None:
        self._now.record_value(min(max(us, 1), _LONGEST_US))
        self.count += 1
        self.sum_us += us

    def turn(self) -> None:
        self._now, self._before = self._before, self._now
        self._now.reset()

    def percentiles_us(self) -> dict[float, int]:
        both = _histogram()
        both.add(self._before)
        both.add(self._now)
        return dict(both.get_percentile_to_value_dict(list(PERCENTILES)))


class StageTimes(Collector):
    """Stage times of the process's rank requests; a Prometheus collector. Any thread may note or collect."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = monotonic_s
        self._turned_s = monotonic_s()
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], dict[str, _Turns]] = {}  #: by (version, outcome)

    def note(self, clock: StageClock, version: str, outcome: str) -> None:
        """Add a finished request of a version ("" where none answered), by how it ended. Costs about 5 us."""
        total_ms = clock.total_ms()
        with self._lock:
            self._turn()
            kind = self._kinds.get((version, outcome)) or self._new_kind(version, outcome)
            for stage, spent_ms in clock.ms.items():
                kind[stage].add(int(spent_ms * 1000))
            kind[TOTAL].add(int(total_ms * 1000))

    def percentiles_ms(self) -> dict[tuple[str, str, str], dict[float, float]]:
        """Percentiles of the last one to two minutes, by (version, outcome, stage)."""
        with self._lock:
            self._turn()
            return {
                (*kind, stage): {at: us / 1000 for at, us in turns.percentiles_us().items()}
                for kind, stages in self._kinds.items()
                for stage, turns in stages.items()
            }

    def collect(self) -> Iterator[Metric]:
        """One summary with quantiles."""
        found = Metric("aif_rank_stage_seconds", "Time of a rank request by stage, version and outcome.", "summary")
        percentiles = self.percentiles_ms()
        with self._lock:
            sums = {
                (*kind, stage): (turns.count, turns.sum_us / 1e6)
                for kind, stages in self._kinds.items()
                for stage, turns in stages.items()
            }
        for key, (count, total_s) in sums.items():
            labels = dict(zip(("version", "outcome", "stage"), key, strict=True))
            for at, value_ms in percentiles.get(key, {}).items():
                found.add_sample(found.name, {**labels, "quantile": f"{at / 100:g}"}, value_ms / 1000)
            found.add_sample(f"{found.name}_sum", labels, total_s)
            found.add_sample(f"{found.name}_count", labels, count)
        yield found

    def _new_kind(self, version: str, outcome: str) -> dict[str, _Turns]:
        while len(self._kinds) >= _MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]
        kind = self._kinds[version, outcome] = {stage: _Turns() for stage in (*STAGES, TOTAL)}
        return kind

    def _turn(self) -> None:
        late = int((self._now_s() - self._turned_s) // _TURN_S)
        if not late:
            return
        self._turned_s += late * _TURN_S
        for stages in self._kinds.values():
            for turns in stages.values():
                for _ in range(min(late, 2)):
                    turns.turn()


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, _LONGEST_US, _DIGITS)
