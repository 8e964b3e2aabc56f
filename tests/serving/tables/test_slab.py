from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.n2o import Flag, N2OLayout
from schemas.errors import Corrupt
from serving.tables import slab_kernel
from serving.tables.epochs import Epochs
from serving.tables.readers import Readers
from serving.tables.slab import Slab, SlabWriter
from serving.tables.slab_kernel import PUBLISHING

LAYOUT = N2OLayout(4, 3, 64)
TAG = 7


def rows(ids, generation: int = 0, flags: int = 0) -> np.ndarray:
    """Rows whose offset field says when they were written."""
    records = LAYOUT.empty(len(ids))
    records["item_id"], records["version"] = ids, TAG
    records["source_offset"], records["flags"] = generation, flags
    return records.view(np.uint8).reshape(len(ids), -1)


class Files:
    """A slab's files, to write and to read."""

    def __init__(self, folder: Path, layout: N2OLayout = LAYOUT) -> None:
        self.readers = Readers(folder / "readers")
        self.epochs = Epochs(self.readers.board)
        self.path = folder / f"{TAG:016x}.slab"
        self.writer = SlabWriter.create(self.path, TAG, layout.stride, self.epochs)

    def reopen(self) -> None:
        """As after a restart of the writer."""
        self.writer = SlabWriter.open(self.path, self.epochs)

    def slab(self) -> Slab:
        """A reader."""
        return Slab(self.path, self.readers.line)


@pytest.fixture
def files(tmp_path) -> Files:
    """An empty slab."""
    return Files(tmp_path)


def read(slab: Slab, ids) -> list[int | None]:
    """Generation of each id's row, None where there is none."""
    out = np.empty((len(ids), LAYOUT.stride), dtype=np.uint8)
    known = slab.gather(np.array(ids, dtype=np.int64), out)
    records = out.view(LAYOUT.dtype)[:, 0]
    assert (records["item_id"] == np.where(known, ids, 0)).all()
    assert not out[~known].any()
    return [int(row["source_offset"]) if is_known else None for row, is_known in zip(records, known, strict=True)]


def test_ids_are_those_that_have_a_row(files) -> None:
    """Listed ids follow puts, removals and a larger index that comes while the slab is open."""
    slab = files.slab()
    assert not len(slab.ids())
    files.writer.put(rows(range(-50, 5000)))
    files.writer.delete(np.arange(0, 4000))
    assert sorted(slab.ids().tolist()) == [*range(-50, 0), *range(4000, 5000)]


ids = st.lists(st.integers(-20, 20), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "delete", "put deleted", "reopen"]), ids), max_size=15))
def test_equals_a_dict(operations) -> None:
    """After any puts, with repeated ids, deletes and restarts, rows and the servable count are those of a dict."""
    with tempfile.TemporaryDirectory() as folder:
        files, oracle = Files(Path(folder)), {}
        slab = files.slab()
        for generation, (what, batch) in enumerate(operations):
            if what == "reopen":
                files.reopen()
            elif what == "delete":
                files.writer.delete(np.array(batch, dtype=np.int64))
                for each in batch:
                    oracle.pop(each, None)
            else:
                flags = Flag.DELETED if what == "put deleted" else 0
                files.writer.put(rows(batch, generation, flags))
                oracle.update(dict.fromkeys(batch, (generation, flags)))
        asked = list(range(-21, 22))
        assert read(slab, asked) == [oracle[each][0] if each in oracle else None for each in asked]
        assert len(slab) == len(files.writer) == len(oracle)
        assert slab.servable == sum(not flags for _, flags in oracle.values())


def test_the_last_of_equal_ids_in_a_batch_wins(files) -> None:
    """Rows of one batch are applied in their order, also across the chunks that it is written in."""
    batch = np.concatenate([rows([5, 6], 1), rows(list(range(10, 2000)), 2), rows([5], 3)])
    files.writer.put(batch)
    assert read(files.slab(), [5, 6, 10, 1999]) == [3, 1, 2, 2]


def test_memory_is_bounded_by_what_it_holds(files) -> None:
    """Places are used again: a catalogue that turns over, or is written over, does not grow."""
    files.writer.put(rows(list(range(1000))))
    for turn in range(1, 60):
        files.writer.delete(np.arange((turn - 1) * 1000, turn * 1000))
        files.writer.put(rows(list(range(turn * 1000, (turn + 1) * 1000))))
        files.writer.put(rows(list(range(turn * 1000, (turn + 1) * 1000)), generation=turn))
        assert files.writer.nbytes <= files.writer.most_bytes
    assert len(files.writer) == 1000
    assert files.writer.nbytes < 3000 * (LAYOUT.stride + 8) + 16 * 8192
    assert len(list(files.path.parent.glob("*.index-*"))) == 1


def test_a_reader_that_came_before_the_index_grew_finds_all(files) -> None:
    """An index is replaced beside its readers: a slab opened when it was empty finds every row later."""
    slab = files.slab()
    for start in range(0, 20_000, 500):
        files.writer.put(rows(list(range(start, start + 500)), start))
        assert read(slab, [start, start + 499, start + 500]) == [start, start, None]
    assert read(slab, [0, 19_999]) == [0, 19_500]


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _cut_sums(path: Path) -> None:
    _cut(path.with_suffix(".sums"))


def _cut_index(path: Path) -> None:
    [index] = path.parent.glob("*.index-*")
    with index.open("r+b") as file:
        file.truncate(index.stat().st_size - 8)


def _no_sums(path: Path) -> None:
    path.with_suffix(".sums").unlink()


def _byte(offset: int):
    def garble(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 0x40]))

    return garble


def _index_entry(path: Path) -> None:
    [index] = path.parent.glob("*.index-*")
    words = np.memmap(index, dtype=np.int64, mode="r+").reshape(-1, 2)
    words[np.flatnonzero(words[:, 1])[7], 1] += 1


@pytest.mark.parametrize(
    "damage",
    [
        _cut, _cut_sums, _cut_index, _no_sums, _byte(3), _byte(17), _byte(4096 + 40 * 128 + 90), _byte(4096 + 3),
        _index_entry,
    ],
)  # fmt: skip
def test_damage_is_found_on_opening(files, damage) -> None:
    """Files that were cut, a header, a record, or an index entry that were altered: Corrupt, whatever the byte."""
    files.writer.put(rows(list(range(100))))
    damage(files.path)
    with pytest.raises(Corrupt, match="rebuilt"):
        files.reopen()


def test_a_record_damaged_under_a_reader_is_never_given_for_another(files) -> None:
    """Where the id or version in a record is not what was asked for, the row counts as missing, and is counted."""
    files.writer.put(rows(list(range(100)), 1))
    slab, words = files.slab(), np.memmap(files.path, dtype=np.int64, mode="r+")
    first = 4096 // 8
    at = [row for row in range(100) if words[first + row * LAYOUT.stride // 8] == 42]
    words[first + at[0] * LAYOUT.stride // 8] = 41
    assert read(slab, [41, 42, 43]) == [1, None, 1]
    assert slab.damaged == 1


def test_a_read_whose_lease_was_revoked_begins_again_and_is_counted(files, monkeypatch) -> None:
    """What was copied while the writer took the places back is thrown away."""
    files.writer.put(rows([42], 1))
    slab, gather = files.slab(), slab_kernel.gather

    def revoked_once(*arguments):
        monkeypatch.setattr(slab_kernel, "gather", gather)
        assert gather(*arguments) == slab_kernel.DONE
        return slab_kernel.REVOKED

    monkeypatch.setattr(slab_kernel, "gather", revoked_once)
    assert read(slab, [42]) == [1]
    assert (slab.revoked, slab.damaged) == (1, 0)


def test_a_writer_killed_while_it_published_keeps_nobody_waiting(files) -> None:
    """Its word stays odd: the first gather gives up waiting, later ones do not wait, a new writer ends it."""
    files.writer.put(rows([1, 2, 3], 5))
    files.writer._file.header[PUBLISHING] += 1
    slab = files.slab()
    assert read(slab, [1, 2, 9]) == [5, 5, None]
    started_s = time.perf_counter()
    for _ in range(20):
        assert read(slab, [3]) == [5]
    assert time.perf_counter() - started_s < 0.5 * 20 * 400 * 5e-5
    files.reopen()
    assert files.writer._file.header[PUBLISHING] % 2 == 0


@pytest.fixture
def _eager_thread_switches():
    """Threads change places every 10 us, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_eager_thread_switches")
def test_no_row_is_ever_torn(tmp_path) -> None:
    """While a writer rewrites, deletes and grows, every row that readers copy is wholly one of those written."""
    layout = N2OLayout(500, 8, 64)
    files, stop, torn = Files(tmp_path, layout), threading.Event(), []
    slab = files.slab()
    ids = np.arange(2000, dtype=np.int64)

    def written(generation: int) -> np.ndarray:
        records = layout.empty(len(ids))
        records["item_id"], records["version"] = ids, TAG
        records["vector"] = generation % 60_000
        records["source_offset"] = generation % 60_000
        return records.view(np.uint8).reshape(len(ids), -1)

    def reading() -> None:
        out = np.empty((300, layout.stride), dtype=np.uint8)
        rng = np.random.default_rng()
        while not stop.is_set():
            asked = rng.choice(ids, 300)
            known = slab.gather(asked, out)
            records = out.view(layout.dtype)[:, 0]
            whole = (records["vector"] == records["source_offset"][:, None]).all(axis=1)
            torn.extend(asked[known & ~(whole & (records["item_id"] == asked))].tolist())

    readers = [threading.Thread(target=reading) for _ in range(3)]
    for reader in readers:
        reader.start()
    until = time.monotonic() + 1.5
    generation = 0
    while time.monotonic() < until:
        generation += 1
        files.writer.put(written(generation))
        if generation % 3 == 0:
            files.writer.delete(ids[::2])
    stop.set()
    for reader in readers:
        reader.join()
    assert generation > 20
    assert not torn
