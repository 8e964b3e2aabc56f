from __future__ import annotations

import gc
import io
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

from domain.artifact import HEAD, MANIFEST, sha256
from schemas.errors import ArtifactError
from serving.ranking.scorer import Scorer
from serving.rollout.versions import load_model
from serving.user.user_phase import UserPhase
from tests.serving.conftest import (
    DEPLOYMENT,
    SIZES,
    item_rows,
    n2o_records,
    n2o_rows,
    tiny_graph,
    tiny_head,
)

ITEMS = range(40)


def load(record):
    """Load for this deployment."""
    return load_model(record, DEPLOYMENT)


def test_the_newest_version_goes_live_when_its_rows_reach_the_gate(world, make_artifact) -> None:
    """A version waits below the gate while the previous one answers, and takes over at it; the old slab goes."""
    old, new = make_artifact(1), make_artifact(2)
    world.apply("items", item_rows(range(1000)))
    world.go_live(old, range(1000))
    world.announce(new)
    world.versions.loaded(load(world.versions.next_to_load()))
    rows = n2o_rows(n2o_records(new.manifest.version_tag, range(1000)))
    world.apply("n2o_a", (rows[0][:998], rows[1][:998]))
    assert not world.advance()
    assert (world.versions.live.name, world.versions.candidate.name) == (old.version, new.version)
    world.apply("n2o_a", (rows[0][998:999], rows[1][998:999]))
    assert world.advance()
    assert (world.versions.live.name, world.versions.candidate) == (new.version, None)
    assert list(world.store.slabs) == [new.manifest.version_tag]
    assert world.versions.next_to_load() is None


def test_rows_may_come_before_their_announcement(world, make_artifact) -> None:
    """Rows of a version that nobody has announced yet are kept for it."""
    artifact = make_artifact(1)
    world.apply("items", item_rows(ITEMS))
    world.apply("n2o_a", n2o_rows(n2o_records(artifact.manifest.version_tag, ITEMS)))
    assert world.versions.next_to_load() is None
    world.announce(artifact)
    world.versions.loaded(load(world.versions.next_to_load()))
    assert world.advance()


def test_an_empty_catalogue_covers_nothing(world, make_artifact) -> None:
    """Without items no version goes live: 0 of 0 rows is no coverage."""
    world.announce(make_artifact(1))
    world.versions.loaded(load(world.versions.next_to_load()))
    assert not world.advance()


def test_a_refused_artifact_leaves_the_live_one_and_is_tried_again_later(world, make_artifact) -> None:
    """The newest version is refused with a reason, older ones stay, and a repaired copy is taken after a while."""
    now_s = [100.0]
    world.versions._now_s = lambda: now_s[0]
    old, bad = make_artifact(1), make_artifact(2)
    world.apply("items", item_rows(ITEMS))
    world.go_live(old, ITEMS)
    good = (bad.folder / HEAD).read_bytes()
    (bad.folder / HEAD).write_bytes(good[:-1] + b"?")
    world.announce(bad)
    record = world.versions.next_to_load()
    with pytest.raises(ArtifactError, match=r"head\.npz has sha256") as error:
        load(record)
    world.versions.refuse(record["version"], str(error.value))
    assert world.versions.live.name == old.version
    assert world.versions.next_to_load() is None
    assert bad.version in world.service.lookups.readiness()["refused"]
    (bad.folder / HEAD).write_bytes(good)
    now_s[0] += 11
    world.versions.loaded(load(world.versions.next_to_load()))
    assert world.versions.waiting == bad.version
    assert not world.versions.refused
    assert world.versions.refusals == 1


def test_with_the_newest_refused_the_one_before_is_loaded(world, make_artifact) -> None:
    """The newest *valid* version counts."""
    first, second = make_artifact(1), make_artifact(2)
    world.announce(first)
    world.announce(second)
    assert world.versions.next_to_load() == second.record
    world.versions.refuse(second.version, "broken")
    assert world.versions.next_to_load() == first.record


def test_announcing_the_live_version_again_cancels_the_candidate(world, make_artifact) -> None:
    """Going back to what is live means that nothing else may take over."""
    live, candidate = make_artifact(1), make_artifact(2)
    world.apply("items", item_rows(ITEMS))
    world.go_live(live, ITEMS)
    world.announce(candidate)
    world.versions.loaded(load(world.versions.next_to_load()))
    world.announce(live)
    assert world.versions.candidate is None
    assert world.versions.next_to_load() is None


def _other_uri(artifact):
    return {**artifact.record, "uri": "s3://bucket/model"}


def _other_manifest(artifact):
    return {**artifact.record, "manifest_sha256": "0" * 64}


def _no_folder(artifact):
    return {**artifact.record, "uri": str(artifact.folder / "gone")}


def _file_uri(artifact):
    return {**artifact.record, "uri": artifact.folder.as_uri(), "version": "0" * 16}


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (_other_uri, "only paths and file: URIs"),
        (_other_manifest, "not the manifest that was announced"),
        (_no_folder, "manifest.json cannot be read"),
        (_file_uri, "not 0000000000000000"),
    ],
)
def test_an_announcement_that_does_not_fit_its_artifact_is_refused(make_artifact, alter, says) -> None:
    """Wrong places, wrong digests and wrong versions are each said."""
    with pytest.raises(ArtifactError, match=says):
        load(alter(make_artifact(1)))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"window_fingerprint": 1}, "window_fingerprint 1,"),
        ({"signature_version": "srp-128x8-1"}, "signature_version srp-128x8-1,"),
        ({"record_stride": 192}, "record stride 192"),
    ],
)
def test_an_artifact_of_another_deployment_is_refused(make_artifact, fields, says) -> None:
    """Windows, signatures and record sizes must be this deployment's."""
    with pytest.raises(ArtifactError, match=says):
        load(make_artifact(1, **fields).record)


def test_a_graph_that_cannot_serve_is_refused() -> None:
    """Bytes that are no graph, other inputs and outputs of other sizes are refused before any request."""
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        UserPhase(b"no graph", SIZES)
    with pytest.raises(ArtifactError, match="must have inputs"):
        UserPhase(tiny_graph(1).replace(b"windows", b"windoes"), SIZES)
    with pytest.raises(ArtifactError, match="finite outputs"):
        UserPhase(tiny_graph(1), replace(SIZES, hidden=(6, 4))).warm()


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
    record = {**artifact.record, "version": sha256(manifest)[:16], "manifest_sha256": sha256(manifest)}
    with pytest.raises(ArtifactError, match=r"head\.npz cannot be read: Object arrays"):
        load(record)


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
    """Under many flips, every answer has exactly the scores of the version that it names."""
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
    expected = {}
    for artifact in artifacts:
        if world.versions.live.name != artifact.version:
            world.go_live(artifact, ITEMS, seed=artifact.seed)
        expected[artifact.version] = str(world.rank(ITEMS)["items"])
    stop.set()
    for thread in threads:
        thread.join()
    assert len(set(expected.values())) == len(artifacts)
    assert all(expected[version] == items for version, items in answers)
    assert len({version for version, _ in answers}) > 1


def test_a_replaced_versions_memory_is_freed_when_its_last_request_ends(world, make_artifact) -> None:
    """Pinned by a request the old slab lives on; after it nothing holds it."""
    world.apply("items", item_rows(ITEMS))
    world.go_live(make_artifact(1), ITEMS)
    pinned = world.versions.live
    slab = weakref.ref(pinned.slab)
    world.go_live(make_artifact(2), ITEMS)
    assert slab() is not None
    del pinned
    gc.collect()
    assert slab() is None
