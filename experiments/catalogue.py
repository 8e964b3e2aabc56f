"""The questions, by the name that `aif experiment` takes; loading one imports what it needs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

if TYPE_CHECKING:  # both take a second to import, and listing the questions needs neither
    from matplotlib.figure import Figure

    from experiments.measured import Report, Settings

__all__ = ["QUESTIONS", "Experiment", "load"]

QUESTIONS: Final = {
    "parts": "What does each part of AIF add to quality, and what does it cost online?",
    "bridges": "How does quality go with the number of bridges, why does it stop rising, and what helps then?",
    "signatures": "How many bits and tiers does the long-term part need?",
    "neighbours": "How well do signatures of titles and pictures keep an item's neighbours, without any training?",
    "distillation": "What do the full ranker's chances and its order teach AIF that labels do not?",
    "quantization": "What do item rows and the head lose, and save, with fewer bits?",
    "user_phase": "Is another precision of the user phase of any use on this processor?",
    "behaviours": "How many behaviours are worth reading?",
    "staleness": "What does it cost to serve item vectors that are old?",
    "lag": "What does it cost when what users do arrives late?",
    "cache": "Which cache holds user states and cross features best: layout, admission and size?",
}


class Experiment(Protocol):
    """What a question's module holds."""

    def run(self, settings: Settings, report: Report) -> dict[str, Any]:
        """Measure; JSON values alone."""

    def tables(self, found: dict[str, Any]) -> str:
        """Markdown tables of what `run` gave."""

    def figure(self, found: dict[str, Any]) -> Figure:
        """A figure of what `run` gave."""


def load(name: str) -> Experiment:
    """The module of a question of QUESTIONS."""
    return cast(Experiment, importlib.import_module(f"experiments.{name}"))
