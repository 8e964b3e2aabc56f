from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from planted import item_update, user_event

from models.baselines.popularity import Popularity
from models.config import ModelConfig
from models.examples import Batches, examples_of
from models.log import Log

_CONFIG = ModelConfig(embedding_dim=2, behaviours=4)
_ITEMS: list[tuple[str, Any]] = [("item", item_update(item, 0)) for item in (5, 7, 9, 11)]


def test_clicks_are_counted_and_unseen_items_come_last() -> None:
    """Without impressions an item scores by its engagements, one that training never saw below all others."""
    chosen = [5, 7, 7, 9, 9, 9]
    log = Log.of(_ITEMS + [("user", user_event(n, n, item, 10 + n)) for n, item in enumerate(chosen)], _CONFIG)
    examples = examples_of(log)
    batch = Batches(log, _CONFIG, 8).batch(examples, np.random.default_rng(0))
    scores = Popularity.of(log, examples)(batch)
    ids = batch.item_ids[batch.candidates]
    counts = Counter(chosen)
    expected = torch.tensor([[np.log(counts[int(item)] + 0.5) for item in row] for row in ids])
    torch.testing.assert_close(scores, expected.float())


def test_with_impressions_shares_count_and_not_exposure() -> None:
    """An item shown often and clicked rarely is less popular than one shown rarely and always clicked."""
    events = [(5, "impression")] * 60 + [(7, "impression"), (7, "click")] * 10
    entries = [("user", user_event(n, n // 2, item, 10 * n, action)) for n, (item, action) in enumerate(events)]  # type: ignore[arg-type]
    log = Log.of(_ITEMS + entries, _CONFIG)
    model = Popularity.of(log, examples_of(log))
    assert model.ids.tolist() == [5, 7]
    assert model.scores[1] > model.scores[2] > model.scores[0]
