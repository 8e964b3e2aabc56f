from __future__ import annotations

import numpy as np
import torch
from torch import nn

from models.batch import Batch
from models.config import ModelConfig
from models.evaluation.judged import judged, spread
from models.examples import Batches, examples_of
from models.log import Log


class _Ids(nn.Module):
    def forward(self, batch: Batch) -> torch.Tensor:
        return batch.item_ids[batch.candidates].float()


def test_every_model_is_judged_on_the_same_candidates(log: Log, config: ModelConfig) -> None:
    """Scores stand beside the user and label of their candidate, and drawing again draws the same negatives."""
    _, tail = examples_of(log).split(log, 0.05)
    first = judged(log, Batches(log, config, 2), tail, batch_size=64)
    again = judged(log, Batches(log, config, 2), tail, batch_size=64)
    np.testing.assert_array_equal(first.scores(_Ids()), again.scores(_Ids()))
    scores = first.scores(_Ids())
    assert len(scores) == len(first.users) == len(first.labels) > len(tail)
    positives = first.labels > 0.5
    np.testing.assert_array_equal(scores[positives], log.events.item_id[tail.positions])
    np.testing.assert_array_equal(first.users[positives], log.events.user_id[tail.positions])


def test_examples_are_spread_evenly(log: Log) -> None:
    """A spread keeps first and last and the order; few examples are all kept."""
    examples = examples_of(log)
    some = spread(examples, 7)
    assert len(some) == 7
    assert (some.positions[0], some.positions[-1]) == (examples.positions[0], examples.positions[-1])
    assert (np.diff(some.positions) > 0).all()
    assert len(spread(examples.take(slice(0, 3)), 7)) == 3
