"""What a verification knew when it found no difference, so that the next can start there.

Retention deletes the start of source topics; the tables still hold what it said. A checkpoint keeps the oracle's state
of every source partition with the offset behind it: from there on the log is enough. It is JSON, zstd-compressed; a
file that is damaged or of another format is refused by name. Users whose features were declared otherwise when it was
written are declared anew from their behaviours, as the worker does with its rows (domain/migration.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import zstandard

from schemas.codec import codec
from schemas.errors import BadInput
from streams.activity_oracle import ActivityOracle, PlainItem
from streams.oracle import ItemsOracle
from streams.user_oracle import PlainUser, UsersOracle

__all__ = ["Checkpoint", "PartitionState"]

logger = logging.getLogger(__name__)

_FORMAT: Final = 4
#: Beside the users of a partition, its clock.
_CLOCK: Final = "clock_ms"
#: Beside the items of a partition of item-activity, how far its sources are counted.
_SOURCES: Final = "sources"
_MAPPINGS: Final = frozenset({"counts", "amounts", "registers", "scalars", "ranked", "index"})


Oracle = ItemsOracle | UsersOracle | ActivityOracle


@dataclass(frozen=True)
class PartitionState:
    """One source partition: everything below `offset` is in `rows`."""

    topic_id: int
    offset: int
    rows: Mapping[str, Any]
    #: Fingerprint of the declared features that users have; 0 where rows have none.
    declarations: int = 0

    @classmethod
    def of(cls, oracle: Oracle, topic_id: int, offset: int) -> PartitionState:
        """The state of an oracle that has taken every record below `offset`."""
        if isinstance(oracle, ItemsOracle):
            encode = codec("item_update").encode
            rows: dict[str, Any] = {
                str(item): [at, encode(update).hex()] for item, (at, update) in oracle.newest.items()
            }
        elif isinstance(oracle, ActivityOracle):
            rows = {str(item): [state.newest_ms, state.snapshot_ms, state.snapshot, list(state.counts.items())]
                    for item, state in oracle.items.items()}  # fmt: skip
            rows[_SOURCES] = list(oracle.next_offset.items())
        else:
            rows = {str(user): _plain(state) for user, state in oracle.users.items()}
            rows[_CLOCK] = oracle.clock_ms
            return cls(topic_id, offset, rows, oracle.plan.fingerprint)
        return cls(topic_id, offset, rows)

    def restore(self, oracle: Oracle) -> None:
        """Put an oracle into this state."""
        if isinstance(oracle, ItemsOracle):
            decode = codec("item_update").decode
            oracle.newest = {int(item): (at, decode(bytes.fromhex(raw))) for item, (at, raw) in self.rows.items()}
        elif isinstance(oracle, ActivityOracle):
            oracle.items = {
                int(item): PlainItem(newest, made, snapshot, {_tuples(key): count for key, count in counts})
                for item, (newest, made, snapshot, counts) in ((k, v) for k, v in self.rows.items() if k != _SOURCES)
            }
            oracle.next_offset = {_tuples(source): at for source, at in self.rows[_SOURCES]}
            oracle.restored()
        else:
            oracle.users = {int(user): _state(plain) for user, plain in self.rows.items() if user != _CLOCK}
            oracle.clock_ms = self.rows[_CLOCK]
            if self.declarations != oracle.plan.fingerprint:
                logger.warning("the checkpoint is of other features than declared now: made anew from behaviours")
                for user in oracle.users.values():
                    user.redeclare(oracle.plan)


@dataclass
class Checkpoint:
    """States by source topic-partition (without the deployment's prefix); `verified_at_ms` is for people."""

    verified_at_ms: int = 0
    partitions: dict[str, PartitionState] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        content = {
            "format": _FORMAT,
            "verified_at_ms": self.verified_at_ms,
            "partitions": {name: vars(state) for name, state in self.partitions.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_bytes(zstandard.compress(json.dumps(content).encode()))
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read the file; empty where there is none. Raises BadInput where it is damaged or of another format."""
        if not path.exists():
            return cls()
        try:
            content = json.loads(zstandard.decompress(path.read_bytes()))
            if content["format"] != _FORMAT:
                raise BadInput(f"{path} has another format than {_FORMAT}: delete it and verify again")
            states = {name: PartitionState(**state) for name, state in content["partitions"].items()}
            return cls(content["verified_at_ms"], states)
        except (zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path} is not a checkpoint of `aif verify` ({error}): delete it") from error


def _plain(user: PlainUser) -> dict[str, Any]:
    """The state as JSON can hold it: mappings with composite keys as lists of pairs."""
    return {
        name: list(value.items()) if isinstance(value, dict) else value
        for name, value in ((each.name, getattr(user, each.name)) for each in fields(user))
    }


def _state(plain: dict[str, Any]) -> PlainUser:
    state: dict[str, Any] = {}
    for each in fields(PlainUser):
        value = plain[each.name]
        state[each.name] = {_tuples(key): _tuples(held) for key, held in value} if each.name in _MAPPINGS else value
    state["sequence"] = [_tuples(behaviour) for behaviour in state["sequence"]]
    state["index"] = {category: (weight, list(last)) for category, (weight, last) in state["index"].items()}
    return PlainUser(**state)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
