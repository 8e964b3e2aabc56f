from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.sequence import SEQUENCE
from domain.user_row import FINGERPRINT
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.errors import DecodeError
from schemas.ids import chunk_key, entity_key
from serving.tables.rows_db import RowsDb
from serving.tables.users import UserStore
from tests.serving.conftest import NOW_MS

USER = 7


def log_of(count: int) -> list[dict]:
    """So many events of the user, of one item each, in log order."""
    return [
        {
            "event_id": number, "user_id": USER, "item_id": number, "category_id": None, "value": None,
            "action": "click", "event_time_ms": NOW_MS + 1000 * number, "original_user_id": None,
            "original_item_id": None,
        }
        for number in range(count)
    ]  # fmt: skip


def rows_after(count: int, at_a_time: int) -> dict[bytes, bytes | None]:
    """The user's rows after so many events, folded in batches as a worker would."""
    events, heads, chunks = log_of(count), {}, {}

    def held(wanted: list) -> dict:
        return {place: chunks[place] for place in wanted}

    for start in range(0, count, at_a_time):
        part = events[start : start + at_a_time]
        batch = EventBatch.of(range(start, start + len(part)), part)
        folded = fold(heads, batch, 1, read_chunks=held)
        heads |= folded.heads
        chunks |= {place: chunk for place, chunk in folded.chunks.items() if chunk is not None}
    encode = codec("user_chunk").encode
    rows = {chunk_key(*at): encode({"fingerprint": FINGERPRINT, "behaviours": each}) for at, each in chunks.items()}
    return {entity_key(USER): heads[USER], **rows}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[UserStore, RowsDb]:
    """An empty user store, and the file under it."""
    rows = RowsDb(tmp_path_factory.mktemp("users") / "rows", writable=True)
    return UserStore(rows), rows


@settings(max_examples=25)
@given(events=st.integers(1, 900), at_a_time=st.integers(40, 400), wanted=st.integers(1, 1000))
def test_the_last_behaviours_of_the_log_newest_first(store, events, at_a_time, wanted) -> None:
    """Across head, open and sealed chunks, the last behaviours of the log come back in reverse, however it was cut."""
    users, rows = store
    with rows.writing() as txn:
        users.apply(txn, rows_after(events, at_a_time))
    found = users.read(USER, wanted)
    assert found is not None and found.head["counted"] == events
    assert found.behaviours["item_id"].tolist() == list(range(events))[::-1][: min(wanted, SEQUENCE)]
    assert users.behaviours(USER, wanted).tobytes() == found.behaviours.tobytes()


def test_a_chunk_that_has_not_come_yet_leaves_what_is_newer(store) -> None:
    """A head that arrives before its chunks is read as far as it reaches: nothing older than a gap is given."""
    users, rows = store
    whole = rows_after(700, 100)
    late = chunk_key(USER, 1)
    with rows.writing() as txn:
        users.apply(txn, {**whole, late: None})
    newest = users.behaviours(USER, 700)["item_id"].tolist()
    assert newest == list(range(700))[::-1][: len(newest)] and 512 <= newest[-1] < 700
    with rows.writing() as txn:
        users.apply(txn, {late: whole[late]})
    assert len(users.behaviours(USER, 700)) == 700


def test_nobody_and_rows_of_another_layout(store) -> None:
    """A user without a row has no behaviours; bytes that are no head are a DecodeError and never misread."""
    users, rows = store
    assert users.read(99, 10) is None and not len(users.behaviours(99, 10))
    with rows.writing() as txn:
        users.apply(txn, {entity_key(98): b"\xc3\x01nonsense"})
    with pytest.raises(DecodeError):
        users.head(98)
