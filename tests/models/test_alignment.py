from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.aif import AIF
from models.alignment import Alignment, drawn_lists, rank_loss
from models.batch import Batch
from models.config import ModelConfig
from models.examples import Batches, examples_of
from models.fitting import Budget, fit, reproducible
from models.log import Log
from schemas.errors import BadInput

_lists = st.lists(
    st.lists(st.tuples(st.floats(-5, 5, width=32), st.integers(0, 4)), min_size=5, max_size=5), min_size=1, max_size=4
)


class _ByItem(nn.Module):
    """A teacher that orders candidates by item id, the highest first."""

    def forward(self, batch: Batch) -> torch.Tensor:
        return batch.item_ids[batch.candidates].float()


def plain_rank_loss(logits: np.ndarray, grades: np.ndarray) -> float:
    """One pair at a time: |gain difference| * |discount difference| * log(1 + exp(worse - better))."""
    losses = []
    for scores, gains in zip(logits, grades, strict=True):
        place = {each: number for number, each in enumerate(sorted(range(len(scores)), key=lambda i: (-scores[i], i)))}
        value = weights = 0.0
        for i in range(len(scores)):
            for j in range(len(scores)):
                if gains[i] > gains[j]:
                    weight = (gains[i] - gains[j]) * abs(1 / math.log2(2 + place[i]) - 1 / math.log2(2 + place[j]))
                    value += weight * math.log1p(math.exp(scores[j] - scores[i]))
                    weights += weight
        if weights:
            losses.append(value / weights)
    return float(np.mean(losses)) if losses else 0.0


@settings(max_examples=60, deadline=None)
@given(_lists)
def test_the_loss_is_its_formula(lists: list[list[tuple[float, int]]]) -> None:
    """Every pair counts by its gains and by the places that the student gives it, as a plain loop over pairs does."""
    values = np.array(lists)
    found = rank_loss(torch.from_numpy(values[..., 0]), torch.from_numpy(values[..., 1]))
    assert float(found) == pytest.approx(plain_rank_loss(values[..., 0], values[..., 1]), rel=1e-6, abs=1e-9)


def test_the_loss_wants_the_teachers_order() -> None:
    """It is near 0 in the teacher's order, log 2 where all are equal, larger in the opposite order."""
    grades = torch.tensor([[3.0, 2.0, 1.0]])
    right, equal, wrong = (
        rank_loss(torch.tensor([each]), grades) for each in ([20.0, 0, -20], [0.0] * 3, [-9.0, 0, 9])
    )
    assert float(right) < 1e-6
    assert float(equal) == pytest.approx(math.log(2))
    assert float(wrong) > 5


def test_lists_hold_one_candidate_of_every_chunk(log: Log, config: ModelConfig) -> None:
    """The k-th compared candidate is of the k-th part of what the teacher orders, and none is what the user had."""
    alignment = Alignment(_ByItem(), users=9, candidates=24, chunks=6)
    known = examples_of(log).take(slice(200, 400))
    lists = drawn_lists(Batches(log, config, 2), known, alignment, np.random.default_rng(5))
    taught = _ByItem()(lists.batch)
    for user in range(9):
        usable = lists.batch.weights[user] > 0
        usable[0] = False
        if int(usable.sum()) < 6:
            assert not lists.grades[user].any()
            continue
        ordered = sorted(taught[user][usable].tolist(), reverse=True)
        edges = [len(ordered) * chunk // 6 for chunk in range(7)]
        assert usable[lists.chosen[user]].all()
        for chunk, place in enumerate(lists.chosen[user].tolist()):
            assert float(taught[user, place]) in ordered[edges[chunk] : edges[chunk + 1]]
        assert lists.grades[user].tolist() == [6, 5, 4, 3, 2, 1]


def test_an_aligned_student_orders_as_its_teacher(log: Log, config: ModelConfig) -> None:
    """Taught an order that labels say nothing of, a model puts many more pairs of candidates in that order."""
    known = examples_of(log).take(slice(0, 600))
    batches = Batches(log, config, 2)
    agreement = []
    for alignment in (None, Alignment(_ByItem(), users=32, candidates=32, chunks=8)):
        with reproducible(1, 1):
            model = AIF(config)
            budget = Budget(epochs=4, batch_size=64, learning_rate=5e-3)
            fit({"aif": model}, batches, known, budget, 1, alignment=alignment)
        judged = batches.batch(known.take(slice(0, 60)), np.random.default_rng(3), drawn=30)
        with torch.no_grad():
            ours, theirs = model(judged), _ByItem()(judged)
        wanted = theirs.unsqueeze(2) > theirs.unsqueeze(1)
        agreement.append(float((ours.unsqueeze(2) > ours.unsqueeze(1))[wanted].float().mean()))
    assert agreement[1] > agreement[0] + 0.1


def test_lists_leave_negatives_alone(log: Log, config: ModelConfig) -> None:
    """A model beside an aligned one meets the same negatives: lists have a random generator of their own."""
    known = examples_of(log).take(slice(0, 200))
    seen: list[list[int]] = []

    class _Watch(AIF):
        def forward(self, batch: Batch) -> torch.Tensor:
            if batch.candidates.shape[1] == 3:  # an example and two negatives
                seen[-1].extend(batch.item_ids[batch.candidates].flatten().tolist())
            return super().forward(batch)

    for alignment in (None, Alignment(_ByItem(), candidates=10, chunks=2)):
        seen.append([])
        with reproducible(1, 1):
            fit({"aif": _Watch(config)}, Batches(log, config, 2), known, Budget(1, 64), 1, alignment=alignment)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("wrong", [{"chunks": 1}, {"chunks": 65}, {"users": 0}, {"weight": 0.0}])
def test_impossible_sizes_are_refused(wrong: dict[str, Any]) -> None:
    """Sizes that leave nothing to compare are refused by name."""
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Alignment(_ByItem(), **wrong)
