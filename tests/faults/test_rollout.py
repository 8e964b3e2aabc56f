"""Model versions change under load while things crash; every answer is scored again by the version that it names."""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from fleet import create_topics, drained, running, verified, wait_for
from rollout_fleet import CHURNING, REBUILD, STATIC, RolloutFleet, family

from domain.rollout import Decision, Phase, Terms
from models.aif import AIF
from models.config import ModelConfig
from models.export import export
from producers.publish import promote, publish, rollback
from schemas.artifact_cache import artifacts_folder
from schemas.deployment import Deployment
from schemas.ids import entity_id

pytestmark = [pytest.mark.broker, pytest.mark.timeout(400)]

ITEMS = len(STATIC) + len(CHURNING)
REQUESTS = 100_000
SERVE = ("--workers", "2", "--shadow-share", "0.05")
#: Scores of the served form in float64 beside those in float32.
TOLERANCE = 1e-4
GONE = (Phase.RETIRED, Phase.REJECTED)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four models as unlike each other as can be, by version."""
    folders = []
    for seed in range(4):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AIF(ModelConfig.of(Deployment()))
        folders.append(export(model, {"seed": seed}, tmp_path_factory.mktemp("artifacts")).folder)
    return {folder.name: folder for folder in folders}


@pytest.fixture(scope="module")
def fleet(broker: Any, artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolloutFleet]:
    """Two workers, a server and clients; the first version is live. What dies in a test runs again when it ends."""
    deployment = Deployment(
        bootstrap_servers=broker.bootstrap_servers, prefix=f"t{uuid.uuid4().hex[:10]}-", partitions=2,
        data_dir=tmp_path_factory.mktemp("fleet"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AIF_") and not name.startswith("AIF_TEST_")]:
            patch.delenv(name)
        create_topics(deployment)
        fleet = RolloutFleet(deployment, artifacts)
        fleet.fill()
        with running():
            for worker in fleet.workers:
                worker.start(*REBUILD)
            try:
                drained(deployment, *fleet.workers, within_s=90)
                first = next(iter(artifacts))
                publish(deployment, str(artifacts[first]))
                fleet.server.start(*SERVE)
                wait_for(lambda: (fleet.server.ready() or {}).get("model_version") == first, 60, fleet.server.ready)
                wait_for(fleet._followed, 90, lambda: "item vectors do not follow what users do")
                with fleet.under_load():
                    fleet.wait_phase(first, Phase.LIVE)
                    fleet.wait_answers(first)
                    yield fleet
            finally:
                for worker in fleet.workers:
                    if worker._process is not None and worker.process.poll() is None:
                        worker.kill()
                fleet.server.stop()


def offered(fleet: RolloutFleet, *, terms: Terms | None = None) -> str:
    """Publish a version that nothing is kept of; the version."""
    version = next(each for each in fleet.artifacts if fleet.phase(each) in (None, *GONE))
    publish(fleet.deployment, str(fleet.artifacts[version]), terms)
    return version


def all_there(fleet: RolloutFleet) -> None:
    """Every worker runs again, and the live version answers."""
    fleet.supervise()
    live = fleet.state.live
    assert live is not None
    fleet.wait_answers(live.name)


def test_a_worker_dies_in_every_build(fleet: RolloutFleet) -> None:
    """kill -9 of each worker in turn while it builds: its partitions' next owner ends the build, and it goes live."""
    for worker in (fleet.workers[0], fleet.workers[1]):
        version = offered(fleet)
        fleet.wait_phase(version, Phase.BUILDING)
        time.sleep(1)
        worker.kill()
        worker.start(*REBUILD)
        fleet.wait_phase(version, Phase.LIVE)
        fleet.wait_answers(version)


def test_of_two_that_race_the_one_published_last_is_live(fleet: RolloutFleet) -> None:
    """Two publishes at the same moment: one supersedes the other, whichever came first in the log."""
    all_there(fleet)
    some = [each for each in fleet.artifacts if fleet.phase(each) in (None, *GONE)][:2]
    with ThreadPoolExecutor(2) as two:
        sent = list(two.map(lambda each: publish(fleet.deployment, str(fleet.artifacts[each])), some))
    last = max(sent, key=lambda each: each.offset).version
    fleet.wait_phase(last, Phase.LIVE)
    assert all(each.name == last or each.phase is not Phase.LIVE for each in fleet.state.versions)
    fleet.wait_answers(last)


def test_a_roll_back_ends_a_build(fleet: RolloutFleet) -> None:
    """The retained version answers within a moment of the decision, and what was being built is retired."""
    all_there(fleet)
    live, retained = fleet.state.live, fleet.state.retained
    assert live and retained
    next_one = offered(fleet)
    fleet.wait_phase(next_one, Phase.BUILDING)
    rollback(fleet.deployment, live.name)
    fleet.wait_phase(retained.name, Phase.LIVE)
    fleet.wait_answers(retained.name, within_s=20)
    assert (fleet.phase(next_one), fleet.phase(live.name)) == (Phase.RETIRED, Phase.RETIRED)
    assert fleet.state.live and fleet.state.live.name == retained.name


def test_the_server_dies_in_the_middle_of_a_flip(fleet: RolloutFleet) -> None:
    """kill -9 of one process of the server, and then of all, at the moment of a decision: it answers by it after."""
    all_there(fleet)
    for kill_all in (False, True):
        version = offered(fleet, terms=Terms(auto=False))
        fleet.wait_phase(version, Phase.COVERED)
        promote(fleet.deployment, version)
        fleet.wait_phase(version, Phase.LIVE)
        if kill_all:
            fleet.kill_server()
            fleet.server.start(*SERVE)
        else:
            assert fleet.server._process is not None
            os.kill(family(fleet.server._process.pid)[-1], signal.SIGKILL)
        fleet.wait_answers(version)


def test_a_roll_back_does_not_wait_for_a_dead_coordinator(fleet: RolloutFleet) -> None:
    """kill -9 of the coordinator's worker: the other one decides on a roll-back while the partition has no owner.

    With the session of a deployment; the shortest that the broker allows would be over before.
    """
    version = offered(fleet)
    fleet.wait_phase(version, Phase.LIVE)
    for worker in fleet.workers:
        worker.kill()
        worker.start(*REBUILD, "--session-timeout", "20")
    coordinator = wait_for(lambda: next(filter(fleet.coordinates, fleet.workers), None), 60)
    [other] = [worker for worker in fleet.workers if worker is not coordinator]
    wait_for(other.health, 60)
    fleet.wait_answers(version)
    retained = fleet.state.retained
    assert retained is not None
    coordinator.kill()
    began_s = time.monotonic()
    rollback(fleet.deployment, version)
    wait_for(lambda: fleet.phase(retained.name) is Phase.LIVE, 60, lambda: fleet.state)
    decided_s = time.monotonic() - began_s
    assert not fleet.coordinates(other), "it was decided by the partition's next owner"
    assert other.metric("aif_rollout_stood_in_total") >= 1
    fleet.wait_answers(retained.name)
    print(f"decided {decided_s:.2f} s after the roll-back was asked for, answered {time.monotonic() - began_s:.2f} s")
    other.kill()
    all_there(fleet)


def test_the_broker_restarts_in_a_build(fleet: RolloutFleet, broker: Any) -> None:
    """kill -9 of the broker while a version is built: servers answer meanwhile, and the build ends after."""
    all_there(fleet)
    version = offered(fleet)
    fleet.wait_phase(version, Phase.BUILDING)
    broker.kill()
    before = fleet.load.count
    time.sleep(2)
    assert fleet.load.count > before
    broker.start()
    fleet.wait_phase(version, Phase.LIVE, within_s=120)
    fleet.wait_answers(version)


def test_an_artifact_that_is_damaged_in_a_build_never_answers(fleet: RolloutFleet) -> None:
    """Its place vanishes and the copies are damaged: workers that start anew cannot have it, and it is rejected."""
    all_there(fleet)
    live = fleet.state.live
    version = next(each for each in fleet.artifacts if fleet.phase(each) in (None, *GONE))
    place = fleet.deployment.data_dir / "lent" / version
    shutil.copytree(fleet.artifacts[version], place)
    for copy in artifacts_folder(fleet.deployment.data_dir).glob(f"{version}*"):
        shutil.rmtree(copy)
    publish(fleet.deployment, str(place))
    fleet.wait_phase(version, Phase.BUILDING)
    shutil.rmtree(place)
    for path in artifacts_folder(fleet.deployment.data_dir).glob(f"{version}/item_tower*"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    for worker in fleet.workers:
        worker.kill()
        worker.start(*REBUILD)
    fleet.wait_phase(version, Phase.REJECTED)
    assert live and fleet.state.live and fleet.state.live.name == live.name
    all_there(fleet)


def test_coverage_is_what_the_tables_hold(fleet: RolloutFleet) -> None:
    """Every build that was covered counted the catalogue exactly, and its slot holds a row of every item."""
    all_there(fleet)
    version = offered(fleet, terms=Terms(auto=False, gate=1.0))
    fleet.wait_phase(version, Phase.COVERED)
    assert len(fleet.rows_of(version, [*STATIC, *CHURNING])) == ITEMS
    covered = [event["reason"] for event, _ in fleet.log if event["decision"] == Decision.COVER]
    assert covered == [f"{ITEMS} of {ITEMS} items have a row, 0 were rejected"] * len(covered)
    assert len({entity_id(key) for key in fleet.newest("items") if len(key) == 8}) == ITEMS


def test_no_answer_was_mixed(fleet: RolloutFleet) -> None:
    """Of all answers so far, each is of a version that was live, and is what that version makes of the same rows."""
    wait_for(lambda: fleet.load.count >= REQUESTS, 240, lambda: f"{fleet.load.count} answers")
    answered = {answer.version for answer in fleet.load.answers}
    assert len(answered) > 2
    assert answered <= {event["version"] for event, _ in fleet.log if event["decision"] == Decision.LIVE}
    assert all(not any(answer.outcomes) for answer in fleet.load.answers), "a candidate had no row"
    assert fleet.largest_difference() < TOLERANCE
    print(f"{fleet.load.count} answers, {len(fleet.load.answers)} distinct, {dict(fleet.load.troubles)}")


def test_tables_are_those_of_the_log(fleet: RolloutFleet) -> None:
    """In the end every table and every slot equals the recompute of the log, and one version is live."""
    all_there(fleet)
    assert verified(fleet.deployment).equal
