from __future__ import annotations

import math
from typing import cast

import numpy as np
from planted import user_event

from domain.user_features import UserInputs, user_inputs
from domain.user_row import behaviours_of
from domain.user_state import EventBatch, fold
from domain.windows import WINDOWS
from models.config import ModelConfig
from schemas.codec import codec
from schemas.records import ACTION_CODES, ACTIONS, UserEvent, UserHead

_DIMS = ModelConfig(behaviours=3, long_behaviours=5).dimensions
_HOUR_MS = 3_600_000
_NOW_MS = 1000 * 24 * _HOUR_MS


def _heads(records: list[UserEvent]) -> dict[int, UserHead]:
    heads = fold({}, EventBatch.of(range(len(records)), records), topic_id=1).heads
    return {user: cast(UserHead, codec("user_head").decode(head)) for user, head in heads.items()}


def _inputs(heads: list[UserHead | None], at_ms: int) -> UserInputs:
    return user_inputs(heads, [behaviours_of(head)[::-1] for head in heads], np.full(len(heads), at_ms), _DIMS)


def test_newest_behaviours_come_first() -> None:
    """The newest behaviours stand first, with action codes and log1p hours of age; those beyond the most that are read
    are left out."""
    records = [user_event(n, 1, 10 + n, _NOW_MS - (7 - n) * _HOUR_MS, "purchase") for n in range(7)]
    inputs = _inputs([_heads(records)[1]], _NOW_MS)
    assert inputs.item_ids.tolist() == [[16, 15, 14, 13, 12]]
    assert inputs.actions.tolist() == [[ACTION_CODES["purchase"]] * 5]
    np.testing.assert_allclose(inputs.ages[0], [math.log1p(hours) for hours in (1, 2, 3, 4, 5)], rtol=1e-6)
    assert inputs.present.all()


def test_behaviours_after_the_request_do_not_exist() -> None:
    """A request in the past reads only what had happened by then."""
    records = [user_event(n, 1, 10 + n, _NOW_MS + n * _HOUR_MS) for n in range(3)]
    inputs = _inputs([_heads(records)[1]], _NOW_MS + _HOUR_MS)
    assert inputs.item_ids.tolist() == [[11, 10, 0]]
    assert inputs.present.tolist() == [[True, True, False]]


def test_users_without_a_row_are_all_zeros() -> None:
    """A user nobody has seen has zero windows and no behaviours, beside others in the same batch."""
    inputs = _inputs([None, _heads([user_event(1, 1, 10, _NOW_MS)])[1]], _NOW_MS)
    assert inputs.windows.shape == (2, len(WINDOWS) * len(ACTIONS))
    for name, value in vars(inputs).items():
        assert not value[0].any(), name
    assert inputs.present[1].sum() == 1


def test_windows_are_log_counts() -> None:
    """Window features are log1p of counts, window by window and action by action, and empty as time passes."""
    head = _heads([user_event(n, 1, 10, _NOW_MS, "cart") for n in range(3)])[1]
    place = ACTION_CODES["cart"] + np.arange(len(WINDOWS)) * len(ACTIONS)
    now, later = _inputs([head], _NOW_MS).windows[0], _inputs([head], _NOW_MS + 5 * _HOUR_MS).windows[0]
    np.testing.assert_allclose(now[place], math.log(4), rtol=1e-6)
    assert (later[place] > 0).tolist() == [False, False, True, True]
    assert now.sum() == now[place].sum()
