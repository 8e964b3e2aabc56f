"""A user's packed row: what its bytes mean, and reading windows and behaviours from it.

Loads no compiler, so that readers (serving, training) start fast; the fold that writes rows is user_state.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.duplicates import EVENT_IDS
from domain.feature_plan import Plan
from domain.sequence import (
    BEHAVIOUR_DTYPE,
    BEHAVIOUR_VARINTS,
    BEHAVIOURS,
    BLOCK,
    CHUNK,
    INDEX_DTYPE,
    unpacked_behaviours,
)
from domain.windows import SLOTS, TILE_DTYPE, WINDOWS, count_windows
from schemas.codec import codec
from schemas.errors import Corrupt
from schemas.ids import hashed_id
from schemas.records import ACTIONS, UserHead

__all__ = [
    "FINGERPRINT",
    "RANKED_DTYPE",
    "REGISTER_DTYPE",
    "VALUE_DTYPE",
    "behaviours_of",
    "check_rows",
    "row_prefix",
    "tiles_of",
    "window_counts",
]

#: A number of the declared features: its cell is (amount of the plan) << 3 | slot of its tile, and of a scalar, which
#: lies behind the amounts, the same with slot 0. Sorted by cell.
VALUE_DTYPE: Final = np.dtype([("cell", "<u2"), ("value", "<f8")])
#: A HyperLogLog register that is not zero: (sketch of the plan << 3 | slot of its tile) << 16 | register << 8 | rank.
#: Sorted.
REGISTER_DTYPE: Final = np.dtype("<u4")
#: A category of a ranking with log2 of its weight (feature_plan.py).
RANKED_DTYPE: Final = np.dtype([("ranking", "u1"), ("category_id", "<i8"), ("weight", "<f8")])

#: Of everything that decides what a row's bytes mean, declared features apart; part of every row and model manifest.
FINGERPRINT: Final = hashed_id(
    repr(
        [list(map(tuple, WINDOWS)), SLOTS, BEHAVIOURS, BLOCK, BEHAVIOUR_VARINTS, CHUNK, EVENT_IDS, ACTIONS]
        + [
            dtype.descr
            for dtype in (TILE_DTYPE, BEHAVIOUR_DTYPE, VALUE_DTYPE, REGISTER_DTYPE, RANKED_DTYPE, INDEX_DTYPE)
        ]
        + [codec("user_head").fingerprint.hex()]
    )
)

#: Newest event time of no row: older than any event.
_NEVER: Final = -(2**61)


@cache
def row_prefix(declarations: int) -> bytes:
    """How every encoded row of this layout and of a plan with this fingerprint begins; no other row does."""
    return codec("user_head").prefix({"fingerprint": FINGERPRINT, "declarations": declarations})


def check_rows(rows: Sequence[UserHead | None], plan: Plan | None = None) -> None:
    """Raise Corrupt where a row is of another layout, or, with a plan, of other declared features."""
    for row in rows:
        if row and row["fingerprint"] != FINGERPRINT:
            raise Corrupt(
                f"a user row has fingerprint {row['fingerprint']}, this build {FINGERPRINT}: "
                "its bytes are laid out otherwise; rebuild table users from its log"
            )
        if row and plan and row["declarations"] != plan.fingerprint:
            raise Corrupt(
                f"a user row has features {row['declarations']}, declared are {plan.fingerprint}: its worker has not "
                "migrated it yet"
            )


def tiles_of(
    rows: Sequence[UserHead | None],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All tiles, the row of each, and every row's newest event time."""
    packed = [row["tiles"] if row else b"" for row in rows]
    counts = np.array([len(tiles) for tiles in packed], dtype=np.int64) // TILE_DTYPE.itemsize
    newest = np.array([row["newest_event_time_ms"] if row else _NEVER for row in rows], dtype=np.int64)
    return np.frombuffer(b"".join(packed), dtype=TILE_DTYPE), np.repeat(np.arange(len(rows)), counts), newest


def window_counts(heads: Sequence[UserHead | None], at_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Events by window and action of each user at its own time ([n] int64 ms -> [n, windows, actions] float32).

    Zeros for a user without a row, and for an idle one whose tiles have all expired at `at_ms`. See windows.py for
    what a window at a time is. Raises Corrupt where a row is of another layout.
    """
    check_rows(heads)
    return count_windows(*tiles_of(heads), at_ms)


def behaviours_of(head: UserHead | None) -> npt.NDArray[Any]:
    """The newest behaviours in log order ([<= 32] BEHAVIOUR_DTYPE). Raises Corrupt as window_counts does."""
    check_rows([head])
    return unpacked_behaviours(head["behaviours"] if head else b"")[-BEHAVIOURS:]
