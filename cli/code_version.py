"""Which code this is: for what it makes and measures, so that a figure or a model can be made again."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["code_version", "commit"]

_ROOT = Path(__file__).resolve().parent.parent


def code_version() -> str:
    """The commit where this is a checkout, else the installed version."""
    if found := commit():
        return found
    try:
        return version("aif-nearline")
    except PackageNotFoundError:  # neither installed nor a checkout: files that were copied
        return "unknown"


def commit() -> str:
    """The commit of this checkout, with "+changes" where files differ from it; "" outside a checkout."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return f"{head}+changes" if head and _git("status", "--porcelain", "--untracked-files=no") else head


def _git(*arguments: str) -> str:
    # Where the root itself is no repository, one above it says nothing of this code.
    if not (_ROOT / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
