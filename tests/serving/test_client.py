from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from schemas.errors import BadInput, Corrupt, Unavailable
from schemas.ids import hashed_id
from serving.client import AsyncClient, Client
from serving.web.admission import Limits
from serving.web.api import create_app
from serving.web.binary import Outcome
from tests.serving.conftest import NOW_MS, item_rows, n2o_records, n2o_rows, user_rows, watermark_row
from tests.serving.listening import Listening

ITEMS = range(100, 120)


@pytest.fixture
def serve() -> Iterator:
    """Starts servers over applications and ends them."""
    with ExitStack() as started:
        yield lambda app, limits=None: started.enter_context(Listening(app, limits))


@pytest.fixture
def live(world, make_artifact):
    """A world with a live version, 20 items and a user."""
    world.apply("items", item_rows(ITEMS))
    world.apply("users", user_rows(1, [100, 101]))
    world.apply("users", watermark_row(NOW_MS))
    world.go_live(make_artifact(1), ITEMS)
    return world


@pytest.fixture
def served(live, serve) -> Listening:
    """A server over that world."""
    return serve(create_app(live.service, live.metrics, live.freshness))


def test_the_client_ranks_as_json_does(served) -> None:
    """Binary and JSON answers to one request agree in ids, scores, version and counts; strings are hashed."""
    with Client(served.url) as client:
        wanted = [*ITEMS, 100, 9999, "sku-1"]
        best = client.rank(1, wanted, top_k=5)
        said = client.rank_json(user_id=1, candidates=wanted, top_k=5)
    assert best.item_ids.tolist() == [each["item_id"] for each in said["items"]]
    assert best.scores.tolist() == pytest.approx([each["score"] for each in said["items"]], rel=1e-7)
    for name in ("model_version", "user_known", "missing_items", "duplicates", "at_ms", "behaviours_used"):
        assert getattr(best, name) == said[name]
    assert (best.duplicates, best.missing_items) == (1, 2)


def test_scores_in_the_order_of_the_request(served) -> None:
    """One score for each candidate given, repeated ones included, with what became of it."""
    with Client(served.url) as client:
        ids = np.array([105, 9999, 103, 105], dtype=np.int64)
        answer = client.rank(1, ids, in_request_order=True)
        best = client.rank(1, ids)
    assert answer.item_ids is None and len(answer.scores) == 4
    assert answer.outcomes.tolist() == [Outcome.SCORED, Outcome.UNKNOWN, Outcome.SCORED, Outcome.SCORED]
    score_of = dict(zip(best.item_ids.tolist(), best.scores.tolist(), strict=True))
    assert answer.scores.tolist() == [score_of[each] for each in ids.tolist()]


def test_reads_and_problems(served) -> None:
    """GETs give data; the server's sentence reaches the caller as the error that it is."""
    with Client(served.url) as client:
        assert client.get("/readyz")["ready"] is True
        assert client.item(100)["title"] == "item 100"
        assert client.user_features(1)["user_id"] == 1
        with pytest.raises(BadInput, match="404: no item 'a/b c'"):
            client.item("a/b c")
        with pytest.raises(BadInput, match="400: count must be 1"):
            client.rank(1, [])


def test_the_asynchronous_client_does_the_same(served) -> None:
    """Many tasks share kept connections, and every answer is that of the blocking client."""

    async def ask() -> list:
        async with AsyncClient(served.url) as client:
            answers = await asyncio.gather(*(client.rank(user, list(ITEMS)) for user in [1] * 20))
            with pytest.raises(BadInput, match="400"):
                await client.rank_json(user_id=1)
            assert (await client.get("/livez")) == {"live": True}
            assert (await client.item(100))["title"] == "item 100"
            assert (await client.user_features(1))["user_id"] == 1
            return answers

    with Client(served.url) as client:
        expected = client.rank(1, list(ITEMS)).scores.tolist()
    assert [answer.scores.tolist() for answer in asyncio.run(ask())] == [expected] * 20


def test_connections_are_kept_and_shared(served) -> None:
    """Calls after one another use one connection; eight threads never have more than eight."""
    with Client(served.url) as client, ThreadPoolExecutor(8) as threads:
        for _ in range(12):
            client.rank(1, [100])
        assert len(served.server.server_state.connections) == 1
        list(threads.map(lambda _: client.rank(1, [100]), range(24)))
        assert len(served.server.server_state.connections) <= 8


def test_a_kept_connection_that_the_server_closed_is_replaced(live, serve) -> None:
    """The server closes idle connections; the next call goes over a new one and the caller sees nothing."""
    limits = Limits(idle_s=1)
    served = serve(create_app(live.service, live.metrics, live.freshness, limits), limits)
    with Client(served.url) as client:
        client.rank(1, [100])
        for connection in list(served.server.server_state.connections):
            served.server.servers[0].get_loop().call_soon_threadsafe(connection.transport.close)
        assert client.rank(1, [100]).user_known

    async def ask() -> bool:
        async with AsyncClient(served.url) as client:
            await client.rank(1, [100])
            next(iter(client._idle)).close()
            return (await client.rank(1, [100])).user_known

    assert asyncio.run(ask())


def test_a_server_that_is_away_late_or_broken_is_said(live, serve, monkeypatch) -> None:
    """No listener, one that never answers, and a fault: three errors, and none is tried again."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url) as client, pytest.raises(Unavailable, match="did not answer in time"):
            client.rank(1, [1], deadline_ms=50)

        async def ask() -> None:
            async with AsyncClient(url) as client:
                await client.rank(1, [1], deadline_ms=50)

        with pytest.raises(Unavailable, match="did not answer in time"):
            asyncio.run(ask())
    with Client(url) as client, pytest.raises(Unavailable, match=r"cannot be reached.*aif serve"):
        client.rank(1, [1])
    asked = []

    def broken(*_):
        asked.append(1)
        raise RuntimeError

    monkeypatch.setattr(live.service, "rank_here", broken)
    served = serve(create_app(live.service, live.metrics, live.freshness))
    with Client(served.url) as client, pytest.raises(Corrupt, match="500: RuntimeError"):
        client.rank(1, [1])
    assert len(asked) == 1


def test_a_wrong_url_is_refused() -> None:
    """Only http and https servers, without a path."""
    for url in ("127.0.0.1:80", "ftp://x", "http://x/v1"):
        with pytest.raises(BadInput, match="is no server"):
            Client(url)


def test_the_client_needs_little() -> None:
    """Importing it loads neither torch, faust, onnxruntime nor the rest of the server."""
    code = "import serving.client, sys; print(sorted(name for name in sys.modules if name in %r))"
    heavy = ["torch", "faust", "onnxruntime", "uvicorn", "numba", "serving.ranking.service", "prometheus_client"]
    done = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_string_ids_are_hashed_as_at_the_edge(live, served) -> None:
    """A string means the id that producers made of it."""
    live.apply("items", item_rows([hashed_id("sku-1")]))
    live.apply("n2o_a", n2o_rows(n2o_records(live.versions.live.slab.tag, [hashed_id("sku-1")])))
    with Client(served.url) as client:
        assert client.rank("nobody", ["sku-1"]).item_ids.tolist() == [hashed_id("sku-1")]
