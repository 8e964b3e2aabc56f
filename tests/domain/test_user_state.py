"""The fold equals one event at a time on every prefix, whatever the log and however it is cut into batches."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.user_kernel import NEVER
from domain.user_row import FINGERPRINT, behaviours_of, window_counts
from domain.user_state import IDLE_MS, EventBatch, Folded, fold
from domain.windows import LONGEST_MS, WINDOWS
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import Corrupt
from schemas.records import ACTIONS, UserEvent, UserHead
from streams.user_oracle import UsersOracle

T0 = 1_500_000_000_000
DAY_MS = 86_400_000
TOPIC = 7


def decoded(head: bytes) -> UserHead:
    """An encoded row."""
    return cast(UserHead, codec("user_head").decode(head))


class Oracle(UsersOracle):
    """One event at a time, from the rules as written, and how many it left out, by cause."""

    def __init__(self, idle_ms: int = IDLE_MS) -> None:
        super().__init__(Deployment(), TOPIC, idle_ms=idle_ms)
        self.left_out: Counter[str] = Counter()

    def apply(self, topic: int, offset: int, event: UserEvent) -> None:
        """Take one event."""
        self.left_out[self.take(offset, event, topic)] += 1

    def check(self, state: State) -> None:
        """Every row and chunk is the oracle's."""
        assert state.heads.keys() == self.users.keys()
        for user, head in state.heads.items():
            chunks = {number: chunk for (of, number), chunk in state.chunks.items() if of == user}
            assert self.difference(user, decoded(head), chunks) == ""


class State:
    """The rows of a partition, carried over batches."""

    def __init__(self, idle_ms: int = IDLE_MS) -> None:
        self.heads: dict[int, bytes] = {}
        self.chunks: dict[tuple[int, int], bytes] = {}
        self.clock_ms, self.idle_ms = NEVER, idle_ms
        self.left_out: Counter[str] = Counter()

    def fold(self, batch: EventBatch, topic: int = TOPIC) -> Folded:
        """Fold a batch."""
        folded = fold(
            self.heads, batch, topic, read_chunks=self.read_chunks, clock_ms=self.clock_ms, idle_ms=self.idle_ms
        )
        self.heads |= folded.heads
        for place, chunk in folded.chunks.items():
            if chunk is None:
                self.chunks.pop(place, None)
            else:
                self.chunks[place] = chunk
        self.clock_ms = folded.clock_ms
        self.left_out.update(duplicate=folded.duplicates, late=folded.late, replayed=folded.replayed)
        return folded

    def read_chunks(self, wanted: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """The chunks that the fold asks for, all of which must be there."""
        return {place: self.chunks[place] for place in wanted}

    def left_out_of(self, oracle: Oracle) -> bool:
        """Whether both left out the same numbers of events."""
        return all(self.left_out[cause] == oracle.left_out[cause] for cause in ("duplicate", "late", "replayed"))


def event(
    event_id: int, user: int, time: int, action: str = "click", category: int | None = None, value: float | None = None
) -> UserEvent:
    """An event whose item follows from its id."""
    return {
        "event_id": event_id, "user_id": user, "item_id": event_id * 31 - 5, "event_time_ms": time,
        "action": action, "category_id": category, "value": value,
        "original_user_id": None, "original_item_id": None,
    }  # fmt: skip


times = st.one_of(
    st.integers(-400_000, 400_000),
    st.builds(lambda tiles, edge: tiles * 60_000 + edge, st.integers(-90, 90), st.sampled_from([-1, 0, 1])),
    st.builds(lambda tiles, edge: tiles * 4 * 3_600_000 + edge, st.integers(-50, 50), st.sampled_from([-1, 0, 1])),
    st.builds(lambda days, edge: days * DAY_MS + edge, st.integers(-16, 16), st.sampled_from([-1, 0, 1])),
    st.sampled_from([-LONGEST_MS, -LONGEST_MS - 1, LONGEST_MS, LONGEST_MS + 1]),
    st.integers(-2 * T0, 10**12),
).map(lambda offset: T0 + offset)
users = st.sampled_from([1, 2, -(2**63), 2**63 - 1])
events = st.builds(
    event,
    st.integers(0, 45),
    users,
    times,
    st.sampled_from(ACTIONS),
    st.none() | st.integers(-2, 20) | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.sampled_from([0.0, -1.5, 0.1, 7.0]),
)
logs = st.lists(events, min_size=1, max_size=60)


def batch_of(events: list[UserEvent], first: int = 0) -> EventBatch:
    """Events at consecutive offsets."""
    return EventBatch.of(range(first, first + len(events)), events)


def seeded_log(seed: int, length: int) -> list[UserEvent]:
    """A long log of few users with resent stretches, late stretches and leaps of weeks."""
    random = np.random.default_rng(seed)
    log: list[UserEvent] = []
    now = T0
    while len(log) < length:
        if log and random.random() < 0.05:
            start = random.integers(0, len(log))
            log += log[start : start + random.integers(1, 60)]
            continue
        now += int(random.choice([0, 1_000, 60_000, 3_600_000, 9 * DAY_MS], p=[0.2, 0.4, 0.3, 0.09, 0.01]))
        late = int(random.choice([0, 90_000, 2 * DAY_MS, 8 * DAY_MS], p=[0.8, 0.1, 0.07, 0.03]))
        user, action = int(random.integers(0, 5)), ACTIONS[random.integers(0, len(ACTIONS))]
        value = float(random.integers(0, 9)) / 8 if random.random() < 0.3 else None
        log.append(event(len(log), user, now - late, action, int(random.integers(0, 30)) or None, value))
    return log[:length]


@pytest.mark.parametrize("idle_ms", [IDLE_MS, 20 * DAY_MS])
@given(log=logs)
def test_every_prefix_equals_one_event_at_a_time(log, idle_ms) -> None:
    """After each event, the fold of one-event batches has the oracle's rows and counts, users that expired included."""
    oracle, state = Oracle(idle_ms), State(idle_ms)
    for offset, each in enumerate(log):
        oracle.apply(TOPIC, offset, each)
        state.fold(EventBatch.of([offset], [each]))
        oracle.check(state)
    assert state.left_out_of(oracle)


@given(logs, st.data())
def test_windows_equal_a_recount_of_the_events(log, data) -> None:
    """At any time from a user's newest event on, windows are a recount of the user's counted events."""
    oracle, counted = Oracle(2**60), {}
    for offset, each in enumerate(log):
        if oracle.take(offset, each) == "counted":
            counted.setdefault(each["user_id"], []).append(each)
    heads = fold({}, batch_of(log), TOPIC, idle_ms=2**60).heads
    at = {user: row.newest_ms + data.draw(st.integers(0, 9 * DAY_MS)) for user, row in oracle.users.items()}
    counts = window_counts([decoded(heads[user]) for user in at], np.array(list(at.values()), dtype=np.int64))
    expected = np.zeros_like(counts)
    for place, (user, moment) in enumerate(at.items()):
        for index, (_, length, tile) in enumerate(WINDOWS):
            for each in counted[user]:
                inside = (moment - length) // tile * tile <= each["event_time_ms"] // tile * tile <= moment
                expected[place, index, ACTIONS.index(each["action"])] += inside
    np.testing.assert_array_equal(counts, expected)


@given(logs, st.lists(st.integers(0, 60), max_size=6))
def test_batches_do_not_matter(log, cuts) -> None:
    """The same log cut anywhere gives the same rows, byte for byte, as in one batch, and the same counts."""
    whole = State()
    whole.fold(batch_of(log))
    edges = sorted({0, len(log), *(cut % len(log) for cut in cuts)})
    state = State()
    for start, end in pairwise(edges):
        state.fold(batch_of(log[start:end], start))
    assert (state.heads, state.chunks, state.left_out) == (whole.heads, whole.chunks, whole.left_out)


@given(logs, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4))
def test_replays_change_nothing(log, replays) -> None:
    """Reading any stretch of the log again, also one that runs past what was applied, converges to the plain fold."""
    applied = len(log) // 2
    state, plain = State(), State()
    state.fold(batch_of(log[:applied]))
    for start, length in [*replays, (0, len(log))]:
        start = min(start, applied)
        state.fold(batch_of(log[start : start + length], start))
        applied = max(applied, min(start + length, len(log)))
    plain.fold(batch_of(log))
    assert (state.heads, state.chunks) == (plain.heads, plain.chunks)
    again = state.fold(batch_of(log))
    assert again == Folded({}, 0, len(log), 0, clock_ms=state.clock_ms)


@given(logs, logs)
def test_another_topic_id_starts_new_offsets(first, second) -> None:
    """Offsets of a re-created topic do not compare: its events count from offset 0, known ids are duplicates."""
    oracle, state = Oracle(), State()
    for topic, log in ((TOPIC, first), (TOPIC + 1, second)):
        for offset, each in enumerate(log):
            oracle.apply(topic, offset, each)
        state.fold(batch_of(log), topic)
    for user, head in state.heads.items():
        assert decoded(head)["source_topic_id"] == oracle.users[user].source_topic_id
    oracle.check(state)
    assert state.left_out["replayed"] == 0


@pytest.mark.parametrize("seed", range(6))
def test_long_logs(seed) -> None:
    """Thousands of events with resent, late and idle stretches, in batches of uneven size, equal the oracle."""
    log, oracle, state = seeded_log(seed, 3_000), Oracle(), State()
    random = np.random.default_rng(seed)
    start = 0
    while start < len(log):
        end = start + int(random.integers(1, 400))
        state.fold(batch_of(log[start:end], start))
        start = end
    for offset, each in enumerate(log):
        oracle.apply(TOPIC, offset, each)
    oracle.check(state)
    assert state.left_out_of(oracle)
    assert state.left_out["duplicate"] > 0
    assert state.left_out["late"] > 0
    assert state.chunks


def test_late_begins_beyond_the_longest_window() -> None:
    """An event older than the newest by exactly the longest window counts; one millisecond more is late."""
    log = [event(1, 1, T0), event(2, 1, T0 - LONGEST_MS), event(3, 1, T0 - LONGEST_MS - 1)]
    folded = fold({}, batch_of(log), TOPIC)
    assert folded.late == 1
    assert behaviours_of(decoded(folded.heads[1]))["event_time_ms"].tolist() == [T0, T0 - LONGEST_MS]


def test_late_is_judged_by_what_came_before() -> None:
    """An old event that came before the newer one counts as it came, and late ones are not kept in the sequence."""
    log = [event(1, 1, T0 - 30 * DAY_MS), event(2, 1, T0), event(3, 1, T0 - 30 * DAY_MS), event(4, 1, T0 - DAY_MS)]
    folded = fold({}, batch_of(log), TOPIC)
    assert folded.late == 1
    assert behaviours_of(decoded(folded.heads[1]))["item_id"].tolist() == [log[place]["item_id"] for place in (0, 1, 3)]


def test_a_duplicates_time_makes_nothing_late() -> None:
    """A resent id with another, far newer time is dropped whole: it does not move the user's newest event."""
    log = [event(1, 1, T0), event(1, 1, T0 + 30 * DAY_MS), event(2, 1, T0 - 1), event(3, 1, T0 - 8 * DAY_MS)]
    folded = fold({}, batch_of(log), TOPIC)
    assert (folded.duplicates, folded.late) == (1, 1)
    assert decoded(folded.heads[1])["newest_event_time_ms"] == T0


def test_only_changed_rows_come_back() -> None:
    """Rows of other users, and of users whose events were all replayed, are not in the answer."""
    heads = fold({}, batch_of([event(1, 1, T0), event(2, 2, T0), event(3, 3, T0)]), TOPIC).heads
    folded = fold(heads, batch_of([event(1, 1, T0), event(2, 2, T0), event(3, 3, T0), event(4, 2, T0)]), TOPIC)
    assert list(folded.heads) == [2]
    assert folded.replayed == 3


def test_a_duplicate_moves_the_offset_alone() -> None:
    """A resent event changes nothing of a row but how far its log was read."""
    heads = fold({}, batch_of([event(1, 1, T0)]), TOPIC).heads
    folded = fold(heads, batch_of([event(1, 1, T0 + 5, "purchase")], first=9), TOPIC)
    assert decoded(folded.heads[1]) == {**decoded(heads[1]), "source_offset": 9}
    assert folded.duplicates == 1


def test_the_rows_given_are_not_changed() -> None:
    """The fold is pure: the caller's rows are what they were."""
    heads = fold({}, batch_of([event(1, 1, T0)]), TOPIC).heads
    before = dict(heads)
    fold(heads, batch_of([event(2, 1, T0 + 1)], first=1), TOPIC)
    assert heads == before


def test_no_events() -> None:
    """An empty batch changes nothing."""
    assert fold({}, batch_of([]), TOPIC, clock_ms=5) == Folded({}, 0, 0, 0, clock_ms=5)


def test_offsets_must_ascend() -> None:
    """A batch that is not in log order is refused."""
    with pytest.raises(Corrupt, match="ascend"):
        fold({}, EventBatch.of([4, 4], [event(1, 1, T0), event(2, 1, T0)]), TOPIC)


def test_rows_of_other_declarations_are_refused() -> None:
    """A row of another fingerprint is never read: not by the fold, the windows or the behaviours."""
    heads = fold({}, batch_of([event(1, 1, T0)]), TOPIC).heads
    other: UserHead = {**decoded(heads[1]), "fingerprint": FINGERPRINT + 1}
    for read in (
        lambda: fold({1: codec("user_head").encode(other)}, batch_of([event(2, 1, T0)]), TOPIC),
        lambda: window_counts([other], np.array([T0])),
        lambda: behaviours_of(other),
    ):
        with pytest.raises(Corrupt, match="fingerprint"):
            read()


def test_users_without_a_row_have_zeros() -> None:
    """No row is zero counts and no behaviours."""
    assert window_counts([None], np.array([T0])).tolist() == np.zeros((1, len(WINDOWS), len(ACTIONS))).tolist()
    assert len(behaviours_of(None)) == 0


def test_behaviours_keep_log_order_and_a_missing_category() -> None:
    """Behaviours are read back in log order; category 0 and no category differ."""
    log = [event(1, 1, T0 + 5, "like", 0), event(2, 1, T0, "cart", None)]
    behaviours = behaviours_of(decoded(fold({}, batch_of(log), TOPIC).heads[1]))
    assert behaviours["event_time_ms"].tolist() == [T0 + 5, T0]
    assert behaviours["has_category"].tolist() == [True, False]
    assert [ACTIONS[code] for code in behaviours["action"]] == ["like", "cart"]


def test_rows_pass_through_their_schema() -> None:
    """A folded row is what the schema's own codec encodes: whoever has the schema reads it."""
    head = fold({}, batch_of(seeded_log(0, 200)), TOPIC).heads[1]
    assert codec("user_head").encode(decoded(head)) == head


def test_a_full_row_stays_small() -> None:
    """A user who does everything at every moment of a week has a row below 8 kB."""
    log = [
        event(place, 1, T0 + place * 97_003, ACTIONS[place % len(ACTIONS)], place)
        for place in range(7 * DAY_MS // 97_003)
    ]
    head = fold({}, batch_of(log), TOPIC).heads[1]
    assert len(head) < 8_192


def test_columns_of_a_batch() -> None:
    """Values and categories keep zero apart from none only where the column says so."""
    one, two = event(1, 1, T0, category=0), event(2, 1, T0)
    batch = EventBatch.of([3, 5], [{**one, "value": 2.5}, two])
    assert batch.value[0] == 2.5
    assert np.isnan(batch.value[1])
    assert batch.category_id.tolist() == [0, 0]
    assert batch.has_category.tolist() == [True, False]
    assert batch.offset.tolist() == [3, 5]
