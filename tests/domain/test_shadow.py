"""Sums of shadow scoring, and the verdict on them."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.comparison import Comparison
from domain.rollout import Rollout
from domain.shadow import FEWEST_REQUESTS, Pair, ShadowSums, judged, sums_of, to_compare

PAIR = Pair("00000000000000aa", 7, "00000000000000bb")
UNIT = st.floats(0, 1)
COMPARISONS = st.builds(Comparison, overlap=UNIT, correlation=st.floats(-1, 1), drift=UNIT, shift=st.floats(-1, 1))


def report(pair: Pair, sums: ShadowSums, node: str = "node") -> dict:
    """A node's report."""
    return {**pair._asdict(), "node": node, "event_time_ms": 1, "share": 0.01, **asdict(sums)}


@given(st.lists(COMPARISONS, min_size=1, max_size=10), st.data())
def test_means_do_not_depend_on_who_saw_what(comparisons, data) -> None:
    """However requests are spread over nodes, the means over reports are those over all requests."""
    nodes: list[ShadowSums] = [ShadowSums(), ShadowSums(), ShadowSums()]
    for each in comparisons:
        node = data.draw(st.integers(0, 2))
        nodes[node] += ShadowSums.of(each, 2.0, 3.0)
    total = sums_of(PAIR, [report(PAIR, sums) for sums in nodes])
    count = len(comparisons)
    assert total.requests == count
    assert total.overlap == pytest.approx(sum(each.overlap for each in comparisons) / count)
    assert total.correlation == pytest.approx(sum(each.correlation for each in comparisons) / count)
    assert total.drift == pytest.approx(sum(each.drift for each in comparisons) / count)
    assert total.shift == pytest.approx(sum(each.shift for each in comparisons) / count)
    assert (total.live_ms, total.shadow_ms) == (2.0, 3.0)


def test_reports_of_another_build_or_live_version_do_not_count() -> None:
    """Only reports about this version, this build of it and this live version are added up."""
    sums = ShadowSums(requests=5, overlap_sum=5.0)
    others = [PAIR._replace(version="cc"), PAIR._replace(build_epoch=6), PAIR._replace(live="dd")]
    assert sums_of(PAIR, [report(other, sums) for other in others]) == ShadowSums()
    assert sums_of(PAIR, [report(PAIR, sums), *(report(other, sums) for other in others)]) == sums


def test_nothing_compared_has_no_mean() -> None:
    """Without a compared request no mean is made up; dropped ones are none."""
    sums = ShadowSums(dropped=3, incomparable=2)
    assert (sums.overlap, sums.correlation, sums.drift, sums.shift, sums.live_ms, sums.shadow_ms) == (None,) * 6


@pytest.mark.parametrize(
    ("sums", "passes"),
    [
        (ShadowSums(requests=FEWEST_REQUESTS - 1, overlap_sum=99.0), None),
        (ShadowSums(requests=FEWEST_REQUESTS, overlap_sum=90.0), True),
        (ShadowSums(requests=FEWEST_REQUESTS, overlap_sum=89.0), False),
        (ShadowSums(failed=FEWEST_REQUESTS), False),
        (ShadowSums(requests=FEWEST_REQUESTS, failed=FEWEST_REQUESTS, overlap_sum=100.0), False),
    ],
)
def test_a_verdict_waits_for_requests_and_counts_failed_ones(sums, passes) -> None:
    """There is none before enough requests; a request that the version failed has no overlap."""
    assert judged(sums, 0.9).passes is passes


def test_without_terms_everything_passes() -> None:
    """A version of which no overlap is asked passes unseen."""
    assert judged(ShadowSums(), 0.0).passes is True


@pytest.mark.parametrize(
    ("decisions", "compares"),
    [
        (["accept", "build", "cover"], False),
        (["accept", "build", "cover", "live"], False),
        (["accept", "build", "cover", "live", "accept2", "build2"], False),
        (["accept", "build", "cover", "live", "accept2", "build2", "cover2"], True),
        (["accept", "build", "cover", "live", "accept2", "build2", "cover2", "live2"], False),
    ],
)
def test_a_covered_version_is_compared_with_the_live_one(decisions, compares) -> None:
    """Only while one is live and the next covered, and by the epoch at which it was begun."""
    state = Rollout()
    for epoch, decision in enumerate(decisions, 1):
        version = PAIR.version if decision.endswith("2") else PAIR.live
        slot = {"build": "n2o_a", "build2": "n2o_b"}.get(decision, "")
        event = {
            "epoch": epoch, "event_time_ms": 1, "decision": decision.rstrip("2"), "version": version, "slot": slot,
            "command_offset": -1, "uri": "", "manifest_sha256": "", "gate": 1.0, "auto": True, "shadow_s": 0,
            "min_overlap": 0.0, "retain_s": 1, "by": "", "reason": "",
        }  # fmt: skip
        state = state.applied(event)
    assert state.epoch == len(decisions)
    assert to_compare(state) == (PAIR._replace(build_epoch=6) if compares else None)
