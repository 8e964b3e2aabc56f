from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cli.serve import command
from schemas.deployment import Deployment
from serving.ranking.samples import Samples
from serving.ranking.service import Service
from serving.stages import StageClock
from serving.tables.store import TablePartition
from serving.web.api import create_app
from tests.serving.conftest import NOW_MS, Client, item_rows, plain_request, user_rows, watermark_row
from tests.serving.web.test_openapi import check

ITEMS = range(100, 120)


@pytest.fixture
def live(world, make_artifact):
    """A world with a live version, 20 items, a user, and offsets."""
    world.apply("items", item_rows(ITEMS))
    world.apply("users", user_rows(1, [100, 101]))
    world.apply("users", watermark_row(NOW_MS))
    world.go_live(make_artifact(1), ITEMS)
    world.note_applied({TablePartition("users", 0): 17, TablePartition("n2o_a", 1): 4})
    return world


def kept(world, monkeypatch, **options) -> Samples:
    """Samples of everything, in the world's service."""
    samples = Samples(1.0, **options)
    monkeypatch.setattr(world.service, "samples", samples)
    return samples


def ask(world, *candidates: int) -> int:
    """Rank; the sample's id."""
    return world.service.rank_here(plain_request(candidates), StageClock()).sample_id


def test_a_sample_says_what_it_was_made_from_and_what_came_out(live, monkeypatch) -> None:
    """Version, user, time, applied offsets; candidates with their scores; the ranking that was answered."""
    samples = kept(live, monkeypatch)
    answer = live.rank([105, 9999, 103])
    sample = samples.get(int(answer["sample_id"], 16))
    assert sample["applied"] == {"n2o_a": {"1": 4}, "users": {"0": 17}}
    assert (sample["user_id"], sample["at_ms"], sample["model_version"]) == (1, NOW_MS, answer["model_version"])
    assert sample["candidates"] == [105, 9999, 103] and sample["known"] == [True, False, True]
    assert sample["ranking"] == [each["item_id"] for each in answer["items"]]
    score_of = {each["item_id"]: each["score"] for each in answer["items"]}
    assert sample["scores"] == pytest.approx([score_of[each] for each in sample["candidates"]], rel=1e-6)


def test_only_a_share_is_kept(live, monkeypatch) -> None:
    """None at 0, about a fifth at 0.2."""
    assert ask(live, 100) == 0 and len(live.service.samples) == 0
    samples = kept(live, monkeypatch)
    samples.share = 0.2
    ids = [ask(live, 100) for _ in range(400)]
    assert 30 < len(samples) < 150 and len(samples) == len({each for each in ids if each})


def test_an_answer_during_which_rows_came_is_not_kept(live, monkeypatch) -> None:
    """Nobody could say which rows it saw."""
    samples = kept(live, monkeypatch)
    rank = live.service.merger._scorer.rank

    def meanwhile(*arguments):
        live.note_applied({TablePartition("users", 0): 18})
        return rank(*arguments)

    monkeypatch.setattr(live.service.merger._scorer, "rank", meanwhile)
    assert ask(live, 100) == 0 and len(samples) == 0


def test_memory_is_bounded_in_bytes_and_number(live, monkeypatch) -> None:
    """The oldest go; the newest is always there."""
    samples = kept(live, monkeypatch, most_bytes=5000)
    ids = [ask(live, *ITEMS) for _ in range(50)]
    assert 1 <= len(samples) < 15 and samples.get(ids[-1]) and samples.get(ids[0]) is None
    many = kept(live, monkeypatch)
    for _ in range(1005):
        ask(live, 100)
    assert len(many) == 1000


def test_the_file_is_bounded_and_survives(live, monkeypatch, tmp_path) -> None:
    """Every sample is one line; at the bound the file is put aside and replaces the one put aside before."""
    samples = kept(live, monkeypatch, folder=tmp_path / "answers", most_file_bytes=4000)
    ids = [ask(live, *ITEMS) for _ in range(30)]
    found = [
        json.loads(line)["sample_id"]
        for name in ("answers.1.jsonl", "answers.jsonl")
        for line in (tmp_path / "answers" / name).read_text().splitlines()
    ]
    assert found == [f"{each:016x}" for each in ids[-len(found) :]] and 3 < len(found) < 15
    assert all((tmp_path / "answers" / name).stat().st_size <= 4000 for name in ("answers.1.jsonl", "answers.jsonl"))
    assert samples.lost == 0


def test_a_disk_that_takes_nothing_costs_no_answer(live, monkeypatch, tmp_path, caplog) -> None:
    """It is said once and counted; the samples stay in memory."""
    (tmp_path / "answers").write_text("a file where the folder should be")
    samples = kept(live, monkeypatch, folder=tmp_path / "answers")
    assert all(ask(live, 100) for _ in range(3))
    assert samples.lost == 3 and len(samples) == 3 and caplog.text.count("cannot be written") == 1


def test_samples_are_served(world, make_artifact) -> None:
    """The list has the newest first, an id its whole sample; what is not kept is 404, what is no id 400."""
    samples = Samples(1.0)
    world.apply("items", item_rows(ITEMS))
    service = Service(Deployment(), world.store, world.versions, world.progress, world.metrics, samples=samples)
    client = Client(create_app(service, world.metrics, world.freshness))
    world.go_live(make_artifact(1), ITEMS)
    said = [client.rank(user_id=1, candidates=[100, 101]).json()["sample_id"] for _ in range(2)]
    listed = client.get("/v1/answers").json()
    assert [each["sample_id"] for each in listed["answers"]] == said[::-1]
    check("Samples", listed)
    check("Sample", client.get(f"/v1/answers/{said[0]}").json())
    assert client.get("/v1/answers/0000000000000000").status_code == 404
    assert client.get("/v1/answers/xyz").status_code == 400


def test_several_processes_keep_their_answers_on_disk(tmp_path, monkeypatch) -> None:
    """One process keeps them in memory unless told otherwise; of several, nobody knows which one to ask."""
    folders = []
    monkeypatch.setattr("serving.web.server.serve", lambda *given: folders.extend(samples_of(given)))
    for options in (["--workers", "1"], ["--workers", "2"], ["--answers-on-disk"]):
        done = CliRunner().invoke(command, [*options, "--data-dir", str(tmp_path)], env={"AIF_TOKEN": ""})
        assert done.exit_code == 0, done.output
    assert folders == [None, tmp_path / "answers", tmp_path / "answers"]


def samples_of(given: tuple) -> list:
    """The folder of the samples among the arguments of `serve`."""
    return [each._folder for each in given if isinstance(each, Samples)]
