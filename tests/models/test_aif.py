from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from domain.bf16 import from_bf16, to_bf16
from domain.cross_features import CROSS_FEATURES
from domain.item_features import ITEM_NUMERIC
from models.aif import AIF, UserPhase, served
from models.config import ModelConfig
from models.examples import Batches, examples_of
from models.export import tower_example
from models.log import Log

_USERS, _CANDIDATES = 3, 5


def _model(config: ModelConfig) -> AIF:
    torch.manual_seed(1)
    return AIF(config)


def _users(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random user-phase inputs; the last user has no behaviours, and some behaviours have no signature."""
    generator = torch.Generator().manual_seed(seed)
    dims, shape = config.dimensions, (_USERS, config.long_behaviours)
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
        "cross": torch.rand(_USERS, config.cross_categories, CROSS_FEATURES, generator=generator)
        * (present.amax(1) > 0)[:, None, None],
    }


def _direct(phase: UserPhase, users: dict[str, Tensor], bridges: Tensor, signs: Tensor) -> Tensor:
    """User terms of the head's first layer without folding: one candidate, one behaviour at a time ([B, C, h1])."""
    unsigned = {name: value for name, value in users.items() if name not in ("signatures", "cross")}
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
    bias, bridge_weight, signature_weight, attention_weight, _ = model.user(**users)
    folded = bridges @ bridge_weight + signs @ signature_weight + bias.unsqueeze(1)
    torch.testing.assert_close(folded, _direct(model.user, users, bridges, signs), rtol=1e-4, atol=1e-5)
    newest = model.user.context(**{name: users[name] for name in ("windows", "vectors", "actions", "ages", "present")})
    x = newest.behaviours[:, : config.behaviours]
    torch.testing.assert_close(attention_weight, x @ model.user.to_attention)


def _items(config: ModelConfig, count: int) -> list[torch.Tensor]:
    return [torch.from_numpy(each) for each in tower_example(config.dimensions, count).columns(config.dimensions)]


def test_an_id_says_nothing_before_training_met_it(config: ModelConfig) -> None:
    """Items that differ in their ids alone have equal vectors until training moves the row of one."""
    config = dataclasses.replace(config, id_buckets=4)
    tower = _model(config).tower
    assert tower.identity is not None
    embedding, category, numeric, _ = _items(config, 1)
    alike = (embedding.expand(3, -1), category.expand(3), numeric.expand(3, -1), torch.tensor([1, 2, 3]))
    before = tower.vector(*alike)
    torch.testing.assert_close(before, before[:1].expand_as(before))
    with torch.no_grad():
        tower.identity.weight[2] += 1
    after = tower.vector(*alike)
    assert not torch.allclose(after[1], before[1])
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])


def test_one_bridge_makes_bea_blind_to_items(config: ModelConfig) -> None:
    """With a single bridge all bridge weights are 1, so the bridged user no longer depends on the item."""
    model = _model(dataclasses.replace(config, bridges=1))
    _, weights = model.tower(*_items(config, 7))
    assert (weights == 1).all()


def test_equal_bridges_make_bea_blind_to_items(config: ModelConfig) -> None:
    """With identical bridges a_i V_u is the same vector for every item."""
    model, users = _model(config), _users(config)
    with torch.no_grad():
        model.tower.bridges[:] = model.tower.bridges[0]
    _, weights = model.tower(*_items(config, 6))
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


def test_numeric_columns_are_standardised(config: ModelConfig) -> None:
    """Columns enter with mean 0 and deviation 1 once they are told, so that scale and offset do not matter; a column
    that hardly varies is not blown up."""
    tower, other = _model(config).tower, _model(config).tower
    numeric = torch.rand(50, ITEM_NUMERIC)
    numeric[:, 3] = 5 + 1e-4 * numeric[:, 3]
    scales, offsets = 10 * torch.rand(ITEM_NUMERIC) + 1, torch.rand(ITEM_NUMERIC)
    scales[3] = 1
    tower.standardise(numeric)
    other.standardise(numeric * scales + offsets)
    embedding, category = torch.randn(50, config.embedding_dim), torch.zeros(50, dtype=torch.int64)
    with torch.no_grad():
        found, scaled = (
            tower.vector(embedding, category, numeric),
            other.vector(embedding, category, numeric * scales + offsets),
        )
    torch.testing.assert_close(found, scaled, rtol=1e-3, atol=1e-3)
    entered = (numeric - tower.mean) * tower.scale
    assert entered.mean(0).abs().max() < 1e-3
    torch.testing.assert_close(entered.std(0)[4:], torch.ones(ITEM_NUMERIC - 4))
    assert entered.std(0)[3] < 0.01


def test_served_values_are_what_a_record_keeps() -> None:
    """Training rounds exactly as an N2O record does, and its gradient passes unchanged."""
    values = torch.randn(4096, requires_grad=True)
    rounded = served(values)
    kept = from_bf16(to_bf16(values.detach().numpy()))
    np.testing.assert_array_equal(rounded.detach().numpy(), kept)
    rounded.sum().backward()
    assert values.grad is not None and (values.grad == 1).all()


def test_attention_equals_its_formula(config: ModelConfig) -> None:
    """Weights are the table's by equal bits, of sum 1 over pairs that have signatures, and 0 where there is none."""
    head = _model(config).head
    with torch.no_grad():
        head.attention_scores += torch.randn(config.signature_bits + 1)
    equal = torch.tensor([[[64, 32, -1, 0], [-1, -1, -1, -1]]])
    found = head.attention(equal)[0]
    chosen = head.attention_scores[torch.tensor([64, 32, 0])]
    torch.testing.assert_close(found[0, [0, 1, 3]], torch.softmax(chosen, dim=0))
    assert found[0, 2] == 0 and not found[1].any()


_PARTS = {"bea": "none", "din": "none", "attention": False, "tiers": 0, "cross_categories": 0}


@pytest.mark.parametrize("part", [{}, {"bea": "B"}, *({name: value} for name, value in _PARTS.items())])
def test_every_part_has_a_say_and_can_be_left_out(part: dict[str, Any], log: Log, config: ModelConfig) -> None:
    """Without a part scores differ, are finite, and every parameter that is left still learns."""
    batch = Batches(log, config, 2).batch(examples_of(log).take(slice(0, 200)), np.random.default_rng(0))
    model = _model(dataclasses.replace(config, **part))
    found = model(batch)
    assert torch.isfinite(found).all()
    if part:
        assert not torch.allclose(found, _model(config)(batch))
    found.sum().backward()  # type: ignore[no-untyped-call]
    silent = [
        name for name, each in model.named_parameters() if each.numel() and (each.grad is None or not each.grad.any())
    ]
    assert set(silent) <= ({"tower.bridges", "user.bridges"} if part.get("bea") == "none" else set())
    cheaper = model.online_multiply_adds() - _model(config).online_multiply_adds()
    assert (cheaper < 0) == (bool(part) and part.get("bea") != "B" and "cross_categories" not in part)


def test_variant_b_pools_by_combined_weights(config: ModelConfig) -> None:
    """Variant B's folded form equals pooling fields by w_u a_i."""
    model = _model(dataclasses.replace(config, bea="B"))
    d, vectors = config.vector_dim, torch.randn(1, config.long_behaviours, config.vector_dim)
    present = torch.ones(1, config.long_behaviours)
    present[0, 3:] = 0
    windows = torch.rand(1, config.dimensions.user_features)
    with torch.no_grad():
        context = model.user.context(
            windows, vectors * present.unsqueeze(-1), torch.zeros_like(present).long(), present * 0, present
        )
        fields = torch.cat((context.behaviours[0, :3], model.user.profile(windows)), dim=0)  # [4, d] of those there
        weights = torch.softmax(fields @ model.user.bridges.T / d**0.5, dim=-1)  # w_u [4, n]
        a = torch.rand(config.bridges)
        expected = (weights @ a) @ fields / len(fields)
    torch.testing.assert_close(a @ context.bridged[0], expected)
