from __future__ import annotations

import gc
import io
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

from domain.artifact import HEAD, MANIFEST, sha256
from domain.rollout import Rollout
from schemas.deployment import Deployment
from schemas.errors import ArtifactError, Unavailable
from serving.ranking.scorer import Scorer
from serving.rollout.versions import load_model
from serving.user.user_phase import UserPhase
from tests.serving.conftest import SIZES, item_rows, tiny_graph, tiny_head

ITEMS = range(40)


def published(artifact, **fields):
    """The version as the log has it when it was just published; keyword arguments replace fields of the decision."""
    return Rollout().applied(artifact.decided("accept", Rollout(), **fields)).versions[0]


def test_what_is_loaded_is_what_answers_what_is_retained_and_what_comes(world, make_artifact) -> None:
    """Never more than three: through builds, flips and a retired version, each is there as soon as it is decided on."""
    first, second, third = (make_artifact(seed) for seed in (1, 2, 3))
    world.apply("items", item_rows(ITEMS))
    world.cover(first, ITEMS)
    assert (world.versions.live, world.versions.upcoming.name) == (None, first.version)
    world.decide("live", first)
    assert world.advance()
    assert (world.versions.live.name, world.versions.upcoming) == (first.version, None)
    world.go_live(second, ITEMS)
    assert (world.versions.live.name, world.versions.retained.name) == (second.version, first.version)
    world.cover(third, ITEMS)
    assert [each.name for each in world.versions.in_use] == [second.version, first.version, third.version]
    assert world.versions.warm_in() == [{first.tag, second.tag, third.tag}]
    world.decide("live", third)
    assert world.advance()
    assert {each.name for each in world.versions.in_use} == {third.version, second.version}


def test_a_version_is_loaded_from_the_first_decision_to_build_it(world, make_artifact) -> None:
    """Not when it is merely published, its artifact unchecked; and without rows it is loaded but not warm."""
    artifact = make_artifact(1)
    world.decide("accept", artifact)
    assert world.versions.next_to_load() is None
    world.decide("build", artifact)
    assert world.versions.next_to_load().name == artifact.version
    world.load()
    assert world.versions.upcoming is None
    world.fill(artifact, ITEMS)
    world.versions.settle()
    assert world.versions.upcoming.name == artifact.version
    world.decide("retire", artifact)
    world.versions.settle()
    assert (world.versions.upcoming, world.versions.in_use) == (None, [])


def test_a_refused_artifact_leaves_what_answers_and_is_tried_again_later(world, make_artifact) -> None:
    """What cannot be loaded here has a reason, all else goes on, and a repaired source is taken after a while."""
    now_s = [100.0]
    world.versions._now_s = lambda: now_s[0]
    old, bad = make_artifact(1), make_artifact(2)
    world.apply("items", item_rows(ITEMS))
    world.go_live(old, ITEMS)
    good = (bad.folder / HEAD).read_bytes()
    (bad.folder / HEAD).write_bytes(good[:-1] + b"?")
    world.build(bad)
    version = world.versions.next_to_load()
    with pytest.raises(ArtifactError, match=r"head\.npz has sha256") as error:
        load_model(version, world.deployment)
    world.versions.refuse(version.name, str(error.value))
    assert world.versions.live.name == old.version
    assert world.versions.next_to_load() is None
    assert bad.version in world.service.lookups.readiness()["refused"]
    (bad.folder / HEAD).write_bytes(good)
    now_s[0] += 11
    world.load()
    assert not world.versions.refused
    assert world.versions.refusals == 1


def test_a_restart_needs_nothing_of_the_publisher(make_artifact, tmp_path) -> None:
    """Once loaded, a version is loaded again from this host's copy, its source gone; without both it says so."""
    artifact, deployment = make_artifact(1), Deployment(data_dir=tmp_path / "elsewhere")
    version = published(artifact)
    assert load_model(version, deployment).name == artifact.version
    artifact.folder.rename(tmp_path / "gone")
    assert load_model(version, deployment).name == artifact.version
    with pytest.raises((ArtifactError, Unavailable), match=r"manifest\.json"):
        load_model(version, Deployment(data_dir=tmp_path / "third"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"uri": "no-such-kind://bucket/model"}, "no-such-kind"),
        ({"manifest_sha256": "0" * 64}, "was published"),
        ({"uri": "/nowhere"}, r"manifest\.json cannot be read"),
        ({"version": "0" * 16}, "not 0000000000000000"),
    ],
)
def test_a_decision_that_does_not_fit_its_artifact_is_refused(make_artifact, tmp_path, fields, says) -> None:
    """Wrong places, wrong digests and wrong versions are each said."""
    with pytest.raises(ArtifactError, match=says):
        load_model(published(make_artifact(1), **fields), Deployment(data_dir=tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"window_fingerprint": 1}, "window_fingerprint 1,"),
        ({"signature_version": "srp-128x8-1"}, "signature_version srp-128x8-1,"),
        ({"record_stride": 192}, "record stride 192"),
    ],
)
def test_an_artifact_of_another_deployment_is_refused(make_artifact, tmp_path, fields, says) -> None:
    """Windows, signatures and record sizes must be this deployment's."""
    with pytest.raises(ArtifactError, match=says):
        load_model(published(make_artifact(1, **fields)), Deployment(data_dir=tmp_path / "elsewhere"))


def test_a_graph_that_cannot_serve_is_refused() -> None:
    """Bytes that are no graph, other inputs and outputs of other sizes are refused before any request."""
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        UserPhase(b"no graph", SIZES, 1)
    with pytest.raises(ArtifactError, match="must have inputs"):
        UserPhase(tiny_graph(1).replace(b"windows", b"windoes"), SIZES, 1)
    with pytest.raises(ArtifactError, match="finite outputs"):
        UserPhase(tiny_graph(1), replace(SIZES, hidden=(6, 4)), 1).warm()


def test_pickled_arrays_are_refused(make_artifact, tmp_path) -> None:
    """head.npz is read without unpickling: an artifact cannot run code."""
    artifact = make_artifact(1)
    buffer = io.BytesIO()
    np.savez(buffer, **{**tiny_head(1), "w2": np.array([{}], dtype=object)})
    manifest = artifact.manifest.to_json().replace(
        artifact.manifest.files[HEAD].encode(), sha256(buffer.getvalue()).encode()
    )
    (artifact.folder / HEAD).write_bytes(buffer.getvalue())
    (artifact.folder / MANIFEST).write_bytes(manifest)
    digest = sha256(manifest)
    with pytest.raises(ArtifactError, match=r"head\.npz cannot be read: Object arrays"):
        load_model(
            published(artifact, version=digest[:16], manifest_sha256=digest), Deployment(data_dir=tmp_path / "x")
        )


def test_a_request_keeps_its_version_through_a_flip(world, make_artifact, monkeypatch) -> None:
    """A flip in the middle of a request changes nothing of it: rows, graph and head stay those it started with."""
    old, new = make_artifact(1), make_artifact(2)
    world.apply("items", item_rows(ITEMS))
    world.go_live(old, ITEMS, seed=1)
    before = world.rank(ITEMS)
    original = Scorer.rank

    def flip_then_rank(self, *arguments):
        monkeypatch.undo()
        world.go_live(new, ITEMS, seed=2)
        return original(self, *arguments)

    monkeypatch.setattr(Scorer, "rank", flip_then_rank)
    during = world.rank(ITEMS)
    after = world.rank(ITEMS)
    assert during["model_version"] == old.version
    assert during["items"] == before["items"]
    assert after["model_version"] == new.version
    assert after["items"] != before["items"]
    assert all(item["known"] for item in [*during["items"], *after["items"]])


def test_no_answer_mixes_versions_while_they_flip(world, make_artifact) -> None:
    """Under many flips and roll-backs, every answer has exactly the scores of the version that it names."""
    artifacts = [make_artifact(seed) for seed in range(1, 9)]
    world.apply("items", item_rows(ITEMS))
    answers, stop = [], threading.Event()
    world.go_live(artifacts[0], ITEMS, seed=1)

    def asking() -> None:
        while not stop.is_set():
            answer = world.rank(ITEMS)
            answers.append((answer["model_version"], str(answer["items"])))

    threads = [threading.Thread(target=asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    expected = {artifacts[0].version: str(world.rank(ITEMS)["items"])}
    for artifact in artifacts[1:]:
        world.go_live(artifact, ITEMS, seed=artifact.seed)
        expected[artifact.version] = str(world.rank(ITEMS)["items"])
        if artifact.seed % 3 == 0:
            world.decide("rollback", artifact)
            assert world.advance()
    stop.set()
    for thread in threads:
        thread.join()
    assert len(set(expected.values())) == len(artifacts)
    assert all(expected[version] == items for version, items in answers)
    assert len({version for version, _ in answers}) > 1


def test_a_retired_versions_memory_is_freed_when_its_last_request_ends(world, make_artifact) -> None:
    """Retained it stays; retired and pinned by a request graph, head and slab live on; after it nothing holds them."""
    world.apply("items", item_rows(ITEMS))
    world.go_live(make_artifact(1), ITEMS)
    pinned = world.versions.live
    held = [weakref.ref(part) for part in (pinned.slab, pinned.phase, pinned.head)]
    world.go_live(make_artifact(2), ITEMS)
    assert world.versions.retained is pinned
    world.go_live(make_artifact(3), ITEMS)
    assert all(part() is not None for part in held)
    del pinned
    gc.collect()
    assert [part() for part in held[1:]] == [None, None]
    world.apply("n2o_a", (item_rows(ITEMS)[0], [None] * len(ITEMS)))  # the workers empty its slot
    world.advance()
    gc.collect()
    assert held[0]() is None
    assert len(world.store.slabs) == 2
