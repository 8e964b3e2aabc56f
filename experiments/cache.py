"""Which cache for user states and SIM cross features: admission, layout and size, replayed over request logs.

A state answers until its user acts again; a cross (what a user did in one category) until the user acts in that
category again. Layouts: crosses *inside* their user's state, one entry a user; *apart*, an entry for every cross beside
the state, in one cache; *segmented*, apart in two caches that share the bytes. Policies: LRU (cachetools, by bytes) and
W-TinyLFU (theine, which counts entries: sized by the mean entry).

A request that lacks anything waits for a user phase: they run one batch at a time, at most 32 together, and what comes
meanwhile waits. That queue is replayed with costs that this machine measures, so a hit rate becomes a p99.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache
from matplotlib.figure import Figure
from theine import Cache as TinyLfuCache

from domain.artifact import HEAD, USER_PHASE, Dimensions
from domain.n2o import Flag
from domain.user_features import UserInputs
from experiments.measured import Report, Settings
from experiments.record import COLOURS, new_figure, table
from models.aif import AIF
from models.config import ModelConfig
from models.export import export
from producers.datasets import open_dataset
from serving.joining import ItemRows
from serving.kernels import Head, prepare
from serving.user.user_phase import UserPhase
from serving.user.user_states import ENTRY_BYTES

__all__ = ["Caches", "Costs", "Request", "Sizes", "figure", "late_ms", "replay", "run", "tables"]

_MEGABYTES: Final = (4, 16, 64, 256)
_LAYOUTS: Final = ("inside", "apart", "segmented")
_REQUESTS: Final = 80_000
#: Requests that a page view makes (the page, its scrolling), and when, seconds after the view's event was applied.
_AFTER_VIEW_S: Final = (1.0, 6.0, 20.0, 45.0)
#: Of bytes, what states get where caches are segmented; the rest is for crosses.
_STATE_SHARE: Final = 0.8
_MOST_CATEGORIES: Final = 32
_ZIPF_USERS, _ZIPF_CATEGORIES = 100_000, 300
_BATCH: Final = 32
_RUNS: Final = 15
_RATE_PER_S: Final = 2000.0


class Sizes(NamedTuple):
    """Bytes of an entry, what Python adds included."""

    state: int  #: without crosses
    row: int  #: of a cross inside a state: one row of the head's first layer
    cross: int  #: of a cross apart


class Costs(NamedTuple):
    """Milliseconds of a batch of one user phase and of `_BATCH`."""

    one: float
    full: float


class Request(NamedTuple):
    """A request for a user: what its state and each of its crosses must be of to answer."""

    user: int
    acted: int  #: the user's actions so far
    categories: tuple[tuple[int, int], ...]  #: the user's categories with the actions in each so far


class _Policy(Protocol):
    """A bounded cache of stamps."""

    def get(self, key: Hashable) -> int | None:
        """The stamp under a key."""

    def put(self, key: Hashable, stamp: int, size: int) -> None:
        """Keep a stamp; others may go."""


class _Lru:
    def __init__(self, most_bytes: int) -> None:
        self.kept: Any = LRUCache(most_bytes, getsizeof=lambda entry: entry[1])

    def get(self, key: Hashable) -> int | None:
        found = self.kept.get(key)
        return None if found is None else int(found[0])

    def put(self, key: Hashable, stamp: int, size: int) -> None:
        if size <= self.kept.maxsize:
            self.kept[key] = stamp, size


class _TinyLfu:
    def __init__(self, entries: int) -> None:
        self.kept: Any = TinyLfuCache(max(1, entries), nolock=True)

    def get(self, key: Hashable) -> int | None:
        stamp, there = self.kept.get(key)
        return int(stamp) if there else None

    def put(self, key: Hashable, stamp: int, size: int) -> None:
        self.kept.set(key, stamp)


@dataclass(frozen=True)
class Caches:
    """Where states and crosses are kept."""

    states: _Policy
    crosses: _Policy | None  #: None: they are inside

    @classmethod
    def of(cls, policy: str, layout: str, most_bytes: int, sizes: Sizes, crosses_each: float) -> Caches:
        """Caches of some bytes; `crosses_each` is the mean number of a user's crosses, which only TinyLFU needs."""
        whole = sizes.state + crosses_each * sizes.row

        def make(share: float, mean: float) -> _Policy:
            room = int(most_bytes * share)
            return _Lru(room) if policy == "LRU" else _TinyLfu(int(room / mean))

        if layout == "inside":
            return cls(make(1.0, whole), None)
        if layout == "apart":
            one = make(1.0, (sizes.state + crosses_each * sizes.cross) / (1 + crosses_each))
            return cls(one, one)
        return cls(make(_STATE_SHARE, sizes.state), make(1 - _STATE_SHARE, sizes.cross))


def replay(requests: list[Request], caches: Caches, sizes: Sizes) -> tuple[npt.NDArray[np.bool_], int, int]:
    """Which requests lacked anything ([n]), and of crosses apart how many were looked up and found."""
    lacking = np.zeros(len(requests), dtype=np.bool_)
    looked, found = 0, 0
    for at, request in enumerate(requests):
        state_bytes = sizes.state + (sizes.row * len(request.categories) if caches.crosses is None else 0)
        if caches.states.get((request.user, -1)) != request.acted:
            lacking[at] = True
            caches.states.put((request.user, -1), request.acted, state_bytes)
        if caches.crosses is None:
            continue
        for category, acted in request.categories:
            looked += 1
            if caches.crosses.get((request.user, category)) == acted:
                found += 1
            else:
                lacking[at] = True
                caches.crosses.put((request.user, category), acted, sizes.cross)
    return lacking, looked, found


def late_ms(lacking: npt.NDArray[np.bool_], costs: Costs, rate_per_s: float, seed: int = 1) -> npt.NDArray[np.float64]:
    """How long each request waited for its user phase ([n] ms, 0 for those that lacked nothing).

    Poisson arrivals; one run at a time takes what waits, up to a batch. A batch of n costs a + b n.
    """
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1000 / rate_per_s, len(lacking)))
    each_ms = (costs.full - costs.one) / (_BATCH - 1)
    fixed_ms = costs.one - each_ms
    waits = np.zeros(len(lacking))
    waiting = np.flatnonzero(lacking)
    at, free_ms = 0, 0.0
    while at < len(waiting):
        start = max(free_ms, arrivals[waiting[at]])
        batch = waiting[at : at + _BATCH]
        batch = batch[arrivals[batch] <= start]
        free_ms = start + fixed_ms + each_ms * len(batch)
        waits[batch] = free_ms - arrivals[batch]
        at += len(batch)
    return waits


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Hit rates and waits by log, layout, policy and bytes."""
    count = _REQUESTS // (8 if settings.small else 1)
    sizes, costs = _measured()
    rows: list[dict[str, Any]] = []
    logs: dict[str, dict[str, float]] = {}
    kinds = [(layout, policy) for layout in _LAYOUTS for policy in ("LRU", "TinyLFU")]
    for number, (name, read) in enumerate((("zipf", _zipf), ("globo-news", _globo))):
        requests = read(count)
        crosses = float(np.mean([len(request.categories) for request in requests]))
        logs[name] = {"requests": len(requests), "users": len({each.user for each in requests}), "crosses": crosses}
        for place, (layout, policy) in enumerate(kinds):
            report(name, number * len(kinds) + place, 2 * len(kinds))
            for megabytes in _MEGABYTES:
                caches = Caches.of(policy, layout, megabytes << 20, sizes, crosses)
                lacking, looked, found = replay(requests, caches, sizes)
                steady = slice(len(requests) // 4, None)  # the first quarter fills the caches
                waits = late_ms(lacking[steady], costs, _RATE_PER_S)
                rows.append({
                    "log": name, "layout": layout, "policy": policy, "megabytes": megabytes,
                    "hit_rate": round(1 - float(lacking[steady].mean()), 4),
                    "cross_hit_rate": round(found / looked, 4) if looked else None,
                    "p50_ms": round(float(np.percentile(waits, 50)), 3),
                    "p99_ms": round(float(np.percentile(waits, 99)), 3),
                })  # fmt: skip
    return {
        "logs": logs, "sizes": sizes._asdict(), "costs": {name: round(ms, 3) for name, ms in costs._asdict().items()},
        "rate_per_s": _RATE_PER_S, "rows": rows,
    }  # fmt: skip


def _measured() -> tuple[Sizes, Costs]:
    """Sizes and costs of an untrained model's user phase at the default sizes: neither depends on its weights."""
    model = AIF(ModelConfig())
    with tempfile.TemporaryDirectory() as folder:
        exported = export(model, {}, Path(folder))
        dims, tag = exported.manifest.dimensions, exported.manifest.version_tag
        phase = UserPhase((exported.folder / USER_PHASE).read_bytes(), dims, tag)
        with np.load(exported.folder / HEAD) as arrays:
            head = Head.of(dict(arrays), dims, tag)
    batches = {count: _somebody(dims, tag, count) for count in (1, _BATCH)}
    folded = phase.run(*batches[1])[0]
    row = dims.hidden[0] * 4
    state = prepare(head, dims, folded).nbytes - row * dims.cross_categories + ENTRY_BYTES
    times = []
    for inputs, rows in batches.values():
        spent = []
        for _ in range(_RUNS):
            start = time.thread_time()
            for each in phase.run(inputs, rows):
                prepare(head, dims, each)
            spent.append((time.thread_time() - start) * 1000)
        times.append(min(spent))
    return Sizes(state, row, row + ENTRY_BYTES), Costs(*times)


def _somebody(dims: Dimensions, tag: int, users: int) -> tuple[UserInputs, ItemRows]:
    """Users with as many behaviours as the model reads at most, all with rows."""
    shape = users, dims.long_behaviours
    rng = np.random.default_rng(1)
    records = dims.layout.empty(users * dims.long_behaviours)
    records["version"] = tag
    records["flags"] = Flag.HAS_SIGNATURE | Flag.HAS_CATEGORY
    records["signature"] = rng.integers(0, 256, records["signature"].shape)
    records["category_id"] = rng.integers(0, 2 * dims.cross_categories, len(records))
    inputs = UserInputs(
        windows=np.zeros((users, dims.user_features), dtype=np.float32),
        item_ids=np.zeros(shape, dtype=np.int64),
        actions=np.zeros(shape, dtype=np.int64),
        ages=np.ones(shape, dtype=np.float32),
        present=np.ones(shape, dtype=np.bool_),
    )
    return inputs, ItemRows.checked(tag, records)


def _requests(views: Iterator[tuple[float, int, int]], count: int) -> list[Request]:
    """Requests that follow page views (time s, user, category), in the order of time."""
    timed: list[tuple[float, Request]] = []
    acted: dict[int, dict[int, int]] = {}
    for at_s, user, category in views:
        mine = acted.setdefault(user, {})
        mine[category] = mine.get(category, 0) + 1
        newest = tuple(list(mine.items())[-_MOST_CATEGORIES:])
        request = Request(user, sum(mine.values()), newest)
        timed.extend((at_s + after_s, request) for after_s in _AFTER_VIEW_S)
        if len(timed) >= count:
            break
    # A request sees what was applied by its time: of a user who acted again meanwhile, the newer row.
    timed.sort(key=lambda each: each[0])
    newest_of: dict[int, Request] = {}
    found = []
    for _, request in timed:
        known = newest_of.get(request.user)
        if known is None or known.acted < request.acted:
            newest_of[request.user] = request
        found.append(newest_of[request.user])
    return found


def _zipf(count: int) -> list[Request]:
    """Views of users by Zipf's law, ten a second, of categories by Zipf's law."""
    rng = np.random.default_rng(1)
    views = count // len(_AFTER_VIEW_S)

    def draw(kinds: int, exponent: float) -> list[int]:
        weights = np.arange(1, kinds + 1) ** -exponent
        return [int(each) for each in rng.choice(kinds, views, p=weights / weights.sum())]

    times = np.cumsum(rng.exponential(0.1, views)).tolist()
    return _requests(zip(times, draw(_ZIPF_USERS, 1.0), draw(_ZIPF_CATEGORIES, 1.0), strict=True), count)


def _globo(count: int) -> list[Request]:
    """The first page views of the log, with the articles' categories."""

    def views() -> Iterator[tuple[float, int, int]]:
        for kind, record in open_dataset("globo-news", limit=count, embedding_dim=8).entries():
            if kind == "user":
                event: Any = record
                yield event["event_time_ms"] / 1000, event["user_id"], event["category_id"] or 0

    return _requests(views(), count)


def tables(found: dict[str, Any]) -> str:
    """A table for each log: layouts and policies down, bytes across."""
    sizes = found["sizes"]
    parts = [
        f"A request hits where its state and all its crosses are there and of the user's newest row. A state is "
        f"{sizes['state']:,} bytes without crosses, a cross inside it {sizes['row']:,}, apart {sizes['cross']:,}. p99 "
        f"is the wait for the user phase at {found['rate_per_s']:,.0f} requests a second; batches of 1 and {_BATCH} "
        f"take {found['costs']['one']} and {found['costs']['full']} ms (measured). The first quarter of each log fills "
        "the caches and is not judged.\n"
    ]
    for log, about in found["logs"].items():
        rows = [row for row in found["rows"] if row["log"] == log]
        lines = []
        for layout, policy in dict.fromkeys((row["layout"], row["policy"]) for row in rows):
            mine = {row["megabytes"]: row for row in rows if (row["layout"], row["policy"]) == (layout, policy)}
            lines.append(
                [layout, policy, *(f"{row['hit_rate']:.3f} / {row['p99_ms']:.1f} ms" for row in mine.values())]
            )
        head = ["crosses", "policy", *(f"{each} MB: hits / p99" for each in _MEGABYTES)]
        parts.append(
            f"## {log}\n\n{about['requests']:,} requests of {about['users']:,} users, {about['crosses']:.1f} "
            f"categories a request.\n\n" + table(head, lines)
        )
    return "\n".join(parts)


def figure(found: dict[str, Any]) -> Figure:
    """Hit rate by bytes, one panel a log."""
    drawn, panels = new_figure(len(found["logs"]))
    for axes, log in zip(panels, found["logs"], strict=True):
        rows = [row for row in found["rows"] if row["log"] == log]
        for place, (layout, policy) in enumerate(dict.fromkeys((row["layout"], row["policy"]) for row in rows)):
            mine = [row for row in rows if (row["layout"], row["policy"]) == (layout, policy)]
            axes.plot(
                [row["megabytes"] for row in mine], [row["hit_rate"] for row in mine], marker="o", markersize=4,
                label=f"{layout}, {policy}", color=COLOURS[place // 2], linestyle="-" if policy == "LRU" else "--",
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set(xlabel="megabytes", ylabel="requests that hit", title=log)
        axes.legend(fontsize=7)
    return drawn
