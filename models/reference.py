"""The score as slow, plain numpy: the oracle that every fast kernel and every exported graph is tested against.

One candidate, one behaviour, one formula at a time; nothing is shared with the code it judges except the record layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions, Manifest
from domain.lsh import signs
from domain.n2o import Flag
from domain.user_features import UserInputs

__all__ = ["score", "tier_histogram", "user_feed"]

_Float = npt.NDArray[np.float32]


def user_feed(users: UserInputs, records: npt.NDArray[Any], dims: Dimensions) -> dict[str, npt.NDArray[Any]]:
    """Inputs of user_phase.onnx by name: behaviours joined with their N2O records, in any order.

    A behaviour whose item has no record is masked, as if it had not been; a deleted item still counts.
    """
    shape = (len(users), dims.behaviours)
    feed: dict[str, npt.NDArray[Any]] = {
        "windows": users.windows,
        "vectors": np.zeros((*shape, dims.vector_dim), dtype=np.float32),
        "signatures": np.zeros((*shape, dims.signature_bits), dtype=np.float32),
        "actions": users.actions,
        "ages": users.ages,
        "present": np.zeros(shape, dtype=np.float32),
    }
    row_of = {int(item): row for row, item in enumerate(records["item_id"])}
    for user, place in np.ndindex(*shape):
        row = row_of.get(int(users.item_ids[user, place]))
        if row is None or not users.present[user, place]:
            continue
        feed["present"][user, place] = 1
        feed["vectors"][user, place] = dims.layout.vectors(records[row])
        feed["signatures"][user, place] = _signs(records[row])
    return feed


def tier_histogram(records: npt.NDArray[Any], behaviour_signs: _Float, tiers: int) -> _Float:
    """SimTier of candidates against one user's behaviours ([n] records, [L, m] +-1 or all 0 -> [n, T] float32).

    Similarity s in 0..1 is the share of equal bits and falls into tier min(T - 1, floor(s T)); counts are divided by
    the number of behaviours that have a signature. A candidate without a signature has zeros.
    """
    histogram = np.zeros((len(records), tiers), dtype=np.float32)
    signed = [row for row in behaviour_signs if row.any()]
    for candidate, record in enumerate(records):
        if not record["flags"] & Flag.HAS_SIGNATURE:
            continue
        own = _signs(record)
        for row in signed:
            equal = int((own == row).sum())
            histogram[candidate, min(tiers - 1, equal * tiers // len(row))] += 1
    return histogram / np.float32(max(1, len(signed)))


def score(
    manifest: Manifest,
    head: Mapping[str, npt.NDArray[np.float32]],
    user_phase: tuple[_Float, _Float, _Float],
    records: npt.NDArray[Any],
    tiers: _Float,
) -> _Float:
    """Probabilities of candidates for one user ([n] float32).

    `head` is head.npz; `user_phase` is one user's bias [h1], bridge_weight [n, h1] and signature_weight [m, h1];
    `records` are the candidates' N2O rows and `tiers` their histograms ([n, T], see `tier_histogram`).
    """
    layout = manifest.dimensions.layout
    bias, bridge_weight, signature_weight = (part.astype(np.float64) for part in user_phase)
    scores = np.zeros(len(records), dtype=np.float32)
    for candidate, record in enumerate(records):
        first = (
            layout.vectors(record) @ head["vector_weight"].astype(np.float64)
            + layout.bridge_weights(record) @ bridge_weight
            + _signs(record) @ signature_weight
            + tiers[candidate] @ head["tier_weight"].astype(np.float64)
            + bias
        )  # [h1]
        second = np.maximum(first, 0) @ head["w2"] + head["b2"]  # [h2]
        logit = np.maximum(second, 0) @ head["w3"] + head["b3"]
        scores[candidate] = 1 / (1 + np.exp(-logit))
    return scores


def _signs(record: Any) -> _Float:
    """A record's bits as +-1 ([m]), zeros where it has no signature."""
    has = np.float32(bool(record["flags"] & Flag.HAS_SIGNATURE))
    return signs(record["signature"]) * has
