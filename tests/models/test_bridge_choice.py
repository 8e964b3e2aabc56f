from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.aif import AIF
from models.bridge_choice import bridge_choice, mutual_information
from models.config import ModelConfig


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), items=st.integers(1, 9), bridges=st.integers(1, 9))
def test_the_information_is_that_of_the_joint_distribution(seed: int, items: int, bridges: int) -> None:
    """It equals the textbook sum over pairs of an item, drawn evenly, and a bridge, drawn by the item's weights."""
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(bridges, 0.3), size=items)
    joint = weights / items
    slow = sum(
        p * np.log(p / (joint[i].sum() * joint[:, b].sum())) for (i, b), p in np.ndenumerate(joint) if p > 1e-300
    )
    assert float(mutual_information(torch.from_numpy(weights))) == pytest.approx(slow, abs=1e-9)


def test_the_term_is_of_the_last_batch_and_ends_with_the_training(config: ModelConfig) -> None:
    """The term follows each forward pass of the tower with a gradient to its bridges, and lets go of it at the end."""
    torch.manual_seed(1)
    tower = AIF(config).tower
    inputs = (torch.randn(5, config.embedding_dim), torch.arange(5), torch.zeros(5, config.dimensions.item_numeric))
    with bridge_choice(tower, 2.0) as term:
        _, weights = tower(*inputs)
        value = term(tower)
        assert value.item() == pytest.approx(-2 * mutual_information(weights).item())
        value.backward()
        assert tower.bridges.grad is not None and bool(tower.bridges.grad.abs().sum() > 0)
    assert not tower._forward_hooks
