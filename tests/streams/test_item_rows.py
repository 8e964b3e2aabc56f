"""Item rows by splicing against item rows by encoding."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import codec
from schemas.ids import entity_key
from streams.item_rows import encode_item_rows

int64 = st.integers(-(2**63), 2**63 - 1)
catalogue = st.fixed_dictionaries(
    {
        "original_id": st.none() | st.text(max_size=5),
        "title": st.none() | st.text(max_size=200),
        "category_id": st.none() | int64,
        "price": st.none() | st.floats(allow_nan=False),
        "published_ms": st.none() | int64,
        "embedding": st.none() | st.binary(max_size=40),
        "numeric": st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False), max_size=3),
    }
)
updates = st.builds(
    lambda fields, **head: {**head, **fields},
    catalogue, event_id=int64, item_id=int64, event_time_ms=int64, op=st.sampled_from(["upsert", "delete"]),
)  # fmt: skip
signatures = st.none() | st.binary(min_size=8, max_size=8) | st.binary(min_size=16, max_size=16)


@dataclass
class _Source:
    value: bytes
    offset: int


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(updates, int64, int64, signatures, st.integers(0, 3)), max_size=12))
def test_spliced_rows_are_the_encoded_rows(drawn: list[tuple[dict[str, Any], int, int, bytes | None, int]]) -> None:
    """Every row has the bytes that encoding it would give, also from updates of unusual writers."""
    rows: list[Any] = []
    origins: list[Any] = []
    for update, topic_id, offset, signature, oddity in drawn:
        value = codec("item_update").encode(update)
        if oddity == 0:  # a writer with longer varints than needed: the first long with an empty group more
            first = next(at for at in range(10, len(value)) if value[at] < 0x80)
            if first < 18:
                value = value[:first] + bytes([value[first] | 0x80, 0]) + value[first + 1 :]
        row = {name: update[name] for name in update if name not in ("event_id", "op")}
        rows.append(
            {**row, "source_topic_id": topic_id, "source_offset": offset, "deleted": update["op"] == "delete",
             "signature": signature, "signature_version": "srp-64x4-1"}
        )  # fmt: skip
        origins.append((_Source(value, offset), update))
    encoded = encode_item_rows(rows, origins)
    assert [key for key, _ in encoded] == [entity_key(row["item_id"]) for row in rows]
    for row, (_, value) in zip(rows, encoded, strict=True):
        assert value == codec("item_row").encode(row)
