"""Batches for baselines: random ones of every shape, and a toy set whose labels need candidate and history together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from domain.cross_features import CROSS_FEATURES
from models.baselines.parts import BaselineConfig
from models.batch import Batch
from models.config import ModelConfig

_USERS, _CANDIDATES, _LONG, _ITEMS = 6, 4, 12, 40


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def sizes() -> BaselineConfig:
    """Baselines that compute in milliseconds."""
    return BaselineConfig(long_behaviours=_LONG, attention_hidden=8, searched=5, ranker_hidden=(32, 16))


@pytest.fixture
def batch(config: ModelConfig) -> Batch:
    """Random users, the last one without behaviours; every fifth item has no signature."""
    random = torch.Generator().manual_seed(3)
    present = (torch.rand(_USERS, _LONG, generator=random) < 0.8).float()
    present[-1] = 0
    signs = torch.randint(2, (_ITEMS, config.signature_bits), generator=random) * 2.0 - 1
    signs[::5] = 0
    return Batch(
        item_ids=torch.arange(_ITEMS) * 3,
        embedding=torch.randn(_ITEMS, config.embedding_dim, generator=random),
        category=torch.randint(config.category_buckets, (_ITEMS,), generator=random),
        numeric=torch.randn(_ITEMS, config.dimensions.item_numeric, generator=random),
        identity=torch.arange(_ITEMS) % max(config.id_buckets, 1),
        signs=signs,
        windows=torch.rand(_USERS, config.dimensions.user_features, generator=random),
        behaviours=torch.randint(_ITEMS, (_USERS, _LONG), generator=random),
        actions=torch.randint(14, (_USERS, _LONG), generator=random),
        ages=torch.rand(_USERS, _LONG, generator=random),
        present=present,
        categories=torch.arange(1, 5).expand(_USERS, 4),
        cross=torch.rand(_USERS, 4, CROSS_FEATURES, generator=random),
        candidates=torch.randint(_ITEMS, (_USERS, _CANDIDATES), generator=random),
        labels=torch.randint(2, (_USERS, _CANDIDATES), generator=random).float(),
        weights=torch.ones(_USERS, _CANDIDATES),
    )


@pytest.fixture
def toy(batch: Batch) -> Batch:
    """The batch, with labels that say whether the candidate is among the user's newest three behaviours."""
    candidates = batch.candidates.clone()
    candidates[:-1, :2] = batch.behaviours[:-1, :2]
    seen = (candidates.unsqueeze(-1) == batch.behaviours[:, None, :3]) & (batch.present[:, None, :3] > 0)
    return dataclasses.replace(batch, candidates=candidates, labels=seen.any(-1).float())
