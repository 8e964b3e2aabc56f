from __future__ import annotations

from pathlib import Path

from producers.topology_document import topology_document
from schemas.topics import TABLES, all_topics

_DOCUMENT = Path(__file__).parents[2] / "topology.md"


def test_the_document_is_what_the_code_says() -> None:
    """topology.md equals the generator's output: `aif topics document > topology.md` brings it up to date."""
    assert _DOCUMENT.read_text() == topology_document()


def test_nothing_is_left_out() -> None:
    """Every topic and every table is in the document."""
    text = topology_document()
    assert all(f"| `{topic.name}` |" in text for topic in all_topics())
    assert all(f"### {table}\n" in text for table in TABLES)
