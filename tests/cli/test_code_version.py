from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cli import code_version


def test_a_checkout_names_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout the code is named by its commit, marked where files differ from it."""
    monkeypatch.setattr(code_version, "_ROOT", tmp_path)
    (tmp_path / "file").write_text("first")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "all"]):
        settings = ["-c", "user.name=somebody", "-c", "user.email=somebody@localhost"]
        subprocess.run(["git", *settings, *arguments], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert code_version.code_version() == head.stdout[:12]
    (tmp_path / "file").write_text("second")
    assert code_version.commit() == f"{head.stdout[:12]}+changes"


def test_an_installation_names_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a checkout, also inside another project's, it is the distribution's version."""
    monkeypatch.setattr(code_version, "_ROOT", tmp_path)
    assert code_version.commit() == ""
    assert re.fullmatch(r"\d+\.\d+.*", code_version.code_version())
