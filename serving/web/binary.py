"""The binary body of a rank request and of its answer, for rankers: two fixed heads and raw little-endian arrays.

A request is ``AIFQ``, an answer ``AIFA``; docs/serving-api.md has both byte by byte, and this module is all that knows
them: the server decodes requests and encodes answers, the client does the opposite. A version is a promise: what the
bytes of version 1 mean never changes, another layout has another number and is refused by a build that lacks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from struct import error as StructError
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.errors import BadInput

__all__ = [
    "MEDIA_TYPE",
    "MOST_CANDIDATES",
    "VERSION",
    "BinaryAnswer",
    "BinaryRequest",
    "Outcome",
    "RequestFlag",
    "decode_answer",
    "decode_request",
    "encode_answer",
    "encode_request",
]

MEDIA_TYPE: Final = "application/x-aif-rank"
VERSION: Final = 1
#: The most candidates of one request, in either body.
MOST_CANDIDATES: Final = 10_000

#: magic, version, flags, zero, user id, at_ms, deadline_ms, top_k, count, zero
_REQUEST: Final = Struct("<4sBBHqqIIII")
#: magic, version, flags, user phase, zero, model version, sample id, at_ms, age_ms, count, then six counters
_ANSWER: Final = Struct("<4sBBBBQQqfIIIIIII")
_REQUEST_MAGIC: Final = b"AIFQ"
_ANSWER_MAGIC: Final = b"AIFA"
_NO_TIME: Final = -1
#: Times that windows can be read at (domain/windows.py).
_TIMES_MS: Final = range(0, 2**62)

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


class RequestFlag(IntFlag):
    """Bits of a request's flags; others must be 0."""

    IN_REQUEST_ORDER = 1  #: a score for every candidate as they were given, instead of the best with their ids


class Outcome(IntEnum):
    """What became of a candidate."""

    SCORED = 0
    UNKNOWN = 1  #: no servable row of this version: its score is that of an item of which nothing is known
    FILTERED = 2  #: left out of the ranking by a filter


class _AnswerFlag(IntFlag):
    IN_REQUEST_ORDER = 1
    USER_KNOWN = 2


@dataclass(frozen=True)
class BinaryRequest:
    """A rank request as its bytes say it; candidates may repeat."""

    user_id: int
    candidates: Ids  #: [n]
    top_k: int = 0  #: 0: all
    at_ms: int | None = None  #: None: the deployment's clock
    deadline_ms: int = 0  #: 0: none
    in_request_order: bool = False


@dataclass(frozen=True)
class BinaryAnswer:
    """An answer as its bytes say it."""

    model_version: str  #: 16 hex digits
    sample_id: int  #: 0: this answer was not kept (`aif why`)
    user_known: bool
    user_phase: int  #: where the user's part of the network came from; docs/serving-api.md lists the numbers
    at_ms: int
    age_ms: float | None
    missing_items: int
    deleted_items: int
    duplicates: int
    filtered_items: int
    behaviours_used: int
    behaviours_missing: int
    item_ids: Ids | None  #: [k] best first; None where scores are in the request's order
    scores: Scores  #: [k]
    outcomes: npt.NDArray[np.uint8]  #: [k] Outcome


def encode_request(request: BinaryRequest) -> bytes:
    """A request's bytes: 40 + 8 n. Raises BadInput where a number does not fit its field."""
    ids = np.ascontiguousarray(request.candidates, dtype="<i8")
    flags = RequestFlag.IN_REQUEST_ORDER if request.in_request_order else 0
    at_ms = _NO_TIME if request.at_ms is None else request.at_ms
    try:
        head = _REQUEST.pack(
            _REQUEST_MAGIC, VERSION, flags, 0, request.user_id, at_ms, request.deadline_ms, request.top_k, len(ids), 0
        )
    except StructError as error:
        raise BadInput(f"a field of the request does not fit: {error}") from error
    return head + ids.tobytes()


def decode_request(body: bytes) -> BinaryRequest:
    """A request of its bytes. Raises BadInput saying which field breaks which rule."""
    if len(body) < _REQUEST.size:
        raise BadInput(f"a binary request has at least {_REQUEST.size} bytes, this one {len(body)}: it is cut short")
    magic, version, flags, zero, user_id, at_ms, deadline_ms, top_k, count, zeros = _REQUEST.unpack_from(body)
    _require_head(_REQUEST_MAGIC, magic, version)
    if flags & ~int(RequestFlag.IN_REQUEST_ORDER) or zero or zeros:
        raise BadInput(f"flags {flags:#x}, reserved {zero}, {zeros}: only flag 1 is defined, reserved bytes are 0")
    if not 1 <= count <= MOST_CANDIDATES:
        raise BadInput(f"count must be 1 to {MOST_CANDIDATES} candidates, it is {count}")
    if len(body) != (expected := _REQUEST.size + 8 * count):
        raise BadInput(f"{count} candidates make {expected} bytes, the body has {len(body)}")
    if at_ms != _NO_TIME and at_ms not in _TIMES_MS:
        raise BadInput(f"at_ms must be {_NO_TIME} or 0 to {_TIMES_MS.stop - 1}, it is {at_ms}")
    if top_k > MOST_CANDIDATES:
        raise BadInput(f"top_k must be 0 to {MOST_CANDIDATES}, it is {top_k}")
    ids = np.frombuffer(body, dtype="<i8", offset=_REQUEST.size)
    time_ms = None if at_ms == _NO_TIME else at_ms
    return BinaryRequest(user_id, ids, top_k, time_ms, deadline_ms, bool(flags & RequestFlag.IN_REQUEST_ORDER))


def encode_answer(answer: BinaryAnswer) -> bytes:
    """An answer's bytes: 64 + 13 k, or 64 + 5 k in request order."""
    in_order, count = answer.item_ids is None, len(answer.scores)
    flags = (in_order * _AnswerFlag.IN_REQUEST_ORDER) | (answer.user_known * _AnswerFlag.USER_KNOWN)
    head = _ANSWER.pack(
        _ANSWER_MAGIC, VERSION, flags, answer.user_phase, 0, int(answer.model_version, 16), answer.sample_id,
        answer.at_ms, float("nan") if answer.age_ms is None else answer.age_ms, count, answer.missing_items,
        answer.deleted_items, answer.duplicates, answer.filtered_items, answer.behaviours_used,
        answer.behaviours_missing,
    )  # fmt: skip
    ids = b"" if answer.item_ids is None else answer.item_ids.astype("<i8", copy=False).tobytes()
    return head + ids + answer.scores.astype("<f4", copy=False).tobytes() + answer.outcomes.tobytes()


def decode_answer(body: bytes) -> BinaryAnswer:
    """An answer of its bytes. Raises BadInput where they are none of this version."""
    if len(body) < _ANSWER.size:
        raise BadInput(f"a binary answer has at least {_ANSWER.size} bytes, this one {len(body)}: it is cut short")
    magic, version, flags, phase, _, model, sample_id, at_ms, age_ms, count, *counters = _ANSWER.unpack_from(body)
    _require_head(_ANSWER_MAGIC, magic, version)
    in_order = bool(flags & _AnswerFlag.IN_REQUEST_ORDER)
    if len(body) != (expected := _ANSWER.size + count * (5 if in_order else 13)):
        raise BadInput(f"an answer of {count} scores has {expected} bytes, this one {len(body)}")
    at = _ANSWER.size
    ids = None if in_order else np.frombuffer(body, dtype="<i8", count=count, offset=at)
    at += 0 if in_order else 8 * count
    scores = np.frombuffer(body, dtype="<f4", count=count, offset=at)
    outcomes = np.frombuffer(body, dtype=np.uint8, count=count, offset=at + 4 * count)
    missing, deleted, duplicates, filtered, used, behaviours_missing = counters
    return BinaryAnswer(
        model_version=f"{model:016x}", sample_id=sample_id, user_known=bool(flags & _AnswerFlag.USER_KNOWN),
        user_phase=phase, at_ms=at_ms, age_ms=None if age_ms != age_ms else age_ms, missing_items=missing,
        deleted_items=deleted, duplicates=duplicates, filtered_items=filtered, behaviours_used=used,
        behaviours_missing=behaviours_missing, item_ids=ids, scores=scores, outcomes=outcomes,
    )  # fmt: skip


def _require_head(expected: bytes, magic: bytes, version: int) -> None:
    if magic != expected:
        raise BadInput(f"the body must begin with {expected!r}, it begins with {magic!r}")
    if version != VERSION:
        raise BadInput(f"binary version {version} is not known here: this build reads version {VERSION}")
