"""The score as slow, plain numpy: the oracle that every fast kernel and every exported graph is tested against.

One candidate, one behaviour, one formula at a time; nothing is shared with the code it judges except the record layout
and the pure functions of domain/ that all sides call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from domain.cross_features import cross_features
from domain.item_features import category_buckets
from domain.lsh import signs
from domain.n2o import Flag
from domain.tiers import tier_values
from domain.user_features import UserInputs
from schemas.records import ACTIONS

__all__ = ["attention_weights", "score", "tier_columns", "user_feed"]

_Float = npt.NDArray[np.float32]


def user_feed(
    users: UserInputs, records: npt.NDArray[Any], dims: Dimensions
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.int64]]:
    """Inputs of user_phase.onnx by name, behaviours joined with their N2O records (in any order), and the users'
    categories [B, K].

    A behaviour whose item has no record is masked, as if it had not been; a deleted item still counts.
    """
    shape = users.item_ids.shape
    feed: dict[str, npt.NDArray[Any]] = {
        "windows": users.windows,
        "vectors": np.zeros((*shape, dims.vector_dim), dtype=np.float32),
        "signatures": np.zeros((*shape, dims.signature_bits), dtype=np.float32),
        "actions": users.actions,
        "ages": users.ages,
        "present": np.zeros(shape, dtype=np.float32),
    }
    buckets = np.zeros(shape, dtype=np.int64)
    row_of = {int(item): row for row, item in enumerate(records["item_id"])}
    for user, place in np.ndindex(*shape):
        row = row_of.get(int(users.item_ids[user, place]))
        if row is None or not users.present[user, place]:
            continue
        feed["present"][user, place] = 1
        feed["vectors"][user, place] = dims.layout.vectors(records[row])
        feed["signatures"][user, place] = _signs(records[row])
        buckets[user, place] = _bucket(records[row], dims)
    categories, feed["cross"] = cross_features(
        buckets, users.actions, users.ages, feed["present"] > 0, dims.cross_categories
    )
    return feed, categories


def tier_columns(record: Any, behaviour_signs: _Float, actions: npt.NDArray[np.int64], dims: Dimensions) -> _Float:
    """SimTier of a candidate against one user's behaviours ([L, m] +-1 or all 0, [L] codes -> [G * T] float32).

    Similarity s in 0..1 is the share of equal bits and falls into tier min(T - 1, floor(s T)); each group of actions is
    counted apart. A candidate without a signature has zeros.
    """
    counts = np.zeros((len(dims.tier_groups), dims.tiers), dtype=np.int64)
    for row, action in zip(behaviour_signs, actions, strict=True):
        for group, names in enumerate(dims.tier_groups):
            if _signed(record) and row.any() and ACTIONS[action] in names and dims.tiers:
                counts[group, min(dims.tiers - 1, _equal(record, row) * dims.tiers // len(row))] += 1
    return tier_values(counts).reshape(-1)


def attention_weights(record: Any, behaviour_signs: _Float, table: _Float, dims: Dimensions) -> npt.NDArray[np.float64]:
    """w of a candidate over the newest behaviours ([L, m] +-1 or all 0 -> [Ls]), zeros where nothing is signed."""
    weights = np.zeros(dims.attended)
    for place, row in enumerate(behaviour_signs[: dims.attended]):
        if _signed(record) and row.any():
            weights[place] = table[_equal(record, row)]
    return weights / weights.sum() if weights.sum() else weights


def score(
    dims: Dimensions,
    head: Mapping[str, _Float],
    folded: Mapping[str, _Float],
    feed: Mapping[str, npt.NDArray[Any]],
    categories: npt.NDArray[np.int64],
    records: npt.NDArray[Any],
) -> _Float:
    """Probabilities of candidates for one user ([n] float32).

    `head` is head.npz; `folded`, `feed` and `categories` are the outputs and inputs of the user phase and the
    categories of one user, without the axis of users; `records` are the candidates' N2O rows.
    """
    exact = {name: value.astype(np.float64) for name, value in {**head, **folded}.items()}
    layout, past = dims.layout, feed["signatures"]
    scores = np.zeros(len(records), dtype=np.float32)
    for candidate, record in enumerate(records):
        first = (
            layout.vectors(record) @ exact["vector_weight"]
            + layout.bridge_weights(record) @ exact["bridge_weight"]
            + _signs(record) @ exact["signature_weight"]
            + tier_columns(record, past, feed["actions"], dims) @ exact["tier_weight"]
            + attention_weights(record, past, head["attention_table"], dims) @ exact["attention_weight"]
            + exact["bias"]
        )  # [h1]
        for bucket, row in zip(categories, exact["category_weight"], strict=True):
            if bucket and bucket == _bucket(record, dims):
                first = first + row
        second = np.maximum(first, 0) @ exact["w2"] + exact["b2"]  # [h2]
        logit = np.maximum(second, 0) @ exact["w3"] + exact["b3"]
        scores[candidate] = 1 / (1 + np.exp(-logit))
    return scores


def _signed(record: Any) -> bool:
    return bool(record["flags"] & Flag.HAS_SIGNATURE)


def _signs(record: Any) -> _Float:
    """A record's bits as +-1 ([m]), zeros where it has no signature."""
    return signs(record["signature"]) * np.float32(_signed(record))


def _equal(record: Any, row: _Float) -> int:
    return int((_signs(record) == row).sum())


def _bucket(record: Any, dims: Dimensions) -> int:
    has = np.array([bool(record["flags"] & Flag.HAS_CATEGORY)])
    return int(category_buckets(record["category_id"].reshape(1), has, dims.category_buckets)[0])
