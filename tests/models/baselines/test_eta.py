from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from models.baselines.eta import most_similar
from models.batch import Batch
from models.config import ModelConfig


def test_the_most_similar_behaviours_are_found(batch: Batch, config: ModelConfig) -> None:
    """Those found are the present ones with most equal bits, newest first where equal, as sorting one by one says."""
    signs = F.embedding(batch.candidates, batch.signs)
    theirs = F.embedding(batch.behaviours, batch.signs) * batch.present.unsqueeze(-1)
    found = most_similar(signs, theirs, batch.present, 5)
    for user in range(6):
        for candidate in range(signs.shape[1]):
            keys = []
            for place in range(batch.present.shape[1]):
                there, signed = bool(batch.present[user, place]), bool(theirs[user, place].any())
                dot = float(signs[user, candidate] @ theirs[user, place])
                keys.append((-1.0 if not there else (config.signature_bits + dot) if signed else 0.0, -place))
            expected = sorted(range(len(keys)), key=lambda place: keys[place], reverse=True)[:5]
            assert found[user, candidate].tolist() == expected


def test_a_short_history_is_taken_whole() -> None:
    """Where there are fewer behaviours than are searched for, all are chosen."""
    signs = torch.ones(1, 2, 64)
    found = most_similar(signs, torch.ones(1, 3, 64), torch.ones(1, 3), 16)
    assert np.sort(found.numpy(), axis=-1).tolist() == [[[0, 1, 2], [0, 1, 2]]]
