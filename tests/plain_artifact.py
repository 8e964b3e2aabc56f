"""Artifacts whose files are arbitrary bytes: whoever vouches for bytes and sizes alone takes them for real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from domain.artifact import HEAD, ITEM_TOWER, MANIFEST, USER_PHASE, Dimensions, Manifest, sha256
from domain.user_row import FINGERPRINT
from schemas.deployment import Deployment

DIMENSIONS = Dimensions(
    embedding_dim=64, signature_bits=64, category_buckets=100, item_numeric=2, vector_dim=64, bridges=16, tiers=8,
    tier_groups=(("click",),), behaviours=32, attention=True, long_behaviours=32, cross_categories=4, user_features=56,
    hidden=(128, 64),
)  # fmt: skip


def plain_artifact(folder: Path, **changes: Any) -> Path:
    """An artifact of the default deployment, `changes` made to its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: f"content of {name}".encode() for name in (ITEM_TOWER, USER_PHASE, HEAD)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = Manifest(
        DIMENSIONS, Deployment().signature_version, FINGERPRINT, DIMENSIONS.layout.stride,
        {name: sha256(data) for name, data in files.items()}, {},
    )  # fmt: skip
    (folder / MANIFEST).write_bytes(replace(manifest, **changes).to_json())
    return folder


def digest_of(folder: Path) -> str:
    """The sha256 of an artifact's manifest; its first 16 digits are the version."""
    return sha256((folder / MANIFEST).read_bytes())
