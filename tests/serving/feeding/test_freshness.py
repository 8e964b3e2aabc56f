from __future__ import annotations

from pathlib import Path

from serving.feeding.freshness import BUCKETS_S, Delays, Freshness


def test_percentiles_are_of_the_last_seconds_only(tmp_path: Path) -> None:
    """A sample counts while it is younger than the window, table by table."""
    now_s = [0.0]
    freshness = Freshness(tmp_path / "freshness", lambda: now_s[0])
    for delay_ms in (1000.0, 2000.0):
        freshness.add("users", delay_ms)
    now_s[0] = 30.0
    for delay_ms in range(1, 102):
        freshness.add("users", float(delay_ms))
    freshness.add("n2o_a", 7.0)
    assert freshness.over(10) == {"users": Delays(101, 51.0, 100.0, 101.0), "n2o_a": Delays(1, 7.0, 7.0, 7.0)}
    assert freshness.over(60)["users"].batches == 103
    now_s[0] = 100.0
    assert freshness.over(10)["users"] == Delays(0, None, None, None)


def test_samples_are_bounded(tmp_path: Path) -> None:
    """However many batches there are, only the newest are kept."""
    freshness = Freshness(tmp_path / "freshness")
    for delay_ms in range(70_000):
        freshness.add("users", float(delay_ms))
    found = freshness.over(60)["users"]
    assert (found.batches, found.worst_ms) == (65_536, 69_999.0)


def test_another_process_reads_the_same_samples(tmp_path: Path) -> None:
    """What one adds, another object over the file reads: percentiles and Prometheus' counts."""
    feeder, scorer = Freshness(tmp_path / "freshness"), Freshness(tmp_path / "freshness")
    for delay_ms in (9.0, 20.0, 20.0, 400_000.0):
        feeder.add("items", delay_ms)
    assert scorer.over(60)["items"].worst_ms == 400_000.0
    found = scorer.histogram("items")
    assert dict(zip(BUCKETS_S, found.below, strict=True))[0.025] == 3
    assert (found.below[0], found.below[-1], found.batches, found.sum_s) == (1, 3, 4, 400.049)
    assert scorer.histogram("users").batches == 0
