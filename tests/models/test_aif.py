from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from domain.bf16 import from_bf16, to_bf16
from domain.item_features import ITEM_NUMERIC
from models.aif import AIF, UserPhase, served, tier_histogram
from models.config import ModelConfig

_USERS, _CANDIDATES = 3, 5


def _model(config: ModelConfig) -> AIF:
    torch.manual_seed(1)
    return AIF(config)


def _users(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random user-phase inputs; the last user has no behaviours, and some behaviours have no signature."""
    generator = torch.Generator().manual_seed(seed)
    dims, shape = config.dimensions, (_USERS, config.behaviours)
    present = (torch.rand(shape, generator=generator) < 0.7).float()
    present[-1] = 0
    signed = present * (torch.rand(shape, generator=generator) < 0.8)
    signs = torch.randint(2, (*shape, dims.signature_bits), generator=generator) * 2.0 - 1
    return {
        "windows": torch.rand(_USERS, dims.user_features, generator=generator),
        "vectors": torch.randn(*shape, dims.vector_dim, generator=generator) * present.unsqueeze(-1),
        "signatures": signs * signed.unsqueeze(-1),
        "actions": torch.randint(14, shape, generator=generator),
        "ages": torch.rand(shape, generator=generator) * 5,
        "present": present,
    }


def _direct(phase: UserPhase, users: dict[str, Tensor], bridges: Tensor, signs: Tensor) -> Tensor:
    """User terms of the head's first layer without folding: one candidate, one behaviour at a time ([B, C, h1])."""
    unsigned = {name: value for name, value in users.items() if name != "signatures"}
    context = phase.context(**unsigned)
    rows = []
    for user in range(_USERS):
        signed = [place for place in range(users["present"].shape[1]) if users["signatures"][user, place].any()]
        for candidate in range(_CANDIDATES):
            pooled = torch.zeros_like(context.user[user])
            for place in signed:
                own, theirs = signs[user, candidate], users["signatures"][user, place]
                similarity = (own == theirs).float().mean()
                pooled = pooled + similarity * context.behaviours[user, place] / len(signed)
            crossed = bridges[user, candidate] @ context.bridged[user]
            rows.append(phase.to_bias(context.user[user]) + crossed @ phase.to_bridges + pooled @ phase.to_din)
    return torch.stack(rows).view(_USERS, _CANDIDATES, -1)


def test_folded_form_equals_direct_formula(config: ModelConfig) -> None:
    """Bias and matrices per user give what bridges, user vector and a loop over behaviours give without folding."""
    model, users = _model(config), _users(config)
    bridges = torch.rand(_USERS, _CANDIDATES, config.bridges)
    signs = torch.randint(2, (_USERS, _CANDIDATES, config.signature_bits)) * 2.0 - 1
    bias, bridge_weight, signature_weight = model.user(**users)
    folded = bridges @ bridge_weight + signs @ signature_weight + bias.unsqueeze(1)
    torch.testing.assert_close(folded, _direct(model.user, users, bridges, signs), rtol=1e-4, atol=1e-5)


def test_one_bridge_makes_bea_blind_to_items(config: ModelConfig) -> None:
    """With a single bridge all bridge weights are 1, so the bridged user no longer depends on the item."""
    model = _model(dataclasses.replace(config, bridges=1))
    _, weights = model.tower(torch.randn(7, config.embedding_dim), torch.arange(7), torch.randn(7, ITEM_NUMERIC))
    assert (weights == 1).all()


def test_equal_bridges_make_bea_blind_to_items(config: ModelConfig) -> None:
    """With identical bridges a_i V_u is the same vector for every item."""
    model, users = _model(config), _users(config)
    with torch.no_grad():
        model.tower.bridges[:] = model.tower.bridges[0]
    _, weights = model.tower(torch.randn(6, config.embedding_dim), torch.arange(6), torch.randn(6, ITEM_NUMERIC))
    crossed = weights @ model.user(**users)[1][0]
    torch.testing.assert_close(crossed, crossed[:1].expand_as(crossed))


def test_users_without_behaviours_are_finite_and_alike(config: ModelConfig) -> None:
    """A user without behaviours gets finite values that depend on the windows alone, and finite gradients."""
    model, users, others = _model(config), _users(config), _users(config, seed=9)
    others["windows"] = users["windows"]
    outputs, other_outputs = model.user(**users), model.user(**others)
    for output, other in zip(outputs, other_outputs, strict=True):
        assert torch.isfinite(output).all()
        torch.testing.assert_close(output[-1], other[-1])
    sum(output.sum() for output in outputs).backward()
    assert all(torch.isfinite(each.grad).all() for each in model.user.parameters() if each.grad is not None)


def test_absent_behaviours_change_nothing(config: ModelConfig) -> None:
    """What stands in a masked place, its action and age included, never reaches the outputs."""
    model, users = _model(config), _users(config)
    absent = users["present"] == 0
    noise = {
        "vectors": torch.where(absent.unsqueeze(-1), torch.tensor(7.0), users["vectors"]),
        "ages": torch.where(absent, torch.tensor(3.0), users["ages"]),
        "actions": torch.where(absent, 5, users["actions"]),
    }
    for clean, noisy in zip(model.user(**users), model.user(**users | noise), strict=True):
        torch.testing.assert_close(clean, noisy)


def test_bridges_are_one_parameter_of_both_sides(config: ModelConfig) -> None:
    """Item tower and user phase attend to the same bridge embeddings, and training moves them together."""
    model = _model(config)
    assert model.tower.bridges is model.user.bridges


def test_served_values_are_what_a_record_keeps() -> None:
    """Training rounds exactly as an N2O record does, and its gradient passes unchanged."""
    values = torch.randn(4096, requires_grad=True)
    rounded = served(values)
    kept = from_bf16(to_bf16(values.detach().numpy()))
    np.testing.assert_array_equal(rounded.detach().numpy(), kept)
    rounded.sum().backward()
    assert values.grad is not None and (values.grad == 1).all()


@pytest.mark.parametrize("tiers", [0, 1, 8])
def test_tier_histogram_counts_each_signed_behaviour_once(tiers: int) -> None:
    """Shares of a histogram sum to 1 for signed pairs, to 0 where a side has no signature; identical items top out."""
    signs = torch.randint(2, (2, 3, 64)) * 2.0 - 1
    behaviours = signs[:, :2].clone()
    signs[0, 2] = 0
    behaviours[1] = 0
    histogram = tier_histogram(signs, behaviours, tiers)
    assert histogram.shape == (2, 3, tiers)
    if tiers:
        assert histogram.sum(-1).tolist() == [[1, 1, 0], [0, 0, 0]]
        assert (histogram[0, :2, -1] >= 0.5).all()
