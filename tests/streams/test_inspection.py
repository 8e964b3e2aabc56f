"""Tables read beside their worker, rows made readable, and lag from watermarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleet import wait_for

from domain.artifact import MANIFEST, Dimensions, Manifest
from domain.n2o import Flag, N2OLayout
from domain.user_state import EventBatch, fold
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable
from schemas.ids import WATERMARK_KEY, entity_key
from schemas.records import Watermark
from streams.datadir import claim
from streams.inspection import Snapshot, find_row, holder, newest_stores, store_folders
from streams.lag import PartitionLag, applied_offset, last_watermark
from streams.readable import readable_row
from streams.store import Store

MARK = Watermark(
    source_topic_id=1, next_source_offset=20, max_event_time_ms=300, oldest_append_time_ms=4, writer_epoch=5,
    wall_time_ms=6_000,
)  # fmt: skip


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    """A deployment of two partitions with a data folder of its own."""
    return Deployment(partitions=2, data_dir=tmp_path)


def _worker(deployment: Deployment, name: str) -> Path:
    folder = deployment.data_dir / "tables" / name
    os.close(claim(folder, deployment))
    return folder


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}


def test_a_snapshot_sees_the_newest_rows_and_touches_nothing(deployment: Deployment) -> None:
    """Rows not flushed yet are seen while the writer has the store open; no file of the folder changes."""
    path = _worker(deployment, "w") / "users-0.db"
    store = Store(path)
    mark = (WATERMARK_KEY, codec("watermark").encode(MARK))
    store.put_many([(entity_key(1), b"one"), (entity_key(-1), b"minus"), mark], 7)
    before = _state(path)
    with Snapshot(store_folders(deployment.data_dir)[0]) as snapshot:
        store.put_many([(entity_key(1), b"later")], 9)
        written = _state(path)
        assert snapshot.get(entity_key(1)) == b"one"
        assert snapshot.get(entity_key(2)) is None
        assert (snapshot.changelog_offset, snapshot.watermark, snapshot.rows_estimate) == (7, MARK, 2)
        assert list(snapshot.rows()) == [(entity_key(1), b"one"), (entity_key(-1), b"minus")]
    assert _state(path) == written
    assert {name for name in before if before[name] != written[name]} == {
        name for name in before if name.endswith(".log")
    }
    store.close()


def test_a_closed_store_is_read_without_a_trace(deployment: Deployment) -> None:
    """Reading a store that no worker holds changes no file of its folder, names and times included."""
    path = _worker(deployment, "w") / "items-1.db"
    store = Store(path)
    store.put_many([(entity_key(1), b"one")], 7)
    store.close()
    before = _state(path)
    with Snapshot(store_folders(deployment.data_dir)[0]) as snapshot:
        assert snapshot.get(entity_key(1)) == b"one"
    assert _state(path) == before


_WRITER = """
import os, sys, time
from itertools import count
from pathlib import Path
from schemas.ids import entity_key
from streams.store import Store

store, progress = Store(Path(sys.argv[1])), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
for offset in count(1):
    value = offset.to_bytes(8, "big") + os.urandom(50_000)
    store.put_many([(entity_key(item), value) for item in range(40)], offset)
    os.pwrite(progress, offset.to_bytes(8, "big"), 0)
    time.sleep(0.01)
"""


def test_snapshots_under_load_are_whole_and_new(deployment: Deployment) -> None:
    """While a worker flushes and compacts, each snapshot is one batch's state, none older than when it was opened."""
    path, progress = _worker(deployment, "w") / "items-0.db", deployment.data_dir / "progress"
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(progress)])
    try:
        wait_for(lambda: progress.exists() and progress.read_bytes(), 20)
        seen: list[int] = []
        # However slow the writer is beside this: 40 looks, and as many batches between the first and the last.
        while len(seen) < 40 or seen[-1] - seen[0] <= 40:
            assert writer.poll() is None, "the writer has ended"
            before = int.from_bytes(progress.read_bytes(), "big")
            with Snapshot(store_folders(deployment.data_dir)[0]) as snapshot:
                seen.append(snapshot.changelog_offset)
                assert seen[-1] >= before
                assert {int.from_bytes(value[:8], "big") for _, value in snapshot.rows()} <= {seen[-1]}
    finally:
        writer.kill()
        writer.wait()


def test_a_damaged_store_is_said_to_be(deployment: Deployment) -> None:
    """A store that RocksDB cannot open is Unavailable with its path."""
    path = _worker(deployment, "w") / "users-0.db"
    path.mkdir()
    with pytest.raises(Unavailable, match=r"users-0\.db cannot be opened"):
        Snapshot(store_folders(deployment.data_dir)[0])


def test_the_store_that_is_furthest_is_read(deployment: Deployment) -> None:
    """Of two workers' copies of a partition, the one with the higher changelog offset answers."""
    for name, offset in (("a", 5), ("b", 9), ("c", 7)):
        for partition in range(2):
            store = Store(_worker(deployment, name) / f"users-{partition}.db")
            store.put_many([(entity_key(1), name.encode())], offset)
            store.close()
    assert {store.worker.name for store in newest_stores(deployment, "users").values()} == {"b"}
    assert find_row(deployment, "users", 1)[1] == b"b"


def test_tables_of_another_group_and_missing_partitions_are_named(deployment: Deployment) -> None:
    """Another deployment's tables are not read, and a partition that is not here is said to be elsewhere."""
    Store(_worker(deployment, "w") / "users-1.db").close()
    with pytest.raises(BadInput, match=r"other-aif.*tables of aif"):
        newest_stores(Deployment(prefix="other-", partitions=2, data_dir=deployment.data_dir), "users")
    with pytest.raises(BadInput, match="partition 0, which no worker of this machine has"):
        find_row(deployment, "users", next(user for user in range(9) if _partition(user) == 0))


def _partition(user: int) -> int:
    from domain.partitioner import partition_of

    return partition_of(user, 2)


def test_a_held_folder_shows_its_process(deployment: Deployment) -> None:
    """The holder of a worker's lock is found without trying the lock, and nobody once it is released."""
    folder = deployment.data_dir / "tables" / "w"
    assert holder(folder) is None
    lock = claim(folder, deployment)
    assert holder(folder) == os.getpid()
    os.close(lock)
    assert holder(folder) is None


def test_user_rows_show_windows_and_behaviours(tmp_path: Path) -> None:
    """A user's row shows counts by window and action, behaviours newest first, and the ids remembered."""
    hour_ms, at = 3_600_000, 1_500_000_000_000
    events: list[Any] = [
        {"event_id": number, "user_id": 7, "item_id": number, "event_time_ms": at - age_ms, "action": action,
         "category_id": 3, "value": None}
        for number, (age_ms, action) in enumerate([(50 * hour_ms, "click"), (10 * hour_ms, "view"), (0, "click")])
    ]  # fmt: skip
    head = fold({}, EventBatch.of([0, 1, 2], events), 1).heads[7]
    shown = readable_row("users", head, tmp_path)
    assert shown["windows"] == {
        "5m": {"click": 1}, "1h": {"click": 1}, "24h": {"view": 1, "click": 1}, "7d": {"view": 1, "click": 2}
    }  # fmt: skip
    assert [each["item_id"] for each in shown["behaviours"]] == [2, 1, 0]
    assert shown["event_ids"] == [0, 1, 2] and shown["newest_event_time_ms"] == at
    assert json.loads(json.dumps(shown)) == shown
    other = codec("user_head").encode({**codec("user_head").decode(head), "fingerprint": 1})
    assert "fingerprint" in readable_row("users", other, tmp_path)["problem"]


def test_n2o_rows_show_vectors_where_the_manifest_is_there(tmp_path: Path) -> None:
    """With its model's manifest an N2O row is shown whole, without it the header and what is missing."""
    layout = N2OLayout(vector_dim=8, bridges=2, signature_bits=64)
    sizes = Dimensions(
        embedding_dim=4, signature_bits=64, category_buckets=1, item_numeric=1, vector_dim=8, bridges=2, tiers=1,
        tier_groups=(("click",),), behaviours=1, attention=True, long_behaviours=1, cross_categories=0, user_features=1,
        hidden=(1, 1),
    )  # fmt: skip
    manifest = Manifest(sizes, "srp", 1, layout.stride, {}, {})
    row = layout.empty(1)
    row["item_id"], row["version"], row["price"] = -3, manifest.version_tag, 2.5
    row["flags"] = Flag.HAS_PRICE | Flag.HAS_SIGNATURE
    row["signature"] = 0xAB
    layout.set_vectors(row, np.arange(8, dtype=np.float32)[None], np.array([[0.25, 0.75]], dtype=np.float32))
    value = codec("n2o_row").encode({"record": row.tobytes()})
    bare = readable_row("n2o_a", value, tmp_path)
    assert (bare["item_id"], bare["price"], bare["category_id"]) == (-3, 2.5, None)
    assert bare["version"] == manifest.version and manifest.version in bare["problem"] and "vector" not in bare
    (tmp_path / manifest.version).mkdir()
    (tmp_path / manifest.version / MANIFEST).write_bytes(manifest.to_json())
    whole = readable_row("n2o_a", value, tmp_path, full=True)
    assert whole["vector"] == list(range(8)) and whole["bridges"] == [0.25, 0.75] and whole["signature"] == "ab" * 8
    assert readable_row("n2o_a", value, tmp_path)["vector"] == "8 float32: 0, 1, 2, 3, …"


@dataclass
class _Record:
    key: bytes
    value: bytes | None


def test_the_last_watermark_of_some_rows_counts() -> None:
    """Among rows of a changelog the newest watermark that can be read is taken, None where there is none."""
    marks = [codec("watermark").encode({**MARK, "next_source_offset": offset}) for offset in (1, 2)]
    row = _Record(entity_key(1), b"row")
    records = [row, _Record(WATERMARK_KEY, marks[0]), row, _Record(WATERMARK_KEY, marks[1]), row]
    found = last_watermark([*records, _Record(WATERMARK_KEY, b"of a newer build")])
    assert found is not None and found["next_source_offset"] == 2
    assert last_watermark([row]) is None


@pytest.mark.parametrize(
    ("offsets", "topic_id", "start", "applied"),
    [((20, 18), 1, 0, 18), ((20, None), 1, 3, 3), ((20, 20), 2, 3, 3), ((20, 20), 1, 25, 25), ((), 1, 3, 3)],
)
def test_applied_is_what_every_table_has(
    offsets: tuple[int | None, ...], topic_id: int, start: int, applied: int
) -> None:
    """The table behind most decides; a mark of a re-created topic, or none, means the log's start."""
    marks: list[Any] = [offset and {**MARK, "next_source_offset": offset} for offset in offsets]
    assert applied_offset(marks, topic_id, start) == applied


def test_freshness_is_that_of_the_oldest_table() -> None:
    """Age and event clock are those of the table that is behind; unknown before the first batch."""
    newer = Watermark(**{**MARK, "wall_time_ms": 9_000, "max_event_time_ms": 400})  # type: ignore[typeddict-item]
    behind = PartitionLag("item-updates", 0, 30, 25, None, 20, 10, {"items": newer, "n2o_a": MARK})
    assert (behind.batch_age_s(10_000), behind.event_clock_ms, behind.held_back) == (4.0, 300, 5)
    unknown = PartitionLag("item-updates", 0, 30, 30, None, 0, 30, {"items": None})
    assert (unknown.batch_age_s(10_000), unknown.event_clock_ms) == (None, None)
