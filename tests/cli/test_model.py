"""`aif model` against a real broker: with a coordinator that decides, and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from coordinating import coordinated
from plain_artifact import digest_of, plain_artifact
from rollout_records import RolloutWriter, progress

from cli.main import main
from producers.publish import Sent
from producers.topics import create_topics
from schemas.deployment import Deployment

A, B, C = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"


def model(deployment: Deployment, *words: str) -> Result:
    """Run `aif model`."""
    options = ["--bootstrap-servers", deployment.bootstrap_servers, "--prefix", deployment.prefix]
    return CliRunner().invoke(main, ["model", *words, *options, "--data-dir", str(deployment.data_dir)])


@pytest.fixture
def writer(deployment: Deployment) -> Iterator[RolloutWriter]:
    """Topics, and who writes decisions to them by hand."""
    create_topics(deployment)
    writer = RolloutWriter(deployment)
    yield writer
    writer.close()


def test_a_missing_artifact_is_named() -> None:
    """Publishing what does not exist exits with 2 before any broker is asked."""
    result = CliRunner().invoke(main, ["model", "publish", "nowhere", "--bootstrap-servers", "127.0.0.1:1"])
    assert result.exit_code == 2 and "nowhere" in result.stderr


@pytest.mark.parametrize("words", [["--gate", "1.5"], ["--shadow", "10"], ["--manual", "--wait-live"]])
def test_terms_that_make_no_sense_are_usage_errors(words: list[str], tmp_path: Path) -> None:
    """A gate above 1, a length without a unit, waiting for what is not to come: refused before anything is sent."""
    result = CliRunner().invoke(main, ["model", "publish", str(tmp_path), *words])
    assert result.exit_code == 2 and "Usage" in result.stderr


@pytest.mark.broker
def test_commands_are_decided_on(deployment: Deployment, tmp_path: Path) -> None:
    """Each command prints what was decided; a refusal exits with 2 and says why; history has all of it in order."""
    create_topics(deployment)
    with coordinated(deployment):
        published = model(
            deployment, "publish", str(plain_artifact(tmp_path / "a")), "--gate", "0.9", "--reason", "new"
        )
        version = digest_of(tmp_path / "a")[:16]
        assert published.exit_code == 0 and published.stdout == f"{version}\n"
        assert "epoch 1: accept" in published.stderr and ": new" in published.stderr
        paused = model(deployment, "pause", version[:5], "--json")
        assert json.loads(paused.stdout)["decision"]["decision"] == "pause"
        resumed = model(deployment, "resume")
        assert f"resume {version} by " in resumed.stdout
        refused = model(deployment, "promote", "--reason", "now")
        assert refused.exit_code == 2 and "only a covered version can go live" in refused.stderr
        assert model(deployment, "rollback").exit_code == 2
        assert model(deployment, "retire", version).exit_code == 0
        assert "no version is on its way" in model(deployment, "retire").stderr
    lines = model(deployment, "history", "--json").stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    asked = [(each["decision"], each["command"]) for each in entries if each["command"]]
    assert asked == [
        ("accept", "publish"), ("pause", "pause"), ("resume", "resume"), ("refuse", "promote"), ("refuse", "rollback"),
        ("retire", "retire"),
    ]  # fmt: skip
    assert [each["epoch"] for each in entries] == list(range(1, len(entries) + 1))
    assert all("@" in each["by"] for each in entries if each["command"])
    assert len(model(deployment, "history", "--limit", "2").stdout.splitlines()) == 2


@pytest.mark.broker
def test_without_a_coordinator_a_command_waits_in_the_log(
    writer: RolloutWriter, deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no worker a command exits with 69 and says that it is not lost; with --no-wait it exits with 0 at once."""
    monkeypatch.setattr("cli.model_asking._DECIDED_WITHIN_S", 0.3)
    folder = str(plain_artifact(tmp_path / "a"))
    waited = model(deployment, "publish", folder)
    assert waited.exit_code == 69 and "no need to send it again" in waited.stderr
    sent = model(deployment, "rollback", "--no-wait", "--json")
    assert sent.exit_code == 0 and json.loads(sent.stdout)["offset"] == 1
    assert [line.split()[0] for line in model(deployment, "history").stdout.splitlines()] == ["?", "?"]


@pytest.mark.broker
def test_waiting_until_it_is_live(
    writer: RolloutWriter, deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--wait-live ends well when the version is live, saying each decision, and with 2 and the reason when rejected."""
    folder = plain_artifact(tmp_path / "a")
    version = digest_of(folder)[:16]

    def sent(offset: int, *decisions: tuple[str, dict[str, str]]) -> None:
        """Instead of sending: what the log says of the command at this offset, and after it."""

        def publish(*_: object, **__: object) -> Sent:
            writer.decide("accept", version, command_offset=offset)
            for what, changes in decisions:
                writer.decide(what, version, **changes)
            return Sent(offset, {"version": version})  # type: ignore[typeddict-item]

        monkeypatch.setattr("producers.publish.publish", publish)

    sent(0, ("reject", {"reason": "3 of 9 items have a row"}))
    rejected = model(deployment, "publish", str(folder), "--wait-live")
    assert rejected.exit_code == 2 and "does not go live: 3 of 9 items have a row" in rejected.stderr
    sent(1, ("build", {"slot": "n2o_a"}), ("cover", {}), ("live", {"reason": "the first version"}))
    live = model(deployment, "publish", str(folder), "--wait-live")
    assert live.exit_code == 0 and live.stdout == f"{version}\n"
    told = [line.split()[2] for line in live.stderr.splitlines()]
    assert told == ["accept", "build", "cover", "live"]


@pytest.mark.broker
def test_status_tells_each_version(writer: RolloutWriter, deployment: Deployment) -> None:
    """Versions with slot, coverage by partition, rate, time left, who and why; refusals at the end."""
    assert "aif model publish" in model(deployment, "status").stdout
    for version, slot in ((A, "n2o_a"), (B, "n2o_b"), (C, "n2o_c")):
        writer.decide("accept", version, by="ann@host", shadow_s=600, retain_s=3_600)
        build = writer.decide("build", version, slot=slot, reason="its artifact passed every check")
        if version != C:
            writer.decide("cover", version)
            writer.decide("live", version)
    for partition, written in ((0, 100), (1, 60)):
        report = progress(
            C, partition, build["epoch"], written=written, rejected=0, done=written == 100, items_per_s=20.0
        )
        writer.write("build-progress", report)
    writer.decide("refuse", C, by="bob@host", reason="promote: it is building")
    found = json.loads(model(deployment, "status", "--json").stdout)
    phases = {each["version"]: each["phase"] for each in found["versions"]}
    assert phases == {A: "retained", B: "live", C: "building"} and found["epoch"] == writer.state.epoch
    building = next(each for each in found["versions"] if each["version"] == C)
    coverage = building["coverage"]
    assert (coverage["items"], coverage["written"], coverage["share"], coverage["missing"]) == (200, 160, 0.8, [])
    assert (coverage["items_per_s"], coverage["seconds_left"]) == (20.0, 2.0)
    assert building["published_by"] == "ann@host" and building["terms"]["shadow_s"] == 600
    page = model(deployment, "status").stdout
    for words in ("n2o_c", "80.00%", "160 of 200 items", "2 s left", "ann@host", "waits for a roll-back", "60 of 100"):
        assert words in page, page
    assert "refused" in page and "promote: it is building" in page and "bob@host" in page


@pytest.mark.broker
@pytest.mark.parametrize(
    ("terms", "decisions", "awaited"),
    [
        ({}, [], "the check of its artifact"),
        ({}, ["pause"], "`aif model resume`"),
        ({}, ["build"], "the workers of partitions 0, 1, which have not reported"),
        ({"auto": False}, ["build", "cover"], "`aif model promote`"),
        ({"shadow_s": 600}, ["build", "cover"], "10.0 min more in the shadow"),
        ({"min_overlap": 0.5}, ["build", "cover"], "a top-k overlap of 0.5 in the shadow"),
    ],
)
def test_status_says_what_a_version_waits_for(
    writer: RolloutWriter, deployment: Deployment, monkeypatch: pytest.MonkeyPatch,
    terms: dict[str, object], decisions: list[str], awaited: str,
) -> None:  # fmt: skip
    """Whoever looks learns what has to happen next, and which command makes it happen."""
    monkeypatch.setattr("time.time", lambda: 1.0)  # when all was decided
    writer.decide("accept", A, **terms)
    for what in decisions:
        writer.decide(what, A, slot="n2o_a")
    assert f"waits for {awaited}" in model(deployment, "status").stdout


@pytest.mark.broker
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_status_goes_on_until_it_is_told_to_stop(
    writer: RolloutWriter, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """--watch shows what was decided meanwhile, and Ctrl-C ends it in good order."""
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        if seconds == 7:  # the watch's own; clients sleep too
            if looks:
                raise KeyboardInterrupt
            looks.append(seconds)
            writer.decide("accept", A)

    writer.decide("accept", B)
    monkeypatch.setattr("cli.model_status.time.sleep", sleep)
    watched = model(deployment, "status", "--watch", "--interval", "7", *options)
    assert watched.exit_code == 0, watched.output
    if options:
        epochs = [json.loads(line)["epoch"] for line in watched.stdout.splitlines()]
        assert epochs == [1, 2]
    else:
        assert A in watched.stdout
