"""Artifacts of a few bytes at any place that fsspec reads, and a check of them as strict as the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import fsspec

from schemas.artifact_cache import local_artifact
from schemas.errors import ArtifactError


class Source:
    """An artifact of two files, at a place that fsspec reads."""

    def __init__(self, place: str, uri: str = "", names: tuple[str, ...] = ("tower", "head")) -> None:
        self.uri, content = uri or place, b"weights"
        files, self.root = fsspec.core.url_to_fs(place)
        manifest = json.dumps({name: sha256(content).hexdigest() for name in names}).encode()
        self.digest = sha256(manifest).hexdigest()
        self.version = self.digest[:16]
        files.makedirs(self.root, exist_ok=True)
        for name, data in {"manifest.json": manifest, **dict.fromkeys(names, content)}.items():
            files.pipe_file(f"{self.root}/{Path(name).name}", data)
        self.files = files

    def here(self, data_dir: Path) -> Path:
        """Its copy on this machine."""
        return local_artifact(self.uri, self.version, self.digest, data_dir, check)

    def vanish(self) -> None:
        """It is gone where it was published from."""
        self.files.rm(self.root, recursive=True)


def check(read: Callable[[str], bytes], *, version: str | None = None) -> object:
    """As strict as the real one, of a manifest that lists nothing but digests."""
    try:
        manifest = read("manifest.json")
        if sha256(manifest).hexdigest()[:16] != version:
            raise ArtifactError("manifest.json is of another version")
        for name, digest in json.loads(manifest).items():
            if sha256(read(name)).hexdigest() != digest:
                raise ArtifactError(f"{name} is corrupted")
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error}") from error
    return manifest
