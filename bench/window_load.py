"""User events for the window benchmark: who acts when, from a seed."""

from __future__ import annotations

from typing import Final

import numpy as np

from domain.user_state import EventBatch
from schemas.records import ACTION_CODES

__all__ = ["HOT_USER", "user_batches"]

#: The one user of a tenth of all events, where there is one.
HOT_USER: Final = -1
_START_MS: Final = 1_700_000_000_000
#: Events a second over all users: a batch of 5,000 is a quarter of an hour.
_PER_S: Final = 5.0


def user_batches(
    events: int, users: int, batch: int, *, session: float = 2.5, hot: float = 0.0, seed: int = 1
) -> list[EventBatch]:
    """Batches of a log: users act in sessions of `session` events on average, a share `hot` of all is one user's.

    Mostly impressions and views with clicks, every 50th a purchase with an amount; a thousand items, forty categories.
    """
    random = np.random.default_rng(seed)
    sessions = int(events / session) + 1
    who = np.repeat(random.integers(0, users, sessions), random.geometric(1 / session, sessions))[:events]
    who = np.concatenate([who, random.integers(0, users, events - len(who))])
    starts = np.arange(events)
    order = np.argsort(starts + random.exponential(200, events), kind="stable")  # sessions overlap
    user = who[order]
    user[random.random(events) < hot] = HOT_USER
    codes = np.array([ACTION_CODES[name] for name in ("impression", "view", "click", "purchase")], dtype=np.uint8)
    action = codes[np.searchsorted([0.5, 0.8, 0.98], random.random(events))]
    item = random.integers(0, 1_000, events)
    whole = EventBatch(
        offset=np.arange(events),
        event_id=random.integers(-(2**62), 2**62, events),
        user_id=user,
        item_id=item,
        event_time_ms=_START_MS + (np.arange(events) * 1000 / _PER_S).astype(np.int64),
        action=action,
        category_id=item % 40,
        has_category=np.ones(events, dtype=np.bool_),
        value=np.where(action == codes[3], random.integers(1, 100, events) / 4, np.nan),
    )
    return [whole.take(np.arange(at, min(at + batch, events))) for at in range(0, events, batch)]
