"""What stands under docs/experiments is made of the recorded numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.catalogue import QUESTIONS, load
from experiments.record import page

_RECORDED = Path(__file__).parents[2] / "docs" / "experiments"


@pytest.mark.parametrize("name", sorted(path.stem for path in _RECORDED.glob("*.json")))
def test_a_recorded_page_is_what_its_numbers_say(name: str) -> None:
    """Every question has a page, equal to what the command writes of the numbers beside it, and its figure."""
    found = json.loads((_RECORDED / f"{name}.json").read_bytes())
    assert (_RECORDED / f"{name}.md").read_text() == page(name, found)
    assert load(name).figure(found).axes
    assert (_RECORDED / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_every_page_is_introduced() -> None:
    """docs/experiments/README.md links every page."""
    text = (_RECORDED / "README.md").read_text()
    assert all(f"({path.name})" in text for path in _RECORDED.glob("*.md") if path.name != "README.md")
    assert {path.stem for path in _RECORDED.glob("*.json")} <= set(QUESTIONS)
