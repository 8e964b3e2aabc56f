"""What trained bridges look like inside, so that causes of a curve that stops can be told apart.

*Redundant*: bridges point the same way (mean absolute cosine; effective rank, the exponential of the entropy of the
singular values' shares). *Idle*: items do not use them (the exponential of the mean weights' entropy), or every item
uses all alike, so that a_i says nothing of the item (the exponential of the items' mean entropy, and the effective rank
of the items' weights around their mean). *Ignored*: nothing is lost where every item gets the items' mean weights.
*Over-fitted*: GAUC of trained examples runs away from GAUC of judged ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from experiments.bridge_cures import Watched
from experiments.measured import Data
from models.evaluation.judged import Judged
from models.metrics import gauc

__all__ = ["COLUMNS", "diagnosed", "diagnosis", "effective_rank"]

#: What a table calls each number of a diagnosis.
COLUMNS: Final = {
    "relied_on": "relied on", "cosine": "mean abs. cosine", "rank": "effective rank", "used": "bridges in use",
    "used_by_an_item": "by one item", "weights_rank": "rank of weights", "of_category": "by category",
}  # fmt: skip
#: Batches of judged examples whose items the weights are looked at for.
_LOOKED_AT: Final = 8


def diagnosed(models: Sequence[Watched], data: Data, trained_on: Judged, judged_gauc: float) -> dict[str, Any]:
    """Means over models of one kind, whose GAUC is known; of models without bridges only how far they fit."""
    each = [diagnosis(model, data, trained_on) for model in models]
    means = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
    row = {"seen_minus_judged": round(means.pop("seen") - judged_gauc, 6)}
    if models[0].config.bea == "none":
        return row
    return row | {key: round(value, 4) for key, value in means.items()}


def diagnosis(model: Watched, data: Data, trained_on: Judged) -> dict[str, float]:
    """What a trained model's bridges look like, and its GAUC of trained examples (`seen`)."""
    held = data.held
    with torch.inference_mode():
        bridges = torch.nn.functional.normalize(model.tower.bridges, dim=-1)
        batches = held.batches[:_LOOKED_AT]
        weights = torch.cat([model.tower(*each.items)[1] for each in batches])  # [U, n]
        categories = torch.cat([each.category for each in batches])  # [U]
    judged_gauc = gauc(held.users, held.labels, held.scores(model))
    with model.all_items_alike(weights.mean(0)):
        alike = gauc(held.users, held.labels, held.scores(model))
    apart = ~torch.eye(len(bridges), dtype=torch.bool)
    several = len(bridges) > 1
    return {
        "seen": gauc(trained_on.users, trained_on.labels, trained_on.scores(model)),
        "relied_on": judged_gauc - alike,
        "cosine": float((bridges @ bridges.T)[apart].abs().mean()) if several else 1.0,
        "rank": effective_rank(bridges),
        "used": _spread(weights.mean(0, keepdim=True)),
        "used_by_an_item": _spread(weights),
        "weights_rank": effective_rank(weights - weights.mean(0)) if several else 0.0,
        "of_category": _between(weights, categories),
    }


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the singular values' shares: n where all are equal, 1 where one is all."""
    values = torch.linalg.svdvals(rows.double())
    return _spread((values / values.sum().clamp(min=1e-30)).unsqueeze(0))


def _spread(shares: Tensor) -> float:
    """exp of the mean entropy of rows of shares: how many parts they are spread over."""
    return float(torch.exp(-(shares * torch.log(shares.clamp(min=1e-30))).sum(-1).mean()))


def _between(rows: Tensor, groups: Tensor) -> float:
    """Share of the rows' variance that lies between groups: 1 where rows of a group are equal; 0 where all rows are."""
    _, group = torch.unique(groups, return_inverse=True)
    sums = torch.zeros(int(group.max()) + 1, rows.shape[1]).index_add_(0, group, rows)
    means = sums / torch.bincount(group).unsqueeze(-1)
    total = (rows - rows.mean(0)).square().sum()
    return float((means[group] - rows.mean(0)).square().sum() / total.clamp(min=1e-30))
