"""`aif why` on a real changelog: what a server answered is made again by the oracle, after newer rows have come."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from cli.why import command
from domain.partitioner import partition_of
from producers.topics import create_topics
from schemas.errors import Unavailable
from schemas.ids import entity_id
from serving.client import Client
from serving.ranking.samples import Samples
from serving.tables.store import TablePartition
from serving.web.api import create_app
from tests.serving.conftest import NOW_MS, item_rows, make_artifact, n2o_records, n2o_rows, user_rows, world  # noqa: F401
from tests.serving.listening import Listening

ITEMS = range(300, 330)
USER = 1


def write(deployment, table: str, rows) -> dict[TablePartition, int]:
    """Append rows to a changelog as workers partition them; where each touched partition then ends."""

    async def send() -> dict[TablePartition, int]:
        producer = AIOKafkaProducer(bootstrap_servers=deployment.bootstrap_servers)
        await producer.start()
        ends = {}
        try:
            for key, value in zip(*rows, strict=True):
                partition = partition_of(entity_id(key), deployment.partitions)
                done = await producer.send_and_wait(deployment.changelog(table), value, key, partition=partition)
                ends[TablePartition(table, partition)] = done.offset + 1
        finally:
            await producer.stop()
        return ends

    return asyncio.run(send())


@pytest.fixture
def answered(world, make_artifact, deployment, tmp_path, monkeypatch):  # noqa: F811
    """An explained answer of a server that had applied everything; newer rows of the same user and items follow."""
    create_topics(deployment)
    artifact = make_artifact(1)
    world.apply("items", item_rows(ITEMS))
    mine = user_rows(USER, [300, 301, 302, 9999])
    rows = n2o_rows(n2o_records(artifact.manifest.version_tag, ITEMS))
    world.note_applied(write(deployment, "users", mine) | write(deployment, "n2o_a", rows))
    world.apply("users", mine)
    world.go_live(artifact, ITEMS)
    monkeypatch.setattr(world.service, "samples", Samples(1.0, folder=tmp_path / "answers"))
    with Listening(create_app(world.service, world.metrics, world.freshness)) as served:
        wanted = {"user_id": USER, "candidates": [*ITEMS, 8888], "at_ms": NOW_MS, "explain": True}
        body = ask(served.url, wanted)
    write(deployment, "users", user_rows(USER, [305, 306], "purchase"))
    write(deployment, "n2o_a", n2o_rows(n2o_records(artifact.manifest.version_tag, ITEMS, seed=7)))
    write(deployment, "n2o_a", n2o_rows(n2o_records(artifact.manifest.version_tag + 1, ITEMS, seed=8)))
    return body


def ask(url: str, wanted: dict) -> dict:
    """POST /v1/rank."""
    with Client(url) as client:
        return client.rank_json(**wanted)


def why(deployment, *arguments: str):
    """Run the command on the test's deployment."""
    common = ["--bootstrap-servers", deployment.bootstrap_servers, "--prefix", deployment.prefix]
    common += ["--partitions", str(deployment.partitions), "--data-dir", str(deployment.data_dir)]
    return CliRunner().invoke(command, [*arguments, *common])


@pytest.mark.broker
def test_an_answer_is_made_again_from_the_changelogs(answered, deployment, tmp_path) -> None:
    """Scores of all candidates come out again though newer rows have come; contributions and similar behaviours are
    those that the server explained; an altered sample is found out."""
    done = why(deployment, answered["sample_id"], "--candidates", "0", "--top", "2", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert len(report["scores"]) == len(ITEMS) + 1 and report["largest_difference"] < 1e-5 and report["gone"] == []
    answered_scores = {each["item_id"]: each["score"] for each in answered["items"]}
    for line in report["scores"]:
        assert line["recomputed"] == pytest.approx(answered_scores[line["item_id"]], abs=1e-5)
    for mine, theirs in zip(report["explained"], answered["explanation"]["items"], strict=False):
        assert mine["item_id"] == theirs["item_id"]
        told = {each["term"]: each["contribution"] for each in theirs["terms"]}
        assert mine["terms"] == pytest.approx(told, abs=2e-3)
        assert [each["equal_bits"] for each in mine["similar"]] == [each["equal_bits"] for each in theirs["similar"]]

    text = why(deployment, answered["sample_id"], "--item", "305").output
    assert "the same" in text and "item 305, the logit less" in text and "like item 300 (click)" in text

    path = tmp_path / "answers" / "answers.jsonl"
    sample = json.loads(path.read_text())
    path.write_text(json.dumps({**sample, "scores": [score + 0.1 for score in sample["scores"]]}) + "\n")
    done = why(deployment, answered["sample_id"])
    assert done.exit_code == 1 and "NOT the same" in done.output
    path.write_text(json.dumps({**sample, "applied": {"users": {"0": 10**6, "1": 10**6}}}) + "\n")
    assert "another deployment" in str(why(deployment, answered["sample_id"]).exception)
    path.write_text(json.dumps(sample) + "\n")
    assert "item 77 was no candidate" in str(why(deployment, answered["sample_id"], "--item", "77").exception)


def test_an_answer_that_nobody_has_is_said(tmp_path) -> None:
    """Neither a file nor a server: the message says where the server was looked for."""
    done = CliRunner().invoke(command, ["0" * 16, "--data-dir", str(tmp_path), "--server", "http://127.0.0.1:9"])
    assert isinstance(done.exception, Unavailable) and "127.0.0.1:9" in str(done.exception)
