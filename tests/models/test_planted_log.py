from __future__ import annotations

import numpy as np
import pytest

from domain.lsh import hyperplanes, signatures, similarity
from models.config import ModelConfig
from models.examples import examples_of
from models.log import Log
from models.metrics import gauc
from models.planted_log import PlantedLog, PlantedSizes, planted_log

_SIZES = PlantedSizes(users=150, pages=5, topics=8, series=60, embedding_dim=32)


@pytest.fixture(scope="module")
def planted() -> PlantedLog:
    """A small log."""
    return planted_log(1, _SIZES)


def test_equal_seeds_make_equal_logs(planted: PlantedLog) -> None:
    """A seed names one log: the same records again, others for another seed."""
    assert planted_log(1, _SIZES).entries == planted.entries
    assert planted_log(2, _SIZES).entries != planted.entries


def test_impressions_are_clicked_as_often_as_planted(planted: PlantedLog) -> None:
    """Every impression has its true chance, clicks follow it, and the log reads as impressions with answers."""
    log = Log.of(planted.entries, ModelConfig(embedding_dim=32))
    examples = examples_of(log)
    assert not examples.sampled
    assert len(examples) == len(planted.probabilities) == 150 * 5 * 8
    for low in (0.0, 0.25, 0.5, 0.75):
        within = (planted.probabilities >= low) & (planted.probabilities < low + 0.25)
        assert abs(examples.labels[within].mean() - planted.probabilities[within].mean()) < 0.05
    known, judged = examples.split(log, 1 / 5)
    assert log.events.time_ms[judged.positions[0]] == planted.judged_from_ms
    assert np.unique(log.events.user_id[judged.positions], return_counts=True)[1].tolist() == [8] * 150
    users = log.events.user_id[judged.positions]
    assert gauc(users, judged.labels, planted.probabilities[len(known) :]) > 0.75


def test_an_echo_lifts_or_sinks_its_series(planted: PlantedLog) -> None:
    """What was clicked on the page before is clicked far more often than what was ignored there."""
    impressions = [record for kind, record in planted.entries if kind == "user" and record["action"] == "impression"]
    clicks = {
        (record["user_id"], record["item_id"], record["event_time_ms"] - 1000)
        for kind, record in planted.entries
        if kind == "user" and record["action"] == "click"
    }
    after: dict[bool, list[float]] = {True: [], False: []}
    last: dict[tuple[int, int], tuple[int, bool]] = {}
    for record, chance in zip(impressions, planted.probabilities, strict=True):
        key = record["user_id"], record["item_id"] // 6
        page = (record["event_time_ms"] - planted.judged_from_ms) // 86_400_000
        if key in last and last[key][0] == page - 1:
            after[last[key][1]].append(float(chance))
        last[key] = page, (record["user_id"], record["item_id"], record["event_time_ms"]) in clicks
    assert np.mean(after[True]) - np.mean(after[False]) > 0.4


def test_signatures_tell_series_apart_and_nothing_of_topics(planted: PlantedLog) -> None:
    """Two items of a series agree in most bits; items of one topic but different series as little as any."""
    updates = [record for kind, record in planted.entries if kind == "item"]
    vectors = np.stack([np.frombuffer(update["embedding"], dtype="<f4") for update in updates])
    bits = signatures(vectors, hyperplanes(1, 256, 32))
    alike = similarity(bits, bits)
    series = np.arange(len(updates)) // 6
    topic = np.array([update["category_id"] for update in updates])
    same_series = series[:, None] == series
    same_topic = (topic[:, None] == topic) & ~same_series
    assert alike[same_series].min() > 0.75
    assert abs(alike[same_topic].mean() - alike[~same_series].mean()) < 0.03
