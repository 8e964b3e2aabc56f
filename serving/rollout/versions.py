"""The model versions of a scoring process: what it has loaded and warm, and which of them answers.

At most three are loaded: the one that is live, the one that a roll-back goes to, and the one that comes. A host that
has not followed the log yet goes on with the one that answered before, in the place of the one that comes.

A request takes `live` once, at its start, and reads everything of its model (graph, head, slab) from that one object:
the switch is one store on the control page (flip.py), seen by the next request of every process, so no answer can mix
models, and what a version took is freed when its last request ends.
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

from domain.artifact import HEAD, MANIFEST, USER_PHASE, Dimensions, Manifest, check_artifact, check_fit
from domain.n2o import N2OLayout
from domain.rollout import Rollout
from domain.rollout import Version as Decided
from schemas.artifact_cache import local_artifact
from schemas.deployment import Deployment
from schemas.errors import ArtifactError
from serving.joining import one_version
from serving.kernels import Head
from serving.rollout.announcements import RolloutLog
from serving.rollout.control import ControlPage
from serving.tables.slab import Slab
from serving.tables.store import SlabKey, Store
from serving.user.user_phase import UserPhase

__all__ = ["Model", "Version", "Versions", "load_head", "load_model"]

_RETRY_REFUSED_S: Final = 10.0
_MOST_LOADED: Final = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A checked artifact, loaded and warmed."""

    manifest: Manifest
    phase: UserPhase
    head: Head
    nbytes: int  #: of graph and head as they stand in the artifact

    @property
    def name(self) -> str:
        """The version: 16 hex digits."""
        return self.manifest.version


@dataclass(frozen=True)
class Version:
    """A model with its rows: all that a request needs of it. Nothing in it changes but the slab's rows.

    Raises VersionMismatch where graph, head and slab are not of one version.
    """

    name: str  #: 16 hex digits
    sizes: Dimensions
    layout: N2OLayout
    phase: UserPhase
    head: Head
    slab: Slab

    def __post_init__(self) -> None:
        one_version(
            "a version", name=int(self.name, 16), graph=self.phase.version_tag, head=self.head.version_tag,
            rows=self.slab.tag,
        )  # fmt: skip

    @property
    def tag(self) -> int:
        """The version as its rows carry it."""
        return self.slab.tag


class Versions:
    """The versions that this process has loaded, as the log of decisions wants them, and which of them answers.

    Properties may be read by any thread at any time; the methods belong to one thread (following.py).
    """

    def __init__(self, store: Store, control: ControlPage, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self.refused: dict[str, str] = {}  #: version -> why it cannot be loaded here
        self.refusals = 0
        self._store = store
        self._control = control
        self._row = control.claim_row()
        self._log = RolloutLog(store)
        self._now_s = monotonic_s
        self._state = Rollout()  #: what `_warm` was made for
        self._warm: dict[int, Version] = {}  #: by tag; replaced whole
        self._last: Version | None = None  #: the version that answered when this was last looked at
        self._models: dict[int, Model] = {}  #: loaded, maybe without rows yet
        self._refused_at_s: dict[str, float] = {}

    @property
    def live(self) -> Version | None:
        """The version that answers: the one that the control page names, once this process has it warm."""
        if version := self._warm.get(self._control.live):
            self._last = version
        return self._last

    @property
    def upcoming(self) -> Version | None:
        """The version that is building or covered, where it is loaded and has rows."""
        return self._of(self._state.upcoming)

    @property
    def retained(self) -> Version | None:
        """The version that a roll-back goes to, where it is loaded."""
        return self._of(self._state.retained)

    @property
    def in_use(self) -> list[Version]:
        """The version that answers first, then what else is warm."""
        live = self.live
        others = [version for version in self._warm.values() if live is None or version.tag != live.tag]
        return [*([live] if live else []), *others]

    @property
    def rollout(self) -> Rollout:
        """The decisions as far as this host has read them."""
        return self._log.state

    def model_bytes(self, tag: int) -> int:
        """Bytes of a loaded version's graph and head, 0 where it is not loaded."""
        model = self._models.get(tag)
        return model.nbytes if model else 0

    def warm_in(self) -> list[frozenset[int]]:
        """Of each scoring process of this host the tags of the versions that it has loaded and warm."""
        return [row.tags for row in self._control.warm_rows()]

    def why_none_answers(self) -> str:
        """What has to happen before this process can answer."""
        state = self.rollout
        version = state.live or state.upcoming
        if version is None:
            last = state.versions[-1] if state.versions else None
            if last is None:
                return "no model version was published: train one, then `aif model publish`"
            return (
                f"no model version is live: {last.name} is {last.phase} ({last.reason}); `aif model status` says more"
            )
        if why := self.refused.get(version.name):
            return f"model {version.name} was refused: {why}"
        if version is not state.live:
            return f"no model version is live: {version.name} is {version.phase}; `aif model status` says how far"
        if version.tag not in self._models:
            return f"model {version.name} is live and is being loaded"
        coverage = self._store.coverage(SlabKey(version.slot, version.tag))
        return f"model {version.name} is live and waits for its rows: {coverage:.4f} so far, gate {version.terms.gate}"

    def next_to_load(self) -> Decided | None:
        """What to load next; None where everything wanted is loaded, or known bad since less than ten seconds."""
        for version in self._wanted():
            refused_at_s = self._refused_at_s.get(version.name)
            old = refused_at_s is None or self._now_s() - refused_at_s >= _RETRY_REFUSED_S
            if version.fed and version.tag not in self._models and old:
                return version
        return None

    def loaded(self, model: Model) -> None:
        """Take a model; with the rows that the store has of it, it is warm and may answer."""
        self.refused.pop(model.name, None)
        self._refused_at_s.pop(model.name, None)
        self._models = {**self._models, model.manifest.version_tag: model}
        self.settle()

    def refuse(self, name: str, reason: str) -> None:
        """Note that a version cannot be loaded here; what answers stays."""
        if self.refused.get(name) != reason:
            _log.error("model %s is refused: %s", name, reason)
            self.refusals += 1
        self.refused[name] = reason
        self._refused_at_s[name] = self._now_s()

    def settle(self) -> None:
        """Give loaded models the store's slabs, let go of those that are not wanted any more, and say what is warm.

        A request that still answers with such a version holds it; memory is freed when the last one ends.
        """
        self._state = self.rollout
        wanted = {version.tag: version for version in self._wanted()}
        self._models = {tag: model for tag, model in self._models.items() if tag in wanted}
        found = ((tag, self._with_rows(wanted[tag], model)) for tag, model in self._models.items())
        self._warm = {tag: version for tag, version in found if version is not None}
        self._last = self._warm.get(self._control.live, self._last)
        self._row.tags = frozenset(self._warm)
        self._store.let_go()

    def close(self) -> None:
        """Say that this process answers no more."""
        self._row.release()

    def _of(self, decided: Decided | None) -> Version | None:
        return self._warm.get(decided.tag) if decided else None

    def _wanted(self) -> list[Decided]:
        """The versions to have loaded, first the one that answers here."""
        state = self.rollout
        answers = next((each for each in state.versions if each.tag == self._control.live), None)
        wanted = dict.fromkeys(each for each in (answers, state.live, state.retained, state.upcoming) if each)
        return list(wanted)[:_MOST_LOADED]

    def _with_rows(self, decided: Decided, model: Model) -> Version | None:
        """The model with the slab that the store has now; None while it has none, or one of other records."""
        known, sizes = self._warm.get(decided.tag), model.manifest.dimensions
        if not decided.fed:  # taken back; it answers until the feeder switches
            return known
        slab = self._store.slab(SlabKey(decided.slot, decided.tag))
        if slab is None:
            return None
        if slab.stride != sizes.layout.stride:
            self.refuse(
                model.name,
                f"rows of version {model.name} have {slab.stride} bytes, its artifact says {sizes.layout.stride}",
            )
            return None
        if known is not None and known.slab is slab:
            return known
        return Version(model.name, sizes, sizes.layout, model.phase, model.head, slab)


def load_model(version: Decided, deployment: Deployment) -> Model:
    """Check a version's artifact, copied to this host where it is not here yet, load it and warm it.

    Slow (some 100 ms): not for an event loop. Raises ArtifactError saying what is wrong with it, Unavailable where it
    cannot be reached.
    """
    parts: dict[str, bytes] = {}

    def checked(read: Callable[[str], bytes], *, version: str | None = None) -> Manifest:
        """Keeps the bytes that it checks: those are loaded, whatever becomes of the files."""

        def kept(name: str) -> bytes:
            data = parts[name] = read(name)
            return data

        return check_artifact(kept, version=version)

    local_artifact(version.uri, version.name, version.manifest_sha256, deployment.data_dir, checked)
    manifest = Manifest.from_json(parts[MANIFEST])
    check_fit(manifest, deployment)
    phase = UserPhase(parts[USER_PHASE], manifest.dimensions, manifest.version_tag)
    phase.warm()
    head = load_head(parts[HEAD], manifest.dimensions, manifest.version_tag)
    return Model(manifest, phase, head, len(parts[USER_PHASE]) + len(parts[HEAD]))


def load_head(data: bytes, sizes: Dimensions, version_tag: int) -> Head:
    """The head in the bytes of a version's head.npz. Raises ArtifactError where they are something else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return Head.of(dict(arrays), sizes, version_tag)
    except (ValueError, OSError, KeyError, EOFError, BadZipFile) as error:
        raise ArtifactError(f"{HEAD} cannot be read: {error}") from error
