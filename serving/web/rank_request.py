"""A rank request, checked, from either body: JSON for people, binary (binary.py) for rankers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from domain.sequence import SEQUENCE
from schemas.errors import BadInput
from serving.ranking.post_processing import NO_FILTERS, Filters
from serving.tables.progress import Token
from serving.web.binary import MOST_CANDIDATES, decode_request
from serving.web.json_fields import EntityRef, boolean, entity_of, integer, kind_of, known_fields

__all__ = ["MOST_REQUESTS", "SOURCES", "RankRequest", "Retrieve", "parse_batch"]

#: Requests of one batch; their candidates together are at most MOST_CANDIDATES.
MOST_REQUESTS: Final = 64

_FIELDS: Final = frozenset(
    {
        "user_id",
        "candidates",
        "top_k",
        "at_ms",
        "deadline_ms",
        "behaviours",
        "explain",
        "after",
        "retrieve",
        "filters",
        "model_version",
    }
)
_INT64: Final = range(-(2**63), 2**63)
#: Times that windows can be read at (domain/windows.py).
_TIMES_MS: Final = range(0, 2**62)
_VERSION: Final = re.compile("[0-9a-f]{16}")
_BEHAVIOURS: Final = range(1, SEQUENCE + 1)
_DEADLINES_MS: Final = range(1, 60_001)
_PARTITIONS: Final = range(0, 2**31)
#: Candidates that are retrieved where a request does not say.
_RETRIEVED: Final = 1000

Ids = npt.NDArray[np.int64]
_NONE: Final[Ids] = np.zeros(0, dtype=np.int64)
#: What `from` of `retrieve` may be.
SOURCES: Final = ("popular", "nearest")


@dataclass(frozen=True)
class Retrieve:
    """Where the server is to take candidates from, and how many."""

    source: str
    count: int


@dataclass(frozen=True)
class RankRequest:
    """A valid request. Candidates are distinct: of equal ones the first stays, the others are counted."""

    user: EntityRef
    user_id: int
    candidate_ids: Ids  #: [n] distinct
    top_k: int
    at_ms: int | None
    deadline_ms: int | None = None  #: after this long, counted from the request's arrival, nobody waits for the answer
    behaviours: int | None = None  #: how many of the newest to read; None lets the deadline decide
    written: list[EntityRef] | None = None  #: [n] the candidates as written, where that is not their ids
    places: Ids | None = None  #: [given] index in `candidate_ids` of every candidate given; None where all are distinct
    retrieve: Retrieve | None = None  #: instead of candidates, which then come later
    after: Token | None = None  #: a user event that the answer is to contain, if it comes in time
    in_request_order: bool = False
    explain: bool = False
    model_version: str | None = None  #: the only one whose answer is wanted
    filters: Filters = NO_FILTERS

    @property
    def duplicates(self) -> int:
        """Candidates given more than once."""
        return 0 if self.places is None else len(self.places) - len(self.candidate_ids)

    def reference(self, index: int) -> EntityRef:
        """A candidate as it was written."""
        return int(self.candidate_ids[index]) if self.written is None else self.written[index]

    @classmethod
    def parse(cls, body: bytes) -> RankRequest:
        """A single request of a JSON body. Raises BadInput with a sentence that names the field."""
        return cls.of(_json_object(body))

    @classmethod
    def of(cls, fields: Any, where: str = "the body") -> RankRequest:
        """A request of a JSON value. Raises BadInput with a sentence that names the field."""
        checked = known_fields(fields, _FIELDS, where)
        if "user_id" not in checked:
            raise BadInput("field 'user_id' is missing: an integer or a string")
        retrieve = _retrieve(checked)
        ids, written, places = _candidates(checked) if retrieve is None else (_NONE, None, None)
        most = len(ids) if retrieve is None else retrieve.count
        return cls(
            user=checked["user_id"],
            user_id=entity_of(checked["user_id"], "user_id"),
            candidate_ids=ids,
            top_k=min(integer(checked, "top_k", range(1, MOST_CANDIDATES + 1)) or most, most),
            at_ms=integer(checked, "at_ms", _TIMES_MS),
            deadline_ms=integer(checked, "deadline_ms", _DEADLINES_MS),
            behaviours=integer(checked, "behaviours", _BEHAVIOURS),
            written=written,
            places=places,
            retrieve=retrieve,
            after=_after(checked),
            explain=boolean(checked, "explain"),
            model_version=_version(checked),
            filters=Filters.parse(checked.get("filters"), "filters"),
        )

    @classmethod
    def from_binary(cls, body: bytes) -> RankRequest:
        """A request of a binary body. Raises BadInput saying which field breaks which rule."""
        asked = decode_request(body)
        ids, places = _distinct(asked.candidates)
        return cls(
            user=asked.user_id,
            user_id=asked.user_id,
            candidate_ids=ids,
            top_k=min(asked.top_k or len(ids), len(ids)),
            at_ms=asked.at_ms,
            deadline_ms=asked.deadline_ms or None,
            places=places,
            in_request_order=asked.in_request_order,
        )


def parse_batch(body: bytes) -> list[RankRequest] | RankRequest:
    """A JSON body: one request, or the list below `requests`. Raises BadInput naming the request and the field."""
    fields = _json_object(body)
    if "requests" not in fields:
        return RankRequest.of(fields)
    given = known_fields(fields, frozenset({"requests"}), "a batch")["requests"]
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_REQUESTS:
        found = len(given) if isinstance(given, list) else kind_of(given)
        raise BadInput(f"'requests' must be an array of 1 to {MOST_REQUESTS} requests, it is {found}")
    requests = []
    for index, each in enumerate(given):
        try:
            requests.append(RankRequest.of(each, "a request"))
        except BadInput as error:
            raise BadInput(f"requests[{index}]: {error}") from error
    if (count := sum(_size(each) for each in requests)) > MOST_CANDIDATES:
        raise BadInput(f"a batch has at most {MOST_CANDIDATES} candidates, this one {count}: send it in parts")
    return requests


def _version(fields: dict[str, Any]) -> str | None:
    version = fields.get("model_version")
    if version is not None and not (isinstance(version, str) and _VERSION.fullmatch(version)):
        raise BadInput(f"model_version must be 16 hex digits, not {version!r}")
    return version


def _size(request: RankRequest) -> int:
    return len(request.candidate_ids) if request.retrieve is None else request.retrieve.count


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadInput(f"the body must be a JSON object, not {kind_of(fields)}")
    return fields


def _after(fields: dict[str, Any]) -> Token | None:
    """Field `after`. Raises BadInput."""
    if fields.get("after") is None:
        return None
    asked = known_fields(fields["after"], frozenset({"partition", "offset"}), "'after'")
    partition, offset = integer(asked, "partition", _PARTITIONS), integer(asked, "offset", _TIMES_MS)
    if partition is None or offset is None:
        raise BadInput("'after' must have the 'partition' and 'offset' of a record of user-events")
    return Token(partition, offset)


def _retrieve(fields: dict[str, Any]) -> Retrieve | None:
    """Field `retrieve`. Raises BadInput, also where there are candidates as well."""
    if fields.get("retrieve") is None:
        return None
    if fields.get("candidates") is not None:
        raise BadInput("give 'candidates' or 'retrieve', not both")
    asked = known_fields(fields["retrieve"], frozenset({"from", "count"}), "'retrieve'")
    if asked.get("from") not in SOURCES:
        raise BadInput(f"'from' of 'retrieve' must be {' or '.join(SOURCES)}, not {asked.get('from')!r}")
    return Retrieve(asked["from"], integer(asked, "count", range(1, MOST_CANDIDATES + 1)) or _RETRIEVED)


def _candidates(fields: dict[str, Any]) -> tuple[Ids, list[EntityRef] | None, Ids | None]:
    """The distinct ids, how they were written where that differs, and the place of each candidate given."""
    refs = fields.get("candidates")
    if not isinstance(refs, list):
        found = "missing" if refs is None else kind_of(refs)
        raise BadInput(f"field 'candidates' must be an array of ids, it is {found}")
    if not 1 <= len(refs) <= MOST_CANDIDATES:
        raise BadInput(f"'candidates' must have 1 to {MOST_CANDIDATES} ids, it has {len(refs)}")
    plain = set(map(type, refs)) == {int} and min(refs) in _INT64 and max(refs) in _INT64
    given = refs if plain else [entity_of(ref, f"candidates[{index}]") for index, ref in enumerate(refs)]
    ids, places = _distinct(np.array(given, dtype=np.int64))
    if plain:
        return ids, None, places
    if places is None:
        return ids, refs, None
    written: list[EntityRef] = [0] * len(ids)
    for place, ref in zip(reversed(places.tolist()), reversed(refs), strict=True):
        written[place] = ref  # from the end, so that the first of equal ones stays
    return ids, written, places


def _distinct(given: Ids) -> tuple[Ids, Ids | None]:
    """Distinct ids in the order of their first places, and the index of each given one; None: all are distinct.

    Sorting a copy finds out whether there is any repetition in 12 us for 4,000 ids; a set or `unique` takes 250.
    """
    ordered = np.sort(given)
    if not (ordered[1:] == ordered[:-1]).any():
        return given, None
    _, first, inverse = np.unique(given, return_index=True, return_inverse=True)
    rank_of = np.empty(len(first), dtype=np.int64)
    by_place = np.argsort(first)
    rank_of[by_place] = np.arange(len(first))
    return given[first[by_place]], rank_of[inverse]
