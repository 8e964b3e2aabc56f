"""SimTier's pure part: which behaviours a histogram counts, and the value by which a count enters the network.

A user's behaviours are counted by how many bits of their signature equal the candidate's, once per *group* of actions,
so that what was wanted and what was only shown stay apart. Tier t of T holds similarities in [t / T, (t + 1) / T), the
last one 1 as well; a behaviour without a signature, or whose action is in no group, is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.records import ACTION_CODES, ACTIONS

__all__ = ["group_table", "tier_values"]


def group_table(groups: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
    """Which groups an action code belongs to ([actions, groups]). Raises KeyError on a name that is no action."""
    table = np.zeros((len(ACTIONS), len(groups)), dtype=np.bool_)
    for group, actions in enumerate(groups):
        for action in actions:
            table[ACTION_CODES[action], group] = True  # type: ignore[index]
    return table


def tier_values(counts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """What the network reads of counts of behaviours ([...] integers -> [...] float32): their log1p.

    Not their share of the history: one behaviour that resembles the candidate must not vanish among a thousand others.
    """
    return np.log1p(counts.astype(np.float64)).astype(np.float32)
