"""What an N2O record must hold, recomputed from its item row by the model of its version, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from domain.activity_row import Snapshots
from domain.artifact import MANIFEST, Manifest, check_artifact
from domain.bf16 import from_bf16
from domain.item_features import item_inputs
from domain.n2o import Flag
from domain.rollout import Version
from models.tower import LoadedTower
from schemas.artifact_cache import local_artifact
from schemas.deployment import Deployment
from schemas.records import ItemRow

__all__ = ["N2OOracle"]

#: Relative and absolute tolerance of vectors and bridge weights: one step of bfloat16, and float32 sums in any order.
_TOLERANCE: Final = 2.0**-7


class N2OOracle:
    """Checks N2O records; a version's model is opened when a record of it comes first."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._models: dict[str, tuple[Manifest, LoadedTower]] = {}

    def difference(
        self, version: Version, row: ItemRow, encoded: bytes, snapshot_ms: int, activity: Sequence[float]
    ) -> str:
        """What is wrong with a version's record of an item and a snapshot of its activity; empty where it is right.

        Raises ArtifactError or Unavailable where the version's artifact cannot be had.
        """
        manifest, tower = self._model(version)
        layout = manifest.dimensions.layout
        if len(encoded) != layout.stride:
            return f"it has {len(encoded)} bytes, its model's records have {layout.stride}"
        record = np.frombuffer(encoded, dtype=layout.dtype)[0]
        for name, value in (self._exact(row, manifest) | {"snapshot_ms": snapshot_ms}).items():
            found = bytes(record[name]) if name == "signature" else record[name].item()
            if found != value:
                return f"{name} is {found!r}, expected {value!r}"
        snapshot = Snapshots(np.array([snapshot_ms]), np.array([activity], dtype=np.float32))
        vectors, bridges = tower(item_inputs([row], manifest.dimensions, snapshot))
        for name, expected in (("vector", vectors[0]), ("bridges", bridges[0])):
            if not np.allclose(from_bf16(record[name]), expected, rtol=_TOLERANCE, atol=_TOLERANCE):
                return f"{name} is not what model {manifest.version} makes of the item"
        return ""

    @staticmethod
    def version_tag(encoded: bytes) -> int:
        """Version of the model that a record names, whatever its layout."""
        return int.from_bytes(encoded[32:40], "little")

    @staticmethod
    def snapshot_ms(encoded: bytes) -> int:
        """Time of the snapshot that a record names, whatever its layout."""
        return int.from_bytes(encoded[40:48], "little", signed=True)

    def _exact(self, row: ItemRow, manifest: Manifest) -> dict[str, Any]:
        signature = row["signature"]
        flags = Flag(0)
        flags |= Flag.DELETED if row["deleted"] else Flag(0)
        flags |= Flag.HAS_CATEGORY if row["category_id"] is not None else Flag(0)
        flags |= Flag.HAS_PRICE if row["price"] is not None else Flag(0)
        flags |= Flag.HAS_SIGNATURE if signature is not None else Flag(0)
        return {
            "item_id": row["item_id"],
            "event_time_ms": row["event_time_ms"],
            "source_topic_id": row["source_topic_id"],
            "source_offset": row["source_offset"],
            "version": manifest.version_tag,
            "category_id": row["category_id"] or 0,
            "price": float(np.float32(row["price"] or 0)),
            "flags": int(flags),
            "signature": signature or bytes(manifest.dimensions.signature_bits // 8),
        }

    def _model(self, version: Version) -> tuple[Manifest, LoadedTower]:
        if version.name not in self._models:
            data_dir = self._deployment.data_dir
            folder = local_artifact(version.uri, version.name, version.manifest_sha256, data_dir, check_artifact)
            manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
            self._models[version.name] = manifest, LoadedTower.open(folder, manifest)
        return self._models[version.name]
