"""Rows whose features were declared otherwise, folded anew from the user's own sequence.

A row keeps its windows, ids and sequence whatever is declared; only the state of declared features has to be made
again, by the kernel that the fold uses, from the behaviours in head and chunks. The result is the row that the new
declarations would have made of the log all along, as long as the user has at most 10,000 behaviours; of a user with
more it is what the last 10,000 say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from domain.feature_plan import Plan
from domain.sequence import BEHAVIOUR_DTYPE, held_chunks, unpacked_behaviours
from domain.user_row import check_rows
from domain.user_state import IDLE_MS, EventBatch, fold
from schemas.codec import codec
from schemas.errors import Corrupt
from schemas.records import UserHead

__all__ = ["migrated"]


def migrated(head: UserHead, chunks: Mapping[int, bytes], plan: Plan) -> UserHead:
    """The row as `plan` declares it. `chunks` has all that the head names; raises Corrupt where one is missing."""
    check_rows([head])
    numbers = held_chunks(head["counted"])
    if missing := [number for number in numbers if number not in chunks]:
        raise Corrupt(f"chunks {missing} of a user are missing: rebuild table users from its log")
    told = unpacked_behaviours(b"".join([*(chunks[number] for number in numbers), head["behaviours"]]))
    columns = {name: np.ascontiguousarray(told[name]) for name in BEHAVIOUR_DTYPE.names or ()}
    places = np.arange(len(told))
    batch = EventBatch(offset=places, event_id=places, user_id=np.zeros(len(told), dtype=np.int64), **columns)
    # No event expires its own row, and none is late that was not late when it came.
    never_ms = 2 * IDLE_MS + int(np.ptp(told["event_time_ms"]))
    encode, decode = codec("user_head").encode, codec("user_head").decode
    again: Any = decode(fold({}, batch, 0, idle_ms=never_ms, plan=plan).heads[0])
    if again["newest_event_time_ms"] != head["newest_event_time_ms"]:
        # The newest event is not among the last 10,000: tiles must still be placed by it.
        seed = {
            **{name: b"" if isinstance(value, bytes) else value for name, value in again.items()},
            "source_offset": -1, "counted": 0, "newest_event_time_ms": head["newest_event_time_ms"],
        }  # fmt: skip
        again = decode(fold({0: encode(seed)}, batch, 0, idle_ms=never_ms, plan=plan).heads[0])
    made = {name: again[name] for name in ("values", "registers", "ranked")}
    return cast(UserHead, {**head, "declarations": plan.fingerprint, **made})
