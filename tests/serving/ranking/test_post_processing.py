from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadInput, Corrupt
from schemas.ids import hashed_id
from serving.ranking.post_processing import NO_FILTERS, Filters, check_scores
from serving.tables.items import Item

IDS = np.arange(20, dtype=np.int64)
FILTERS = st.builds(
    Filters,
    deny_items=st.frozensets(st.integers(0, 25)), deny_categories=st.frozensets(st.integers(0, 4)),
    category_cap=st.none() | st.integers(1, 4), minimum_price=st.none() | st.floats(0, 5),
)  # fmt: skip
ITEMS = st.lists(
    st.none() | st.tuples(st.none() | st.integers(0, 4), st.none() | st.floats(0, 5)), min_size=20, max_size=20
)


def item(category: int | None, price: float | None) -> Item:
    """An item with this category and price."""
    return Item(None, None, category, price, None, 0)


def plain_walk(order, items, filters: Filters, top_k: int) -> list[int]:
    """The oracle: pass one by one, counting categories among those that passed."""
    passed = []
    for index in order:
        held = items[index]
        taken = [items[other].category_id for other in passed if items[other] is not None]
        if len(passed) == top_k or index in filters.deny_items:
            continue
        if held is not None:
            cheap = None not in (filters.minimum_price, held.price) and held.price < filters.minimum_price
            full = None not in (filters.category_cap, held.category_id) and (
                taken.count(held.category_id) >= filters.category_cap
            )
            if cheap or full or held.category_id in filters.deny_categories:
                continue
        passed.append(index)
    return passed


@given(FILTERS, ITEMS, st.permutations(range(20)), st.integers(1, 20))
def test_what_passes_is_what_the_rules_say(filters, drawn, order, top_k) -> None:
    """The walk equals a plain oracle, keeps the ranking's order, and names all that it left out before the last."""
    items = [each and item(*each) for each in drawn]
    passed, left_out = filters.apply(np.array(order), IDS, lambda several: [items[each] for each in several], top_k)
    assert passed.tolist() == plain_walk(order, items, filters, top_k)
    walked = order[: len(passed) + len(left_out)]
    assert sorted([*passed.tolist(), *left_out.tolist()]) == sorted(walked)


def test_items_are_read_no_further_than_the_walk_goes() -> None:
    """A long ranking is read in pieces, in order, and not beyond the piece in which the last place is taken."""
    asked: list[int] = []

    def items_of(several: list[int]) -> list[None]:
        asked.extend(several)
        return [None] * len(several)

    ids = np.arange(1000, 3000)
    denied = Filters(frozenset(range(1000, 1300)), frozenset(), None, None)
    passed, left_out = denied.apply(np.arange(2000), ids, items_of, 500)
    assert passed.tolist() == list(range(300, 800)) and left_out.tolist() == list(range(300))
    assert asked == ids[: len(asked)].tolist() and 800 <= len(asked) < 1200


@given(FILTERS, FILTERS, ITEMS)
def test_filters_of_a_request_only_tighten(one, other, drawn) -> None:
    """What passes both sets of list and price rules passes each; of two caps the smaller holds."""
    items = [each and item(*each) for each in drawn]
    both = one.tightened(other)
    caps = [each.category_cap for each in (one, other) if each.category_cap]
    assert both.category_cap == (min(caps) if caps else None)
    passes = {
        name: set(Filters(each.deny_items, each.deny_categories, None, each.minimum_price)
                  .apply(IDS, IDS, lambda several: [items[each] for each in several], 20)[0].tolist())
        for name, each in (("one", one), ("other", other), ("both", both))
    }  # fmt: skip
    assert passes["both"] == passes["one"] & passes["other"]


def test_nothing_declared_is_no_filter(tmp_path) -> None:
    """An empty file and no field mean that everything passes."""
    (tmp_path / "none.json").write_bytes(b"{}")
    assert not Filters.read(tmp_path / "none.json") and Filters.parse(None, "filters") == NO_FILTERS


def test_a_file_says_what_it_denies(tmp_path) -> None:
    """Ids may be strings, which mean the ids that producers made of them."""
    path = tmp_path / "filters.json"
    path.write_bytes(orjson.dumps({"deny_items": [1, "a"], "deny_categories": ["b"], "category_cap": 2}))
    assert Filters.read(path) == Filters(frozenset({1, hashed_id("a")}), frozenset({hashed_id("b")}), 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", "are not JSON"),
        ("[]", "must be a JSON object, not an array"),
        ('{"deny": [1]}', "unknown field 'deny'"),
        ('{"deny_items": 1}', "must be an array of ids, not a number"),
        ('{"deny_items": [1.5]}', r"deny_items\[0\] must be an integer"),
        ('{"category_cap": 0}', "category_cap must be 1 to 10000, not 0"),
        ('{"minimum_price": -1}', "minimum_price must be a number of at least 0, not -1"),
        ('{"minimum_price": 1e999}', "minimum_price must be a number|not JSON"),
        ('{"minimum_price": "3"}', "minimum_price must be a number, not a string"),
    ],
)
def test_a_file_with_a_fault_is_refused_by_name(tmp_path, content, says) -> None:
    """The message names the file and the field."""
    path = tmp_path / "filters.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=f"filters .*filters.json.*({says})"):
        Filters.read(path)
    with pytest.raises(BadInput, match="cannot be read"):
        Filters.read(tmp_path / "absent.json")


def test_scores_must_be_numbers() -> None:
    """A NaN or an infinity means a broken model: nothing is ranked by it."""
    check_scores(np.array([0, 1], dtype=np.float32), "a")
    for bad in (np.nan, np.inf):
        with pytest.raises(Corrupt, match="roll back"):
            check_scores(np.array([0, bad], dtype=np.float32), "a")


def test_filters_hold_in_both_bodies(world, make_artifact, client) -> None:
    """A cap and a deny list of a request: fewer items, in order, counted; binary answers mark what was left out."""
    from tests.serving.conftest import item_rows

    world.apply("items", item_rows(range(10)))
    world.go_live(make_artifact(1), range(10))
    everything = [each["item_id"] for each in client.rank(user_id=1, candidates=list(range(10))).json()["items"]]
    denied = everything[0]
    body = client.rank(
        user_id=1, candidates=list(range(10)), top_k=4, filters={"deny_items": [denied], "category_cap": 3}
    ).json()
    assert [each["item_id"] for each in body["items"]] == everything[1:4]
    assert body["filtered_items"] == 7
