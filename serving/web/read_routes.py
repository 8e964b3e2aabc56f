"""The routes that only read: items, users, features, versions, freshness, the OpenAPI document, health, metrics."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from schemas.errors import BadInput
from schemas.ids import hashed_id
from serving.feeding.freshness import Freshness
from serving.metrics import Metrics
from serving.ranking.service import Service
from serving.web.exchange import Reply, json_reply, problem
from serving.web.json_fields import entity_of
from serving.web.openapi import DOCUMENT

__all__ = ["Asked", "ReadRoutes"]

_METRICS: Final = b"text/plain; version=0.0.4; charset=utf-8"
_INT64: Final = range(-(2**63), 2**63)
_MOST_DIGITS: Final = 20
_SAMPLE_ID: Final = re.compile("[0-9a-f]{16}")
_LATEST_MS: Final = 2**62 - 1
_LONGEST_WINDOW_S: Final = 86_400.0


@dataclass(frozen=True)
class Asked:
    """What a GET says: values of the path's `{...}` segments, and the query; of repeated names the last counts."""

    values: list[str]
    query: dict[str, str]

    @property
    def ids(self) -> list[int]:
        """Ids that the first path value may mean: the integer that it is, then the hash of it as a string id."""
        text = self.values[0]
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < _MOST_DIGITS):
            return [entity_of(text, "id")]
        number = int(text)
        return [number, hashed_id(text)] if number in _INT64 else [hashed_id(text)]

    def integer(self, name: str, most: int) -> int | None:
        """An optional integer of the query. Raises BadInput."""
        text = self.query.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS and int(text) <= most):
            raise BadInput(f"{name} must be an integer of 0 to {most}, not {text!r}")
        return int(text)


class ReadRoutes:
    """Handlers by path; each answers at once, on the event loop."""

    def __init__(self, service: Service, metrics: Metrics, freshness: Freshness) -> None:
        self._lookups = service.lookups
        self._samples = service.samples
        self._metrics = metrics
        self._freshness = freshness

    def table(self) -> dict[str, Callable[[Asked], Reply]]:
        """Every route of GET."""
        return {
            "/v1/items/{id}": self._item,
            "/v1/users/{id}/features": self._user,
            "/v1/features": self._features,
            "/v1/versions": self._versions,
            "/v1/freshness": self._delays,
            "/v1/answers": self._kept,
            "/v1/answers/{id}": self._answer,
            "/openapi.json": self._openapi,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._exposition,
        }

    def _item(self, asked: Asked) -> Reply:
        for item_id in asked.ids:
            if found := self._lookups.item(item_id):
                return json_reply(found)
        return problem(404, f"no item {asked.values[0]!r} was ever applied by this server")

    def _user(self, asked: Asked) -> Reply:
        at_ms = asked.integer("at_ms", _LATEST_MS)
        for user_id in asked.ids:
            if found := self._lookups.user(user_id, at_ms):
                return json_reply(found)
        return problem(404, f"no event of user {asked.values[0]!r} was applied yet")

    def _features(self, asked: Asked) -> Reply:
        return json_reply(self._lookups.features())

    def _versions(self, asked: Asked) -> Reply:
        return json_reply(self._lookups.versions())

    def _delays(self, asked: Asked) -> Reply:
        raw = asked.query.get("window_s", "60")
        try:
            window_s = float(raw)
        except ValueError:
            window_s = -1.0
        if not 0 < window_s <= _LONGEST_WINDOW_S:
            raise BadInput(f"window_s must be a number of seconds up to {_LONGEST_WINDOW_S:.0f}, not {raw!r}")
        delays = self._freshness.over(window_s)
        return json_reply({"window_s": window_s, "tables": {table: each._asdict() for table, each in delays.items()}})

    def _kept(self, asked: Asked) -> Reply:
        return json_reply({"share": self._samples.share, "lost": self._samples.lost, "answers": self._samples.newest()})

    def _answer(self, asked: Asked) -> Reply:
        text = asked.values[0]
        if not _SAMPLE_ID.fullmatch(text):
            raise BadInput(f"a sample's id has 16 hex digits, not {text!r}")
        sample = self._samples.get(int(text, 16))
        if sample is None:
            return problem(404, f"answer {text} is not kept here: it was not sampled, or newer ones have replaced it")
        return json_reply(sample)

    def _openapi(self, asked: Asked) -> Reply:
        return json_reply(DOCUMENT)

    def _livez(self, asked: Asked) -> Reply:
        return json_reply({"live": True})

    def _readyz(self, asked: Asked) -> Reply:
        state = self._lookups.readiness()
        return json_reply(state) if state["ready"] else problem(503, "; ".join(state["reasons"]), state)

    def _exposition(self, asked: Asked) -> Reply:
        return Reply(200, self._metrics.text(), _METRICS)
