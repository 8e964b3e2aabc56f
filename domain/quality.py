"""How much of a request is computed, chosen from its deadline and the machine's measured speed.

Pure: serving calls it with costs that it measured at its start, an edge device with its own. What is given up first is
the far end of the history, halving by halving, because a shorter history moves scores a little while a candidate that
is left out cannot win at all; then candidates, from the end of the order in which retrieval gave them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

__all__ = ["Costs", "Quality", "lengths", "quality_for"]

#: Of a deadline, what may be planned: costs are medians, and a request has neighbours.
_PLANNED: Final = 0.7


@dataclass(frozen=True)
class Costs:
    """What work takes on this machine with this model, milliseconds (medians of a quiet machine)."""

    user_phase_ms: float  #: of a user with the fewest behaviours
    behaviour_ms: float  #: of the user phase, each behaviour more
    scoring_ms: float  #: of any candidates at all
    candidate_ms: float  #: each candidate against the fewest behaviours
    pair_ms: float  #: each candidate and behaviour more
    fewest: int  #: behaviours of the first and fourth

    def of(self, behaviours: int, candidates: int) -> float:
        """Milliseconds of one request whose user is not cached."""
        more = max(0, behaviours - self.fewest)
        return self.user_phase_ms + self.behaviour_ms * more + self.scoring(behaviours, candidates)

    def scoring(self, behaviours: int, candidates: int) -> float:
        """Milliseconds of scoring alone."""
        per_candidate = self.candidate_ms + self.pair_ms * max(0, behaviours - self.fewest)
        return self.scoring_ms + per_candidate * candidates


@dataclass(frozen=True)
class Quality:
    """How much is read and scored."""

    behaviours: int
    candidates: int


def lengths(fewest: int, most: int) -> list[int]:
    """History lengths that are computed, longest first: `most`, then its halves, the last one `fewest`.

    Few, so that requests of different deadlines still share user states and batches.
    """
    found = [most]
    while found[-1] > fewest:
        found.append(max(fewest, found[-1] // 2))
    return found


def quality_for(deadline_ms: float, costs: Costs, most: Quality) -> Quality:
    """The most that fits into a deadline (`inf`: everything), at least the fewest behaviours and one candidate.

    A longer deadline never gives less, and what it gives fits 70 % of it wherever the least does.
    """
    if deadline_ms == inf:
        return most
    planned_ms = deadline_ms * _PLANNED
    for behaviours in lengths(costs.fewest, most.behaviours):
        if costs.of(behaviours, most.candidates) <= planned_ms:
            return Quality(behaviours, most.candidates)
    fewest = min(costs.fewest, most.behaviours)
    left_ms = max(0.0, planned_ms - costs.of(fewest, 0))
    fitting = most.candidates
    if costs.candidate_ms * fitting > left_ms:
        fitting = int(left_ms / costs.candidate_ms)
    return Quality(fewest, max(1, fitting))
