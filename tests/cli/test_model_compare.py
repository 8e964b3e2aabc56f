"""What `aif model compare` makes of decisions and reports."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from click.testing import CliRunner
from rollout_records import RolloutWriter

from cli.main import main
from cli.model_compare import seen
from domain.rollout import Phase, Rollout, Terms, Version
from domain.shadow import ShadowSums
from producers.topics import create_topics
from schemas.deployment import Deployment

OLD, LIVE, NEW = "00000000000000cc", "00000000000000bb", "00000000000000aa"
GOOD = ShadowSums(
    requests=100, dropped=3, incomparable=2, overlap_sum=95.0, correlation_sum=99.0, drift_sum=0.5, shift_sum=-0.25,
    live_ms_sum=150.0, shadow_ms_sum=200.0,
)  # fmt: skip


def version(name: str, phase: Phase, **fields) -> Version:
    """A version, built at epoch 7."""
    return Version(name, phase, "", "", fields.pop("terms", Terms()), "", 0, 0, build_epoch=7, **fields)


def state(*versions: Version) -> Rollout:
    """A state of a roll-out."""
    return Rollout(9, 0, versions)


BOTH = state(version(LIVE, Phase.LIVE), version(NEW, Phase.COVERED, terms=Terms(min_overlap=0.9)))


def report(node: str, sums: ShadowSums, share: float = 0.01, name: str = NEW, build_epoch: int = 7) -> dict:
    """A node's report."""
    about = {"version": name, "build_epoch": build_epoch, "live": LIVE, "node": node, "event_time_ms": 1}
    return {**about, "share": share, **asdict(sums)}


def test_nodes_and_their_total_are_shown_with_the_verdict() -> None:
    """A line each, means of sums, and whether the asked overlap was met."""
    half = ShadowSums(requests=100, overlap_sum=50.0)
    found = seen(BOTH, [report("two", half), report("one", GOOD), report("one", half, name=OLD)], None)
    title, head, one, two, total, says = found.lines()
    assert NEW in title and LIVE in title and head.startswith("node")
    assert one.split() == ["one", "100", "0", "3", "2", "0.950", "0.990", "0.0050", "-0.0025", "1.50", "2.00"]
    assert two.split()[:2] == ["two", "100"] and total.split()[:6] == ["total", "200", "0", "3", "2", "0.725"]
    assert says.startswith("does not pass: mean top-k overlap 0.725 over 200 requests")
    assert found.verdict.passes is False and found.goes_on
    described = found.as_json()
    assert [each["node"] for each in described["nodes"]] == ["one", "two"]
    assert described["nodes"][0]["overlap"] == 0.95 and described["total"]["requests"] == 200
    assert described["verdict"]["passes"] is False


def test_a_version_that_is_live_by_now_still_shows_what_was_seen() -> None:
    """Of several builds the last one, and no longer as something that goes on."""
    after = state(version(LIVE, Phase.RETAINED), version(NEW, Phase.LIVE, terms=Terms(min_overlap=0.9)))
    found = seen(after, [report("node", GOOD), report("gone", GOOD, build_epoch=3)], NEW)
    assert [each["node"] for each in found.reports] == ["node"]
    assert found.verdict.passes is True and not found.goes_on


@pytest.mark.parametrize(
    ("roll_out", "reports", "says"),
    [
        (state(), [], "no version is on its way"),
        (state(version(LIVE, Phase.LIVE), version(NEW, Phase.BUILDING)), [], "is building and was not compared"),
        (state(version(NEW, Phase.COVERED)), [], "no version is live"),
        (BOTH, [], "no serving node has reported"),
        (BOTH, [report("a", ShadowSums(), share=0.0)], "--shadow-share"),
        (BOTH, [report("a", ShadowSums())], "is there traffic?"),
        (BOTH, [report("a", ShadowSums(dropped=4))], "4 were dropped"),
        (BOTH, [report("a", ShadowSums(requests=5, overlap_sum=5.0))], "5 of the 100 requests"),
        (BOTH, [report("a", ShadowSums(failed=100))], "does not pass"),
    ],
)
def test_where_there_is_nothing_a_sentence_says_why(roll_out, reports, says) -> None:
    """No pair, no node, no share, no traffic, too few, all failed: each is told apart."""
    assert says in seen(roll_out, reports, None).lines()[-1]


@pytest.mark.broker
def test_the_command_reads_decisions_and_reports(deployment: Deployment) -> None:
    """From the topics to text, JSON and an exit status; before anything is covered it says so."""
    create_topics(deployment)
    writer = RolloutWriter(deployment)
    options = ["--bootstrap-servers", deployment.bootstrap_servers, "--prefix", deployment.prefix]

    def compare(*words: str):
        return CliRunner().invoke(main, ["model", "compare", *words, *options])

    try:
        for name, slot in ((LIVE, "n2o_a"), (NEW, "n2o_b")):
            writer.decide("accept", name, min_overlap=0.9)
            epoch = writer.decide("build", name, slot=slot)["epoch"]
            if name == LIVE:
                writer.decide("cover", name)
                writer.decide("live", name)
        early = compare()
        assert early.exit_code == 0 and "is building and was not compared" in early.output
        writer.decide("cover", NEW)
        writer.write("shadow-reports", b"junk")
        for sums in (ShadowSums(), GOOD):
            writer.write("shadow-reports", report("node", sums, build_epoch=epoch))
        good = compare(NEW, "--json")
        writer.write("shadow-reports", report("node", replace(GOOD, overlap_sum=50.0), build_epoch=epoch))
        bad = compare()
    finally:
        writer.close()
    assert good.exit_code == 0, good.output
    assert json.loads(good.output)["total"]["overlap"] == 0.95
    assert bad.exit_code == 1 and "does not pass" in bad.output
