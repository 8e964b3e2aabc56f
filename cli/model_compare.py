"""`aif model compare`: what scoring in the shadow has shown of a version beside the live one."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from cli.options import deployment_options, require_broker
from schemas.deployment import Deployment

if TYPE_CHECKING:
    from domain.rollout import Rollout
    from domain.shadow import Pair, ShadowSums, Verdict
    from schemas.records import ShadowReport

__all__ = ["compare"]

_WATCH_EVERY_S = 5.0
_COLUMNS = ("requests", "failed", "dropped", "skipped", "overlap", "correlation", "drift", "shift", "live ms", "its ms")


@click.command()
@click.argument("version", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (with --watch, one per line).")
@click.option("--watch", is_flag=True, help="Print again every 5 s while the version is compared.")
@deployment_options
def compare(version: str | None, as_json: bool, watch: bool, deployment: Deployment) -> None:
    """Compare a covered version with the live one, by the requests that servers scored with both.

    VERSION is the covered one where it is not given; it may be one that was compared before, and be shortened. Exit
    status 1: the version has less top-k overlap than it was published to have.

    \b
    Examples:
      aif model compare
      aif model compare 3f2a9c0d --json
      aif model compare --watch
    """
    from producers.rollout_view import RolloutView

    require_broker(deployment)
    with RolloutView(deployment) as view:
        name = view.named(version) if version else None
        while True:
            found = seen(view.state, list(view.shadows.values()), name)
            click.echo(json.dumps(found.as_json()) if as_json else "\n".join(found.lines()))
            if not watch or not found.goes_on:
                break
            time.sleep(_WATCH_EVERY_S)
            view.refresh()
    raise SystemExit(1 if found.verdict is not None and found.verdict.passes is False else 0)


@dataclass(frozen=True)
class Seen:
    """What there is to say of a comparison."""

    pair: Pair | None
    reports: Sequence[ShadowReport]  #: of the pair, by node
    total: ShadowSums
    verdict: Verdict | None
    goes_on: bool  #: the pair is being compared now
    says: str  #: in words

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        from domain.shadow import sums_of

        pair, verdict = self.pair, self.verdict
        return {
            **(pair._asdict() if pair else {"version": None, "build_epoch": None, "live": None}),
            "goes_on": self.goes_on,
            "nodes": [
                {"node": each["node"], "share": each["share"], **_means(sums_of(pair, [each]))}
                for each in self.reports
                if pair
            ],
            "total": _means(self.total),
            "verdict": None if verdict is None else {"passes": verdict.passes, "says": verdict.says},
            "says": self.says,
        }

    def lines(self) -> list[str]:
        """For people: a table by node, and sentences."""
        from domain.shadow import sums_of

        if self.pair is None or not self.reports:
            return [self.says]
        rows = [(each["node"], sums_of(self.pair, [each])) for each in self.reports]
        if len(rows) > 1:
            rows.append(("total", self.total))
        cells = [("node", *_COLUMNS), *((name, *_cells(sums)) for name, sums in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        table = [
            name.ljust(widths[0]) + "".join(cell.rjust(width + 2) for cell, width in zip(row, widths[1:], strict=True))
            for name, *row in cells
        ]
        is_or_was = "is compared with" if self.goes_on else "was compared with"
        return [f"{self.pair.version} {is_or_was} {self.pair.live}", *table, self.says]


def seen(state: Rollout, reports: Sequence[ShadowReport], version: str | None) -> Seen:
    """What reports show of a version; of the covered one where None."""
    from domain.shadow import Pair, ShadowSums, judged, sums_of, to_compare

    now = to_compare(state)
    pair = now if version in (None, now.version if now else None) else None
    if pair is None and version is not None:
        pairs = [Pair(each["version"], each["build_epoch"], each["live"]) for each in reports]
        pair = max((each for each in pairs if each.version == version), key=lambda each: each.build_epoch, default=None)
    if pair is None:
        return Seen(None, [], ShadowSums(), None, False, _why_nothing(state, version))
    mine = sorted((each for each in reports if Pair(each["version"], each["build_epoch"], each["live"]) == pair),
                  key=lambda each: each["node"])  # fmt: skip
    total, known = sums_of(pair, mine), state.get(pair.version)
    verdict = judged(total, known.terms.min_overlap) if known else None
    return Seen(pair, mine, total, verdict, pair == now, _sentence(mine, total, verdict))


def _why_nothing(state: Rollout, version: str | None) -> str:
    known = state.get(version) if version else state.upcoming
    if known is None:
        return "no version is on its way: nothing is compared"
    if state.live is None:
        return f"{known.name} is {known.phase} and no version is live: there is nothing to compare it with"
    return f"{known.name} is {known.phase} and was not compared: that is done while a version is covered, not live"


def _sentence(reports: Sequence[ShadowReport], total: ShadowSums, verdict: Verdict | None) -> str:
    if not reports:
        return "no serving node has reported yet: nodes do so within 5 s of a version's being covered"
    if not any(each["share"] for each in reports):
        return f"none of {len(reports)} nodes samples requests: start them with --shadow-share above 0"
    if not total.judged:
        waits = f", {total.dropped} were dropped, {total.incomparable} could not be compared"
        asked = waits if total.dropped or total.incomparable else ": is there traffic?"
        return f"no request was compared yet{asked}"
    if verdict is None:
        return f"{total.judged} requests compared"
    word = {True: "passes", False: "does not pass", None: "no verdict yet"}[verdict.passes]
    return f"{word}: {verdict.says}"


def _means(sums: ShadowSums) -> dict[str, Any]:
    return {
        "requests": sums.requests, "failed": sums.failed, "dropped": sums.dropped, "incomparable": sums.incomparable,
        "overlap": sums.overlap, "correlation": sums.correlation, "drift": sums.drift, "shift": sums.shift,
        "live_ms": sums.live_ms, "shadow_ms": sums.shadow_ms,
    }  # fmt: skip


def _cells(sums: ShadowSums) -> list[str]:
    counts = [str(each) for each in (sums.requests, sums.failed, sums.dropped, sums.incomparable)]
    means = zip(
        (sums.overlap, sums.correlation, sums.drift, sums.shift, sums.live_ms, sums.shadow_ms),
        (".3f", ".3f", ".4f", "+.4f", ".2f", ".2f"),
        strict=True,
    )
    return [*counts, *("-" if mean is None else format(mean, how) for mean, how in means)]
