from __future__ import annotations

from typing import Any

import numpy as np
import torch
from planted import item_update, user_event
from torch import nn

from models.aif import AIF
from models.batch import Batch
from models.config import ModelConfig
from models.evaluation.full_catalogue import full_catalogue
from models.examples import Batches, examples_of
from models.log import Log

_CONFIG = ModelConfig(embedding_dim=2, behaviours=4)


def _log() -> Log:
    items: list[tuple[str, Any]] = [("item", item_update(item, 0 if item < 8 else 990)) for item in range(10)]
    items.append(("item", item_update(3, 5, op="delete")))
    events = [("user", user_event(n, n % 3, [0, 1, 2, 4, 5][n % 5], 10 * (n + 1))) for n in range(100)]
    return Log.of([*items, *events], _CONFIG)


def test_queries_are_users_with_what_they_want_among_what_there_was() -> None:
    """Candidates are the items at the held-out start, not deleted; a user wants its held-out positives."""
    log = _log()
    _, tail = examples_of(log).split(log, 0.1)
    full = full_catalogue(log, Batches(log, _CONFIG, 1), tail, queries=3)
    assert log.catalogue.item_id[full.rows].tolist() == [0, 1, 2, 4, 5, 6, 7]
    for query, state in enumerate(full.states):
        user = log.events.user_id[state]
        mine = tail.positions[log.events.user_id[tail.positions] == user]
        assert state == mine[0]
        assert set(log.catalogue.item_id[full.rows[full.wanted[query]]]) == set(log.events.item_id[mine])
    assert len(full_catalogue(log, Batches(log, _CONFIG, 1), tail, queries=2).states) == 2


class _Popular(nn.Module):
    def forward(self, batch: Batch) -> torch.Tensor:
        return batch.item_ids[batch.candidates].float() + 100 * batch.windows.sum(-1, keepdim=True)


def test_scores_are_those_of_ordinary_batches() -> None:
    """A model scores a candidate of the whole catalogue as it scores the same candidate as an example."""
    log = _log()
    _, tail = examples_of(log).split(log, 0.1)
    full = full_catalogue(log, Batches(log, _CONFIG, 1), tail, queries=3)
    torch.manual_seed(0)
    batch = Batches(log, _CONFIG, 1).batch(tail, np.random.default_rng(0))
    for model in (AIF(_CONFIG), _Popular()):
        table = full.scores(model)
        with torch.no_grad():
            alone = model(batch)[:, 0]
        for query, state in enumerate(full.states):
            example = tail.positions.tolist().index(state)
            place = log.catalogue.item_id[full.rows].tolist().index(log.events.item_id[state])
            np.testing.assert_allclose(table[query, place], alone[example], rtol=1e-3, atol=1e-4)
