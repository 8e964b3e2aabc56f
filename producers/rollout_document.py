"""The diagram and the table of docs/rollout.md, made from domain/rollout.py: the page cannot drift from the code.

`aif topics rollout` prints them; a test holds the page equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from domain.rollout import TRANSITIONS, Decision, Phase

__all__ = ["rollout_document"]

#: What a decision about one version does to the others: (decision, phase before, phase after).
_OTHERS: Final = (
    (Decision.LIVE, Phase.LIVE, Phase.RETAINED),
    (Decision.LIVE, Phase.RETAINED, Phase.RETIRED),
    (Decision.ROLLBACK, Phase.RETAINED, Phase.LIVE),
    (Decision.ROLLBACK, Phase.PUBLISHED, Phase.RETIRED),
    (Decision.ROLLBACK, Phase.BUILDING, Phase.RETIRED),
    (Decision.ROLLBACK, Phase.COVERED, Phase.RETIRED),
)


def rollout_document() -> str:
    """A mermaid diagram of the phases, and the table of every decision in every phase."""
    return "\n".join([*_diagram(), "", *_table()]) + "\n"


def _diagram() -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, decision), after in TRANSITIONS.items():
        if before is not after:
            arrows.setdefault((before or "[*]", after), []).append(decision)
    for decision, before, after in _OTHERS:
        arrows.setdefault((before, after), []).append(f"{decision} of {_other(decision)}")
    for (start, end), decisions in arrows.items():
        yield f"  {start} --> {end}: {', '.join(dict.fromkeys(decisions))}"
    yield "```"


def _other(decision: Decision) -> str:
    return "the next one" if decision is Decision.LIVE else "the live one"


def _table() -> Iterator[str]:
    phases = (None, *Phase)
    yield f"| decision | {' | '.join(phase or 'unknown' for phase in phases)} |"
    yield f"| --- |{' --- |' * len(phases)}"
    for decision in Decision:
        if decision is not Decision.REFUSE:
            cells = (TRANSITIONS.get((phase, decision), "") for phase in phases)
            yield f"| {decision} | {' | '.join(cells)} |"
