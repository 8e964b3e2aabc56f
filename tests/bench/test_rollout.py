"""The parts of `aif bench rollout` that decide what a figure says."""

from __future__ import annotations

import numpy as np
import pytest

from bench.freshness import _latencies_ms
from bench.rollout import MEASURES, measure_rollout
from bench.rollout_clients import Answers
from schemas.errors import BadInput, Corrupt
from serving.web.binary import BinaryAnswer, encode_answer


def answer(version: str) -> bytes:
    """The body of an answer of a version."""
    return encode_answer(
        BinaryAnswer(version, 0, True, 0, 0, None, 0, 0, 0, 0, 0, 0, None, np.ones(1, "<f4"), np.zeros(1, np.uint8))
    )


def test_when_a_version_first_answered_is_found() -> None:
    """The first answer after a time counts, a return to a version included; one that never came is an error."""
    answers, one, two = Answers(10), f"{1:016x}", f"{2:016x}"
    for version in (one, one, two, two, one):
        answers._note(answer(version))
    assert [name for _, name in answers._seen] == [one, two, one]
    answers._seen = [(10.0, one), (20.0, two), (30.0, one)]
    assert (answers.first(one), answers.first(two), answers.first(one, after_ms=15.0)) == (10.0, 20.0, 30.0)
    with pytest.raises(Corrupt, match="no answer of model"):
        answers.first(f"{3:016x}")


def test_an_update_is_readable_at_the_first_watermark_beyond_it() -> None:
    """In a source that held records before, too: offsets count from the first one sent, which is no update."""
    due = np.array([1.0, 1.1, 1.2])
    seen = [(101, 0.9), (102, 1.5), (104, 2.0)]
    assert _latencies_ms(due, 100, seen).tolist() == pytest.approx([500.0, 900.0, 800.0])


def test_what_cannot_be_measured_is_refused_before_a_broker_starts() -> None:
    """An unknown name is an error that lists the names."""
    with pytest.raises(BadInput, match="nothing cannot be measured; choose from rebuild, updates, freshness, flip"):
        measure_rollout(["nothing"], 10, 1, print)
    assert list(MEASURES) == ["rebuild", "updates", "freshness", "flip"]
