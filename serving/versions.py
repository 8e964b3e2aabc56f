"""Which model answers: the newest announced one whose artifact is valid and whose rows cover the catalogue.

::

    announced ──load──► candidate ──coverage >= gate──► live ──next one live──► dropped
        └──── check fails ────► refused (and looked at again later: a copy may still be under way)

A request takes `live` once, at its start, and reads everything of its model (graph, head, slab) from that one object:
the switch is one assignment, so no answer can mix models, and the old model is freed when its last request ends.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from zipfile import BadZipFile

import numpy as np

from domain.artifact import HEAD, MANIFEST, USER_PHASE, Dimensions, Manifest, check_artifact, check_fit, path_of, sha256
from domain.n2o import N2OLayout
from schemas.deployment import Deployment
from schemas.errors import ArtifactError, BadInput
from schemas.records import ModelVersion
from serving.kernels import Head
from serving.slab import Slab
from serving.store import Store
from serving.user_phase import UserPhase

__all__ = ["Model", "Version", "Versions", "load_model"]

_RETRY_REFUSED_S: Final = 10.0
_MOST_ANNOUNCED: Final = 64

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
    """The announced versions and which of them is live. `live` may be read by any thread at any time.

    All methods but `announced` belong to the feed's thread.
    """

    def __init__(self, store: Store, gate: float, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self.live: Version | None = None
        self.candidate: Version | None = None
        self.refused: dict[str, str] = {}  #: version -> why
        self.refusals = 0
        self.gate = gate
        self._store = store
        self._now_s = monotonic_s
        self._announced: dict[str, ModelVersion] = {}  #: newest last
        self._refused_at_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def announce(self, record: ModelVersion) -> None:
        """Note a record of topic model-versions, in log order; announcing a version again makes it the newest."""
        self._refused_at_s.pop(record["version"], None)  # looked at again at once
        if self.live and self.live.name == record["version"]:
            self._replace_candidate(None)
        with self._lock:
            self._announced.pop(record["version"], None)
            self._announced[record["version"]] = record
            while len(self._announced) > _MOST_ANNOUNCED:
                del self._announced[next(iter(self._announced))]

    def announced(self) -> list[ModelVersion]:
        """Announced versions, oldest first."""
        with self._lock:
            return list(self._announced.values())

    def next_to_load(self) -> ModelVersion | None:
        """The newest version that is not known to be bad, unless it is live or the candidate already."""
        in_use = {version.name for version in (self.live, self.candidate) if version}
        for record in reversed(self.announced()):
            name = record["version"]
            if name in in_use:
                return None
            refused_at_s = self._refused_at_s.get(name)
            if refused_at_s is None or self._now_s() - refused_at_s >= _RETRY_REFUSED_S:
                return record
        return None

    def loaded(self, model: Model) -> None:
        """Make a model the candidate, with the rows that the store has of it. Refuses it where they do not fit."""
        sizes = model.manifest.dimensions
        try:
            slab = self._store.slab(model.manifest.version_tag, sizes.layout.stride)
        except BadInput as error:
            self.refuse(model.name, str(error))
            return
        self.refused.pop(model.name, None)
        self._refused_at_s.pop(model.name, None)
        self._replace_candidate(Version(model.name, sizes, sizes.layout, model.phase, model.head, slab))

    def refuse(self, name: str, reason: str) -> None:
        """Note that a version's artifact failed its checks; what is live stays."""
        if self.refused.get(name) != reason:
            _log.error("model %s is refused: %s", name, reason)
            self.refusals += 1
        self.refused[name] = reason
        self._refused_at_s[name] = self._now_s()

    def advance(self) -> bool:
        """Make the candidate live where its rows reach the gate; says whether it did."""
        candidate = self.candidate
        if candidate is None or (coverage := self._store.coverage(candidate.slab.tag)) < self.gate:
            return False
        self.live = candidate
        self._replace_candidate(None)
        _log.info("model %s is live (coverage %.4f, %d rows)", candidate.name, coverage, len(candidate.slab))
        return True

    def _replace_candidate(self, candidate: Version | None) -> None:
        self.candidate = candidate
        self._store.keep(frozenset(version.slab.tag for version in (self.live, candidate) if version))


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
    try:
        with np.load(io.BytesIO(read(HEAD)), allow_pickle=False) as arrays:
            head = Head.of(dict(arrays), manifest.dimensions)
    except (ValueError, OSError, KeyError, EOFError, BadZipFile) as error:
        raise ArtifactError(f"{HEAD} cannot be read: {error}") from error
    return Model(manifest, phase, head)
