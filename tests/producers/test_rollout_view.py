"""Roll-outs as their topics tell them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rollout_records import RolloutWriter, decision, progress

from domain.rollout import Phase, Rollout
from producers.rollout_view import RolloutView, commands
from producers.topics import create_topics
from schemas.deployment import Deployment
from schemas.errors import BadInput

A, B = "aaaaaaaaaaaaaaaa", "aaaabbbbbbbbbbbb"

pytestmark = pytest.mark.broker


@pytest.fixture
def writer(deployment: Deployment) -> Iterator[RolloutWriter]:
    """A writer on new topics."""
    create_topics(deployment)
    writer = RolloutWriter(deployment)
    yield writer
    writer.close()


def test_the_view_folds_what_counts(deployment: Deployment, writer: RolloutWriter) -> None:
    """State and decisions are those that count; late decisions and junk are passed over, as the fleet does."""
    writer.decide("accept", A, command_offset=0)
    late = decision(Rollout(), "accept", B)
    writer.write("rollout", late)
    writer.write("rollout", b"junk")
    writer.decide("build", A, slot="n2o_a")
    with RolloutView(deployment) as view:
        assert view.state == writer.state
        assert [each.event["decision"] for each in view.decided] == ["accept", "build"]
        writer.decide("cover", A)
        view.refresh()
        assert view.state.upcoming and view.state.upcoming.phase is Phase.COVERED
    assert commands(deployment) == []


def test_progress_is_of_the_present_build(deployment: Deployment, writer: RolloutWriter) -> None:
    """The newest report of each partition counts, of the build that the log says; partitions are those of the topic."""
    writer.decide("accept", A)
    build = writer.decide("build", A, slot="n2o_a")["epoch"]
    writer.write("build-progress", progress(A, 0, build - 1, written=100, done=True))
    writer.write("build-progress", b"junk")
    writer.write("build-progress", progress(A, 1, build, written=10))
    writer.write("build-progress", progress(A, 1, build, written=60, rejected=2))
    # A machine whose settings say nothing of the deployment's two partitions sees the same.
    with RolloutView(replace(deployment, partitions=7)) as view:
        version = view.state.get(A)
        assert version is not None
        coverage = view.coverage(version)
        assert (coverage.items, coverage.written, coverage.rejected, list(coverage.missing)) == (100, 60, 2, [0])
        assert [report["written"] for report in view.builds(version)] == [60]


def test_waiting_for_a_decision(deployment: Deployment, writer: RolloutWriter) -> None:
    """A decision that comes while somebody waits for it is returned at once; one that does not come is None."""
    with RolloutView(deployment) as view:
        assert view.decision_on(0, within_s=0.1) is None
        threading.Timer(0.2, lambda: writer.decide("accept", A, command_offset=0)).start()
        found = view.decision_on(0, within_s=10)
        assert found is not None and (found["decision"], found["epoch"]) == ("accept", 1)
        writer.decide("refuse", A, command_offset=1, reason="no")
        refused = view.decision_on(1, within_s=10)
        assert refused is not None and refused["reason"] == "no"


def test_versions_are_found_by_how_they_begin(deployment: Deployment, writer: RolloutWriter) -> None:
    """A beginning that is one version's names it; none, several, or nothing on its way is said with what there is."""
    with RolloutView(deployment) as view:
        with pytest.raises(BadInput, match="no version is on its way"):
            view.on_its_way()
        writer.decide("accept", A)
        writer.decide("accept", B)
        view.refresh()
        assert view.named("aaaab") == B == view.on_its_way() and view.named(A) == A
        for text, says in (("aaaa", "more than one"), ("c", f"there are: {A}, {B}")):
            with pytest.raises(BadInput, match=says):
                view.named(text)


def test_missing_topics_are_named(deployment: Deployment) -> None:
    """Before the topics exist, a view says how to make them."""
    with pytest.raises(BadInput, match="aif topics create"), RolloutView(deployment):
        pass
