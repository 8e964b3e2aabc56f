"""What the server holds, as data: items, users, declared features, versions, readiness. No HTTP here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.feature_plan import PLAN
from domain.feature_values import feature_values
from domain.features import FEATURES
from domain.n2o import Flag
from domain.rollout import Version as Decided
from domain.user_row import behaviours_of, window_counts
from domain.windows import WINDOWS
from schemas.deployment import Deployment
from schemas.records import ACTIONS, UserHead
from serving.rollout.versions import Version, Versions
from serving.tables.progress import Progress
from serving.tables.store import USERS, SlabKey, Store

__all__ = ["Lookups"]


class Lookups:
    """Answers of the routes that only read. Any thread may call it."""

    def __init__(
        self,
        deployment: Deployment,
        store: Store,
        versions: Versions,
        progress: Progress,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._versions = versions
        self._progress = progress
        self._wall_s = wall_s

    def now_ms(self) -> int:
        """The deployment's clock; the machine's while no event was applied."""
        event_ms = self._store.event_clock_ms if self._deployment.clock == "event" else None
        return int(self._wall_s() * 1000) if event_ms is None else event_ms

    def item(self, item_id: int) -> dict[str, Any] | None:
        """What is held of an item, and its rows of the versions in use; None where nothing is."""
        item = self._store.items.get(item_id)
        rows = [row for version in self._versions.in_use if (row := self._row(version, item_id))]
        if item is None and not rows:
            return None
        return {"item_id": item_id, "live": item is not None, **(item._asdict() if item else {}), "rows": rows}

    def user(self, user_id: int, at_ms: int | None) -> dict[str, Any] | None:
        """A user's windows and behaviours as the user phase reads them at a time, and declared features.

        None for a user without a row.
        Raises DecodeError where the row cannot be read by this build.
        """
        head = self._store.users.head(user_id)
        if head is None:
            return None
        at = self.now_ms() if at_ms is None else at_ms
        when = np.array([at], dtype=np.int64)
        counts = window_counts([head], when)[0]
        return {
            "user_id": user_id,
            "at_ms": at,
            "newest_event_time_ms": head["newest_event_time_ms"],
            "age_ms": at - head["newest_event_time_ms"],
            "source_offset": head["source_offset"],
            "windows": {
                window.name: {ACTIONS[code]: int(counts[row, code]) for code in np.flatnonzero(counts[row]).tolist()}
                for row, window in enumerate(WINDOWS)
            },
            "features": _features(head, when),
            "behaviours": [self._behaviour(each) for each in behaviours_of(head)[::-1]],
        }

    def features(self) -> dict[str, Any]:
        """The declared user features: what each is, where it lives, and how fresh the rows here are."""
        deployment, store = self._deployment, self._store
        now_ms = self._wall_s() * 1000
        marks = sorted((at.partition, mark) for at, mark in list(store.watermarks.items()) if at.table == USERS)
        return {
            "declarations": f"{PLAN.fingerprint & (2**64 - 1):016x}",
            "features": [feature.described() for feature in FEATURES],
            "tiers": [
                {"tier": "log", "where": deployment.topic("user-events"), "holds": "the events behind every value"},
                {"tier": "changelog", "where": deployment.changelog(USERS), "holds": "rows, compacted by user"},
                {"tier": "table", "where": "RocksDB table users of the workers", "holds": "rows, behaviours in chunks"},
                {"tier": "server", "where": "mapped by this process", "holds": f"rows of {len(store.users)} users"},
            ],
            "freshness": [
                {
                    "partition": partition,
                    "newest_event_time_ms": mark["max_event_time_ms"],
                    "next_source_offset": mark["next_source_offset"],
                    "written_ms_ago": round(now_ms - mark["wall_time_ms"], 1),
                }
                for partition, mark in marks
            ],
        }

    def versions(self) -> dict[str, Any]:
        """What answers here, what it would go back to, what comes, and every version that the log knows."""
        versions, here = self._versions, self._progress.rollout
        state, warm = versions.rollout, versions.warm_in()
        return {
            "epoch": state.epoch,
            "live": self._version(versions.live),
            "live_since_ms": here.get("answers_since_ms"),
            "upcoming": self._version(versions.upcoming),
            "retained": self._version(versions.retained),
            "processes": len(warm),
            "versions": [self._decided(each, warm) for each in state.versions],
            "refused": dict(versions.refused),
            "slab_bytes": here.get("slab_bytes", 0),
            "most_slab_bytes": here.get("most_slab_bytes", 0),
        }

    def readiness(self) -> dict[str, Any]:
        """Whether the server should get traffic, and why not."""
        progress, store, versions = self._progress, self._store, self._versions
        reasons = progress.not_ready(versions)
        age_ms = progress.age_ms(store)
        live = versions.live
        return {
            "ready": not reasons,
            "reasons": reasons,
            "model_version": live.name if live else None,
            "refused": dict(versions.refused),
            "broker": "connected" if progress.connected else "unreachable",
            "feed": progress.says,
            "age_ms": None if age_ms is None else round(age_ms, 1),
            "lag": sum(progress.lag.values()),
            "event_clock_ms": store.event_clock_ms,
            "items": len(store.items),
            "users": len(store.users),
            "store_bytes": store.nbytes,
        }

    def _behaviour(self, behaviour: Any) -> dict[str, Any]:
        item = self._store.items.get(int(behaviour["item_id"]))
        return {
            "item_id": int(behaviour["item_id"]),
            "action": ACTIONS[behaviour["action"]],
            "event_time_ms": int(behaviour["event_time_ms"]),
            "category_id": int(behaviour["category_id"]) if behaviour["has_category"] else None,
            "title": item.title if item else None,
        }

    def _row(self, version: Version, item_id: int) -> dict[str, Any] | None:
        """An item's N2O row of a version, None where there is none."""
        raw = np.empty((1, version.slab.stride), dtype=np.uint8)
        if not version.slab.gather(np.array([item_id], dtype=np.int64), raw)[0]:
            return None
        layout = version.layout
        row = raw.view(layout.dtype)[0, 0]
        flags = Flag(int(row["flags"]))
        return {
            "version": version.name,
            "event_time_ms": int(row["event_time_ms"]),
            "age_ms": self.now_ms() - int(row["event_time_ms"]),
            "snapshot_ms": int(row["snapshot_ms"]),
            "source_offset": int(row["source_offset"]),
            "deleted": Flag.DELETED in flags,
            "signature": row["signature"].tobytes().hex() if Flag.HAS_SIGNATURE in flags else None,
            "vector": layout.vectors(row).tolist(),
            "bridges": layout.bridge_weights(row).tolist(),
        }

    def _version(self, version: Version | None) -> dict[str, Any] | None:
        if version is None:
            return None
        return {
            "version": version.name,
            "rows": len(version.slab),
            "coverage": min(1.0, version.slab.servable / max(1, len(self._store.items))),
            "slab_bytes": version.slab.nbytes,
            "model_bytes": self._versions.model_bytes(version.tag),
        }

    def _decided(self, version: Decided, warm: list[frozenset[int]]) -> dict[str, Any]:
        """A version as the log has it, and what this host has of it."""
        key = SlabKey(version.slot, version.tag)
        slab = self._store.slab(key) if version.fed else None
        return {
            "version": version.name,
            "phase": version.phase,
            "slot": version.slot or None,
            "since_ms": version.since_ms,
            "paused": version.paused,
            "published_by": version.published_by,
            "reason": version.reason,
            "gate": version.terms.gate,
            "manifest_sha256": version.manifest_sha256,
            "rows": len(slab) if slab else 0,
            "coverage": self._store.coverage(key) if slab else 0.0,
            "warm_processes": sum(version.tag in tags for tags in warm),
        }


def _features(head: UserHead, when: npt.NDArray[np.int64]) -> dict[str, Any] | None:
    """Declared features by name; None while the worker has not migrated the row to this build's declarations."""
    if head["declarations"] != PLAN.fingerprint:
        return None
    return {name: column.items()[0] for name, column in feature_values([head], when).items()}
