"""The declared user features: what each is called, what it is made of, who answers for it.

Adding a feature is adding one `Feature` to FEATURES. What state it needs follows from the declaration
(feature_plan.py); features that need the same state share it, and one that needs none that is not there yet (a count,
a rate, another window of a tile that is kept) costs nothing and changes no row.

================ ============================================================ ======================= ================
aggregation      value at a time                                              needs                   without events
================ ============================================================ ======================= ================
count            events of `actions`                                          window                  0
rate             events of `actions` per event of `over`                      window, over            none
sum mean min max of the events' `value`, those that have one                  window                  none
distinct         estimate of different items or categories (`of`)             window, of              0
last_time        event time of the newest, Unix ms                                                    none
time_since       ms since the newest                                                                  none
decayed          events, each halved with every `half_life_ms` since          half_life_ms            0
top_categories   the `k` categories of the largest decayed counts             half_life_ms, k         empty
================ ============================================================ ======================= ================

A window is any multiple of a tile that windows.py keeps, at least five of them and at most that level's length.
`distinct` is HyperLogLog with 256 registers (standard error 6.5 %, nearly exact below 30), kept as its non-zero
registers, so that few items cost few bytes. A ranking keeps 16 categories exactly; of users with more the lightest is
overestimated (decay_kernel.py). "None" is no value, which is not zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from domain.windows import WINDOWS
from schemas.errors import BadInput
from schemas.records import ACTIONS, Action

__all__ = ["FEATURES", "RANKED", "Aggregation", "Feature", "level_of"]

Aggregation = Literal[
    "count", "rate", "sum", "mean", "min", "max", "distinct", "last_time", "time_since", "decayed", "top_categories"
]

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS
#: Categories that a ranking keeps, and so the most that a feature can show.
RANKED: Final = 16
#: Tiles that a window has at least: its excess over its length is at most a fifth.
_LEAST_TILES: Final = 5

_WINDOWED: Final = frozenset({"count", "rate", "sum", "mean", "min", "max", "distinct"})
_DECAYED: Final = frozenset({"decayed", "top_categories"})


@dataclass(frozen=True)
class Feature:
    """One declared feature of a user. Raises BadInput where the declaration contradicts itself."""

    name: str
    aggregation: Aggregation
    #: Source actions; an event counts where its action is one of them.
    actions: tuple[Action, ...]
    owner: str
    doc: str
    #: Length of the sliding window, of windowed aggregations.
    window_ms: int | None = None
    #: Source actions of a rate's denominator.
    over: tuple[Action, ...] = ()
    #: What `distinct` counts.
    of: Literal["item", "category"] | None = None
    half_life_ms: int | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        kind = self.aggregation
        self._require(kind in get_args(Aggregation), f"no aggregation is called {kind!r}")
        self._require(bool(self.name) and self.name.isidentifier(), "the name must be an identifier")
        self._require(bool(self.actions) and {*self.actions, *self.over} <= set(ACTIONS), "actions must be known")
        for field, users in _NEEDS.items():
            value, needed = getattr(self, field), kind in users
            self._require(bool(value) == needed, f"{kind} {'needs' if needed else 'has no'} {field}")
        if self.window_ms is not None:
            level_of(self.window_ms)
        self._require(self.k is None or 0 < self.k <= RANKED, f"k must be 1 to {RANKED}")
        self._require(self.half_life_ms is None or self.half_life_ms >= _MINUTE_MS, "half_life_ms is below a minute")

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise BadInput(f"feature {self.name!r}: {what}")

    def described(self) -> dict[str, object]:
        """The declaration as data, as JSON shows it; what it has none of is left out."""
        declared = {
            "name": self.name, "type": self.type, "aggregation": self.aggregation, "actions": list(self.actions),
            "over": list(self.over) or None, "of": self.of, "window_ms": self.window_ms,
            "half_life_ms": self.half_life_ms, "k": self.k, "owner": self.owner, "doc": self.doc,
        }  # fmt: skip
        return {name: value for name, value in declared.items() if value is not None}

    @property
    def type(self) -> str:
        """The type of its values, as Arrow names it."""
        if self.aggregation in ("count", "last_time", "time_since"):
            return "int64"
        return "list<struct<category_id: int64, weight: double>>" if self.aggregation == "top_categories" else "double"


_NEEDS: Final[dict[str, frozenset[str]]] = {
    "window_ms": _WINDOWED,
    "over": frozenset({"rate"}),
    "of": frozenset({"distinct"}),
    "half_life_ms": _DECAYED,
    "k": frozenset({"top_categories"}),
}


def level_of(window_ms: int) -> int:
    """The tile level that serves a window: the coarsest of at least five tiles that divide it. BadInput: none does."""
    fits = [
        number
        for number, level in enumerate(WINDOWS)
        if window_ms % level.tile_ms == 0 and _LEAST_TILES * level.tile_ms <= window_ms <= level.length_ms
    ]
    if not fits:
        kept = ", ".join(
            f"{_LEAST_TILES * level.tile_ms} to {level.length_ms} ms in steps of {level.tile_ms}" for level in WINDOWS
        )
        raise BadInput(f"no tiles serve a window of {window_ms} ms; kept are {kept}")
    return fits[-1]


_READS: Final[tuple[Action, ...]] = ("view", "click")
_LIKES: Final[tuple[Action, ...]] = ("click", "like", "favourite", "cart", "purchase", "long_view")
_ALL: Final[tuple[Action, ...]] = ("view", *_LIKES)

FEATURES: Final[tuple[Feature, ...]] = (
    Feature("reads_5m", "count", _READS, "ranking", "Views and clicks: is the user here now?", 5 * _MINUTE_MS),
    Feature("reads_1h", "count", _READS, "ranking", "Views and clicks of the session.", _HOUR_MS),
    Feature("impressions_24h", "count", ("impression",), "ranking", "Items shown.", _DAY_MS),
    Feature("click_rate_24h", "rate", ("click",), "ranking", "Clicks per impression.", _DAY_MS, over=("impression",)),
    Feature(
        "purchase_rate_7d", "rate", ("purchase",), "ranking", "Purchases per view or click.", 7 * _DAY_MS, over=_READS
    ),
    Feature("distinct_items_24h", "distinct", _ALL, "ranking", "Breadth of interest.", _DAY_MS, of="item"),
    Feature("spend_7d", "sum", ("purchase",), "commerce", "Money spent.", 7 * _DAY_MS),
    Feature("mean_purchase_7d", "mean", ("purchase",), "commerce", "Mean amount of a purchase.", 7 * _DAY_MS),
    Feature("min_purchase_7d", "min", ("purchase",), "commerce", "Smallest purchase.", 7 * _DAY_MS),
    Feature("max_purchase_7d", "max", ("purchase",), "commerce", "Largest purchase.", 7 * _DAY_MS),
    Feature("last_read_ms", "last_time", _READS, "ranking", "When the user last viewed or clicked."),
    Feature("since_purchase_ms", "time_since", ("purchase",), "commerce", "Time since the last purchase."),
    Feature("interest_1d", "decayed", _ALL, "ranking", "Activity, halved every day.", half_life_ms=_DAY_MS),
    Feature(
        "top_categories", "top_categories", _ALL, "ranking", "Categories of interest, halved every week.",
        half_life_ms=7 * _DAY_MS, k=8,
    ),
)  # fmt: skip
