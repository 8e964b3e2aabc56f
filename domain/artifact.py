"""Model artifacts: an immutable folder that names itself by its content.

::

    <version>/manifest.json     everything below, as JSON with sorted keys
              item_tower.pt2    torch.export program; workers only
              user_phase.onnx   the user network with every user-side term folded; serving only
              head.npz          plain float32 arrays of the head; serving only

The version is the first 16 hex digits of the sha256 of manifest.json; the manifest holds the sha256 of every other
file, so one number vouches for all bytes. As an unsigned 64-bit number the version also stands in every N2O record:
rows of different models cannot be confused. Nothing in an artifact is pickled.

This module decides; reading bytes is the caller's (`read` below is `Path.read_bytes` or an object store).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from domain.n2o import N2OLayout
from domain.user_row import FINGERPRINT
from schemas.deployment import Deployment
from schemas.errors import ArtifactError

__all__ = [
    "HEAD",
    "ITEM_TOWER",
    "MANIFEST",
    "USER_PHASE",
    "Dimensions",
    "Manifest",
    "check_artifact",
    "check_fit",
    "sha256",
]

MANIFEST: Final = "manifest.json"
ITEM_TOWER: Final = "item_tower.pt2"
USER_PHASE: Final = "user_phase.onnx"
HEAD: Final = "head.npz"
#: 3: attention over behaviours, tiers by group of actions, hard search by category, histories of any length.
_FORMAT: Final = 3


def sha256(data: bytes) -> str:
    """Hex digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Dimensions:
    """Every size that workers and serving must agree on with training."""

    embedding_dim: int  #: multi-modal embedding of an item
    signature_bits: int
    category_buckets: int  #: hashed categories, 0 is none
    item_numeric: int  #: dense item features
    vector_dim: int  #: item vector
    bridges: int
    tiers: int  #: SimTier histogram bins; 0 leaves it out
    tier_groups: tuple[tuple[str, ...], ...]  #: actions that are counted together, a histogram each (tiers.py)
    behaviours: int  #: Ls, newest behaviours that are attended to
    attention: bool  #: whether candidates attend to them at all
    long_behaviours: int  #: most behaviours that the user phase reads, at least `behaviours`
    cross_categories: int  #: most categories of a user with cross features (cross_features.py); 0 leaves them out
    user_features: int  #: window features of the user phase
    hidden: tuple[int, int]  #: the head's hidden layers
    din: bool = True  #: whether linear DIN meets the candidate's signature; manifests from before it was told have it
    id_buckets: int = 0  #: hashed ids that the item tower reads, 0 is none; without them it has no argument for ids

    def written(self) -> dict[str, Any]:
        """The sizes as JSON has them.

        One that has a default is left out where it has that value, so that manifests from before there was such a size
        keep their bytes, and with them their versions.
        """
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}

    @property
    def layout(self) -> N2OLayout:
        """The record that rows of this model have."""
        return N2OLayout(self.vector_dim, self.bridges, self.signature_bits)

    @property
    def tier_columns(self) -> int:
        """Tier values of a candidate, group after group."""
        return len(self.tier_groups) * self.tiers

    @property
    def attended(self) -> int:
        """Attention weights of a candidate: `behaviours`, or 0 without attention."""
        return self.behaviours if self.attention else 0

    @property
    def sign_columns(self) -> int:
        """Signs of a candidate that linear DIN's matrix is multiplied by: one a bit, or 0 without linear DIN."""
        return self.signature_bits if self.din else 0

    @property
    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays of head.npz, all float32."""
        h1, h2 = self.hidden
        return {
            "vector_weight": (self.vector_dim, h1),
            "tier_weight": (self.tier_columns, h1),
            "attention_table": (self.signature_bits + 1,),
            "w2": (h1, h2),
            "b2": (h2,),
            "w3": (h2,),
            "b3": (),
        }


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself.

    `training` is for people (data set, time span, seed, metrics); no program decides on it.
    """

    dimensions: Dimensions
    signature_version: str
    window_fingerprint: int
    record_stride: int
    files: Mapping[str, str]
    training: Mapping[str, Any]

    def to_json(self) -> bytes:
        """The bytes of manifest.json: equal manifests, equal bytes."""
        content = {"format": _FORMAT, **asdict(self), "dimensions": self.dimensions.written()}
        return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Raises ArtifactError where the bytes are not a manifest of this format."""
        try:
            content = json.loads(data)
            if content.pop("format") != _FORMAT:
                raise ArtifactError(f"{MANIFEST} has another format than {_FORMAT}: export it again with this version")
            sizes = content.pop("dimensions")
            sizes["hidden"] = tuple(sizes["hidden"])
            sizes["tier_groups"] = tuple(map(tuple, sizes["tier_groups"]))
            return cls(dimensions=Dimensions(**sizes), **content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{MANIFEST} cannot be read: {type(error).__name__}: {error}") from error

    @property
    def version(self) -> str:
        """16 hex digits that name exactly these contents."""
        return sha256(self.to_json())[:16]

    @property
    def version_tag(self) -> int:
        """The version as the unsigned 64-bit number that N2O records carry."""
        return int(self.version, 16)


def check_artifact(read: Callable[[str], bytes], *, version: str | None = None) -> Manifest:
    """Read the manifest, check its version and the sha256 of every file of an artifact, and return it.

    Every file, also those that the caller does not use: a worker and a server must reach the same verdict, or one
    would wait for rows that the other never makes. `read` gives a file's bytes by name; an OSError of its own becomes
    an ArtifactError. Raises ArtifactError naming the file that is missing or differs.
    """
    data = _read(read, MANIFEST)
    manifest = Manifest.from_json(data)
    found = sha256(data)[:16]
    if found != manifest.version or (version is not None and found != version):
        raise ArtifactError(
            f"{MANIFEST} is of version {found}, not {version or manifest.version}: it was altered or misplaced"
        )
    if manifest.record_stride != manifest.dimensions.layout.stride:
        raise ArtifactError(
            f"record stride {manifest.record_stride} does not fit this build's {manifest.dimensions.layout.stride}"
        )
    for name in (ITEM_TOWER, USER_PHASE, HEAD):
        if name not in manifest.files:
            raise ArtifactError(f"{name} is not listed in {MANIFEST}")
    for name, expected in manifest.files.items():
        if (digest := sha256(_read(read, name))) != expected:
            raise ArtifactError(
                f"{name} has sha256 {digest[:16]}…, the manifest says {expected[:16]}…: corrupted or incomplete copy"
            )
    return manifest


def check_fit(manifest: Manifest, deployment: Deployment) -> None:
    """Raise ArtifactError where a model was trained for another deployment or another build than this."""
    for what, found, wanted in (
        ("embedding_dim", manifest.dimensions.embedding_dim, deployment.embedding_dim),
        ("signature_bits", manifest.dimensions.signature_bits, deployment.signature_bits),
        ("signature_version", manifest.signature_version, deployment.signature_version),
        ("window_fingerprint", manifest.window_fingerprint, FINGERPRINT),
    ):
        if found != wanted:
            raise ArtifactError(
                f"artifact {manifest.version} was trained for {what} {found}, this deployment has {wanted}: "
                "train again with this deployment's settings"
            )


def _read(read: Callable[[str], bytes], name: str) -> bytes:
    try:
        return read(name)
    except OSError as error:
        raise ArtifactError(f"{name} cannot be read: {error}") from error
