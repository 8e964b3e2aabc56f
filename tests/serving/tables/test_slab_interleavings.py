from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from interleaving import Schedule, Watched

from serving.tables import places, slab, slab_kernel
from serving.tables.epochs import FIRST_LINE, Epochs, board_words
from serving.tables.id_index import entries_for
from serving.tables.slab import Slab, SlabWriter
from serving.tables.slab_file import SlabFile
from serving.tables.slab_kernel import READER_WORDS

TAG, STRIDE, READERS = 9, 64 + 64, 2
WORDS = STRIDE // 8


class MemoryFile(SlabFile):
    """A slab's files as arrays that a schedule watches."""

    def start(self, schedule: Schedule) -> MemoryFile:
        """Make them."""
        self.indexes: dict[int, Watched] = {}
        self._step = schedule.step
        self.header = Watched(np.zeros(64, dtype=np.int64), self._step)  # type: ignore[assignment]
        self.rows = Watched(np.zeros((200, WORDS), dtype=np.uint64), self._step)  # type: ignore[assignment]
        self.sums = np.zeros(200, dtype=np.int64)
        self.new_index(0, 0)
        return self

    def checked(self):
        """Nothing is there yet."""
        return np.zeros(0, dtype=np.int64)

    def entries(self, generation, writable):
        """An index that was made."""
        return self.indexes[generation]

    def new_index(self, generation, ids):
        """Another index."""
        entries = np.zeros((entries_for(ids), 2), dtype=np.int64)
        self.indexes[generation] = Watched(entries, self._step)  # type: ignore[assignment]
        return self.indexes[generation]

    def drop_index(self, generation):
        """Whoever has it keeps it."""


def records(ids, generation: int) -> np.ndarray:
    """Rows whose every other word says when they were written."""
    made = np.full((len(ids), WORDS), generation, dtype=np.uint64)
    made[:, 0], made[:, 4], made[:, 7] = ids, TAG, 0
    return made.view(np.uint8)


@pytest.fixture
def _as_python(monkeypatch):
    """Compiled steps run as Python, with small bounds, so that what is rare is frequent."""
    for name in ("enter", "leave", "_home", "find_one", "find", "locate", "claim", "publish", "checksum", "write_rows",
                 "copy", "_settled", "gather"):  # fmt: skip
        monkeypatch.setattr(slab_kernel, name, getattr(slab_kernel, name).py_func)
    for name in ("find", "locate", "claim", "publish"):
        monkeypatch.setattr(f"serving.tables.id_index.{name}", getattr(slab_kernel, name))
    monkeypatch.setattr("serving.tables.id_index._SMALLEST", 16)
    monkeypatch.setattr(places, "_FEWEST_IN_LIMBO", 6)
    monkeypatch.setattr(slab, "_CHUNK", 4)


def reader_of(file: MemoryFile, board: np.ndarray, number: int) -> Slab:
    """A reader with a line of its own."""
    made = object.__new__(Slab)
    made._file, made.tag, made.stride = file, TAG, STRIDE
    made._reader = lambda: (board, FIRST_LINE + number * READER_WORDS)
    made._index = made._map_index()
    made._stuck_at, made.damaged, made.revoked = -1, 0, 0
    return made


@pytest.mark.usefixtures("_as_python")
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # what is compiled wraps silently
@pytest.mark.parametrize("block", range(8))
def test_every_gather_is_one_of_the_states_that_were_published(block, monkeypatch) -> None:
    """In any order of steps, with readers that stand for long, all that is copied is one state between start and end.

    Never a torn row, another id's, or a part of a batch; leases are revoked on the way, and memory stays bounded.
    """
    revoked = gathered = 0
    for seed in range(block * 25, block * 25 + 25):
        found = _run(seed, monkeypatch)
        revoked += found[0]
        gathered += found[1]
    assert revoked > 0
    assert gathered > 100


def _run(seed: int, monkeypatch) -> tuple[int, int]:
    """One schedule; how many leases were revoked, and how many gathers ended."""
    schedule, rng = Schedule(seed), np.random.default_rng(seed)
    monkeypatch.setattr("serving.tables.slab.time.sleep", lambda seconds: schedule.step())
    file = MemoryFile(Path("memory"), TAG, STRIDE, *[None] * 3).start(schedule)  # type: ignore[arg-type]
    board = np.zeros(board_words(READERS), dtype=np.int64)
    epochs = Epochs(board)
    watched = Watched(board, schedule.step)
    writer = SlabWriter(file, epochs)
    states: list[dict[int, int]] = [{}]
    over: list[bool] = []
    gathered = [0]

    def publishing(*arguments) -> None:
        """A state counts from the moment when it may be seen; what fills a larger index changes none."""
        if arguments[0] is file.header:
            states.append(pending[0])
        real(*arguments)
        done.append(len(states) - 1)

    real, pending, done = slab_kernel.publish, [{}], [0]
    monkeypatch.setattr("serving.tables.id_index.publish", publishing)

    def write() -> None:
        for generation in range(1, 12):
            batch = rng.choice(12, rng.integers(1, 5), replace=False).astype(np.int64) + (generation // 6) * 3
            if rng.random() < 0.25:
                pending[0] = {item: at for item, at in states[-1].items() if item not in batch}
                writer.delete(batch)
            else:
                pending[0] = states[-1] | dict.fromkeys(batch.tolist(), generation)
                writer.put(records(batch, generation))
            assert writer._places.top <= len(states[-1]) + writer._places.most_in_limbo + 2 * slab._CHUNK + 12
        over.append(True)

    def read(number: int) -> None:
        mine = reader_of(file, watched, number)
        while not over:
            first = done[-1]
            asked = np.arange(16, dtype=np.int64)
            out = np.zeros((16, STRIDE), dtype=np.uint8)
            known = mine.gather(asked, out)
            rows = out.view(np.uint64)[known]
            assert (rows[:, 0] == asked[known]).all()
            assert (rows[:, [1, 2, 3, 5, 6, *range(8, WORDS)]] == rows[:, [1]]).all(), "a torn row"
            seen = dict(zip(asked[known].tolist(), rows[:, 1].tolist(), strict=True))
            assert seen in states[first:], f"seed {seed}: {seen} was never published, of {states[first:]}"
            assert mine.damaged == 0
            gathered[0] += 1

    schedule.run([write, lambda: read(0), lambda: read(1)])
    return epochs.revocations, gathered[0]
