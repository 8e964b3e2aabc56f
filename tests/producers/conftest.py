"""A small log with its mapping, written to a folder of the test's own."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WriteLog = Callable[..., Path]

MAPPING: dict[str, Any] = {
    "name": "shop",
    "source": {"file": "log.csv", "sorted": True, "time": {"column": "at", "unit": "ms"}},
    "events": {
        "user": {"column": "user", "id": "int"},
        "item": {"column": "item", "id": "hash"},
        "value": "price",
        "actions": {"column": "did", "map": {"buy": "purchase", "see": "view"}},
    },
    "items": {
        "from": "events",
        "changes": ["price", "title"],
        "title": "title",
        "price": "price",
        "embedding": {"text": ["title"]},
    },
}

HEADER = "user,item,did,at,price,title"


@pytest.fixture
def mapping() -> dict[str, Any]:
    """A mapping to alter."""
    return copy.deepcopy(MAPPING)


@pytest.fixture
def write_log(tmp_path: Path) -> WriteLog:
    """Writes mapping and log, and returns the mapping's path."""

    def write(mapping: dict[str, Any], rows: list[str], *, header: str = HEADER, **files: str) -> Path:
        (tmp_path / mapping["source"]["file"]).write_text("\n".join([header, *rows]) + "\n")
        for name, text in files.items():
            (tmp_path / f"{name}.csv").write_text(text)
        path = tmp_path / "shop.json"
        path.write_text(json.dumps(mapping))
        return path

    return write
