"""The item side of one model version: makes rows of its slot table, and recognises its own."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from domain.activity_row import Snapshots
from domain.artifact import Manifest, check_artifact, check_fit
from domain.rollout import Phase, Terms, Version
from models.tower import LoadedTower, n2o_records
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import ArtifactError
from schemas.ids import entity_key
from schemas.records import ItemRow
from streams.store import Row

__all__ = ["Feed", "ItemModel"]

#: source_topic_id and source_offset, neighbours in an N2O record.
_SOURCE: Final = struct.Struct("<qq")
_SNAPSHOT: Final = struct.Struct("<q")
#: Exponent bits of a bfloat16: all set in what is not finite.
_EXPONENT: Final = np.uint16(0x7F80)


class ItemModel:
    """The item side of one model version. For use by several threads at once."""

    def __init__(self, manifest: Manifest, tower: LoadedTower) -> None:
        self.version = manifest.version
        self._tag = manifest.version_tag
        self._layout = manifest.dimensions.layout
        self._tower = tower
        self._prefix = codec("n2o_row").bytes_prefix(self._layout.stride)
        places: Any = self._layout.dtype.fields
        self._tag_at = len(self._prefix) + places["version"][1]
        self._source_at = len(self._prefix) + places["source_topic_id"][1]
        self._snapshot_at = len(self._prefix) + places["snapshot_ms"][1]
        self._tag_bytes = np.uint64(self._tag).astype("<u8").tobytes()

    @classmethod
    def load(cls, folder: Path, version: str, deployment: Deployment) -> ItemModel:
        """Open, check and try an artifact.

        Raises ArtifactError where it is damaged, not of this deployment, or a tower that makes no vectors.
        """
        manifest = check_artifact(lambda name: (folder / name).read_bytes(), version=version)
        check_fit(manifest, deployment)
        model = cls(manifest, LoadedTower.open(folder, manifest))
        try:
            model.n2o_rows([_ANY_ITEM], Snapshots.none(1))
        except Exception as error:  # whatever torch raises: better here than in every worker's first batch
            raise ArtifactError(f"the item tower of {version} cannot be run: {error}") from error
        return model

    def n2o_rows(self, rows: list[ItemRow], activity: Snapshots) -> list[Row]:
        """Rows of a slot table for these items and what users did to them, each tagged with the version.

        The value is None, which deletes an older row, where the vector or the bridge weights are not finite: such an
        item is *rejected*, its score would be none.
        """
        records = n2o_records(rows, activity, self._tower, self._layout, self._tag)
        finite = _finite(records["vector"]) & _finite(records["bridges"])
        raw, stride = records.tobytes(), self._layout.stride
        return [
            (entity_key(row["item_id"]), self._prefix + raw[at : at + stride] if good else None)
            for row, at, good in zip(rows, range(0, len(raw), stride), finite.tolist(), strict=True)
        ]

    def made(self, value: bytes, standing: Mapping[str, Any], snapshot_ms: int) -> bool:
        """Whether an encoded N2O row is of this version and layout, the item row's update, and this snapshot."""
        return (
            value.startswith(self._prefix)
            and value[self._tag_at : self._tag_at + 8] == self._tag_bytes
            and _SOURCE.unpack_from(value, self._source_at) == (standing["source_topic_id"], standing["source_offset"])
            and _SNAPSHOT.unpack_from(value, self._snapshot_at) == (snapshot_ms,)
        )


@dataclass(frozen=True)
class Feed:
    """A version whose rows workers keep, in its slot, as this worker has it."""

    version: Version
    model: ItemModel | None  #: None while its artifact cannot be had here
    problem: str = ""  #: why not, once waiting for it has been long enough

    @classmethod
    def live(cls, model: ItemModel, slot: str) -> Feed:
        """A model that is live in a slot without a roll-out: for measurements and tests."""
        return cls(Version(model.version, Phase.LIVE, "", "", Terms(), "", 0, 0, slot=slot), model)

    @property
    def building(self) -> bool:
        """Whether the coordinator waits for this build's progress."""
        return self.version.phase is Phase.BUILDING

    @property
    def scanned(self) -> bool:
        """Whether its stale rows are looked for; updates go into its slot all the same."""
        return self.model is not None and not (self.building and self.version.paused)


def _finite(values: Any) -> Any:
    """Rows of bfloat16 bits ([n, k] uint16) that are all finite ([n] bool)."""
    return ((values & _EXPONENT) != _EXPONENT).all(axis=1)


_ANY_ITEM: Final = ItemRow(
    item_id=0, event_time_ms=0, source_topic_id=0, source_offset=0, deleted=True, original_id=None, title=None,
    category_id=1, price=1.0, published_ms=None, embedding=None, numeric={}, signature=None, signature_version="",
)  # fmt: skip
