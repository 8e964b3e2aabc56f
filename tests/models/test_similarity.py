from __future__ import annotations

import numpy as np
import pytest
import torch

from domain.tiers import group_table
from models.similarity import equal_bits, of_category, tier_counts
from schemas.records import ACTIONS


@pytest.mark.parametrize("tiers", [0, 1, 8])
def test_tier_counts_are_of_signed_behaviours_by_group(tiers: int) -> None:
    """Every signed behaviour counts once in each group of its action, in the tier of its share of equal bits."""
    random = torch.Generator().manual_seed(2)
    signs, past = (torch.randint(2, (2, n, 64), generator=random) * 2.0 - 1 for n in (3, 6))
    signs[0, 2], past[1, 4], past[0, 0] = 0, 0, signs[0, 0]
    actions = torch.randint(14, (2, 6), generator=random)
    table = torch.from_numpy(group_table((ACTIONS[:7], ACTIONS[5:9]))).float()
    found = tier_counts(equal_bits(signs, past), actions, table, tiers, 64)
    expected = torch.zeros(2, 3, 2, tiers)
    for user, candidate, place, group in np.ndindex(2, 3, 6, 2 if tiers else 0):
        own, theirs = signs[user, candidate], past[user, place]
        if own.any() and theirs.any() and table[actions[user, place], group]:
            tier = min(tiers - 1, int((own == theirs).sum()) * tiers // 64)
            expected[user, candidate, group, tier] += 1
    torch.testing.assert_close(found, expected.flatten(-2))


def test_a_candidate_finds_the_row_of_its_category() -> None:
    """The user's row of the candidate's own category, zeros where the user or the candidate has none."""
    rows = torch.arange(1.0, 7).view(1, 3, 2)
    found = of_category(torch.tensor([[9, 4, 0, 7]]), torch.tensor([[7, 9, 0]]), rows)
    assert found.tolist() == [[[3, 4], [0, 0], [0, 0], [1, 2]]]
