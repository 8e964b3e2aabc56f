from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.user_features import user_inputs
from domain.user_row import behaviours_of
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.errors import BadInput
from schemas.ids import entity_key
from schemas.records import ACTIONS
from serving.edge import Edge, EdgeUser
from serving.edge_bundle import Bundle
from tests.serving.conftest import NOW_MS, SIZES, Artifact, World, item_rows, n2o_records

_DAY_MS = 86_400_000

drawn_events = st.lists(
    st.tuples(st.sampled_from([0, 1, 59_999, 3_600_000, 5 * _DAY_MS]), st.integers(0, 12), st.sampled_from(ACTIONS)),
    max_size=60,
)


def _events(drawn: list[tuple[int, int, str]]) -> list[dict[str, Any]]:
    times = NOW_MS + np.cumsum([gap for gap, _, _ in drawn], dtype=np.int64)
    return [
        {"item_id": item, "action": action, "event_time_ms": int(at)}
        for at, (_, item, action) in zip(times, drawn, strict=True)
    ]


def _folded(events: list[dict[str, Any]], user: int = 1) -> bytes | None:
    """The row that the workers make of the same events."""
    rest = {"user_id": user, "category_id": None, "value": None, "original_user_id": None, "original_item_id": None}
    batch = [{**event, **rest, "event_id": number} for number, event in enumerate(events)]
    return fold({}, EventBatch.of(range(len(batch)), batch), 1).heads.get(user) if batch else None


@settings(max_examples=60, deadline=None)
@given(drawn=drawn_events, later=st.sampled_from([0, 1, 61_000, 3 * _DAY_MS, 30 * _DAY_MS]))
def test_a_users_events_are_read_as_the_workers_row_is(drawn: list[tuple[int, int, str]], later: int) -> None:
    """Windows and behaviours of plain events equal those of the row that the fold makes of them, at any time after."""
    events = _events(drawn)
    at_ms = (events[-1]["event_time_ms"] if events else NOW_MS) + later
    value = _folded(events)
    head: Any = None if value is None else codec("user_head").decode(value)
    wanted = user_inputs([head], [behaviours_of(head)[::-1]], np.array([at_ms]), SIZES)
    found = EdgeUser.of({"at_ms": at_ms, "events": events}, "test").inputs(SIZES)
    for name in ("windows", "item_ids", "actions", "ages", "present"):
        newest = slice(32) if name != "windows" else slice(None)  # a head alone holds the newest 32
        assert np.array_equal(getattr(found, name)[:, newest], getattr(wanted, name)[:, newest]), name


def test_scores_are_the_served_ones(world: World, client: Any, make_artifact: Callable[..., Artifact]) -> None:
    """The same model, rows and events give the same ranking and scores from a bundle and from a server."""
    artifact = make_artifact(3)
    world.apply("items", item_rows(range(40)))
    records = world.go_live(artifact, range(40), seed=5)
    events = _events([(60_000, item, "click" if item % 2 else "view") for item in (3, 9, 31, 77, 12, 3)])
    value = _folded(events)
    assert value is not None
    world.apply("users", ([entity_key(1)], [value]))
    at_ms = events[-1]["event_time_ms"] + 5_000
    served = client.rank(user_id=1, candidates=list(range(40)), at_ms=at_ms, top_k=40).json()
    bundle = Bundle.of(artifact.folder, artifact.manifest, records, [f"item {each}" for each in range(40)])
    found = Edge(bundle).rank(EdgeUser.of({"at_ms": at_ms, "events": events}, "test"), 40)
    assert found.item_ids.tolist() == [each["item_id"] for each in served["items"]]
    np.testing.assert_allclose(found.scores, [each["score"] for each in served["items"]], rtol=1e-5)
    assert (found.behaviours_used, found.behaviours_missing) == (5, 1)
    assert (served["behaviours_used"], served["behaviours_missing"]) == (5, 1)
    assert found.titles[0] == f"item {found.item_ids[0]}"


def test_few_items_know_less_of_a_user(make_artifact: Callable[..., Artifact]) -> None:
    """Behaviours outside the bundle are masked and counted; of nobody nothing is used, and any top_k is answered."""
    artifact = make_artifact(4)
    records = n2o_records(artifact.manifest.version_tag, range(5))
    edge = Edge(Bundle.of(artifact.folder, artifact.manifest, records, [None] * 5))
    events = _events([(1, item, "click") for item in (1, 2, 8, 9)])
    found = edge.rank(EdgeUser.of({"events": events}, "test"), 100)
    assert (len(found.item_ids), found.behaviours_used, found.behaviours_missing) == (5, 2, 2)
    known = edge.rank(EdgeUser.of({"at_ms": events[-1]["event_time_ms"], "events": events}, "test"), 100)
    assert known.scores.tolist() == found.scores.tolist()
    nobody = edge.rank(EdgeUser.nobody(), 2)
    assert (len(nobody.item_ids), nobody.behaviours_used, nobody.behaviours_missing) == (2, 0, 0)
    assert nobody.scores.tolist() != found.scores.tolist()[:2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "a list `events`"),
        ("{", "cannot be read as JSON"),
        ({"events": [5]}, "event 0: item_id must be a whole number"),
        ({"events": [{"item_id": "5", "action": "click", "event_time_ms": 1}]}, "item_id must be a whole number"),
        ({"events": [{"item_id": 5, "action": "look", "event_time_ms": 1}]}, "event 0: action must be one of"),
        ({"events": [{"item_id": 5, "action": "click"}]}, "event 0: event_time_ms must be"),
        (
            {"events": [{"item_id": 5, "action": "click", "event_time_ms": each} for each in (2, 3, 1)]},
            "event 2 is older than the one before",
        ),
        ({"at_ms": 0, "events": [{"item_id": 5, "action": "click", "event_time_ms": 1}]}, "at_ms must be a time at"),
    ],
)
def test_a_user_that_cannot_be_read_is_named(content: Any, said: str, tmp_path: Path) -> None:
    """Whatever is wrong with the file, one sentence names the event and the field."""
    path = tmp_path / "user.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BadInput, match=said):
        EdgeUser.read(path)
