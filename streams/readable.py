"""Rows and records as JSON that a person reads: bytes decoded where this build knows what they are.

Long bytes (embeddings, signatures, vectors) are shown by their first values unless asked for in full. What cannot be
decoded is shown as hex with the reason, never left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from domain.activity_row import ACTIVITY_WINDOWS
from domain.activity_row import FINGERPRINT as ACTIVITY_FINGERPRINT
from domain.artifact import MANIFEST, Manifest
from domain.feature_plan import PLAN
from domain.feature_values import feature_values
from domain.n2o import Flag, N2OLayout
from domain.user_row import behaviours_of, window_counts
from domain.windows import TILE_DTYPE, WINDOWS, count_windows
from schemas.codec import codec, schema_names
from schemas.errors import ArtifactError, BadRecord, Corrupt
from schemas.ids import ENTITY_KEY_BYTES, entity_id
from schemas.records import ACTIONS

__all__ = ["readable_bytes", "readable_key", "readable_record", "readable_row"]

_SHOWN_VALUES: Final = 4
_SHOWN_BYTES: Final = 64
#: Bytes fields of records that are little-endian float32.
_FLOATS: Final = frozenset({"embedding"})


def readable_row(table: str, value: bytes, artifacts: Path, *, full: bool = False) -> dict[str, Any]:
    """A table's row decoded. N2O rows need their model's manifest under `artifacts` for more than the header.

    Raises DecodeError where the value is not of the table's schema.
    """
    if table == "users":
        return _user(codec("user_head").decode(value), full)
    if table == "item_activity":
        return _activity(codec("item_activity_row").decode(value), full)
    if table == "items":
        return readable_record(codec("item_row").decode(value), full=full)
    return _n2o(codec("n2o_row").decode(value)["record"], artifacts, full)


def readable_record(record: dict[str, Any], *, full: bool = False) -> dict[str, Any]:
    """A decoded record with its bytes as hex, embeddings as numbers."""
    return {
        name: _floats(np.frombuffer(value, dtype="<f4"), full)
        if name in _FLOATS and isinstance(value, bytes) and len(value) % 4 == 0
        else _hex(value, full)
        if isinstance(value, bytes)
        else value
        for name, value in record.items()
    }


def readable_key(key: bytes | None) -> dict[str, Any] | None:
    """A Kafka key: hex, and the id where it has the length of one."""
    if key is None:
        return None
    return {"hex": key.hex()} | ({"id": entity_id(key)} if len(key) == ENTITY_KEY_BYTES else {})


def readable_bytes(value: bytes | None, schema: str, *, full: bool = True) -> dict[str, Any]:
    """A Kafka value of a topic that should hold `schema`: length, hex, and as much as can be decoded.

    `decoded` with `schema` where it is one of this build's schemas, `text` where it is printable, `problem` where it is
    not what it should be.
    """
    if value is None:
        return {"bytes": 0, "hex": None, "problem": f"no value, expected a {schema}"}
    shown: dict[str, Any] = {"bytes": len(value), "hex": _hex(value, full)}
    for name in (schema, *schema_names()):
        try:
            decoded = codec(name).decode(value)
        except BadRecord as error:
            if name == schema:
                shown["problem"] = str(error)
        else:
            return shown | {"schema": name, "decoded": readable_record(decoded, full=full)}
    text = value.decode(errors="replace")
    return shown | ({"text": text} if text.isprintable() and "\ufffd" not in text else {})


def _user(head: Any, full: bool) -> dict[str, Any]:
    shown = {
        name: head[name] for name in ("fingerprint", "source_topic_id", "source_offset", "newest_event_time_ms")
    } | {"event_ids": np.frombuffer(head["event_ids"], dtype="<i8").tolist()}
    try:
        counts = window_counts([head], np.array([head["newest_event_time_ms"]], dtype=np.int64))[0]
        behaviours = behaviours_of(head)[::-1]
    except Corrupt as error:
        raw = {"tiles": _hex(head["tiles"], full), "behaviours": _hex(head["behaviours"], full)}
        return shown | raw | {"problem": str(error)}
    shown["windows"] = {
        window.name: {ACTIONS[code]: int(row[code]) for code in np.flatnonzero(row)}
        for window, row in zip(WINDOWS, counts, strict=True)
    }
    shown["behaviours"] = [
        {
            "item_id": int(each["item_id"]),
            "action": ACTIONS[each["action"]],
            "event_time_ms": int(each["event_time_ms"]),
            "category_id": int(each["category_id"]) if each["has_category"] else None,
        }
        for each in behaviours
    ]
    shown["counted"] = head["counted"]
    if head["declarations"] == PLAN.fingerprint:
        at_ms = np.array([head["newest_event_time_ms"]], dtype=np.int64)
        shown["features"] = {name: column.items()[0] for name, column in feature_values([head], at_ms).items()}
    return shown


def _activity(row: Any, full: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {name: row[name] for name in ("fingerprint", "newest_event_time_ms", "snapshot_ms")}
    if row["fingerprint"] != ACTIVITY_FINGERPRINT:
        raw = {"tiles": _hex(row["tiles"], full), "snapshot": _hex(row["snapshot"], full)}
        return shown | raw | {"problem": "laid out by another build"}
    tiles, newest = np.frombuffer(row["tiles"], dtype=TILE_DTYPE), np.array([row["newest_event_time_ms"]])
    counts = count_windows(tiles, np.zeros(len(tiles), dtype=np.int64), newest, newest)[0, -len(ACTIVITY_WINDOWS) :]
    snapshot = np.expm1(np.frombuffer(row["snapshot"], dtype="<f4")).reshape(counts.shape).round()
    return shown | {"windows": _by_window(counts), "snapshot": _by_window(snapshot)}


def _by_window(counts: Any) -> dict[str, dict[str, int]]:
    return {
        window.name: {ACTIONS[code]: int(row[code]) for code in np.flatnonzero(row)}
        for window, row in zip(ACTIVITY_WINDOWS, counts, strict=True)
    }


def _n2o(record: bytes, artifacts: Path, full: bool) -> dict[str, Any]:
    header = np.frombuffer(record[: N2OLayout(0, 0, 0).stride], dtype=N2OLayout(0, 0, 0).dtype)[0]
    flags, version = Flag(int(header["flags"])), f"{int(header['version']):016x}"
    shown: dict[str, Any] = {
        name: int(header[name])
        for name in ("item_id", "event_time_ms", "source_topic_id", "source_offset", "snapshot_ms")
    } | {
        "version": version,
        "category_id": int(header["category_id"]) if Flag.HAS_CATEGORY in flags else None,
        "price": float(header["price"]) if Flag.HAS_PRICE in flags else None,
        "flags": [flag.name for flag in Flag if flag in flags],
        "bytes": len(record),
    }
    try:
        layout = Manifest.from_json((artifacts / version / MANIFEST).read_bytes()).dimensions.layout
    except (OSError, ArtifactError) as error:
        return shown | {"problem": f"header only: the manifest of model {version} cannot be read ({error})"}
    if layout.stride != len(record):
        return shown | {"problem": f"header only: {len(record)} bytes, model {version} makes {layout.stride}"}
    row = np.frombuffer(record, dtype=layout.dtype)
    signature = row["signature"][0].tobytes()
    return shown | {
        "signature": _hex(signature, full) if Flag.HAS_SIGNATURE in flags else None,
        "bridges": _floats(layout.bridge_weights(row)[0], full),
        "vector": _floats(layout.vectors(row)[0], full),
    }


def _floats(values: Any, full: bool) -> Any:
    if full or len(values) <= _SHOWN_VALUES:
        return [float(value) for value in values]
    return f"{len(values)} float32: {', '.join(f'{value:.4g}' for value in values[:_SHOWN_VALUES])}, …"


def _hex(value: bytes, full: bool) -> str:
    return value.hex() if full or len(value) <= _SHOWN_BYTES else f"{value[:_SHOWN_BYTES].hex()}… {len(value)} bytes"
