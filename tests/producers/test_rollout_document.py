"""The page about roll-outs shows the phases as the code has them."""

from __future__ import annotations

from pathlib import Path

from domain.rollout import TRANSITIONS, Decision, Phase
from producers.rollout_document import rollout_document

_PAGE = Path(__file__).parents[2] / "docs" / "rollout.md"


def test_the_page_is_what_the_code_says() -> None:
    """docs/rollout.md holds the output of `aif topics rollout` as it is: paste it there when the table changes."""
    assert rollout_document() in _PAGE.read_text()


def test_every_transition_is_shown() -> None:
    """Each move of a version is an arrow of the diagram, and each decision in each phase a cell of the table."""
    text = rollout_document()
    for (before, decision), after in TRANSITIONS.items():
        arrow = next((line for line in text.splitlines() if f"  {before or '[*]'} --> {after}:" in line), "")
        assert before is after or decision in arrow
    rows = {
        cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in text.splitlines()) if len(cells) > 2
    }
    for decision in set(Decision) - {Decision.REFUSE}:
        told = [cell.strip() for cell in rows[decision]]
        assert told == [TRANSITIONS.get((phase, decision), "") for phase in (None, *Phase)]
