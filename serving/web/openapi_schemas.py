"""JSON Schemas (2020-12) of what the API takes and gives, by name."""

from __future__ import annotations

from typing import Any, Final

from domain.rollout import SLOTS, Phase
from domain.sequence import SEQUENCE
from schemas.records import ACTIONS
from serving.stages import STAGES
from serving.user.user_side import How
from serving.web.binary import MOST_CANDIDATES
from serving.web.rank_request import MOST_REQUESTS, SOURCES

__all__ = ["SCHEMAS", "reference"]

Schema = dict[str, Any]


def reference(name: str) -> Schema:
    """A reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Schema, optional: Schema | None = None, says: str = "") -> Schema:
    """An object with these fields and no others."""
    schema = {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }
    return {"description": says, **schema} if says else schema


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _array(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def _within(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


_TEXT: Final = {"type": "string"}
_TRUTH: Final = {"type": "boolean"}
_NUMBER: Final = {"type": "number"}
_INT64: Final = _within(-(2**63), 2**63 - 1)
_COUNT: Final = {"type": "integer", "minimum": 0}
_TIME: Final = _within(0, 2**62 - 1)
_VERSION: Final = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
_ENTITY: Final = {"anyOf": [_INT64, {"type": "string", "minLength": 1}]}
_FREE: Final = {"type": "object"}

_FILTERS: Final = _object(
    {},
    {
        "deny_items": _maybe(_array(_ENTITY, maxItems=100_000)),
        "deny_categories": _maybe(_array(_ENTITY, maxItems=100_000)),
        "category_cap": _maybe(_within(1, 10_000)),
        "minimum_price": _maybe({"type": "number", "minimum": 0}),
    },
    "What to leave out; it only tightens the server's own.",
)
_RANK_REQUEST: Final = _object(
    {"user_id": _ENTITY},
    {
        "candidates": _array(_ENTITY, minItems=1, maxItems=MOST_CANDIDATES),
        "after": _maybe(_object({"partition": _within(0, 2**31 - 1), "offset": _TIME})),
        "retrieve": _maybe(_object({"from": {"enum": list(SOURCES)}}, {"count": _maybe(_within(1, MOST_CANDIDATES))})),
        "top_k": _maybe(_within(1, MOST_CANDIDATES)),
        "at_ms": _maybe(_TIME),
        "deadline_ms": _maybe(_within(1, 60_000)),
        "behaviours": _maybe(_within(1, SEQUENCE)),
        "explain": _maybe(_TRUTH),
        "model_version": _maybe(_VERSION),
        "filters": _maybe(reference("Filters")),
    },
)
_RANKED_ITEM: Final = _object({"item_id": _ENTITY, "score": _NUMBER, "known": _TRUTH}, {"title": _TEXT})
_RANK_ANSWER: Final = _object(
    {
        "model_version": _VERSION,
        "user_id": _ENTITY,
        "user_known": _TRUTH,
        "at_ms": _TIME,
        "age_ms": _maybe(_NUMBER),
        "user_phase": {"enum": [how.value for how in How]},
        "quality": _object({"behaviours": _COUNT, "candidates": _COUNT}),
        "behaviours_used": _COUNT,
        "behaviours_missing": _COUNT,
        "missing_items": _COUNT,
        "deleted_items": _COUNT,
        "filtered_items": _COUNT,
        "duplicates": _COUNT,
        "items": _array(reference("RankedItem"), maxItems=MOST_CANDIDATES),
        "stages_ms": _object(dict.fromkeys(STAGES, _NUMBER)),
    },
    {"sample_id": _VERSION, "explanation": reference("Explanation"), "after_applied": _TRUTH},
)
_SIMILAR: Final = _object(
    {
        "item_id": _INT64,
        "action": {"enum": list(ACTIONS)},
        "hours_ago": _NUMBER,
        "equal_bits": _COUNT,
        "bits": _COUNT,
        "attention": _NUMBER,
    },
    says="A behaviour whose item's signature resembles the candidate's.",
)
_EXPLAINED: Final = _object(
    {
        "item_id": _INT64,
        "logit": _NUMBER,
        "score": _NUMBER,
        "terms": _array(_object({"term": _TEXT, "contribution": _NUMBER})),
        "similar": _array(_SIMILAR),
        "event_time_ms": _maybe(_INT64),
        "age_ms": _maybe({"type": "integer"}),
    }
)
_SAMPLED: Final = {
    "sample_id": _VERSION,
    "taken_ms": _TIME,
    "model_version": _VERSION,
    "user_id": _INT64,
    "at_ms": _TIME,
}
_SAMPLE: Final = _object(
    {
        **_SAMPLED,
        "user_known": _TRUTH,
        "applied": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": _COUNT}},
        "behaviours_used": _COUNT,
        "behaviours_missing": _COUNT,
        "candidates": _array(_INT64),
        "scores": _array(_NUMBER),
        "known": _array(_TRUTH),
        "ranking": _array(_INT64),
    },
    says="What an answer was made from, and what came out.",
)
_ITEM_ROW: Final = _object(
    {
        "version": _VERSION,
        "event_time_ms": _INT64,
        "age_ms": {"type": "integer"},
        "snapshot_ms": _INT64,
        "source_offset": _INT64,
        "deleted": _TRUTH,
        "signature": _maybe({"type": "string", "pattern": "^[0-9a-f]*$"}),
        "vector": _array(_NUMBER),
        "bridges": _array(_NUMBER),
    },
    says="An item's row of a version: what scores it.",
)
_ITEM: Final = _object(
    {"item_id": _INT64, "live": _TRUTH, "rows": _array(reference("ItemRow"))},
    {
        "title": _maybe(_TEXT),
        "original_id": _maybe(_TEXT),
        "category_id": _maybe(_INT64),
        "price": _maybe(_NUMBER),
        "published_ms": _maybe(_INT64),
        "event_time_ms": _INT64,
    },
)
_BEHAVIOUR: Final = _object(
    {
        "item_id": _INT64,
        "action": {"enum": list(ACTIONS)},
        "event_time_ms": _INT64,
        "category_id": _maybe(_INT64),
        "title": _maybe(_TEXT),
    }
)
_USER: Final = _object(
    {
        "user_id": _INT64,
        "at_ms": _TIME,
        "newest_event_time_ms": _INT64,
        "age_ms": {"type": "integer"},
        "source_offset": _INT64,
        "windows": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": _COUNT}},
        "features": _maybe(_FREE),
        "behaviours": _array(reference("Behaviour")),
    }
)
_FEATURE: Final = _object(
    {
        "name": _TEXT,
        "type": _TEXT,
        "aggregation": _TEXT,
        "actions": _array({"enum": list(ACTIONS)}),
        "owner": _TEXT,
        "doc": _TEXT,
    },
    {
        "over": _array({"enum": list(ACTIONS)}),
        "of": {"enum": ["item", "category"]},
        "window_ms": _COUNT,
        "half_life_ms": _COUNT,
        "k": _COUNT,
    },
)
_FEATURES: Final = _object(
    {
        "declarations": _VERSION,
        "features": _array(reference("Feature")),
        "tiers": _array(_object({"tier": _TEXT, "where": _TEXT, "holds": _TEXT})),
        "freshness": _array(
            _object(
                {
                    "partition": _COUNT,
                    "newest_event_time_ms": _INT64,
                    "next_source_offset": _COUNT,
                    "written_ms_ago": _NUMBER,
                }
            )
        ),
    }
)
_VERSION_STATE: Final = _object(
    {"version": _VERSION, "rows": _COUNT, "coverage": _NUMBER, "slab_bytes": _COUNT, "model_bytes": _COUNT}
)
_DECIDED: Final = _object(
    {
        "version": _VERSION,
        "phase": {"enum": [phase.value for phase in Phase]},
        "slot": _maybe({"enum": list(SLOTS)}),
        "since_ms": _INT64,
        "paused": _TRUTH,
        "published_by": _TEXT,
        "reason": _TEXT,
        "gate": _NUMBER,
        "manifest_sha256": _TEXT,
        "rows": _COUNT,
        "coverage": _NUMBER,
        "warm_processes": _COUNT,
    }
)
_VERSIONS: Final = _object(
    {
        "epoch": _COUNT,
        "live": _maybe(reference("VersionState")),
        "live_since_ms": _maybe(_INT64),
        "upcoming": _maybe(reference("VersionState")),
        "retained": _maybe(reference("VersionState")),
        "processes": _COUNT,
        "versions": _array(_DECIDED),
        "refused": {"type": "object", "additionalProperties": _TEXT},
        "slab_bytes": _COUNT,
        "most_slab_bytes": _COUNT,
    }
)
_DELAYS: Final = _object(
    {"batches": _COUNT, "p50_ms": _maybe(_NUMBER), "p99_ms": _maybe(_NUMBER), "worst_ms": _maybe(_NUMBER)}
)
_READY: Final = {
    "ready": _TRUTH,
    "reasons": _array(_TEXT),
    "model_version": _maybe(_VERSION),
    "refused": {"type": "object", "additionalProperties": _TEXT},
    "broker": {"enum": ["connected", "unreachable"]},
    "feed": _TEXT,
    "age_ms": _maybe(_NUMBER),
    "lag": _COUNT,
    "event_clock_ms": _maybe(_INT64),
    "items": _COUNT,
    "users": _COUNT,
    "store_bytes": _COUNT,
}

#: Every schema of the document.
SCHEMAS: Final[dict[str, Schema]] = {
    "Problem": {
        "description": "RFC 9457; /readyz adds what it knows.",
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": _within(400, 599),
            "detail": {"type": "string", "minLength": 1},
        },
    },
    "Filters": _FILTERS,
    "RankRequest": _RANK_REQUEST,
    "RankBatch": _object({"requests": _array(reference("RankRequest"), minItems=1, maxItems=MOST_REQUESTS)}),
    "RankedItem": _RANKED_ITEM,
    "RankAnswer": _RANK_ANSWER,
    "RankAnswers": _object({"answers": _array(reference("RankAnswer"))}),
    "ItemRow": _ITEM_ROW,
    "Item": _ITEM,
    "Behaviour": _BEHAVIOUR,
    "User": _USER,
    "Feature": _FEATURE,
    "Features": _FEATURES,
    "VersionState": _VERSION_STATE,
    "Versions": _VERSIONS,
    "Freshness": _object({"window_s": _NUMBER, "tables": {"type": "object", "additionalProperties": _DELAYS}}),
    "Explanation": _object(
        {
            "user_event_time_ms": _maybe(_INT64),
            "user_age_ms": _maybe({"type": "integer"}),
            "items": _array(_EXPLAINED),
        }
    ),
    "Sample": _SAMPLE,
    "Samples": _object(
        {"share": _NUMBER, "lost": _COUNT, "answers": _array(_object({**_SAMPLED, "candidates": _COUNT}))}
    ),
    "Live": _object({"live": {"const": True}}),
    "Ready": _object(_READY),
    "Document": _FREE,
}
