"""The logs that experiments are made on, and how much of each is used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from models.config import ModelConfig
from models.log import Log
from models.planted_log import PlantedSizes, planted_log
from producers.datasets import open_dataset

__all__ = ["PLANS", "Plan", "open_log"]


@dataclass(frozen=True)
class Plan:
    """What is used of a log: its newest examples, the share of them that is judged, how many are used of each."""

    examples: int
    held_out: float
    trained: int
    judged: int
    until_ms: int | None = None  #: what of a data set is read at all; None is all of it
    users: int | None = None  #: of a planted log, which has as many as are asked for

    @property
    def small(self) -> Plan:
        """About a tenth of it, for a look at a command in a minute."""
        return replace(
            self, examples=self.examples // 8, trained=self.trained // 8, judged=self.judged // 8,
            users=self.users and self.users // 8,
        )  # fmt: skip


#: A quarter of the examples that `aif evaluate` trains on of the planted log, two thirds of the shop's: enough to tell
#: variants apart, and few enough that every question takes minutes.
PLANS: Final = {
    "planted": Plan(80_000, 0.2, 16_000, 8_000, users=2000),
    "online-retail-2": Plan(300_000, 0.2, 8_000, 4_000),
    "globo-news": Plan(300_000, 0.2, 8_000, 4_000, until_ms=1_507_172_400_000),  # four days
}


def open_log(name: str, plan: Plan, config: ModelConfig) -> Log:
    """The planted log (seed 1) or a data set, with signatures of the config's size.

    Raises BadInput where the data set's files are missing.
    """
    if name == "planted":
        sizes = PlantedSizes(users=plan.users or PlantedSizes.users, embedding_dim=config.embedding_dim)
        return Log.of(planted_log(seed=1, sizes=sizes).entries, config)
    return Log.of(open_dataset(name, to_ms=plan.until_ms, embedding_dim=config.embedding_dim).entries(), config)
