from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, generate_latest

from serving.process_metrics import ProcessMetrics


def counting(folder: Path, number: int, count: int) -> ProcessMetrics:
    """A process that has counted to `count`."""
    own = CollectorRegistry()
    Counter("aif_things", "Things.", ["kind"], registry=own).labels("good").inc(count)
    return ProcessMetrics(folder, number, own)


def shown(processes: ProcessMetrics) -> str:
    """What a scrape shows."""
    registry = CollectorRegistry()
    registry.register(processes)
    return generate_latest(registry).decode()


def test_a_scrape_of_any_process_shows_all_of_them(tmp_path: Path) -> None:
    """Each process's counters stand under its own label, in one family, whoever is asked."""
    first, second = counting(tmp_path, 0, 3), counting(tmp_path, 1, 5)
    first.leave()
    second.leave()
    for asked in (first, second):
        text = shown(asked)
        assert text.count("# TYPE aif_things_total counter") == 1
        assert 'aif_things_total{kind="good",process="0"} 3.0' in text
        assert 'aif_things_total{kind="good",process="1"} 5.0' in text


def test_its_own_counters_are_those_of_now(tmp_path: Path) -> None:
    """A process never shows an older snapshot of itself."""
    counting(tmp_path, 0, 3).leave()
    assert 'process="0"} 7.0' in shown(counting(tmp_path, 0, 7))


def test_what_a_dead_process_left_ends(tmp_path: Path) -> None:
    """A snapshot that nobody renews is not shown for ever, and one taken away at the end is not shown at all."""
    ending, dead, asked = counting(tmp_path, 1, 5), counting(tmp_path, 2, 6), counting(tmp_path, 0, 3)
    dead.leave()
    os.utime(tmp_path / "2.json", (0, 0))
    ending.start()
    ending.leave()
    assert 'process="1"' in shown(asked)
    ending.stop()
    assert 'process="1"' not in shown(asked)
    assert 'process="2"' not in shown(asked)


def test_a_half_written_snapshot_is_never_read(tmp_path: Path) -> None:
    """Only whole files carry the name that is read."""
    (tmp_path / "1.new").write_bytes(b'[["aif_th')
    assert 'process="1"' not in shown(counting(tmp_path, 0, 3))
