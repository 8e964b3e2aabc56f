"""Readers that are processes of their own, stopped and killed wherever they happen to be."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np

from domain.n2o import N2OLayout
from schemas.ids import entity_key
from serving.feeding.state import StateFolder
from serving.feeding.store_writer import StoreWriter
from serving.rollout.control import ControlPage
from serving.tables.epochs import Epochs
from serving.tables.readers import Readers
from serving.tables.slab import SlabWriter
from serving.tables.store import ITEMS, USERS, SlabKey, Store, TablePartition
from tests.serving.conftest import item_rows, n2o_records, n2o_rows, user_rows, watermark_row

LAYOUT = N2OLayout(500, 8, 64)
TAG, ITEMS_HELD = 7, 1500

# Reads until told to end; says how often it read, and what it saw that cannot be.
READER = """
import sys
from pathlib import Path
import numpy as np
from domain.n2o import N2OLayout
from serving.tables.readers import Readers
from serving.tables.slab import Slab
folder, over, layout = Path(sys.argv[1]), Path(sys.argv[2]), N2OLayout(500, 8, 64)
slab = Slab(folder / f"{7:016x}.slab", Readers(folder / "readers").line)
rng, out, reads, wrong = np.random.default_rng(), np.empty((400, layout.stride), dtype=np.uint8), 0, 0
print("reading", flush=True)
while not over.exists():
    asked = rng.integers(0, 1600, 400)
    known = slab.gather(asked, out)
    records = out.view(layout.dtype)[:, 0][known]
    whole = (records["vector"] == records["source_offset"][:, None]).all(axis=1)
    wrong += int(np.count_nonzero(~(whole & (records["item_id"] == asked[known]) & (records["version"] == 7))))
    reads += 1
print(reads, wrong, slab.damaged, flush=True)
"""


def written(ids: np.ndarray, generation: int) -> np.ndarray:
    """Rows that say in every word of their vector when they were written."""
    records = LAYOUT.empty(len(ids))
    records["item_id"], records["version"] = ids, TAG
    records["vector"] = records["source_offset"] = generation % 60_000
    return records.view(np.uint8).reshape(len(ids), -1)


def test_readers_stopped_anywhere_see_no_torn_row_and_hold_no_memory(tmp_path: Path, monkeypatch) -> None:
    """While three processes read and are stopped and continued at random, every row that they copy is whole and asked
    for; one that stays stopped loses its lease instead of keeping places, and reads on correctly when it continues.
    """
    monkeypatch.setattr("serving.tables.places._FEWEST_IN_LIMBO", 1024)
    readers = Readers(tmp_path / "readers")
    epochs = Epochs(readers.board)
    writer = SlabWriter.create(tmp_path / f"{TAG:016x}.slab", TAG, LAYOUT.stride, epochs)
    ids, rng = np.arange(ITEMS_HELD, dtype=np.int64), random.Random(5)
    writer.put(written(ids, 4))
    over = tmp_path / "over"
    processes = [
        subprocess.Popen([sys.executable, "-c", READER, str(tmp_path), str(over)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "reading\n"
        until_s, generation = time.monotonic() + 4, 4
        while time.monotonic() < until_s:
            stopped = rng.choice(processes)
            stopped.send_signal(signal.SIGSTOP)
            for _ in range(rng.randrange(1, 12)):
                generation += 1
                writer.put(written(ids[rng.randrange(3) :: rng.randrange(1, 3)], generation // 4 * 4))
                assert writer.nbytes <= writer.most_bytes + 2 * 1024 * (LAYOUT.stride + 8)
            if rng.random() < 0.2:
                writer.delete(ids[:: rng.randrange(2, 5)])
                writer.put(written(ids, generation // 4 * 4))
            stopped.send_signal(signal.SIGCONT)
            time.sleep(0.001)
        over.touch()
        said = [process.communicate(timeout=20)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(int(reads) > 50 for reads, _, _ in said), said
    assert all((wrong, damaged) == ("0", "0") for _, wrong, damaged in said), said
    assert epochs.revocations > 0, "nobody was stopped in the middle of a gather: the test proves nothing"


AT = {table: TablePartition(table, 0) for table in (ITEMS, "n2o_a", USERS)}


def batches(number: int) -> list[tuple[str, tuple[list[bytes], list[bytes | None]]]]:
    """The rows of a step of the log, the same ones whenever it is asked for."""
    rng = np.random.default_rng(number)
    ids = rng.integers(0, 300, 40).tolist()
    gone = [entity_key(int(each)) for each in rng.integers(0, 300, 3)]
    users = [user_rows(int(user), ids[: 1 + user % 30]) for user in rng.integers(0, 50, 5)]
    keys, values = [key for each, _ in users for key in each], [value for _, each in users for value in each]
    deletions = gone, [None] * len(gone)
    marks = watermark_row(number + 1)
    return [
        ("items", _joined(item_rows(ids), deletions, marks)),
        ("n2o_a", _joined(n2o_rows(n2o_records(11, ids, number)), deletions, marks)),
        ("users", _joined((keys, values), marks)),
    ]


def _joined(*rows):
    return [key for keys, _ in rows for key in keys], [value for _, values in rows for value in values]


def feed(writer: StoreWriter, end: int | None = None) -> None:
    """Go on from the offsets of the state, as after a restart, each table by itself; forever where there is no end."""
    offsets = writer.offsets
    begin = min(offsets.get(at, 0) for at in AT.values())
    for number in count(begin) if end is None else range(begin, end):
        for table, rows in batches(number):
            if offsets.get(AT[table], 0) <= number:
                writer.apply(AT[table], *rows, number + 1)


def contents(store: Store) -> tuple:
    """All that a state holds."""
    with store.rows.reading() as txn:
        tables = [list(txn.items(name)) for name in ("heads", "chunks", "items", "marks")]
    ids, out = np.arange(300, dtype=np.int64), np.zeros((300, 128), dtype=np.uint8)
    slab = store.slab(SlabKey("n2o_a", 11))
    known = slab.gather(ids, out)
    return tables, known.tolist(), out.tobytes(), len(slab), slab.servable, store.event_clock_ms


def test_a_feeder_killed_anywhere_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 in the middle of writing, again and again, and a restart: the state equals one that was never killed."""
    rng, path = random.Random(3), tmp_path / "serving"
    for kill in range(12):
        child = os.fork()
        if not child:  # a feeder that starts, goes on, and never ends by itself
            try:
                feed(StoreWriter(StateFolder(path).open_or_create()[1]))
            finally:
                os._exit(1)
        # The first gets to where it writes however slow the machine is; the others may be killed while they start.
        while not kill and not any(path.glob("state-1/*.slab")):
            time.sleep(0.001)
        time.sleep(0.02 + 0.1 * rng.random())
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    number, store = StateFolder(path).open_or_create()
    writer = StoreWriter(store)
    assert number == 1 and writer.offsets, "the state was thrown away"
    end = max(writer.offsets.values())
    feed(writer, end)
    _, fresh = StateFolder(tmp_path / "fresh").open_or_create()
    feed(StoreWriter(fresh), end)
    assert contents(store) == contents(fresh)
    store.close()
    fresh.close()


def test_a_line_of_a_dead_process_is_used_again(tmp_path: Path) -> None:
    """Processes that come and go use up neither the board's lines nor the control page's rows."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom serving.tables.readers import Readers\n"
        "from serving.rollout.control import ControlPage\n"
        "Readers(Path(sys.argv[1]) / 'readers').line(); ControlPage(Path(sys.argv[1]) / 'control').claim_row()\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    control = ControlPage(tmp_path / "control")
    assert control.warm_rows() == []
    assert control.claim_row().process == os.getpid()
    assert [row.process for row in control.warm_rows()] == [os.getpid()]
