"""The HTTP application: which route answers what. Every error is application/problem+json (RFC 9457)."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl, unquote

from schemas.errors import AifError, BadInput, Unavailable, VersionMismatch
from serving.feeding.freshness import Freshness
from serving.metrics import Metrics
from serving.ranking.service import Service
from serving.web.admission import Admission, Limits
from serving.web.exchange import Receive, Reply, Scope, Send, header, problem
from serving.web.rank_endpoint import RankEndpoint
from serving.web.read_routes import Asked, ReadRoutes

__all__ = ["Application", "create_app"]

_RANK: Final = "/v1/rank"
#: Probes come without a token.
_OPEN: Final = frozenset({"/livez", "/readyz"})
_CHALLENGE: Final = ((b"www-authenticate", b'Bearer realm="aif"'),)

_log = logging.getLogger(__name__)

Handler = Callable[[Scope, Receive], Awaitable[Reply | None]]


class Application:
    """The ASGI application."""

    def __init__(self, rank: RankEndpoint, reads: ReadRoutes, metrics: Metrics, token: str | None) -> None:
        self._rank = rank
        self._metrics = metrics
        self._bearer = None if token is None else f"Bearer {token}".encode()
        self._reads = [(path, path.split("/")[1:], read) for path, read in reads.table().items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; exactly one answer is sent, unless the client left before there was one."""
        if scope["type"] != "http":
            return
        route, handler = self._route(scope)
        try:
            reply = await handler(scope, receive)
        except AifError as error:
            again = isinstance(error, Unavailable | VersionMismatch)
            status = 400 if isinstance(error, BadInput) else 503 if again else 500
            reply = problem(status, str(error))
        except Exception as error:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            reply = problem(500, f"{type(error).__name__}: this is a fault of the server, its log says more")
        self._metrics.requests[route, "left" if reply is None else str(reply.status)].inc()
        if reply is not None:
            await reply.send(send)

    def _route(self, scope: Scope) -> tuple[str, Handler]:
        """The route as metrics name it, "" for none, and what answers."""
        path, method = scope["path"], scope["method"]
        if self._bearer is not None and path not in _OPEN and not self._authorised(scope):
            return "", _not_authorised
        if path == _RANK:
            return _RANK, self._rank.answer if method == "POST" else _not_allowed("POST")
        raw: bytes = scope.get("raw_path") or path.encode()
        segments = [unquote(part) for part in raw.partition(b"?")[0].decode("ascii", "replace").split("/")[1:]]
        for name, pattern, read in self._reads:
            values = _matched(pattern, segments)
            if values is not None:
                return name, _reading(read, values) if method in ("GET", "HEAD") else _not_allowed("GET")
        return "", _no_route

    def _authorised(self, scope: Scope) -> bool:
        assert self._bearer is not None
        return hmac.compare_digest(header(scope, b"authorization"), self._bearer)


def create_app(
    service: Service, metrics: Metrics, freshness: Freshness, limits: Limits | None = None, token: str | None = None
) -> Application:
    """The application of a service. With a token, every route but the probes wants `Authorization: Bearer TOKEN`."""
    admission = Admission(limits or Limits(), metrics.shed)
    return Application(
        RankEndpoint(service, metrics, admission), ReadRoutes(service, metrics, freshness), metrics, token
    )


def _matched(pattern: list[str], segments: list[str]) -> list[str] | None:
    """The values of a pattern's `{...}` segments; None where the path is another."""
    if len(pattern) != len(segments):
        return None
    values = []
    for expected, found in zip(pattern, segments, strict=True):
        if expected.startswith("{") and found:
            values.append(found)
        elif expected != found:
            return None
    return values


def _reading(read: Callable[[Asked], Reply], values: list[str]) -> Handler:
    async def answer(scope: Scope, receive: Receive) -> Reply:
        query = dict(parse_qsl(scope.get("query_string", b"").decode("ascii", "replace"), keep_blank_values=True))
        return read(Asked(values, query))

    return answer


def _not_allowed(method: str) -> Handler:
    async def answer(scope: Scope, receive: Receive) -> Reply:
        detail = f"{scope['method']} {scope['path']}: Method Not Allowed; it answers {method}"
        return problem(405, detail, headers=((b"allow", method.encode()),))

    return answer


async def _no_route(scope: Scope, receive: Receive) -> Reply:
    detail = f"{scope['method']} {scope['path']}: no such route; docs/serving-api.md lists the routes"
    return problem(404, detail)


async def _not_authorised(scope: Scope, receive: Receive) -> Reply:
    return problem(401, "this server wants `Authorization: Bearer TOKEN` (AIF_TOKEN, --token-file)", headers=_CHALLENGE)
