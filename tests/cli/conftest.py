"""A small log of its own for commands that train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    """A mapping with a small log of its own: 20 users buy among 12 items for a day."""
    random = np.random.default_rng(0)
    lines = ["at,user,item,title,price"]
    for second in range(0, 86_400, 300):
        item = int(random.integers(12))
        lines.append(f"{1_700_000_000 + second},{random.integers(20)},{item},thing number {item},{item + 1}")
    (tmp_path / "shop.csv").write_text("\n".join(lines) + "\n")
    content = {
        "name": "shop",
        "about": "A shop for one test",
        "licence": "none",
        "source": {"file": "shop.csv", "rows": 288, "sorted": True, "time": {"column": "at", "unit": "s"}},
        "events": {
            "user": {"column": "user", "id": "int"},
            "item": {"column": "item", "id": "int"},
            "actions": {"constant": "purchase"},
        },
        "items": {
            "from": "events",
            "changes": ["price", "title"],
            "title": "title",
            "price": "price",
            "embedding": {"text": ["title"]},
        },
    }
    path = tmp_path / "shop.json"
    path.write_text(json.dumps(content))
    return path
