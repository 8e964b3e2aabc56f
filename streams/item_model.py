"""The item side of one model version: makes rows of its slot table, and recognises its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from domain.activity_row import Snapshots
from domain.artifact import Manifest, check_artifact, check_fit
from domain.item_columns import ItemColumns, RowFormat
from domain.rollout import Phase, Terms, Version
from models.tower import LoadedTower, records_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import ArtifactError
from schemas.records import ItemRow
from streams.store import Row

__all__ = ["Feed", "ItemModel"]

#: Exponent bits of a bfloat16: all set in what is not finite.
_EXPONENT: Final = np.uint16(0x7F80)


class ItemModel:
    """The item side of one model version. For use by several threads at once."""

    def __init__(self, manifest: Manifest, tower: LoadedTower) -> None:
        self.version = manifest.version
        self._tag = manifest.version_tag
        self._layout = manifest.dimensions.layout
        self._tower = tower
        self.row_format = RowFormat(
            manifest.dimensions.embedding_dim, self._layout.signature_bits, manifest.signature_version
        )
        self._prefix = np.frombuffer(codec("n2o_row").bytes_prefix(self._layout.stride), dtype=np.uint8)
        self._framed = np.dtype([("prefix", "u1", len(self._prefix)), ("record", self._layout.dtype)])

    @classmethod
    def load(cls, folder: Path, version: str, deployment: Deployment) -> ItemModel:
        """Open, check and try an artifact.

        Raises ArtifactError where it is damaged, not of this deployment, or a tower that makes no vectors.
        """
        manifest = check_artifact(lambda name: (folder / name).read_bytes(), version=version)
        check_fit(manifest, deployment)
        model = cls(manifest, LoadedTower.open(folder, manifest))
        try:
            model.n2o_rows([b""], ItemColumns.of([_ANY_ITEM], model.row_format), Snapshots.none(1))
        except Exception as error:  # whatever torch raises: better here than in every worker's first batch
            raise ArtifactError(f"the item tower of {version} cannot be run: {error}") from error
        return model

    def n2o_rows(self, keys: Sequence[bytes], items: ItemColumns, activity: Snapshots) -> list[Row]:
        """Rows of a slot table for these items and what users did to them, each tagged with the version.

        The value is None, which deletes an older row, where the vector or the bridge weights are not finite: such an
        item is *rejected*, its score would be none.
        """
        framed = np.zeros(len(items), dtype=self._framed)  # padding too: equal records are equal bytes
        framed["prefix"] = self._prefix
        framed["record"] = records = records_of(items, activity, self._tower, self._layout, self._tag)
        raw, size = framed.tobytes(), self._framed.itemsize
        values = [raw[at : at + size] for at in range(0, len(raw), size)]
        finite = _finite(records["vector"]) & _finite(records["bridges"])
        if finite.all():
            return list(zip(keys, values, strict=True))
        return [(key, value if good else None) for key, value, good in zip(keys, values, finite.tolist(), strict=True)]

    def stale(self, found: Sequence[bytes | None], items: ItemColumns, snapshots_ms: Any) -> npt.NDArray[np.int64]:
        """Places of items whose row ([n], None: absent) is not of this version, their update or their snapshot."""
        size = self._framed.itemsize
        places = [place for place, value in enumerate(found) if value is not None and len(value) == size]
        stale = np.ones(len(found), dtype=bool)
        if places:
            rows = np.frombuffer(b"".join(found[place] or b"" for place in places), dtype=self._framed)
            records, chosen = rows["record"], np.array(places)
            stale[chosen] = (
                (rows["prefix"] != self._prefix).any(axis=1)
                | (records["version"] != self._tag)
                | (records["source_topic_id"] != items.source_topic_id[chosen])
                | (records["source_offset"] != items.source_offset[chosen])
                | (records["snapshot_ms"] != snapshots_ms[chosen])
            )
        return np.flatnonzero(stale)


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
