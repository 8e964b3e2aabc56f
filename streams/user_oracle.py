"""What table users must hold, recomputed from the log one event at a time.

The plain counterpart of domain/user_state.py: dictionaries and lists, no arrays, no batches. It shares with the fold
the contracts alone: record types, validity, declarations, packed formats. Whether a record counts is the log's own
verdict, as in oracle.py. Decayed counts are compared to 1e-9, everything else exactly.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from domain.duplicates import EVENT_IDS
from domain.feature_plan import PLAN, Plan
from domain.features import RANKED
from domain.sequence import BEHAVIOURS, CHUNK, INDEX_DTYPE, SEQUENCE, unpacked_behaviours
from domain.user_row import FINGERPRINT, RANKED_DTYPE, REGISTER_DTYPE, VALUE_DTYPE
from domain.user_state import IDLE_MS
from domain.validation import check_user_event
from domain.windows import LONGEST_MS, TILE_DTYPE, WINDOWS
from schemas.deployment import Deployment
from schemas.records import ACTION_CODES, UserEvent, UserHead
from streams.fold import SourceRecord
from streams.oracle import Oracle

__all__ = ["PlainUser", "UsersOracle"]

#: item, event time, category or 0, value or None, whether it has a category, action code
Behaviour = tuple[int, int, int, float | None, bool, int]

_WEEK_MS: Final = 7 * 86_400_000
_INDEXED_CATEGORIES: Final = 8
_INDEXED_EACH: Final = 4
_TOLERANCE: Final = 1e-9


@dataclass
class PlainUser:
    """A user as one event at a time makes it. Times in tiles are their starts, in ms."""

    source_topic_id: int = 0
    source_offset: int = -1
    newest_ms: int | None = None
    ids: list[int] = field(default_factory=list)
    #: Behaviours that are not yet, or no longer, out of reach: the last of the log.
    sequence: list[Behaviour] = field(default_factory=list)
    #: Behaviours of the log before `sequence`.
    dropped: int = 0
    #: (window, start of tile, action) -> events
    counts: dict[tuple[int, int, int], int] = field(default_factory=dict)
    #: (amount of the plan, start of tile) -> n, sum, min or max
    amounts: dict[tuple[int, int], float] = field(default_factory=dict)
    #: (sketch of the plan, start of tile, register) -> rank
    registers: dict[tuple[int, int, int], int] = field(default_factory=dict)
    scalars: dict[int, float] = field(default_factory=dict)
    #: (ranking of the plan, category) -> log2 of its weight, in the order in which categories came
    ranked: dict[tuple[int, int], float] = field(default_factory=dict)
    #: category -> log2 of its weight and (item, time, action) of its last moved behaviours
    index: dict[int, tuple[float, list[tuple[int, int, int]]]] = field(default_factory=dict)
    moved: int = 0

    def count(self, event: UserEvent, plan: Plan) -> None:
        """Take an event that is neither duplicate nor late."""
        time, category, value = event["event_time_ms"], event["category_id"], event["value"]
        action = ACTION_CODES[event["action"]]
        for number, window in enumerate(WINDOWS):
            start = time // window.tile_ms * window.tile_ms
            self.counts[number, start, action] = self.counts.get((number, start, action), 0) + 1
        behaviour = event["item_id"], time, category or 0, value, category is not None, action
        self._count_declared(behaviour, plan)
        self.sequence.append(behaviour)
        if self.dropped + len(self.sequence) - self.moved == BEHAVIOURS * 2:
            for behaviour in self.sequence[self.moved - self.dropped :][:BEHAVIOURS]:
                self._index(behaviour)
            self.moved += BEHAVIOURS
            first = max(0, -(-self.moved // CHUNK) - (-(-SEQUENCE // CHUNK) + 1)) * CHUNK
            self.sequence, self.dropped = self.sequence[first - self.dropped :], first

    def redeclare(self, plan: Plan) -> None:
        """Make the state of declared features anew from the behaviours that are kept, as domain/migration.py says."""
        self.amounts, self.registers, self.scalars, self.ranked = {}, {}, {}, {}
        for behaviour in self.sequence:
            self._count_declared(behaviour, plan)

    def _count_declared(self, behaviour: Behaviour, plan: Plan) -> None:
        _, time, category, _, has_category, action = behaviour
        for number, window in enumerate(WINDOWS):
            self._count_tile(number, time // window.tile_ms * window.tile_ms, behaviour, plan)
        for number, scalar in enumerate(plan.scalars):
            if scalar.mask >> action & 1:
                if scalar.half_life_ms:
                    self.scalars[number] = _log_sum(self.scalars.get(number), time / scalar.half_life_ms)
                else:
                    self.scalars[number] = max(self.scalars.get(number, -math.inf), float(time))
        for number, ranking in enumerate(plan.rankings):
            if ranking.mask >> action & 1 and has_category:
                self._rank(number, category, time / ranking.half_life_ms)

    def _count_tile(self, level: int, start: int, behaviour: Behaviour, plan: Plan) -> None:
        item, _, category, value, has_category, action = behaviour
        for number, amount in enumerate(plan.amounts):
            if amount.level == level and amount.mask >> action & 1 and value is not None:
                held = self.amounts.get((number, start))
                more = 1.0 if amount.kind == "n" else value
                if held is not None:
                    pick = {"min": min(held, more), "max": max(held, more)}
                    more = pick.get(amount.kind, held + more)
                self.amounts[number, start] = more
        for number, sketch in enumerate(plan.sketches):
            identity = category if sketch.of == "category" else item
            known = has_category or sketch.of != "category"
            if sketch.level == level and sketch.mask >> action & 1 and known:
                register, rank = _register_and_rank(identity)
                place = number, start, register
                self.registers[place] = max(self.registers.get(place, 0), rank)

    def _rank(self, ranking: int, category: int, more: float) -> None:
        held = {key: weight for key, weight in self.ranked.items() if key[0] == ranking}
        weight = held.get((ranking, category))
        if weight is None and len(held) == RANKED:
            weight = self.ranked.pop(min(held, key=lambda key: held[key]))
        self.ranked[ranking, category] = _log_sum(weight, more)

    def _index(self, behaviour: Behaviour) -> None:
        item, time, category, _, has_category, action = behaviour
        if not has_category:
            return
        weight, last = self.index.get(category, (None, []))
        if weight is None and len(self.index) == _INDEXED_CATEGORIES:
            weight, _ = self.index.pop(min(self.index, key=lambda each: self.index[each][0]))
        self.index[category] = _log_sum(weight, time / _WEEK_MS), [*last, (item, time, action)][-_INDEXED_EACH:]

    def plain(self, plan: Plan) -> dict[str, Any]:
        """What a row must hold, by the names that `unpacked` gives."""
        assert self.newest_ms is not None
        return {
            "fingerprint": FINGERPRINT,
            "declarations": plan.fingerprint,
            "source_topic_id": self.source_topic_id,
            "source_offset": self.source_offset,
            "newest_event_time_ms": self.newest_ms,
            "event_ids": self.ids,
            "tiles": self._tiles(),
            "behaviours": self.sequence[self.moved - self.dropped :],
            "counted": self.dropped + len(self.sequence),
            "last_event_time_ms": self.sequence[-1][1],
            "registers": self._registers(plan),
            "values": self._values(plan),
            "ranked": [(ranking, category, weight) for (ranking, category), weight in sorted(
                self.ranked.items(), key=lambda entry: entry[0][0]
            )],
            "category_index": [(category, *entry) for category, entry in self.index.items()],
        }  # fmt: skip

    def chunks(self) -> dict[int, list[Behaviour]]:
        """The chunks behind the head, by number."""
        return {
            start // CHUNK: self.sequence[start - self.dropped : min(start + CHUNK, self.moved) - self.dropped]
            for start in range(self.dropped, self.moved, CHUNK)
        }

    def _tiles(self) -> list[tuple[int, int]]:
        """(window << 7 | slot << 4 | action, events) of the tiles that are kept."""
        return sorted(
            (window << 7 | start // WINDOWS[window].tile_ms % 8 << 4 | action, count)
            for (window, start, action), count in self.counts.items()
            if self._kept(window, start)
        )

    def _registers(self, plan: Plan) -> list[int]:
        """sketch << 19 | slot << 16 | register << 8 | rank of the tiles that are kept."""
        levels = [sketch.level for sketch in plan.sketches]
        return sorted(
            sketch << 19 | start // WINDOWS[levels[sketch]].tile_ms % 8 << 16 | register << 8 | rank
            for (sketch, start, register), rank in self.registers.items()
            if self._kept(levels[sketch], start)
        )

    def _values(self, plan: Plan) -> list[tuple[int, float]]:
        """(amount << 3 | slot, value) of the tiles that are kept, then the scalars in slot 0."""
        levels = [amount.level for amount in plan.amounts]
        amounts = sorted(
            (amount << 3 | start // WINDOWS[levels[amount]].tile_ms % 8, value)
            for (amount, start), value in self.amounts.items()
            if self._kept(levels[amount], start)
        )
        return amounts + [(len(levels) + number << 3, value) for number, value in sorted(self.scalars.items())]

    def _kept(self, level: int, start: int) -> bool:
        """Whether the window at the newest event reaches back to a tile."""
        assert self.newest_ms is not None
        window = WINDOWS[level]
        return start // window.tile_ms >= (self.newest_ms - window.length_ms) // window.tile_ms


class UsersOracle(Oracle):
    """Table users of one partition after a log."""

    schema = "user_event"

    def __init__(self, deployment: Deployment, topic_id: int, *, idle_ms: int = IDLE_MS, plan: Plan = PLAN) -> None:
        super().__init__(deployment, topic_id)
        self._idle_ms, self.plan = idle_ms, plan
        self.users: dict[int, PlainUser] = {}
        self.clock_ms: int | None = None
        #: Counted events of the records that were applied, as rows of offset, item, event time, action code.
        self.accepted = array("q")

    def check(self, decoded: Any, record: SourceRecord) -> None:
        """See Oracle."""
        check_user_event(decoded, record.key, record.timestamp, self._deployment)

    def accept(self, offset: int, decoded: Any) -> None:
        """See Oracle."""
        if self.take(offset, decoded) == "counted":
            action = ACTION_CODES[decoded["action"]]
            self.accepted.extend((offset, decoded["item_id"], decoded["event_time_ms"], action))

    def take(self, offset: int, event: UserEvent, topic_id: int | None = None) -> str:
        """Take a valid event; whether it was `counted`, `late`, `duplicate` or `replayed`."""
        topic_id = self._topic_id if topic_id is None else topic_id
        time_ms = event["event_time_ms"]
        self.clock_ms = time_ms if self.clock_ms is None else max(self.clock_ms, time_ms)
        user = self.users.setdefault(event["user_id"], PlainUser())
        if user.source_topic_id == topic_id and offset <= user.source_offset:
            return "replayed"
        if self._expired(user):
            user = self.users[event["user_id"]] = PlainUser()
        user.source_topic_id, user.source_offset = topic_id, offset
        if event["event_id"] in user.ids:
            return "duplicate"
        user.ids = [*user.ids, event["event_id"]][-EVENT_IDS:]
        if user.newest_ms is not None and time_ms < user.newest_ms - LONGEST_MS:
            return "late"
        user.newest_ms = time_ms if user.newest_ms is None else max(user.newest_ms, time_ms)
        user.count(event, self.plan)
        return "counted"

    def _expired(self, user: PlainUser) -> bool:
        assert self.clock_ms is not None
        return user.newest_ms is not None and user.newest_ms < self.clock_ms - self._idle_ms

    def differences(
        self, heads: Mapping[int, UserHead], chunks: Mapping[int, Mapping[int, bytes]]
    ) -> Iterator[tuple[int, str]]:
        """Users whose rows in the table are not what the log says, and what is wrong; packed behaviours of chunks are
        by user and number.
        """
        for user in self.users.keys() | heads.keys() | chunks.keys():
            if what := self.difference(user, heads.get(user), chunks.get(user)):
                yield user, what

    def difference(self, user: int, head: UserHead | None, chunks: Mapping[int, bytes] | None = None) -> str:
        """What is wrong with a user's row and chunks; empty where they are right."""
        expected = self.users.get(user)
        if expected is None:
            return "" if head is None and not chunks else "the log has no such user"
        if head is None:
            # A sweep deletes idle users at a time of its own; whether it has, no later event can tell.
            return "" if self._expired(expected) and not chunks else "missing"
        if expected.newest_ms is None:
            return f"an event is in the row of a user without any: {head!r}"
        found, wanted = unpacked(head), expected.plain(self.plan)
        for name, value in wanted.items():
            if not _equal(found[name], value):
                return f"{name} is {found[name]!r}, expected {value!r}"
        behind = {number: _behaviours(chunk) for number, chunk in (chunks or {}).items()}
        for number in sorted(behind.keys() | expected.chunks().keys()):
            if behind.get(number) != expected.chunks().get(number):
                return f"chunk {number} is {behind.get(number)!r}, expected {expected.chunks().get(number)!r}"
        return ""


def unpacked(head: UserHead) -> dict[str, Any]:
    """A row with its packed columns as lists of numbers."""
    index = np.frombuffer(head["category_index"], dtype=INDEX_DTYPE)
    return {
        **head,
        "event_ids": np.frombuffer(head["event_ids"], dtype="<i8").tolist(),
        "tiles": np.frombuffer(head["tiles"], dtype=TILE_DTYPE).tolist(),
        "behaviours": _behaviours(head["behaviours"]),
        "registers": np.frombuffer(head["registers"], dtype=REGISTER_DTYPE).tolist(),
        "values": np.frombuffer(head["values"], dtype=VALUE_DTYPE).tolist(),
        "ranked": np.frombuffer(head["ranked"], dtype=RANKED_DTYPE).tolist(),
        "category_index": [
            (category, weight, list(zip(items[:used], times[:used], actions[:used], strict=True)))
            for category, weight, used, actions, _, items, times in index.tolist()
        ],
    }


def _behaviours(packed: bytes) -> list[Behaviour]:
    rows = unpacked_behaviours(packed).tolist()
    return [(*row[:3], None if math.isnan(row[3]) else row[3], *row[4:]) for row in rows]


def _equal(found: Any, wanted: Any) -> bool:
    """Whether two values are the same, numbers with a fraction to a tolerance."""
    if isinstance(wanted, list | tuple):
        same_length = isinstance(found, list | tuple) and len(found) == len(wanted)
        return same_length and all(map(_equal, found, wanted))
    if isinstance(wanted, float) and isinstance(found, float):
        return math.isclose(found, wanted, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(found == wanted)


def _log_sum(held: float | None, more: float) -> float:
    """log2(2 ** held + 2 ** more); `more` alone where nothing is held."""
    if held is None:
        return more
    larger, smaller = max(held, more), min(held, more)
    return larger + math.log2(1.0 + 2.0 ** (smaller - larger))


def _register_and_rank(value: int) -> tuple[int, int]:
    """Of a splitmix64 hash: the low 8 bits, and 1 + the zeros that follow them, 57 at most."""
    bits = 2**64 - 1
    mixed = (value + 0x9E3779B97F4A7C15) & bits
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & bits
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & bits
    mixed ^= mixed >> 31
    register, rest = mixed & 255, mixed >> 8
    return register, 57 if rest == 0 else (rest & -rest).bit_length()
