"""Kept machine code: of this content of the sources, or not at all."""

from __future__ import annotations

from pathlib import Path

from numba.core import config

import domain
from domain.compiled import source_digest
from domain.packed import write_long


def test_any_changed_source_is_another_cache(tmp_path: Path) -> None:
    """Changing any of the sources, or its name, names another folder; equal content names the same."""
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("x = 1\n")
    second.write_text("y = 1\n")
    before = source_digest([first, second])
    assert source_digest([second, first]) == before
    second.write_text("y = 2\n")
    assert source_digest([first, second]) != before
    second.write_text("y = 1\n")
    assert source_digest([first, second]) == before
    second.rename(tmp_path / "c.py")
    assert source_digest([first, tmp_path / "c.py"]) != before


def test_machine_code_lies_in_a_folder_named_after_the_sources() -> None:
    """What the package has compiled lies below its own cache, in a folder of all sources of this moment."""
    folder = Path(domain.__file__).parent
    digest = source_digest([*folder.glob("*.py"), folder.parent / "schemas" / "records.py"])
    assert config.CACHE_DIR.endswith(f"compiled-{digest}")
    assert Path(write_long._cache._cache_path).is_relative_to(config.CACHE_DIR)
