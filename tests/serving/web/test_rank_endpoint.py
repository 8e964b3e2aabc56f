from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.client import Client as RankingClient
from serving.ranking.turns import Turns
from serving.web.admission import Limits
from serving.web.api import create_app
from serving.web.binary import MEDIA_TYPE, BinaryRequest, decode_answer, encode_request
from tests.serving.conftest import NOW_MS, Client, item_rows, user_rows, watermark_row
from tests.serving.listening import Listening

ITEMS = range(100, 120)
BODY = encode_request(BinaryRequest(1, np.arange(100, 110, dtype=np.int64)))


@pytest.fixture
def live(world, make_artifact):
    """A world with a live version, 20 items and a user."""
    world.apply("items", item_rows(ITEMS))
    world.apply("users", user_rows(1, [100, 101]))
    world.apply("users", watermark_row(NOW_MS))
    world.go_live(make_artifact(1), ITEMS)
    return world


def post(client: Client, content: bytes, media_type: str | None = MEDIA_TYPE) -> httpx.Response:
    """POST /v1/rank."""
    headers = {} if media_type is None else {"content-type": media_type}
    return client.send("POST", "/v1/rank", content=content, headers=headers)


def test_a_binary_request_gets_a_binary_answer(live, client) -> None:
    """The answer has the body's type, the stages' times in its header, and what JSON says."""
    response = post(client, BODY)
    assert (response.status_code, response.headers["content-type"]) == (200, MEDIA_TYPE)
    assert "inference;dur=" in response.headers["server-timing"]
    answer, said = decode_answer(response.content), client.rank(user_id=1, candidates=list(range(100, 110))).json()
    assert answer.item_ids.tolist() == [each["item_id"] for each in said["items"]]
    assert answer.age_ms > 0 and answer.model_version == said["model_version"]


def test_content_types(live, client) -> None:
    """JSON also as what curl's -d says; with parameters; another type is 415 and says which there are."""
    body = b'{"user_id":1,"candidates":[100]}'
    for media_type in (
        None,
        "application/json",
        "application/JSON; charset=utf-8",
        "application/x-www-form-urlencoded",
    ):
        assert post(client, body, media_type).status_code == 200
    refused = post(client, body, "text/plain")
    assert refused.status_code == 415 and MEDIA_TYPE in refused.json()["detail"]
    assert "must begin with b'AIFQ'" in post(client, body + b" " * 20).json()["detail"]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(junk=st.binary(max_size=80), cut=st.integers(0, len(BODY)), media_type=st.sampled_from([MEDIA_TYPE, None]))
def test_no_body_is_a_fault_of_the_server(live, client, junk, cut, media_type) -> None:
    """Whatever bytes come, as JSON or binary, the answer is 200 or says what is wrong with them: never 5xx."""
    for content in (junk, BODY[:cut] + junk, BODY[:cut] + junk + BODY[cut + len(junk) :]):
        response = post(client, content, media_type)
        assert response.status_code in (200, 400), response.text
        assert response.status_code == 200 or response.json()["detail"]


def test_a_batch_ranks_many_users_at_once(live, client) -> None:
    """Each answer is the one that its request gets alone, in the order of the batch."""
    wanted = [{"user_id": user, "candidates": list(ITEMS), "top_k": 3} for user in (1, "nobody", 1)]
    response = client.rank(requests=wanted)
    assert response.status_code == 200
    alone = [client.rank(**each).json() for each in wanted]
    for one, other in zip(response.json()["answers"], alone, strict=True):
        assert {name: one[name] for name in ("user_id", "items", "user_known")} == {
            name: other[name] for name in ("user_id", "items", "user_known")
        }


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"requests": []}, "array of 1 to 64 requests, it is 0"),
        ({"requests": 5}, "array of 1 to 64 requests, it is a number"),
        ({"requests": [{}] * 65}, "it is 65"),
        ({"requests": [{"user_id": 1, "candidates": [1]}, {"user_id": 1}]}, "requests[1]: field 'candidates'"),
        ({"requests": [7]}, "requests[0]: a request must be a JSON object, not a number"),
        ({"requests": [{"user_id": 1, "candidates": [1]}], "top_k": 1}, "unknown field 'top_k' in a batch"),
        ({"requests": [{"user_id": 1, "candidates": [*range(6000)]}] * 2}, "at most 10000 candidates, this one 12000"),
        ({"user_id": 1, "candidates": [1], "deadline_ms": 0}, "deadline_ms must be 1 to 60000, not 0"),
    ],
)  # fmt: skip
def test_a_bad_batch_is_told_which_request_is_wrong(live, client, body, says) -> None:
    """One bad request refuses the whole batch, by its place."""
    response = client.rank(**body)
    assert response.status_code == 400 and says in response.json()["detail"]


def test_a_request_may_want_one_version(live, client) -> None:
    """That version answers where it is live; another one, and one that nobody knows, is 409; what is no version 400."""
    wanted = {"user_id": 1, "candidates": [100]}
    name = live.versions.live.name
    assert client.rank(**wanted, model_version=name).json()["model_version"] == name
    for asked in ({**wanted, "model_version": "0" * 16}, {"requests": [wanted, {**wanted, "model_version": "0" * 16}]}):
        refused = client.rank(**asked)
        assert refused.status_code == 409 and name in refused.json()["detail"]
    assert client.rank(**wanted, model_version="newest").status_code == 400


def test_constants_that_are_no_json_are_refused(live, client) -> None:
    """NaN and Infinity are not JSON: 400, wherever they stand."""
    for constant in (b"NaN", b"Infinity", b"-Infinity"):
        body = b'{"user_id":1,"candidates":[100],"filters":{"minimum_price":' + constant + b"}}"
        assert "not JSON" in post(client, body, None).json()["detail"]


class Blocked:
    """A service whose scoring waits until it may go on."""

    def __init__(self, world, monkeypatch, threads: ThreadPoolExecutor) -> None:
        self.scored = 0
        self.may_go_on = threading.Event()
        self._rank = world.service.rank_here
        monkeypatch.setattr(world.service, "rank_here", self.rank_here)
        monkeypatch.setattr(world.service.merger, "turns", Turns(threads))

    def rank_here(self, request, clock, begun=None):
        """Waits, then ranks."""
        assert self.may_go_on.wait(10)
        self.scored += 1
        return self._rank(request, clock)


@pytest.fixture
def blocked(live, monkeypatch):
    """A service with one thread that scores, which is held up."""
    with ThreadPoolExecutor(1) as threads:
        held = Blocked(live, monkeypatch, threads)
        yield held
        held.may_go_on.set()


def requests(app, count: int, leave: bool = False) -> list[asyncio.Task]:
    """Starts `count` binary requests; clients that `leave` disconnect once their body is sent."""

    async def ask() -> list[dict]:
        sent: list[dict] = []
        messages = [{"type": "http.request", "body": BODY}]
        forever = asyncio.Event()

        async def receive() -> dict:
            if messages:
                return messages.pop(0)
            if not leave:
                await forever.wait()
            return {"type": "http.disconnect"}

        async def send(message) -> None:
            sent.append(message)

        headers = [(b"content-type", MEDIA_TYPE.encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/rank", "headers": headers}
        await app(scope, receive, send)
        return sent

    return [asyncio.ensure_future(ask()) for _ in range(count)]


def test_beyond_the_bound_requests_are_refused_at_once(live, blocked) -> None:
    """Of twelve requests at a bound of eight, four get 503 with Retry-After while the others wait."""
    app = create_app(live.service, live.metrics, live.freshness, Limits(under_way=8))

    async def story() -> list[int]:
        tasks = requests(app, 12)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.05)
        refused = [task.result() for task in tasks if task.done()]
        assert all((b"retry-after", b"1") in answer[0]["headers"] for answer in refused)
        assert b"requests are under way" in refused[0][1]["body"]
        blocked.may_go_on.set()
        return sorted([(await task)[0]["status"] for task in tasks])

    assert asyncio.run(story()) == [200] * 8 + [503] * 4
    assert b'aif_requests_shed_total{bound="requests"} 4.0' in live.metrics.text()


def test_a_client_that_leaves_while_it_waits_is_not_scored(live, blocked) -> None:
    """Requests whose clients left before a thread was free are given up; those that stayed are answered."""
    app = create_app(live.service, live.metrics, live.freshness)

    async def story() -> None:
        staying = requests(app, 4)
        await asyncio.sleep(0.02)
        leaving = requests(app, 10, leave=True)
        assert await asyncio.gather(*leaving) == [[]] * 10
        blocked.may_go_on.set()
        assert [(await task)[0]["status"] for task in staying] == [200] * 4

    asyncio.run(story())
    assert blocked.scored == 4
    assert b'aif_requests_total{route="/v1/rank",status="left"} 10.0' in live.metrics.text()


def test_a_request_that_waited_beyond_its_deadline_is_not_scored(live, blocked) -> None:
    """What nobody waits for any more is answered 503 without being scored."""
    app = create_app(live.service, live.metrics, live.freshness)
    late = encode_request(BinaryRequest(1, np.array([100]), deadline_ms=1))

    async def story() -> httpx.Response:
        first = requests(app, 1)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            asking = asyncio.ensure_future(http.post("/v1/rank", content=late, headers={"content-type": MEDIA_TYPE}))
            await asyncio.sleep(0.05)
            blocked.may_go_on.set()
            await asyncio.gather(*first)
            return await asking

    response = asyncio.run(story())
    assert response.status_code == 503 and "deadline_ms of 1" in response.json()["detail"]


def test_bodies_together_are_bounded(live) -> None:
    """A body that would take the server beyond its bound on held bytes is refused; nothing stays held."""
    app = create_app(live.service, live.metrics, live.freshness, Limits(bodies_bytes=len(BODY) + 10))
    client = Client(app)
    for _ in range(3):
        assert post(client, BODY).status_code == 200
        refused = post(client, BODY + bytes(20))
        assert refused.status_code == 503 and "too many bytes" in refused.json()["detail"]


def test_a_body_that_does_not_end_in_time_is_refused(live) -> None:
    """408 once the time for bodies is over, and the bytes that came are given back."""
    app = create_app(live.service, live.metrics, live.freshness, Limits(body_s=0.05, bodies_bytes=2 * len(BODY)))

    async def slow():
        yield BODY[:20]
        await asyncio.sleep(5)

    for _ in range(4):
        response = Client(app).send("POST", "/v1/rank", content=slow(), headers={"content-type": MEDIA_TYPE})
        assert response.status_code == 408, response.text
    assert post(Client(app), BODY).status_code == 200


def test_long_json_goes_through_threads_and_says_the_same(live, client) -> None:
    """Bodies and answers that are parsed and written off the event loop equal the short ones."""
    many = [*ITEMS, *range(1000, 4000)]
    long, short = (
        client.rank(user_id=1, candidates=many).json(),
        client.rank(user_id=1, candidates=many, top_k=5).json(),
    )
    assert len(long["items"]) == len(many)
    assert long["items"][:5] == short["items"]
    assert orjson.dumps(long["missing_items"]) == b"3000"


def test_a_client_that_leaves_while_it_is_scored_loses_only_its_answer(live, blocked) -> None:
    """The connection is closed in the middle of scoring; the answer goes nowhere, the next client gets its own."""
    app = create_app(live.service, live.metrics, live.freshness)
    head = f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    with Listening(app) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as leaving:
            leaving.sendall(head.encode() + BODY)
            time.sleep(0.05)
        blocked.may_go_on.set()
        with RankingClient(served.url) as client:
            assert len(client.rank(1, list(ITEMS)).item_ids) == len(ITEMS)
        assert blocked.scored == 2
