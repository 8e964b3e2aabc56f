"""`aif features` on tables and logs of this machine, without a broker."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from planted import user_event

from cli.features import command
from domain.features import FEATURES
from domain.partitioner import partition_of
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.ids import WATERMARK_KEY, entity_key
from streams.datadir import claim
from streams.store import Store

NOW_MS = 1_700_000_000_000


@pytest.fixture
def folder(tmp_path):
    """Tables of a worker that has applied one purchase for nothing."""
    deployment = Deployment(data_dir=tmp_path)
    event = {**user_event(1, 7, 5, NOW_MS, "purchase"), "value": 0.0, "category_id": 3}
    head = fold({}, EventBatch.of([4], [event]), 9).heads[7]
    mark = codec("watermark").encode(
        {"source_topic_id": 9, "next_source_offset": 5, "max_event_time_ms": NOW_MS, "oldest_append_time_ms": 0,
         "writer_epoch": 0, "wall_time_ms": NOW_MS}
    )  # fmt: skip
    partition = partition_of(7, deployment.partitions)
    worker = tmp_path / "tables" / "w"
    os.close(claim(worker, deployment))
    store = Store(worker / f"users-{partition}.db")
    store.put_many([(entity_key(7), head), (WATERMARK_KEY, mark)], 1)
    store.close()
    return tmp_path


def _run(*arguments: str):
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_describe_names_every_feature(tmp_path) -> None:
    """Each declared feature with type and owner, and items' activity; without tables, no freshness."""
    lines = _run("describe", "--json", "--data-dir", str(tmp_path)).output.splitlines()
    *declared, activity, fresh = map(json.loads, lines)
    assert activity["item_activity"]["windows"] == ["1h", "24h", "7d"]
    assert [each["name"] for each in declared] == [feature.name for feature in FEATURES]
    assert all(each["type"] and each["owner"] for each in declared)
    assert fresh == {"freshness": []}
    assert "no tables" in _run("describe", "--data-dir", str(tmp_path)).output


def test_get_reads_the_tables(folder) -> None:
    """At the event clock, and at a later time; zero and no value differ."""
    found = json.loads(_run("get", "7", "--data-dir", str(folder)).output)
    assert (found["at_ms"], found["source_offset"]) == (NOW_MS, 4)
    assert (found["features"]["spend_7d"], found["features"]["click_rate_24h"]) == (0.0, None)
    assert found["features"]["top_categories"] == [{"category_id": 3, "weight": 1.0}]
    later = json.loads(_run("get", "7", "--at", "2023-12-25", "--data-dir", str(folder)).output)
    assert later["features"]["spend_7d"] is None
    assert later["features"]["interest_1d"] < 1e-6
    assert json.loads(_run("describe", "--json", "--data-dir", str(folder)).output.splitlines()[-1])["freshness"]


def test_get_says_what_it_cannot_find(folder) -> None:
    """A user without a row and a time that is none are the caller's fault."""
    for arguments in (("get", "7", "--at", "yesterday"), ("get", "8")):
        with pytest.raises(BadInput):
            _run(*arguments, "--data-dir", str(folder))


def test_export_writes_parquet(tmp_path) -> None:
    """One row per label, its own columns kept."""
    events = [user_event(1, 7, 5, NOW_MS, "view")]
    names = ("event_id", "user_id", "item_id", "event_time_ms", "action")
    pq.write_table(pa.table({name: [event[name] for event in events] for name in names}), tmp_path / "e")
    labels = pa.table({"user_id": [7, 7], "position": [0, 1], "at_ms": [NOW_MS] * 2, "clicked": [0, 1]})
    pq.write_table(labels, tmp_path / "l")
    done = _run("export", "--events", f"{tmp_path}/e", "--labels", f"{tmp_path}/l", "--out", f"{tmp_path}/o", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 2
    rows = pq.read_table(tmp_path / "o" / "features.parquet").to_pylist()
    assert [(row["clicked"], row["reads_1h"]) for row in rows] == [(0, None), (1, 1)]
