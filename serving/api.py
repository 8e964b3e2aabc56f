"""The HTTP routes. Every error is application/problem+json (RFC 9457) with a sentence that says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.errors import BadInput, Corrupt, DecodeError, Unavailable
from schemas.ids import hashed_id
from serving.freshness import Freshness
from serving.metrics import Metrics
from serving.rank_request import RankRequest, entity_of
from serving.scorer import StageClock
from serving.service import Service

__all__ = ["MOST_BODY_BYTES", "create_app"]

MOST_BODY_BYTES: Final = 1 << 20

_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"
_TITLES: Final = {
    400: "Bad request",
    404: "Not found",
    405: "Method not allowed",
    413: "Body too large",
    500: "Internal error",
    503: "Not ready",
}
_INT64: Final = range(-(2**63), 2**63)
_LONGEST_WINDOW_S: Final = 86_400.0

Handler = Callable[[Request], Awaitable[Response]]


def create_app(service: Service, metrics: Metrics, freshness: Freshness, workers: ThreadPoolExecutor) -> Starlette:
    """The application. `workers` runs what takes longer than an event loop should wait."""
    routes = _Routes(service, metrics, freshness, workers)
    table: dict[str, tuple[str, Handler]] = {
        "/v1/rank": ("POST", routes.rank),
        "/v1/items/{id}": ("GET", routes.item),
        "/v1/users/{id}/features": ("GET", routes.user),
        "/v1/versions": ("GET", routes.versions),
        "/v1/freshness": ("GET", routes.freshness),
        "/livez": ("GET", routes.livez),
        "/readyz": ("GET", routes.readyz),
        "/metrics": ("GET", routes.metrics),
    }
    return Starlette(
        routes=[
            Route(path, routes.counted(path, handler), methods=[method]) for path, (method, handler) in table.items()
        ],
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
    )


class _Routes:
    def __init__(self, service: Service, metrics: Metrics, freshness: Freshness, workers: ThreadPoolExecutor) -> None:
        self._service = service
        self._metrics = metrics
        self._freshness = freshness
        self._workers = workers

    def counted(self, path: str, handler: Handler) -> Handler:
        """The handler, with its problems turned into answers and its answers counted."""

        async def answer(request: Request) -> Response:
            try:
                response = await handler(request)
            except BadInput as error:
                response = _problem(400, str(error))
            except Unavailable as error:
                response = _problem(503, str(error))
            except (Corrupt, DecodeError) as error:
                response = _problem(500, str(error))
            self._metrics.requests.labels(path, str(response.status_code)).inc()
            return response

        return answer

    async def rank(self, request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return _problem(413, f"the body is larger than {MOST_BODY_BYTES} bytes: send fewer candidates per request")
        # Off the event loop, where 4,000 candidates would stop everybody for 5 ms. Beside one such stream (2 cores),
        # with threads: /livez 0.15 ms, 100 candidates 1.8 ms; on the loop 5.0 and 6.2. A lone request pays 0.2 ms.
        loop = asyncio.get_running_loop()
        content, clock = await loop.run_in_executor(self._workers, self._rank, body)
        timing = ", ".join(f"{stage};dur={spent:.3f}" for stage, spent in clock.ms.items())
        return Response(content, media_type=_JSON, headers={"Server-Timing": timing})

    def _rank(self, body: bytes) -> tuple[bytes, StageClock]:
        clock = StageClock()
        with clock.time("ingress"):
            parsed = RankRequest.parse(body)
        content = orjson.dumps(self._service.rank(parsed, clock))
        for stage, spent_ms in clock.ms.items():
            self._metrics.stages.labels(stage).observe(spent_ms / 1000)
        return content, clock

    async def item(self, request: Request) -> Response:
        for item_id in _path_ids(request):
            if found := self._service.item(item_id):
                return _json(found)
        return _problem(404, f"no item {request.path_params['id']!r} was ever applied by this server")

    async def user(self, request: Request) -> Response:
        at_ms = _query_integer(request, "at_ms", 2**62 - 1)
        for user_id in _path_ids(request):
            if found := self._service.user(user_id, at_ms):
                return _json(found)
        return _problem(404, f"no event of user {request.path_params['id']!r} was applied yet")

    async def versions(self, request: Request) -> Response:
        return _json(self._service.versions_known())

    async def freshness(self, request: Request) -> Response:
        raw = request.query_params.get("window_s", "60")
        try:
            window_s = float(raw)
        except ValueError:
            window_s = -1.0
        if not 0 < window_s <= _LONGEST_WINDOW_S:
            raise BadInput(f"window_s must be a number of seconds up to {_LONGEST_WINDOW_S:.0f}, not {raw!r}")
        delays = self._freshness.over(window_s)
        return _json({"window_s": window_s, "tables": {table: each._asdict() for table, each in delays.items()}})

    async def livez(self, request: Request) -> Response:
        return _json({"live": True})

    async def readyz(self, request: Request) -> Response:
        state = self._service.readiness()
        if state["ready"]:
            return _json(state)
        return _problem(503, "; ".join(state["reasons"]), state)

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=_METRICS)


async def _body(request: Request) -> bytes | None:
    """The body, read no further than its bound; None where it is larger."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MOST_BODY_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _path_ids(request: Request) -> list[int]:
    """Ids that a path segment may mean: the integer that it is, then the hash of it as a string id."""
    text = request.path_params["id"]
    try:
        number = int(text)
    except ValueError:
        return [entity_of(text, "id")]
    return [number, hashed_id(text)] if number in _INT64 else [hashed_id(text)]


def _query_integer(request: Request, name: str, most: int) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise BadInput(f"{name} must be an integer of 0 to {most}, not {text!r}")
    return int(text)


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type=_JSON)


def _problem(status: int, detail: str, more: dict[str, Any] | None = None) -> Response:
    title = _TITLES.get(status, "Error")
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **(more or {})}
    headers = {"Retry-After": "1"} if status == 503 else None
    return Response(orjson.dumps(body), status, headers, _PROBLEM)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such route, no such method."""
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}; docs/serving-api.md lists the routes"
    response = _problem(error.status_code, detail)
    response.headers.update(error.headers or {})
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of the program: Starlette logs it with its traceback, the client learns its kind."""
    return _problem(500, f"{type(error).__name__}: this is a fault of the server, its log says more")
