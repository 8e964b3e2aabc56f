"""What `aif model status` says of a roll-out: coverage, rate, time left, and what a version waits for."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cli.durations import span

if TYPE_CHECKING:
    from domain.rollout import Version
    from producers.rollout_view import RolloutView

__all__ = ["rollout_report", "waits_for"]


def rollout_report(view: RolloutView) -> dict[str, Any]:
    """All there is to know, for programs."""
    return {
        "at_ms": int(time.time() * 1000),
        "epoch": view.state.epoch,
        "next_command": view.state.next_command,
        "versions": [_version_report(view, version) for version in view.state.versions],
        "refusals": list(view.state.refusals),
    }


def _version_report(view: RolloutView, version: Version) -> dict[str, Any]:
    coverage = view.coverage(version) if version.fed else None
    return {
        "version": version.name,
        **{name: getattr(version, name) for name in ("phase", "slot", "since_ms", "paused", "published_by", "reason")},
        "uri": version.uri,
        "terms": asdict(version.terms),
        "waits_for": waits_for(view, version),
        "coverage": coverage
        and {
            **{name: getattr(coverage, name) for name in ("items", "written", "rejected", "share", "done", "problems")},
            "missing": list(coverage.missing),
            "items_per_s": coverage.items_per_s,
            "seconds_left": coverage.seconds_left,
            "partitions": view.builds(version),
        },
    }


def waits_for(view: RolloutView, version: Version) -> str:
    """What has to happen before a version goes on; "" where nothing is awaited."""
    from domain.rollout import Phase

    now_s, terms = time.time(), version.terms
    if version.paused:
        return "`aif model resume`"
    if version.phase is Phase.PUBLISHED:
        return "the check of its artifact"
    if version.phase is Phase.BUILDING:
        coverage = view.coverage(version)
        if coverage.missing:
            return f"the workers of partitions {', '.join(map(str, coverage.missing))}, which have not reported"
        return "its last partitions" if coverage.share > 0.99 else "its rows"
    if version.phase is Phase.COVERED:
        left_s = version.since_ms / 1000 + terms.shadow_s - now_s
        if not terms.auto:
            return "`aif model promote`"
        if left_s > 0:
            return f"{span(left_s)} more in the shadow"
        return _shadow_wanted(view, terms.min_overlap) if terms.min_overlap else ""
    live = view.state.live
    if version.phase is Phase.RETAINED and live is not None:
        return f"a roll-back, for {span(max(0.0, version.since_ms / 1000 + live.terms.retain_s - now_s))} more"
    return ""


def _shadow_wanted(view: RolloutView, min_overlap: float) -> str:
    from domain.shadow import judged, sums_of, to_compare

    pair = to_compare(view.state)
    seen = judged(sums_of(pair, view.shadows.values()), min_overlap).says if pair else "no version is live"
    return f"a top-k overlap of {min_overlap} in the shadow: {seen}; see `aif model compare`"
