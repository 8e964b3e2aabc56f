from __future__ import annotations

import numpy as np
import pytest

from domain.contributions import term_names
from domain.n2o import Flag
from serving.ranking.explain import MOST_EXPLAINED
from tests.serving.conftest import NOW_MS, SIZES, item_rows, n2o_records, n2o_rows, user_rows, watermark_row
from tests.serving.web.test_openapi import check

ITEMS = range(100, 140)
USER = 7


@pytest.fixture
def records(world, make_artifact) -> np.ndarray:
    """Records of a world with a live version, 40 items and a user."""
    world.apply("items", item_rows(ITEMS))
    world.apply("users", user_rows(USER, [100, 101, 102, 555]))
    world.apply("users", watermark_row(NOW_MS))
    return world.go_live(make_artifact(1), ITEMS)


def test_an_explanation_is_of_the_score_that_was_given(records, client) -> None:
    """Its logit is that of the answer's score, for the best candidates, in their order; the answer is kept."""
    body = client.rank(user_id=USER, candidates=[*ITEMS, 9999], explain=True).json()
    check("RankAnswer", body)
    explained = body["explanation"]["items"]
    assert [each["item_id"] for each in explained] == [each["item_id"] for each in body["items"][:MOST_EXPLAINED]]
    for why, item in zip(explained, body["items"], strict=False):
        assert why["score"] == pytest.approx(item["score"], rel=1e-5)
        assert [each["term"] for each in why["terms"]] == term_names(SIZES)
    assert body["explanation"]["user_age_ms"] == 0 and body["sample_id"]


def test_the_most_similar_behaviours_come_first(records, client) -> None:
    """Ordered by equal bits, counted here bit by bit; the behaviour whose item has no row is not among them."""
    body = client.rank(user_id=USER, candidates=[100, 120], explain=True).json()
    bits = {int(row["item_id"]): np.unpackbits(row["signature"]) for row in records}
    for why in body["explanation"]["items"]:
        expected = {past: int((bits[why["item_id"]] == bits[past]).sum()) for past in (100, 101, 102)}
        found = {each["item_id"]: each["equal_bits"] for each in why["similar"]}
        assert found == expected and list(found.values()) == sorted(found.values(), reverse=True)
        assert all(each["bits"] == 64 and each["action"] == "click" for each in why["similar"])


def test_what_is_not_known_contributes_nothing(records, client) -> None:
    """An unknown item has only the user's own part; nobody has no bridges, tiers, attention, DIN or categories."""
    unknown = client.rank(user_id=USER, candidates=[9999], explain=True).json()["explanation"]["items"][0]
    assert {each["term"] for each in unknown["terms"] if each["contribution"]} <= {"user"}
    assert unknown["similar"] == [] and unknown["event_time_ms"] is None
    nobody = client.rank(user_id="nobody", candidates=[100], explain=True).json()["explanation"]
    moved = {each["term"] for each in nobody["items"][0]["terms"] if each["contribution"]}
    assert moved <= {"item_vector", "user"} and nobody["user_age_ms"] is None


def test_a_deleted_item_is_explained_as_unknown(world, records, client) -> None:
    """Its row is not read, exactly as when it was scored."""
    world.apply("n2o_a", n2o_rows(n2o_records(world.versions.live.slab.tag, [100], flags=Flag.DELETED)))
    body = client.rank(user_id=USER, candidates=[100], explain=True).json()
    assert body["explanation"]["items"][0]["score"] == pytest.approx(body["items"][0]["score"], rel=1e-5)
