"""A log with a known truth: what no real log gives, the right answer beside the models' answers.

Items form 500 *series* of six. A series is a random direction of the embedding space and lies in one of 24 *topics*,
which are the items' categories; embeddings say nothing of topics. Every day each user opens one page of eight items.
The chance of a click is decided when the page opens, by

    logit = mood(user, topic) + echo(user, series) + quality(item)

mood    +-1.0, one coin per user and topic, and a user meets four topics. As a table of users and topics its rank is the
        number of topics: as many bridges as topics can carry it, fewer have to share.
echo    +1.8 where the user clicked what was last shown of the series on the two pages before, -1.8 where not, 0 where
        nothing was shown. Its rank is the number of series, which is far more than bridges or vector dimensions: no
        small set of directions carries it, only a look at the single behaviours does.
quality a property of the item alone, normal with deviation 0.5.

Half of a page's items (from the second page on) are of series of the two pages before, so that echoes matter; the
rest are of the user's topics, and a page is shorter where those have too few series. The last page of each user is the
part to judge: it begins at `judged_from_ms`, and its clicks depend on nothing that came after it opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.ids import hashed_id
from schemas.records import Action, ItemUpdate, UserEvent

__all__ = ["PlantedLog", "PlantedSizes", "planted_log"]

_START_MS: Final = 1_700_006_400_000  # a midnight, UTC
_DAY_MS: Final = 86_400_000
_BETWEEN_USERS_MS: Final = 30_000
_BETWEEN_ITEMS_MS: Final = 2_000
_UNTIL_CLICK_MS: Final = 1_000
_MOOD: Final = 1.0
_ECHO: Final = 1.8
_QUALITY: Final = 0.5
#: Length of what an item adds to its series' unit direction: cosine 0.96 within a series.
_OWN: Final = 0.2
_REMEMBERED_PAGES: Final = 2


@dataclass(frozen=True)
class PlantedSizes:
    """How large the log is; the truth is the same at every size."""

    users: int = 2000
    pages: int = 8
    page: int = 8  #: items of a page
    topics: int = 24
    topics_of_a_user: int = 4
    series: int = 500
    items_of_a_series: int = 6
    embedding_dim: int = 64


@dataclass(frozen=True)
class PlantedLog:
    """The log, and what made it."""

    entries: list[tuple[str, Any]]  #: ('item' | 'user', record) in time order, as `Log.of` reads them
    probabilities: npt.NDArray[np.float32]  #: the true chance of a click of every impression, in the log's order
    judged_from_ms: int  #: when the last pages begin


def planted_log(seed: int, sizes: PlantedSizes | None = None) -> PlantedLog:
    """The log of a seed: equal seeds and sizes, equal logs."""
    sizes = sizes or PlantedSizes()
    random = np.random.default_rng(seed)
    items = _Items(sizes, random)
    moods = np.where(random.random((sizes.users, sizes.topics)) < 0.5, -_MOOD, _MOOD)
    own_topics = np.stack([random.permutation(sizes.topics)[: sizes.topics_of_a_user] for _ in range(sizes.users)])
    entries = items.updates(random)
    shown: list[list[dict[int, bool]]] = [[] for _ in range(sizes.users)]  # pages of a user: series -> clicked
    probabilities: list[float] = []
    for page in range(sizes.pages):
        for user in range(sizes.users):
            remembered: dict[int, bool] = {}
            for earlier in shown[user][-_REMEMBERED_PAGES:]:
                remembered |= earlier
            at_ms = _START_MS + page * _DAY_MS + user * _BETWEEN_USERS_MS
            reactions: dict[int, bool] = {}
            for place, item in enumerate(items.page(own_topics[user], list(remembered), random)):
                series = item // sizes.items_of_a_series
                echo = _ECHO * (2 * remembered[series] - 1) if series in remembered else 0.0
                logit = moods[user, items.topic[series]] + echo + items.quality[item]
                probabilities.append(1 / (1 + np.exp(-logit)))
                clicked = bool(random.random() < probabilities[-1])
                reactions[series] = clicked
                now_ms = at_ms + place * _BETWEEN_ITEMS_MS
                entries.append(("user", _event(user, item, now_ms, "impression")))
                if clicked:
                    entries.append(("user", _event(user, item, now_ms + _UNTIL_CLICK_MS, "click")))
            shown[user].append(reactions)
    judged_from_ms = _START_MS + (sizes.pages - 1) * _DAY_MS
    return PlantedLog(entries, np.array(probabilities, dtype=np.float32), judged_from_ms)


class _Items:
    """The catalogue: item i is of series i // items_of_a_series."""

    def __init__(self, sizes: PlantedSizes, random: np.random.Generator) -> None:
        self._sizes = sizes
        self.topic = random.integers(sizes.topics, size=sizes.series)  # [series]
        self.quality = _QUALITY * random.standard_normal(sizes.series * sizes.items_of_a_series)  # [items]
        self._of_topic = [np.flatnonzero(self.topic == topic) for topic in range(sizes.topics)]

    def updates(self, random: np.random.Generator) -> list[tuple[str, Any]]:
        """One update of every item, a day before the first page."""
        sizes = self._sizes
        directions = _unit(random.standard_normal((sizes.series, sizes.embedding_dim)))
        updates: list[tuple[str, Any]] = []
        for item in range(len(self.quality)):
            series = item // sizes.items_of_a_series
            own = _OWN * _unit(random.standard_normal(sizes.embedding_dim))
            update: ItemUpdate = {
                "event_id": hashed_id(f"planted item {item}"), "item_id": item, "event_time_ms": _START_MS - _DAY_MS,
                "op": "upsert", "original_id": None, "title": f"series {series}", "published_ms": None, "price": None,
                "category_id": int(self.topic[series]), "numeric": {},
                "embedding": _unit(directions[series] + own).astype("<f4").tobytes(),
            }  # fmt: skip
            updates.append(("item", update))
        return updates

    def page(self, topics: npt.NDArray[np.int64], remembered: list[int], random: np.random.Generator) -> list[int]:
        """Items of a page, of different series: half of remembered ones, the others of the user's topics."""
        again = random.permutation(remembered)[: self._sizes.page // 2].tolist() if remembered else []
        near = np.concatenate([self._of_topic[topic] for topic in topics])
        fresh = [int(each) for each in random.permutation(near) if each not in again]
        series = np.array([*map(int, again), *fresh][: self._sizes.page])
        chosen = series * self._sizes.items_of_a_series + random.integers(
            self._sizes.items_of_a_series, size=len(series)
        )
        return [int(item) for item in random.permutation(chosen)]


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float64)


def _event(user: int, item: int, at_ms: int, action: Action) -> UserEvent:
    return {
        "event_id": hashed_id(f"planted {user} {item} {at_ms} {action}"), "user_id": user, "item_id": item,
        "event_time_ms": at_ms, "action": action, "category_id": None, "value": None, "original_user_id": None,
        "original_item_id": None,
    }  # fmt: skip
