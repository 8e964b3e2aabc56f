"""The folder of one host's serving state: which of its states is current, and whether one may be trusted.

::

    <data-dir>/serving/<group>-<partitions>/
        control           what feeder and scoring processes tell each other (control.py)
        readers           the board of epochs (readers.py)
        shadow            sums of scoring in the shadow (shadow_board.py)
        feeder.lock       held by the process that writes
        state-<n>/        a store (store.py); the control page says which n is current

A state is made of changelogs and can always be made again, so nothing is repaired: whatever is damaged, of another
format or topic, too old, or written before a crash of the machine, is replaced by a new one that is filled beside it,
and the scoring processes go on with the old one until then.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from pathlib import Path
from typing import Final

from schemas.deployment import Deployment
from schemas.errors import Corrupt
from serving.rollout.control import ControlPage
from serving.tables.readers import Readers
from serving.tables.store import Store

__all__ = ["StateFolder", "boot_id"]

#: Raised when what stands in a state's files changes its meaning.
_FORMAT: Final = b"2"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_log = logging.getLogger(__name__)


class StateFolder:
    """The folder of a deployment on this host; made where there is none."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.control = ControlPage(folder / "control")
        self.readers = Readers(folder / "readers")

    @classmethod
    def of(cls, deployment: Deployment) -> StateFolder:
        """Where a deployment's state lies: deployments may share a data directory."""
        return cls(deployment.data_dir / "serving" / f"{deployment.group}-{deployment.partitions}")

    def path(self, number: int) -> Path:
        """The folder of a state."""
        return self.folder / f"state-{number}"

    def lock(self) -> int | None:
        """Become the one that writes: a descriptor that holds the lock while it is open; None where another has it."""
        descriptor = os.open(self.folder / "feeder.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def open_current(self) -> tuple[int, Store] | None:
        """The current state, to write; None where there is none. Raises Corrupt where it may not be trusted."""
        number = self.control.state
        if not number or not self.path(number).is_dir():
            return None
        if self.control.damaged == number:
            raise Corrupt(f"{self.path(number)}: a reader found rows that are not as they were written")
        store = Store(self.path(number), self.readers, writable=True)
        try:
            self._require_trust(store)
        except Corrupt:
            store.close()
            raise
        _sign(store, clean=False)
        return number, store

    def open_or_create(self) -> tuple[int, Store]:
        """The current state, to write; a new one in its place where there is none that may be trusted."""
        try:
            found = self.open_current()
        except Corrupt as error:
            _log.error("%s. Another state is made from tables and changelogs", error)
            found = None
        if found is None:
            found = self.create()
            self.control.live = 0  # nothing is in it yet that could answer
            self.make_current(found[0])
        return found

    def create(self) -> tuple[int, Store]:
        """An empty state, to write, with a number that none has had."""
        number = max([self.control.state, *self._numbers()]) + 1
        self.path(number).mkdir()
        store = Store(self.path(number), self.readers, writable=True)
        _sign(store, clean=False)
        return number, store

    def make_current(self, number: int) -> None:
        """Let everybody read a state, and remove all others; who still reads one keeps what it has mapped."""
        self.control.state = number
        for other in self._numbers():
            if other != number:
                shutil.rmtree(self.path(other), ignore_errors=True)

    def close(self, store: Store) -> None:
        """Close a state in good order: it may be trusted after a restart of the machine too."""
        os.sync()  # the slabs' pages; LMDB's own come with the note
        _sign(store, clean=True)
        store.rows.sync()
        store.close()

    def _numbers(self) -> list[int]:
        found = (path.name.removeprefix("state-") for path in self.folder.glob("state-*"))
        return [int(number) for number in found if number.isdigit()]

    def _require_trust(self, store: Store) -> None:
        with store.rows.reading() as txn:
            written, boot, clean = (txn.get("facts", name) for name in (b"format", b"boot", b"clean"))
        if written != _FORMAT:
            layout = "none" if written is None else written.decode(errors="replace")
            raise Corrupt(f"{store.folder} is of another build: its layout is {layout}, this one's {_FORMAT.decode()}")
        if clean != b"1" and (not boot or boot != boot_id()):
            raise Corrupt(f"{store.folder} was being written when the machine went down")


def boot_id() -> bytes:
    """Names this run of the machine; empty where it has no name, and then only states closed in order are trusted."""
    try:
        return _BOOT_ID.read_bytes().strip()
    except OSError:
        return b""


def _sign(store: Store, clean: bool) -> None:
    with store.rows.writing() as txn:
        facts = {b"format": _FORMAT, b"boot": boot_id(), b"clean": b"1" if clean else b"0"}
        txn.put("facts", list(facts.items()))
