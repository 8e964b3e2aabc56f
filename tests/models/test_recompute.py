"""The recomputation is tested against a server's answers in tests/cli/test_why.py; here is what it does on its own."""

from __future__ import annotations

import numpy as np
import pytest

from domain.lsh import signs
from domain.n2o import Flag
from domain.user_row import behaviours_of
from models.recompute import recompute
from schemas.codec import codec
from tests.serving.conftest import NOW_MS, SIZES, make_artifact, n2o_records, user_rows  # noqa: F401


@pytest.fixture
def made(make_artifact):  # noqa: F811
    """A user who clicked on items 1, 2, 3 and 9, of which 9 has no row; item 5 is deleted."""
    artifact = make_artifact(1)
    records = n2o_records(artifact.manifest.version_tag, range(1, 7))
    records["flags"][4] |= Flag.DELETED
    head = codec("user_head").decode(user_rows(1, [1, 2, 3, 9])[1][0])
    return recompute(artifact.folder, SIZES, head, behaviours_of(head)[::-1], NOW_MS, records)


def test_deleted_and_unknown_items_score_alike(made) -> None:
    """As items of which nothing is known; and only the user's own part contributes."""
    deleted, unknown, known = made.scores(np.array([5, 99, 6], dtype=np.int64))
    assert deleted == unknown != known
    assert {name for name, value in made.contributions(99).items() if value} <= {"user"}
    assert made.similar(5, 3) == made.similar(99, 3) == []


def test_similar_behaviours_are_counted_bit_by_bit(made) -> None:
    """Places of the newest first, most equal bits first; one without a row is never among them."""
    own = signs(made.records[6]["signature"])
    expected = {
        place: int((signs(made.records[item]["signature"]) == own).sum())
        for place, item in enumerate(made.item_ids.tolist())
        if item in made.records
    }
    found = made.similar(6, 10)
    assert dict(found) == expected and [bits for _, bits in found] == sorted(expected.values(), reverse=True)
    assert made.similar(6, 1) == found[:1]
