"""Which model answers: what this scoring process has loaded, and the one that the feeder has made live (rollout.py).

::

    announced ──load, warm──► candidate ──covered, warm everywhere──► live ──next one live──► let go
        └──── check fails ────► refused (and looked at again later: a copy may still be under way)

A request takes `live` once, at its start, and reads everything of its model (graph, head, slab) from that one object:
the switch is one store on the control page, seen by the next request of every process, so no answer can mix models,
and the old model is freed when its last request ends.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from zipfile import BadZipFile

import numpy as np

from domain.artifact import HEAD, MANIFEST, USER_PHASE, Dimensions, Manifest, check_artifact, check_fit, path_of, sha256
from domain.n2o import N2OLayout
from schemas.deployment import Deployment
from schemas.errors import ArtifactError
from schemas.records import ModelVersion
from serving.kernels import Head
from serving.rollout.announcements import announced_in, tag_of
from serving.rollout.control import ControlPage
from serving.tables.slab import Slab
from serving.tables.store import Store
from serving.user.user_phase import UserPhase

__all__ = ["Model", "Version", "Versions", "load_head", "load_model"]

_RETRY_REFUSED_S: Final = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A checked artifact, loaded and warmed."""

    manifest: Manifest
    phase: UserPhase
    head: Head

    @property
    def name(self) -> str:
        """The version: 16 hex digits."""
        return self.manifest.version


@dataclass(frozen=True)
class Version:
    """A model with its rows: all that a request needs of it. Nothing in it changes but the slab's rows."""

    name: str  #: 16 hex digits
    sizes: Dimensions
    layout: N2OLayout
    phase: UserPhase
    head: Head
    slab: Slab

    @property
    def tag(self) -> int:
        """The version as its rows carry it."""
        return self.slab.tag


class Versions:
    """The announced versions, those that this process has loaded, and which of them is live.

    `live` may be read by any thread at any time; the other methods belong to one thread (following.py).
    """

    def __init__(
        self, store: Store, control: ControlPage, gate: float, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.refused: dict[str, str] = {}  #: version -> why
        self.refusals = 0
        self.gate = gate
        self._store = store
        self._control = control
        self._row = control.claim_row()
        self._now_s = monotonic_s
        self._warm: dict[int, Version] = {}  #: by tag; replaced whole
        self._last: Version | None = None  #: the version that was live when this was last looked at
        self._models: dict[int, Model] = {}  #: loaded, maybe without rows yet
        self._refused_at_s: dict[str, float] = {}
        self._decoded: tuple[list[bytes], list[ModelVersion]] = ([], [])

    @property
    def live(self) -> Version | None:
        """The version that answers: the one that the control page names, once this process has it warm."""
        if version := self._warm.get(self._control.live):
            self._last = version
        return self._last

    @property
    def candidate(self) -> Version | None:
        """The newest loaded version that is not live."""
        live = self.live
        others = [version for version in self._warm.values() if live is None or version.tag != live.tag]
        return others[-1] if others else None

    @property
    def waiting(self) -> str | None:
        """The name of a loaded version of which the store has no row yet."""
        return next((model.name for tag, model in self._models.items() if tag not in self._warm), None)

    def announced(self) -> list[ModelVersion]:
        """Announced versions, oldest first; one announced again is the newest. What cannot be decoded is left out."""
        encoded = self._store.announced()
        if encoded != self._decoded[0]:
            self._decoded = encoded, announced_in(encoded)
        return self._decoded[1]

    def next_to_load(self) -> ModelVersion | None:
        """What to load next: the live version where this process lacks it, then the newest that is not known bad."""
        announced = self.announced()
        for record in announced:
            if tag_of(record) == self._control.live and self._may_load(record):
                return record
        for record in reversed(announced):
            if tag_of(record) in self._models:
                return None
            if self._may_load(record):
                return record
        return None

    def loaded(self, model: Model) -> None:
        """Take a model; with the rows that the store has of it, it is warm and may go live."""
        self.refused.pop(model.name, None)
        self._refused_at_s.pop(model.name, None)
        self._models = {**self._models, model.manifest.version_tag: model}
        self.settle()

    def refuse(self, name: str, reason: str) -> None:
        """Note that a version's artifact failed its checks; what is live stays."""
        if self.refused.get(name) != reason:
            _log.error("model %s is refused: %s", name, reason)
            self.refusals += 1
        self.refused[name] = reason
        self._refused_at_s[name] = self._now_s()

    def settle(self) -> None:
        """Give loaded models the store's slabs, let go of those that are neither live nor next, and say what is warm.

        A request that still answers with such a version holds it; memory is freed when the last one ends.
        """
        order = [tag_of(record) for record in self.announced()]
        live = self._control.live
        newest = max((tag for tag in self._models if tag in order), key=order.index, default=0)
        self._models = {tag: model for tag, model in self._models.items() if tag in (live, newest)}
        warm = {}
        for tag, model in sorted(self._models.items(), key=lambda each: each[0] == newest):
            version = self._with_rows(tag, model)
            if version is not None:
                warm[tag] = version
        self._warm = warm
        self._last = warm.get(live, self._last)
        self._row.tags = frozenset(warm)
        self._store.let_go()

    def close(self) -> None:
        """Say that this process answers no more."""
        self._row.release()

    def _may_load(self, record: ModelVersion) -> bool:
        refused_at_s = self._refused_at_s.get(record["version"])
        old = refused_at_s is None or self._now_s() - refused_at_s >= _RETRY_REFUSED_S
        return old and tag_of(record) not in self._models

    def _with_rows(self, tag: int, model: Model) -> Version | None:
        """The model with the slab that the store has now; None while it has none, or one of other records."""
        slab, sizes = self._store.slab(tag), model.manifest.dimensions
        if slab is None:
            return None
        if slab.stride != sizes.layout.stride:
            self.refuse(
                model.name,
                f"rows of version {model.name} have {slab.stride} bytes, its artifact says {sizes.layout.stride}",
            )
            return None
        known = self._warm.get(tag)
        if known is not None and known.slab is slab:
            return known
        return Version(model.name, sizes, sizes.layout, model.phase, model.head, slab)


def load_model(record: ModelVersion, deployment: Deployment) -> Model:
    """Check an announced artifact, load it and warm it. Slow (some 100 ms): not for the feed's event loop.

    Raises ArtifactError saying what is wrong with it.
    """
    folder = path_of(record["uri"])

    def read(name: str) -> bytes:
        return (folder / name).read_bytes()

    manifest = check_artifact(read, version=record["version"])
    if sha256(manifest.to_json()) != record["manifest_sha256"]:
        raise ArtifactError(f"{folder / MANIFEST} is not the manifest that was announced: its sha256 differs")
    check_fit(manifest, deployment)
    phase = UserPhase(read(USER_PHASE), manifest.dimensions)
    phase.warm()
    return Model(manifest, phase, load_head(read(HEAD), manifest.dimensions))


def load_head(data: bytes, sizes: Dimensions) -> Head:
    """The head in the bytes of head.npz. Raises ArtifactError where they are something else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return Head.of(dict(arrays), sizes)
    except (ValueError, OSError, KeyError, EOFError, BadZipFile) as error:
        raise ArtifactError(f"{HEAD} cannot be read: {error}") from error
