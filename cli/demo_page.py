"""The page that a demo ends with."""

from __future__ import annotations

from itertools import zip_longest

from cli.demo_fleet import Fleet
from cli.demo_story import Summary

__all__ = ["page"]

_WIDTH = 38


def page(summary: Summary, fleet: Fleet, seconds: float) -> str:
    """Results as text of at most 100 columns."""
    fresh, rank = summary.freshness_ms, summary.rank_ms
    candidates = f"{summary.candidates:,} candidates, JSON"
    lines = [
        "",
        f"AIF Nearline, {seconds:.0f} s from an empty folder to ranked answers "
        f"(replay {summary.seconds['replay']:.0f} s, training {summary.seconds['train']:.0f} s)",
        "",
        f"  records in          {summary.events_in:>10,}    refused (dead letters) {summary.dead_letters:,}",
        f"  items in tables     {summary.items:>10,}    model version {summary.model_version}",
        f"  users in tables     {summary.users:>10,}    queries {summary.queries:,}, errors {summary.errors:,}",
        "",
        f"  event -> servable   p50 {_ms(fresh['p50'])}   p99 {_ms(fresh['p99'])}   (oldest of each batch)",
        f"  rank over HTTP      p50 {_ms(rank['p50'])}   p99 {_ms(rank['p99'])}   ({candidates})",
    ]
    for stage, figures in summary.stage_ms.items():
        lines.append(f"    {stage:<17} p50 {_ms(figures['p50'])}   p99 {_ms(figures['p99'])}")
    lines += ["", f"  user {summary.person} now buys: {', '.join(summary.chosen)[: _WIDTH * 2]}", ""]
    lines.append(f"     {'top items before':<{_WIDTH}} and a moment later")
    for rank_number, (before, after) in enumerate(zip_longest(summary.before, summary.after, fillvalue=""), 1):
        mark = "  " if after in summary.before else " *"
        lines.append(f"  {rank_number:>2} {before[: _WIDTH - 1]:<{_WIDTH}}{mark}{after[:_WIDTH]}")
    lines += [
        "     (* was not among them before)",
        "",
        "go on: make demo KEEP=1 leaves it running; README.md has a first query; topology.md the flows",
    ]
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "      -   " if value is None else f"{value:7.1f} ms"
