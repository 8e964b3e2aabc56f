"""The body of POST /v1/rank, checked: what it may be, and a sentence for everything that it may not be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from schemas.errors import BadInput
from schemas.ids import hashed_id

__all__ = ["MOST_CANDIDATES", "EntityRef", "RankRequest", "entity_of"]

MOST_CANDIDATES: Final = 10_000

#: An id as a request writes it: an int64, or a string that is hashed as at the producers' edge.
EntityRef = int | str

_FIELDS: Final = frozenset({"user_id", "candidates", "top_k", "at_ms"})
_INT64: Final = range(-(2**63), 2**63)
#: Times that windows can be read at (domain/windows.py).
_TIMES_MS: Final = range(0, 2**62)


@dataclass(frozen=True)
class RankRequest:
    """A valid request. Candidates are distinct: of equal ones the first stays, the others are counted."""

    user: EntityRef
    user_id: int
    candidates: list[EntityRef]  #: as written
    candidate_ids: npt.NDArray[np.int64]  #: [n] the same as ids
    duplicates: int
    top_k: int
    at_ms: int | None

    @classmethod
    def parse(cls, body: bytes) -> RankRequest:
        """Raises BadInput with a sentence that names the field."""
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadInput(f"the body is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise BadInput(f"the body must be a JSON object, not {_kind(fields)}")
        if unknown := sorted(fields.keys() - _FIELDS):
            raise BadInput(f"unknown field {unknown[0]!r}; fields are {', '.join(sorted(_FIELDS))}")
        if "user_id" not in fields:
            raise BadInput("field 'user_id' is missing: an integer or a string")
        candidates, ids, duplicates = _candidates(fields)
        return cls(
            user=fields["user_id"],
            user_id=entity_of(fields["user_id"], "user_id"),
            candidates=candidates,
            candidate_ids=ids,
            duplicates=duplicates,
            top_k=min(_integer(fields, "top_k", len(ids), range(1, MOST_CANDIDATES + 1)), len(ids)),
            at_ms=None if fields.get("at_ms") is None else _integer(fields, "at_ms", 0, _TIMES_MS),
        )


def entity_of(ref: Any, field: str) -> int:
    """The int64 id that a reference means. Raises BadInput naming the field."""
    if isinstance(ref, str):
        if not ref:
            raise BadInput(f"{field} must not be an empty string")
        return hashed_id(ref)
    # JSON's true and false are integers to Python.
    if not isinstance(ref, int) or isinstance(ref, bool):
        raise BadInput(f"{field} must be an integer or a string, not {_kind(ref)}")
    if ref not in _INT64:
        raise BadInput(f"{field} must be a 64-bit signed integer, {ref} is not")
    return ref


def _candidates(fields: dict[str, Any]) -> tuple[list[EntityRef], npt.NDArray[np.int64], int]:
    refs = fields.get("candidates")
    if not isinstance(refs, list):
        found = "missing" if refs is None else _kind(refs)
        raise BadInput(f"field 'candidates' must be an array of ids, it is {found}")
    if not 1 <= len(refs) <= MOST_CANDIDATES:
        raise BadInput(f"'candidates' must have 1 to {MOST_CANDIDATES} ids, it has {len(refs)}")
    if set(map(type, refs)) == {int}:
        ids = refs if min(refs) in _INT64 and max(refs) in _INT64 else _checked(refs)
    else:
        ids = _checked(refs)
    first_of = dict(zip(reversed(ids), reversed(refs), strict=True)) if len(set(ids)) < len(ids) else None
    if first_of is None:
        return refs, np.array(ids, dtype=np.int64), 0
    distinct = list(dict.fromkeys(ids))
    return [first_of[each] for each in distinct], np.array(distinct, dtype=np.int64), len(ids) - len(distinct)


def _checked(refs: list[Any]) -> list[int]:
    return [entity_of(ref, f"candidates[{index}]") for index, ref in enumerate(refs)]


def _integer(fields: dict[str, Any], name: str, default: int, allowed: range) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadInput(f"{name} must be an integer, not {_kind(value)}")
    if value not in allowed:
        raise BadInput(f"{name} must be {allowed.start} to {allowed.stop - 1}, not {value}")
    return value


def _kind(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number with a fraction",
        str: "a string",
        list: "an array",
    }
    return names.get(type(value), "an object")
