"""An edge bundle: a model and the rows of some items in one file, for scoring where there is no Kafka and no network.

An uncompressed zip, of which every member is plain bytes and nothing is pickled:

::

    edge.json         format, artifact version, number of items, sha256 of every other member
    manifest.json     the artifact's own
    user_phase.onnx   the artifact's own
    head.npz          the artifact's own
    rows.npy          [n, stride] uint8: N2O records by ascending item id, as serving holds them
    titles.json       n titles, null where an item has none

The item tower is left out: rows are made where torch is. Equal contents are equal bytes. Reading checks every checksum,
so that a copy that broke off, a flipped bit and a bundle of another build are refused and never scored with.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from domain.artifact import HEAD, MANIFEST, USER_PHASE, Manifest, sha256
from domain.user_row import FINGERPRINT
from schemas.errors import ArtifactError, BadInput
from schemas.whole_file import write_whole

__all__ = ["EDGE", "Bundle", "read_bundle", "write_bundle"]

EDGE: Final = "edge.json"
_ROWS: Final = "rows.npy"
_TITLES: Final = "titles.json"
_FORMAT: Final = 1
_OF_ARTIFACT: Final = (USER_PHASE, HEAD)


@dataclass(frozen=True)
class Bundle:
    """A model and the rows of some items."""

    manifest: Manifest
    user_phase: bytes
    head: bytes
    records: npt.NDArray[Any]  #: [n] of the layout's dtype, by ascending item id
    titles: list[str | None]  #: [n]

    @classmethod
    def of(cls, artifact: Path, manifest: Manifest, records: npt.NDArray[Any], titles: Sequence[str | None]) -> Bundle:
        """The bundle of an artifact folder, whose checksums were found right, and records of its version in any order.

        `records` are [n] of the layout's dtype with distinct item ids, `titles` theirs. Raises BadInput where there are
        none, or where one is of another version.
        """
        if not len(records):
            raise BadInput("an edge bundle needs at least one item that can be served")
        if (foreign := records["version"] != manifest.version_tag).any():
            raise BadInput(f"{int(foreign.sum())} rows are of another version than {manifest.version}")
        order = np.argsort(records["item_id"], kind="stable")
        user_phase, head = ((artifact / name).read_bytes() for name in _OF_ARTIFACT)
        return cls(manifest, user_phase, head, _picked(records, order), [titles[each] for each in order.tolist()])

    def take(self, places: npt.NDArray[np.int64]) -> Bundle:
        """The same model with some of the items ([k] ascending places)."""
        titles = [self.titles[each] for each in places.tolist()]
        return Bundle(self.manifest, self.user_phase, self.head, _picked(self.records, places), titles)


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write a bundle. Raises BadInput where the file cannot be written."""
    rows = io.BytesIO()
    np.save(rows, bundle.records.view(np.uint8).reshape(len(bundle.records), -1), allow_pickle=False)
    members = {
        MANIFEST: bundle.manifest.to_json(),
        USER_PHASE: bundle.user_phase,
        HEAD: bundle.head,
        _ROWS: rows.getvalue(),
        _TITLES: json.dumps(bundle.titles, ensure_ascii=False).encode(),
    }
    edge = {
        "format": _FORMAT, "version": bundle.manifest.version, "items": len(bundle.records),
        "files": {name: sha256(data) for name, data in members.items()},
    }  # fmt: skip
    members = {EDGE: json.dumps(edge, sort_keys=True, indent=1).encode(), **members}

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name), data)

    write_whole(path, write, "--out")


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file.

    Raises ArtifactError where the file is missing, no bundle, cut off, altered, or made by a build whose formats are
    not this one's.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ArtifactError(f"{path} cannot be read as an edge bundle: {error}; copy or build it again") from error
    edge = _edge(path, members)
    for name, expected in edge["files"].items():
        if name not in members or sha256(members[name]) != expected:
            raise ArtifactError(f"{path}: {name} is not what {EDGE} says: altered or incomplete; copy it again")
    manifest = Manifest.from_json(members[MANIFEST])
    if manifest.version != edge["version"] or manifest.window_fingerprint != FINGERPRINT:
        raise ArtifactError(
            f"{path} holds model {manifest.version} for user rows of fingerprint {manifest.window_fingerprint}, this "
            f"build has {FINGERPRINT}: build it again with a model of this build"
        )
    records = _records(path, members[_ROWS], manifest)
    titles: list[str | None] = json.loads(members[_TITLES])
    if not len(records) == len(titles) == edge["items"]:
        raise ArtifactError(f"{path} holds {len(records)} rows and {len(titles)} titles, not {edge['items']} of each")
    return Bundle(manifest, members[USER_PHASE], members[HEAD], records, titles)


def _picked(records: npt.NDArray[Any], places: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Some records, as bytes: picked by field, their padding would be whatever memory held."""
    rows = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), -1)
    return rows[places].view(records.dtype)[:, 0]


def _edge(path: Path, members: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        edge: dict[str, Any] = json.loads(members[EDGE])
        found, listed = edge["format"], set(edge["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no edge bundle: it has no readable {EDGE}") from error
    if found != _FORMAT:
        raise ArtifactError(f"{path} has format {found}, this build reads {_FORMAT}: build it again")
    if missing := {MANIFEST, *_OF_ARTIFACT, _ROWS, _TITLES} - listed:
        raise ArtifactError(f"{path} lacks {', '.join(sorted(missing))}: build it again")
    return edge


def _records(path: Path, data: bytes, manifest: Manifest) -> npt.NDArray[Any]:
    layout = manifest.dimensions.layout
    try:
        rows = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArtifactError(f"{path}: {_ROWS} cannot be read: {error}") from error
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != layout.stride:
        raise ArtifactError(
            f"{path}: {_ROWS} holds {rows.dtype} {rows.shape}, this build's records have {layout.stride} bytes"
        )
    records: npt.NDArray[Any] = np.ascontiguousarray(rows).view(layout.dtype)[:, 0]
    ids = records["item_id"]
    if (records["version"] != manifest.version_tag).any() or (ids[1:] <= ids[:-1]).any():
        raise ArtifactError(f"{path}: {_ROWS} holds rows of another version, or out of order: build it again")
    return records
