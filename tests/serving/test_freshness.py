from __future__ import annotations

from serving.freshness import Delays, Freshness


def test_percentiles_are_of_the_last_seconds_only() -> None:
    """A sample counts while it is younger than the window, table by table."""
    now_s = [0.0]
    freshness = Freshness(lambda: now_s[0])
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


def test_samples_are_bounded() -> None:
    """However many batches there are, only the newest are kept."""
    freshness = Freshness()
    for delay_ms in range(70_000):
        freshness.add("users", float(delay_ms))
    found = freshness.over(60)["users"]
    assert (found.batches, found.worst_ms) == (65_536, 69_999.0)
