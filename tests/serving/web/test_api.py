from __future__ import annotations

import asyncio
import json
import re

import httpx
import pytest

from domain.n2o import Flag
from schemas.errors import Unavailable
from schemas.ids import entity_key, hashed_id
from serving.stages import STAGES
from serving.web.admission import Limits
from tests.serving.conftest import NOW_MS, item_rows, n2o_records, n2o_rows, user_rows, watermark_row

ITEMS = range(100, 120)
USER = 7


@pytest.fixture
def live(world, make_artifact):
    """A world with a live version, 20 items, one user and a clock."""
    world.apply("items", item_rows(ITEMS))
    world.apply("users", user_rows(USER, [100, 101, 555]))
    world.apply("users", watermark_row(NOW_MS))
    world.go_live(make_artifact(1), ITEMS)
    return world


def problem(response: httpx.Response, status: int) -> str:
    """The detail of a problem answer, whose form is checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status and body["type"] and body["title"]
    return body["detail"]


def test_rank_answers_with_scores_and_what_was_known(live, client) -> None:
    """Best first, titles where there are some, and every count that explains the scores."""
    response = client.rank(user_id=USER, candidates=[*ITEMS, 9999], top_k=20)
    body = response.json()
    assert response.status_code == 200
    assert body["model_version"] == live.versions.live.name
    scores = [item["score"] for item in body["items"]]
    assert len(scores) == 20 and scores == sorted(scores, reverse=True)
    assert all(item["title"] == f"item {item['item_id']}" and item["known"] for item in body["items"])
    assert {name: body[name] for name in body if name not in ("items", "stages_ms", "model_version")} == {
        "user_id": USER, "user_known": True, "at_ms": NOW_MS, "age_ms": body["age_ms"], "behaviours_used": 2,
        "behaviours_missing": 1, "missing_items": 1, "deleted_items": 0, "filtered_items": 0, "duplicates": 0,
        "user_phase": "computed", "quality": {"behaviours": 20, "candidates": 21},
    }  # fmt: skip
    assert list(body["stages_ms"]) == list(STAGES)
    timing = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
    assert list(timing) == list(STAGES) and all(float(spent) > 0 for spent in timing.values())


def test_unknown_users_and_items_get_the_documented_default(live, client) -> None:
    """Nobody's scores come from empty behaviours; an unknown item has known false and comes last."""
    body = client.rank(user_id="nobody", candidates=[9999, 100]).json()
    assert (body["user_known"], body["behaviours_used"]) == (False, 0)
    assert [(item["item_id"], item["known"]) for item in body["items"]] == [(100, True), (9999, False)]
    assert "title" not in body["items"][1]
    text = client.get("/metrics").text
    assert 'aif_rank_users_total{outcome="unknown"} 1.0' in text
    assert 'aif_candidates_total{outcome="missing"} 1.0' in text


def test_strings_are_hashed_as_at_the_edge_and_echoed(live, client) -> None:
    """A string id means the id that producers made of it, and the answer repeats it as it was written."""
    item, user = hashed_id("sku-1"), hashed_id("anna")
    live.apply("items", item_rows([item]))
    live.apply("n2o_a", n2o_rows(n2o_records(live.versions.live.slab.tag, [item])))
    live.apply("users", user_rows(user, [100]))
    body = client.rank(user_id="anna", candidates=["sku-1", "sku-2", 100]).json()
    assert body["user_id"] == "anna" and body["user_known"]
    assert {each["item_id"]: each["known"] for each in body["items"]} == {"sku-1": True, "sku-2": False, 100: True}
    assert client.get("/v1/items/sku-1").json()["item_id"] == item
    assert client.get("/v1/users/anna/features").json()["user_id"] == user


def test_duplicates_are_scored_once_and_counted(live, client) -> None:
    """Equal candidates, also as hash and string, count as one: the first."""
    body = client.rank(user_id=USER, candidates=[100, 101, 100, "a", hashed_id("a")]).json()
    assert body["duplicates"] == 2
    assert {item["item_id"] for item in body["items"]} == {100, 101, "a"}


def test_deleted_items_are_not_servable(live, client) -> None:
    """A candidate whose item is deleted comes last, known false, and is counted as deleted."""
    live.apply("items", item_rows([100], deleted=True))
    live.apply("n2o_a", n2o_rows(n2o_records(live.versions.live.slab.tag, [100], flags=Flag.DELETED)))
    body = client.rank(user_id=USER, candidates=[100, 101]).json()
    assert (body["deleted_items"], body["missing_items"]) == (1, 0)
    assert [(item["item_id"], item["known"]) for item in body["items"]] == [(101, True), (100, False)]


def test_the_time_of_a_request_decides_what_the_user_did(live, client) -> None:
    """at_ms is the clock of windows and behaviours; a behaviour after it does not exist yet."""
    now, before = (client.rank(user_id=USER, candidates=[100], at_ms=at).json() for at in (NOW_MS, NOW_MS - 90_000))
    assert (now["behaviours_used"], before["behaviours_used"]) == (2, 1)
    assert now["items"][0]["score"] != before["items"][0]["score"]


BAD_BODIES = [
    (b"{", "the body is not JSON"),
    (b"\xff", "the body is not JSON"),
    (b"[1]", "must be a JSON object, not an array"),
    (b"null", "must be a JSON object, not null"),
    (b'{"candidates":[1]}', "'user_id' is missing"),
    (b'{"user_id":null,"candidates":[1]}', "user_id must be an integer or a string, not null"),
    (b'{"user_id":true,"candidates":[1]}', "user_id must be an integer or a string, not true or false"),
    (b'{"user_id":1.5,"candidates":[1]}', "user_id must be an integer or a string, not a number with a fraction"),
    (b'{"user_id":"","candidates":[1]}', "user_id must not be an empty string"),
    (b'{"user_id":9223372036854775808,"candidates":[1]}', "user_id must be a 64-bit signed integer"),
    (b'{"user_id":1}', "'candidates' must be an array of ids, it is missing"),
    (b'{"user_id":1,"candidates":5}', "'candidates' must be an array of ids, it is a number"),
    (b'{"user_id":1,"candidates":[]}', "1 to 10000 ids, it has 0"),
    (b'{"user_id":1,"candidates":[1,2.0]}', "candidates[1] must be an integer or a string, not a number with"),
    (b'{"user_id":1,"candidates":[[1]]}', "candidates[0] must be an integer or a string, not an array"),
    (b'{"user_id":1,"candidates":[{}]}', "candidates[0] must be an integer or a string, not an object"),
    (b'{"user_id":1,"candidates":[1,18446744073709551615]}', "candidates[1] must be a 64-bit signed integer"),
    (b'{"user_id":1,"candidates":[1],"top_k":0}', "top_k must be 1 to 10000, not 0"),
    (b'{"user_id":1,"candidates":[1],"top_k":"3"}', "top_k must be an integer, not a string"),
    (b'{"user_id":1,"candidates":[1],"at_ms":-1}', "at_ms must be 0 to"),
    (b'{"user_id":1,"candidates":[1],"at_ms":1.5}', "at_ms must be an integer"),
    (b'{"user_id":1,"candidates":[1],"topk":3}', "unknown field 'topk'"),
]


@pytest.mark.parametrize(("body", "says"), BAD_BODIES, ids=[says for _, says in BAD_BODIES])
def test_a_malformed_request_is_told_what_is_wrong(client, body, says) -> None:
    """Each fault of a body has its own sentence, whether or not a model is live."""
    assert says in problem(client.send("POST", "/v1/rank", content=body), 400)


def test_too_many_candidates_and_too_large_bodies_are_refused(live, client) -> None:
    """The bound on candidates is 10,000, that on bytes 1 MiB: just below both still answers."""
    assert "it has 10001" in problem(client.rank(user_id=1, candidates=list(range(10_001))), 400)
    assert client.rank(user_id=1, candidates=list(range(10_000)), top_k=1).status_code == 200
    large = b'{"user_id":1,"candidates":[1]' + b" " * (Limits.body_bytes - 30) + b"}"
    assert client.send("POST", "/v1/rank", content=large).status_code == 200
    assert "larger than 1048576 bytes" in problem(client.send("POST", "/v1/rank", content=large + b"  "), 413)


def test_an_endless_body_is_not_read_to_its_end(client) -> None:
    """Reading stops at the bound, whatever the client goes on sending."""
    sent = []

    async def endless():
        for _ in range(1000):
            sent.append(1)
            yield b" " * 65_536

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(client._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.post("/v1/rank", content=endless())

    problem(asyncio.run(ask()), 413)
    assert len(sent) < 20


def test_without_a_live_version_rank_says_why(world, client, make_artifact) -> None:
    """503 with the reason and when to try again, while GETs and liveness answer."""
    world.progress.caught_up = False
    response = client.rank(user_id=1, candidates=[1])
    detail = problem(response, 503)
    assert "bootstrap has not caught up" in detail and "aif model publish" in detail
    assert response.headers["retry-after"] == "1"
    assert client.get("/livez").status_code == 200
    artifact = make_artifact(1)
    world.build(artifact)
    assert "is building" in problem(client.get("/readyz"), 503)
    world.versions.refuse(artifact.version, "head.npz differs")
    assert "head.npz differs" in problem(client.get("/readyz"), 503)
    assert client.get("/readyz").json()["refused"] == {artifact.version: "head.npz differs"}


def test_ready_means_live_caught_up_and_within_the_lag_bound(live, client) -> None:
    """Lag beyond the bound makes a server unready; a broker that is away does not: it answers and says how stale."""
    assert client.get("/readyz").json()["ready"] is True
    live.progress.connected, live.progress.current_at_s = False, live.progress.monotonic_s() - 5
    body = client.get("/readyz").json()
    assert (body["ready"], body["broker"]) == (True, "unreachable")
    assert 5000 <= body["age_ms"] < 6000
    assert 5000 <= client.rank(user_id=USER, candidates=[100]).json()["age_ms"] < 6000
    live.progress.lag = {("users", 0): 99_999, ("items", 0): 2}
    assert "100001 changelog offsets behind" in problem(client.get("/readyz"), 503)
    live.progress.lag = {}
    live.progress.failed = "the feed has ended"
    assert "the feed has ended" in problem(client.get("/readyz"), 503)
    assert client.rank(user_id=USER, candidates=[100]).status_code == 200


def test_items_show_what_is_held(live, client) -> None:
    """Catalogue fields and the rows of the versions in use; 404 where nothing is held."""
    body = client.get("/v1/items/100").json()
    assert (body["title"], body["live"], body["category_id"]) == ("item 100", True, 3)
    assert [row["version"] for row in body["rows"]] == [live.versions.live.name]
    assert len(body["rows"][0]["signature"]) == 16
    assert "'4242'" in problem(client.get("/v1/items/4242"), 404)
    assert problem(client.get(f"/v1/items/{2**64}"), 404)


def test_user_features_are_decoded(live, client) -> None:
    """Windows by action and behaviours newest first, at the asked time."""
    body = client.get("/v1/users/7/features").json()
    assert body["windows"] == {"5m": {"click": 3}, "1h": {"click": 3}, "24h": {"click": 3}, "7d": {"click": 3}}
    assert [(each["item_id"], each["title"]) for each in body["behaviours"]] == [
        (555, None), (101, "item 101"), (100, "item 100"),
    ]  # fmt: skip
    assert (body["features"]["reads_5m"], body["features"]["spend_7d"]) == (3, None)
    later = client.get(f"/v1/users/7/features?at_ms={NOW_MS + 3 * 3_600_000}").json()
    assert (later["features"]["reads_5m"], later["features"]["last_read_ms"]) == (0, NOW_MS)
    assert (later["windows"]["5m"], later["windows"]["24h"]) == ({}, {"click": 3})
    assert "no event of user '8'" in problem(client.get("/v1/users/8/features"), 404)
    assert "at_ms must be an integer" in problem(client.get("/v1/users/7/features?at_ms=now"), 400)


def test_a_user_row_of_other_windows_is_never_misread(live, client, monkeypatch) -> None:
    """A row with another fingerprint counts as no row when ranking, and is an error when it is asked for."""
    monkeypatch.setattr("serving.tables.users.FINGERPRINT", 12345)
    assert client.rank(user_id=USER, candidates=[100]).json()["user_known"] is False
    assert 'outcome="other_windows"' in client.get("/metrics").text
    assert "other_windows" in problem(client.get("/v1/users/7/features"), 500)
    live.apply("users", ([entity_key(8)], [b"damaged"]))
    assert client.rank(user_id=8, candidates=[100]).json()["user_known"] is False


def test_versions_show_what_is_live_and_what_comes(live, client, make_artifact) -> None:
    """What answers with its rows, coverage and memory, what comes, and each version as the log has it."""
    name, comes = live.versions.live.name, make_artifact(9)
    live.build(comes, gate=0.5)
    live.fill(comes, range(100, 112))
    live.load()
    live.progress.publish(live.folder.control, {}, live.flip.said(live.state))
    live.progress.refresh(live.folder.control, live.store)
    body = client.get("/v1/versions").json()
    assert (body["live"]["version"], body["live"]["rows"], body["live"]["coverage"]) == (name, 20, 1.0)
    assert (body["upcoming"]["version"], body["upcoming"]["rows"], body["retained"]) == (comes.version, 12, None)
    found = {each["version"]: each for each in body["versions"]}
    assert [(found[name][field]) for field in ("phase", "slot", "warm_processes")] == ["live", "n2o_a", 1]
    described = [found[comes.version][field] for field in ("phase", "slot", "rows", "coverage", "gate")]
    assert described == ["building", "n2o_b", 12, 0.6, 0.5]
    assert body["epoch"] == 6 and body["processes"] == 1 and body["live_since_ms"] > NOW_MS
    assert body["live"]["model_bytes"] > 1000
    assert 0 < body["slab_bytes"] <= body["most_slab_bytes"]


def test_freshness_gives_percentiles_of_the_asked_window(live, client) -> None:
    """p50 and p99 by table over the last seconds; a window that is none is refused."""
    for delay_ms in range(1, 101):
        live.freshness.add("users", float(delay_ms))
    body = client.get("/v1/freshness?window_s=10").json()
    assert body["tables"]["users"] == {"batches": 100, "p50_ms": 50.5, "p99_ms": 99.01, "worst_ms": 100.0}
    for bad in ("0", "x", "nan", "-1", "1e9"):
        assert "window_s" in problem(client.get(f"/v1/freshness?window_s={bad}"), 400)


def test_metrics_cover_requests_state_and_freshness(live, client) -> None:
    """Prometheus reads requests by status, stages, rows, coverage, counts and lag."""
    client.rank(user_id=USER, candidates=[100, 9999])
    client.send("POST", "/v1/rank", content=b"{")
    live.progress.lag = {}
    text = client.get("/metrics").text
    name = live.versions.live.name
    for line in (
        'aif_requests_total{route="/v1/rank",status="200"} 1.0',
        'aif_requests_total{route="/v1/rank",status="400"} 1.0',
        f'aif_rank_stage_seconds_count{{outcome="ok",stage="inference",version="{name}"}} 1.0',
        'aif_candidates_total{outcome="scored"} 1.0',
        'aif_behaviours_total{outcome="missing"} 1.0',
        f'aif_slab_rows{{slot="n2o_a",version="{name}"}} 20.0',
        f'aif_slab_leases_revoked_total{{slot="n2o_a",version="{name}"}} 0.0',
        f'aif_slab_rows_damaged_total{{slot="n2o_a",version="{name}"}} 0.0',
        f'aif_coverage{{slot="n2o_a",version="{name}"}} 1.0',
        f'aif_live_version{{version="{name}"}} 1.0',
        "aif_items 20.0",
        "aif_users 1.0",
        "aif_ready 1.0",
    ):
        assert line in text, line


def test_unknown_routes_and_methods_are_problems_too(client) -> None:
    """Even what the framework refuses is a problem document."""
    assert "/nowhere" in problem(client.get("/nowhere"), 404)
    assert "Method Not Allowed" in problem(client.get("/v1/rank"), 405)


def test_a_fault_of_the_server_is_a_problem_and_not_a_page(live, client, monkeypatch) -> None:
    """Unexpected errors name their kind, retriable ones are 503."""

    def broken(*_):
        raise RuntimeError("secret")

    def away(*_):
        raise Unavailable("not now")

    monkeypatch.setattr(live.service, "rank_here", broken)
    detail = problem(client.rank(user_id=1, candidates=[1]), 500)
    assert "RuntimeError" in detail and "secret" not in detail
    monkeypatch.setattr(live.service, "rank_here", away)
    assert problem(client.rank(user_id=1, candidates=[1]), 503) == "not now"


def test_answers_are_strict_json(live, client) -> None:
    """No NaN or Infinity: every answer parses where constants are refused."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for path in ("/v1/versions", "/readyz", "/v1/items/100", "/v1/users/7/features", "/v1/freshness"):
        json.loads(client.get(path).text, parse_constant=refuse)
