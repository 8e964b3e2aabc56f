"""The OpenAPI 3.1 document of the API, written out: what the routes promise, not what some code happens to do.

Tests check every answer of a server against it, and schemathesis asks a server everything that it allows and much
that it does not. Schemas of answers allow no field that is not declared, so that a new one has to be described here.
"""

from __future__ import annotations

from typing import Any, Final

from serving.web.binary import MEDIA_TYPE, MOST_CANDIDATES
from serving.web.openapi_schemas import SCHEMAS, reference

__all__ = ["DOCUMENT"]

_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"


def _answer(says: str, schema: str, media_type: str = _JSON) -> dict[str, Any]:
    return {"description": says, "content": {media_type: {"schema": reference(schema)}}}


def _problems(*statuses: int) -> dict[str, Any]:
    says = {
        400: "The request breaks a rule; `detail` names the field.",
        401: "The server has a token and the request has another or none.",
        404: "Nothing is held under this id.",
        409: "Another version than the request wants is live.",
        408: "The body did not end in time.",
        413: "The body is too large.",
        415: "Neither JSON nor binary.",
        500: "A fault of the server or of a stored row.",
        503: "No version is live, a bound is reached, or the deadline has passed; see Retry-After.",
    }
    return {str(status): _answer(says[status], "Problem", _PROBLEM) for status in (*statuses, 401)}


def _get(says: str, schema: str, *parameters: dict[str, Any], problems: tuple[int, ...] = ()) -> dict[str, Any]:
    operation = {
        "summary": says,
        "responses": {"200": _answer(says, schema), **_problems(*problems)},
        "security": [{}, {"token": []}],
    }
    return {"get": {**operation, "parameters": list(parameters)} if parameters else operation}


_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "An int64, or a string id, which is hashed as at the producers' edge.",
    "schema": {"type": "string", "minLength": 1},
}
_SAMPLE_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "`sample_id` of an answer.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
}
_AT: Final = {
    "name": "at_ms",
    "in": "query",
    "description": "Unix ms to read the user at; default the deployment's clock.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 2**62 - 1},
}
_WINDOW: Final = {
    "name": "window_s",
    "in": "query",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400, "default": 60},
}
_BINARY: Final = {"type": "string", "contentMediaType": MEDIA_TYPE}

_RANK: Final = {
    "summary": f"Score and rank up to {MOST_CANDIDATES} candidates for a user, or for each user of a batch.",
    "security": [{}, {"token": []}],
    "requestBody": {
        "required": True,
        "content": {
            _JSON: {"schema": {"oneOf": [reference("RankRequest"), reference("RankBatch")]}},
            MEDIA_TYPE: {"schema": _BINARY},
        },
    },
    "responses": {
        "200": {
            "description": "Best first; in the body's form.",
            "headers": {"Server-Timing": {"description": "Milliseconds by stage.", "schema": {"type": "string"}}},
            "content": {
                _JSON: {"schema": {"oneOf": [reference("RankAnswer"), reference("RankAnswers")]}},
                MEDIA_TYPE: {"schema": _BINARY},
            },
        },
        **_problems(400, 408, 409, 413, 415, 500, 503),
    },
}

_METRICS: Final = {
    "summary": "Prometheus text.",
    "security": [{}, {"token": []}],
    "responses": {
        "200": {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **_problems(),
    },
}

#: The document, as GET /openapi.json answers it.
DOCUMENT: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {
        "title": "AIF Nearline serving",
        "version": "1",
        "description": "Scores of candidates from nearline item vectors and user features (docs/serving-api.md).",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "servers": [{"url": "/"}],
    "paths": {
        "/v1/rank": {"post": _RANK},
        "/v1/items/{id}": _get("What is held of an item.", "Item", _ID, problems=(404,)),
        "/v1/users/{id}/features": _get(
            "Windows, behaviours and declared features of a user.", "User", _ID, _AT, problems=(400, 404, 500)
        ),
        "/v1/features": _get("The declared user features.", "Features"),
        "/v1/versions": _get(
            "Model versions: what answers, comes, is retained, was decided, and was refused here.", "Versions"
        ),
        "/v1/answers": _get("The newest answers that were kept.", "Samples"),
        "/v1/answers/{id}": _get("An answer that was kept.", "Sample", _SAMPLE_ID, problems=(400, 404)),
        "/v1/freshness": _get("Delays from event to servable.", "Freshness", _WINDOW, problems=(400,)),
        "/livez": _get("The process answers.", "Live"),
        "/readyz": _get("The server should get traffic.", "Ready", problems=(503,)),
        "/metrics": {"get": _METRICS},
        "/openapi.json": _get("This document.", "Document"),
    },
    "components": {"schemas": SCHEMAS, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
}
