"""POST /v1/rank: from a body to a body, JSON or binary, within the server's bounds."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from schemas.errors import AifError, BadInput, Unavailable
from serving.metrics import Metrics
from serving.ranking.answers import Answer
from serving.ranking.service import Service
from serving.stages import StageClock
from serving.web.admission import Admission
from serving.web.binary import MEDIA_TYPE
from serving.web.exchange import JSON, Receive, Reply, Scope, header, problem, read_body
from serving.web.rank_request import RankRequest, parse_batch

__all__ = ["RankEndpoint"]

_BINARY: Final = MEDIA_TYPE.encode()
#: What JSON comes as: curl's -d says the second.
_JSON_TYPES: Final = frozenset({b"", JSON, b"application/x-www-form-urlencoded"})
#: Parsing or writing more JSON than this takes long enough (0.2 ms) to be worth a thread's hand-over.
_SHORT_BODY_BYTES: Final = 8192
_SHORT_ANSWER_ITEMS: Final = 256
#: With fewer requests under way none waits for long, and a client that leaves costs at most one request's work.
_WATCHED_FROM: Final = 4


class RankEndpoint:
    """Rank requests over HTTP."""

    def __init__(self, service: Service, metrics: Metrics, admission: Admission) -> None:
        self._service = service
        self._metrics = metrics
        self._admission = admission

    async def answer(self, scope: Scope, receive: Receive) -> Reply | None:
        """The reply to POST /v1/rank; None where the client left before there was one."""
        media_type = header(scope, b"content-type").partition(b";")[0].strip().lower()
        if media_type != _BINARY and media_type not in _JSON_TYPES:
            detail = f"content type {media_type.decode('latin-1')!r}: send application/json or {MEDIA_TYPE}"
            return problem(415, detail)
        body = await read_body(receive, self._admission)
        if not isinstance(body, bytes):
            return body
        clock = StageClock()
        try:
            return await self._bounded(body, media_type == _BINARY, receive, clock)
        except AifError as error:
            self._metrics.stages.note(clock, "", _outcome(error))
            raise
        finally:
            self._admission.release(len(body))

    async def _bounded(self, body: bytes, binary: bool, receive: Receive, clock: StageClock) -> Reply | None:
        if not self._admission.begin():
            raise Unavailable(f"{self._admission.under_way} requests are under way here: ask again later")
        try:
            ranking = self._binary(body, clock) if binary else self._json(body, clock)
            if self._admission.under_way < _WATCHED_FROM:
                return await ranking
            return await _while_connected(ranking, receive)
        finally:
            self._admission.end()

    async def _binary(self, body: bytes, clock: StageClock) -> Reply:
        with clock.time("ingress"):
            request = RankRequest.from_binary(body)
        answer = await self._service.rank(request, clock)
        with clock.time("post_processing"):
            content = answer.as_binary()
        return self._reply(content, _BINARY, answer, clock)

    async def _json(self, body: bytes, clock: StageClock) -> Reply:
        with clock.time("ingress"):
            short = len(body) <= _SHORT_BODY_BYTES
            asked = parse_batch(body) if short else await asyncio.to_thread(parse_batch, body)
        if isinstance(asked, list):
            return await self._batch(asked, clock)
        answer = await self._service.rank(asked, clock)
        if (other := _other_version([answer])) is not None:
            return other
        write = self._written
        short = len(answer.order) <= _SHORT_ANSWER_ITEMS
        content = write(answer, clock) if short else await asyncio.to_thread(write, answer, clock)
        return self._reply(content, JSON, answer, clock)

    async def _batch(self, asked: list[RankRequest], clock: StageClock) -> Reply:
        """All of a batch, each on its own clock; the header tells the whole batch's parsing and nothing else."""
        clocks = [StageClock() for _ in asked]
        answers = await asyncio.gather(*map(self._service.rank, asked, clocks))
        if (other := _other_version(answers)) is not None:
            return other
        for answer, each in zip(answers, clocks, strict=True):
            self._metrics.stages.note(each, answer.model_version, "ok")
        data = [self._service.as_json(answer, each) for answer, each in zip(answers, clocks, strict=True)]
        return Reply(200, await asyncio.to_thread(orjson.dumps, {"answers": data}), JSON, _timing(clock))

    def _written(self, answer: Answer, clock: StageClock) -> bytes:
        with clock.time("post_processing"):
            data: dict[str, Any] = self._service.as_json(answer, clock)
            return orjson.dumps(data)

    def _reply(self, content: bytes, media_type: bytes, answer: Answer, clock: StageClock) -> Reply:
        self._metrics.stages.note(clock, answer.model_version, "ok")
        return Reply(200, content, media_type, _timing(clock))


def _outcome(error: AifError) -> str:
    return "invalid" if isinstance(error, BadInput) else "shed" if isinstance(error, Unavailable) else "failed"


def _other_version(answers: list[Answer]) -> Reply | None:
    """The refusal of answers by another version than their requests want. Judged by what answered: no race is lost."""
    for answer in answers:
        if answer.request.model_version not in (None, answer.model_version):
            detail = f"model {answer.request.model_version} does not answer here, {answer.model_version} does"
            return problem(409, f"{detail}: ask without model_version, or a server that has it live")
    return None


def _timing(clock: StageClock) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"server-timing", clock.server_timing().encode()),)


async def _while_connected(ranking: Any, receive: Receive) -> Reply | None:
    """A ranking's reply, given up where the client leaves first: what waits for a thread is then never scored."""
    task = asyncio.ensure_future(ranking)
    left = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        return None if not task.done() else task.result()
    finally:
        for each in (task, left):
            if not each.done():
                each.cancel()
