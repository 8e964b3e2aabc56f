from __future__ import annotations

import itertools

import jsonschema
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from schemas.records import ACTIONS
from serving.web.api import create_app
from serving.web.openapi import DOCUMENT
from serving.web.rank_request import RankRequest
from tests.serving.conftest import NOW_MS, World, item_rows, user_rows, watermark_row

ITEMS = range(100, 120)
REGISTRY = Registry().with_resource("urn:api", DRAFT202012.create_resource(DOCUMENT))


@pytest.fixture
def live(world, make_artifact) -> World:
    """A world with a live version, 20 items and a user."""
    world.apply("items", item_rows(ITEMS))
    world.apply("users", user_rows(7, [100, 101, 555]))
    world.apply("users", watermark_row(NOW_MS))
    world.go_live(make_artifact(1), ITEMS)
    return world


def check(schema: str, value: object) -> None:
    """Raises where a value does not have a schema of the document."""
    reference = {"$ref": f"urn:api#/components/schemas/{schema}"}
    jsonschema.Draft202012Validator(reference, registry=REGISTRY).validate(value)


def test_the_document_is_openapi() -> None:
    """Every schema is a valid JSON Schema, every reference leads somewhere, and every schema is used."""
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = orjson.dumps(DOCUMENT).decode()
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names == set(DOCUMENT["components"]["schemas"])


def test_the_document_has_every_route(live) -> None:
    """Paths of the document are the paths that the application answers."""
    app = create_app(live.service, live.metrics, live.freshness)
    assert set(DOCUMENT["paths"]) == {"/v1/rank", *(name for name, _, _ in app._reads)}


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/v1/items/100", "Item"),
        ("/v1/users/7/features", "User"),
        ("/v1/features", "Features"),
        ("/v1/versions", "Versions"),
        ("/v1/freshness", "Freshness"),
        ("/readyz", "Ready"),
        ("/livez", "Live"),
        ("/v1/items/1", "Problem"),
        ("/openapi.json", "Document"),
    ],
)
def test_answers_have_the_schema_that_they_promise(live, client, path, schema) -> None:
    """Each route's answer, from a server with something in it, is as the document says."""
    live.freshness.add("users", 3.0)
    check(schema, client.get(path).json())


def test_rankings_have_the_schema_that_they_promise(live, client) -> None:
    """One request, a batch, and a refusal."""
    wanted = {"user_id": "anna", "candidates": [100, "a", 100], "top_k": None, "filters": {"category_cap": 1}}
    check("RankAnswer", client.rank(**wanted).json())
    check("RankAnswers", client.rank(requests=[wanted, wanted]).json())
    check("Problem", client.rank(user_id=1).json())


def test_an_empty_server_answers_as_promised_too(world, client) -> None:
    """Nothing live, nothing held: still what the document says, and problems where there is nothing."""
    for path, schema in (("/v1/versions", "Versions"), ("/v1/features", "Features"), ("/readyz", "Problem")):
        check(schema, client.get(path).json())
    check("Problem", client.rank(user_id=1, candidates=[1]).json())


ENTITY = st.integers(-(2**63), 2**63 - 1) | st.text(min_size=1, max_size=5)
REQUESTS = st.fixed_dictionaries(
    {"user_id": ENTITY, "candidates": st.lists(ENTITY, min_size=1, max_size=5)},
    optional={
        "top_k": st.none() | st.integers(1, 10_000),
        "at_ms": st.none() | st.integers(0, 2**62 - 1),
        "deadline_ms": st.none() | st.integers(1, 60_000),
        "filters": st.none() | st.fixed_dictionaries({}, optional={"deny_items": st.lists(ENTITY, max_size=3)}),
    },
)


@settings(max_examples=30)
@given(REQUESTS)
def test_what_the_document_allows_is_parsed(request) -> None:
    """Document and parser agree on valid requests."""
    check("RankRequest", request)
    RankRequest.of(request)


def test_schemathesis_finds_nothing(live) -> None:
    """A server, asked everything that the document allows and much that it does not, never fails, never answers what
    is not promised, and refuses what is wrong."""
    app = create_app(live.service, live.metrics, live.freshness)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    checks = [
        check
        for check in schemathesis.checks.CHECKS.get_all()
        if check.__name__ in {
            "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
            "negative_data_rejection", "unsupported_method",
        }
    ]  # fmt: skip
    assert len(checks) == 6
    quick = settings(
        max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate], derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    asked = []
    modes = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
    for found, mode in itertools.product(schema.get_all_operations(), modes):
        operation = found.ok()
        if mode is modes[1] and not (operation.query or operation.body):
            continue  # nothing of it can be wrong

        @quick
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case) -> None:
            if case.media_type != "application/x-aif-rank":  # tests of the endpoint fuzz those bytes
                asked.append(case.call_and_validate(checks=checks).status_code)

        ask()
    assert {200, 400, 404} <= set(asked)


def test_features_are_the_declared_ones(live, client) -> None:
    """Each with its type and actions; the tiers name where they live, and the freshness each partition applied."""
    body = client.get("/v1/features").json()
    assert {each["name"] for each in body["features"]} >= {"reads_5m", "spend_7d", "top_categories"}
    assert all(set(each["actions"]) <= set(ACTIONS) for each in body["features"])
    assert [each["tier"] for each in body["tiers"]] == ["log", "changelog", "table", "server"]
    assert body["freshness"][0]["newest_event_time_ms"] == NOW_MS
