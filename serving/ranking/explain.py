"""Why a candidate got its score: what each term of the first layer contributes, and which behaviours resemble it.

Contributions are those of domain/contributions.py: leave one out, on the logit. The terms are the item's vector, the
user's own part ("user": windows, and everything of the behaviours that does not depend on the candidate), each bridge,
the linear DIN over signatures, each group of tiers, attention, and the category row. Everything is computed anew and in
plain numpy, for the few candidates that somebody asks about.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from domain.artifact import Dimensions
from domain.contributions import leave_one_out, term_names
from domain.n2o import Flag
from domain.user_features import UserInputs
from schemas.records import ACTIONS
from serving.joining import ItemRows, one_version
from serving.kernels import Folded, Head
from serving.kernels.plain import assemble, attention_weights, category_rows, first_layer, input_width

__all__ = ["MOST_EXPLAINED", "User", "explained", "terms"]

#: Candidates of one request that are explained: the best.
MOST_EXPLAINED: Final = 20
_MOST_SIMILAR: Final = 5


class User(NamedTuple):
    """A user's behaviours joined with their rows, and the user phase over them."""

    inputs: UserInputs  #: of one
    rows: ItemRows  #: [L]
    folded: Folded


def terms(records: npt.NDArray[Any], head: Head, folded: Folded, sizes: Dimensions) -> npt.NDArray[np.float64]:
    """The terms that a candidate's first layer is the sum of ([n] records -> [n, terms, h1])."""
    count = len(records)
    inputs = np.empty((count, input_width(sizes)), dtype=np.float32)
    assemble(records, head, folded, sizes, inputs)
    weights = first_layer(head, folded, sizes).astype(np.float64)
    # Columns of an input row, term after term: [vector | each bridge | signs | tiers of each group | attention].
    widths = [sizes.vector_dim, *[1] * sizes.bridges, sizes.sign_columns, *[sizes.tiers] * len(sizes.tier_groups)]
    ends = np.cumsum([*widths, sizes.attended]).tolist()
    parts = [
        inputs[:, start:end].astype(np.float64) @ weights[start:end]
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    added = category_rows(records, folded, sizes)
    category = np.zeros_like(parts[0]) if added is None else added.astype(np.float64)
    user = np.broadcast_to(folded.bias.astype(np.float64), parts[0].shape)
    return np.stack([parts[0], user, *parts[1:], category], axis=1)


def explained(
    rows: ItemRows, servable: npt.NDArray[np.bool_], user: User, head: Head, sizes: Dimensions, at_ms: int
) -> list[dict[str, Any]]:
    """For each candidate ([n] rows, zeros where not `servable`): logit, contributions, similar behaviours, ages.

    Raises VersionMismatch where rows, user and head are unlike.
    """
    one_version("an explanation", rows=rows.version_tag, user=user.folded.version_tag, head=head.version_tag)
    records = rows.raw.view(sizes.layout.dtype)[:, 0]
    whole, parts = leave_one_out(terms(records, head, user.folded, sizes), head.w2, head.b2, head.w3, head.b3)
    names = term_names(sizes)
    return [
        {
            "logit": float(whole[row]),
            "score": float(1 / (1 + np.exp(-whole[row]))),
            "terms": [
                {"term": name, "contribution": float(value)} for name, value in zip(names, parts[row], strict=True)
            ],
            "similar": _similar(record, user, head, sizes),
            "event_time_ms": int(record["event_time_ms"]) if servable[row] else None,
            "age_ms": at_ms - int(record["event_time_ms"]) if servable[row] else None,
        }
        for row, record in enumerate(records)
    ]


def _similar(record: Any, user: User, head: Head, sizes: Dimensions) -> list[dict[str, Any]]:
    """The behaviours whose signatures have most bits in common with the candidate's, most first, newer ones first."""
    records = user.rows.raw.view(sizes.layout.dtype)[:, 0]
    signed = user.rows.known & user.inputs.present[0] & (records["flags"] & Flag.HAS_SIGNATURE != 0)
    if not record["flags"] & Flag.HAS_SIGNATURE or not signed.any():
        return []
    own = np.ascontiguousarray(record["signature"])
    equal = sizes.signature_bits - np.bitwise_count(records["signature"] ^ own).sum(axis=1).astype(np.int64)
    places = np.flatnonzero(signed)
    best = places[np.argsort(-equal[places], kind="stable")][:_MOST_SIMILAR]
    folded = user.folded
    weights = attention_weights(own[None], folded.attended, folded.attended_signed, head.attention_table)[0]
    inputs = user.inputs
    return [
        {
            "item_id": int(inputs.item_ids[0, place]),
            "action": ACTIONS[inputs.actions[0, place]],
            "hours_ago": round(float(np.expm1(inputs.ages[0, place])), 3),
            "equal_bits": int(equal[place]),
            "bits": sizes.signature_bits,
            "attention": float(weights[place]) if place < len(weights) else 0.0,
        }
        for place in best.tolist()
    ]
