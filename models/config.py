"""Sizes of the AIF model: one dataclass, the defaults of docs/deviations.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from domain.artifact import Dimensions
from domain.item_features import ITEM_NUMERIC
from domain.sequence import BEHAVIOURS, SEQUENCE
from domain.windows import WINDOWS
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.records import ACTION_CODES, ACTIONS, Action

__all__ = ["DEPLOYMENTS_SIZES", "ENGAGEMENTS", "ModelConfig", "sizes"]

#: Actions that count as wanting an item.
ENGAGEMENTS: Final[tuple[Action, ...]] = (
    "view", "click", "like", "follow", "comment", "share", "favourite", "cart", "purchase", "long_view",
)  # fmt: skip

#: Sizes that are a deployment's contract: a model is trained with what its deployment says.
DEPLOYMENTS_SIZES: Final = ("embedding_dim", "signature_bits", "signature_seed", "reembed_interval_ms")


@dataclass(frozen=True)
class ModelConfig:
    """Every size of the network. Raises BadInput where one cannot be."""

    embedding_dim: int = 64  #: multi-modal embedding of an item; the deployment's
    signature_bits: int = 64  #: m; the deployment's, a multiple of 64
    signature_seed: int = 20251112  #: of the hyperplanes; the deployment's
    reembed_interval_ms: int = 600_000  #: of event time between two snapshots of an item's activity; the deployment's
    category_buckets: int = 4096  #: hashed categories, 0 is none
    category_dim: int = 16
    id_buckets: int = 0  #: hashed ids of items, 0 leaves ids out
    id_dim: int = 16
    tower_hidden: int = 256
    vector_dim: int = 64  #: d, of items, users, behaviours and bridges
    bridges: int = 16  #: n
    tiers: int = 8  #: T; a power of two, 0 leaves SimTier out
    tier_groups: tuple[tuple[Action, ...], ...] = (ENGAGEMENTS, ("impression",))  #: actions of each histogram
    behaviours: int = 32  #: Ls, newest behaviours that the encoders and a candidate's attention read
    long_behaviours: int = 256  #: most L, newest behaviours of tiers, linear DIN, bridges and hard search
    cross_categories: int = 32  #: K, categories of a user with cross features; 0 leaves hard search out
    hidden: tuple[int, int] = (128, 64)  #: h1, h2 of the head
    bea: Literal["A", "B", "none"] = "A"  #: softmax over fields (A) or over bridges (B); both are served alike
    din: Literal["linear", "none"] = "linear"  #: over all L
    attention: bool = True  #: DIN with weights by similarity, over the newest Ls

    def __post_init__(self) -> None:
        for name in (
            "embedding_dim", "category_dim", "id_dim", "tower_hidden", "vector_dim", "bridges", "reembed_interval_ms",
        ):  # fmt: skip
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(self.category_buckets >= 2, "category_buckets", "at least 2", self.category_buckets)
        _require(self.id_buckets != 1 and self.id_buckets >= 0, "id_buckets", "0 or at least 2", self.id_buckets)
        _require(
            self.signature_bits % 64 == 0 < self.signature_bits,
            "signature_bits",
            "a multiple of 64",
            self.signature_bits,
        )
        _require(self.tiers >= 0 and self.tiers & (self.tiers - 1) == 0, "tiers", "0 or a power of two", self.tiers)
        _require(1 <= self.behaviours <= BEHAVIOURS, "behaviours", f"1 to {BEHAVIOURS}", self.behaviours)
        _require(
            self.behaviours <= self.long_behaviours <= SEQUENCE,
            "long_behaviours",
            f"{self.behaviours} to {SEQUENCE}",
            self.long_behaviours,
        )
        known = all(action in ACTION_CODES for group in self.tier_groups for action in group)
        _require(known, "tier_groups", "groups of actions", self.tier_groups)
        _require(self.cross_categories >= 0, "cross_categories", "0 or more", self.cross_categories)
        _require(self.bea in ("A", "B", "none"), "bea", "A, B or none", self.bea)
        _require(self.din in ("linear", "none"), "din", "linear or none", self.din)
        _require(len(self.hidden) == 2 and min(self.hidden) >= 1, "hidden", "two sizes", self.hidden)

    @classmethod
    def of(cls, deployment: Deployment) -> ModelConfig:
        """The default model with the sizes that are a deployment's contract."""
        return cls(**{name: getattr(deployment, name) for name in DEPLOYMENTS_SIZES})

    @property
    def signature_version(self) -> str:
        """Names the hyperplanes that the model was trained with."""
        return Deployment(
            embedding_dim=self.embedding_dim, signature_bits=self.signature_bits, signature_seed=self.signature_seed
        ).signature_version

    @property
    def dimensions(self) -> Dimensions:
        """What workers and serving need to know of these sizes."""
        return Dimensions(
            embedding_dim=self.embedding_dim,
            signature_bits=self.signature_bits,
            category_buckets=self.category_buckets,
            item_numeric=ITEM_NUMERIC,
            vector_dim=self.vector_dim,
            bridges=self.bridges,
            tiers=self.tiers,
            tier_groups=self.tier_groups,
            behaviours=self.behaviours,
            attention=self.attention,
            long_behaviours=self.long_behaviours,
            cross_categories=self.cross_categories,
            user_features=len(WINDOWS) * len(ACTIONS),
            hidden=self.hidden,
            din=self.din != "none",
            id_buckets=self.id_buckets,
        )


def sizes(texts: Iterable[str]) -> dict[str, Any]:
    """Fields of ModelConfig from texts like `tiers=16`: numbers, words, `true` or `false`.

    Raises BadInput for a name that is no such field, and for a value that is no number where one is needed; what the
    model cannot have ModelConfig itself refuses.
    """
    defaults = {each.name: each.default for each in fields(ModelConfig) if isinstance(each.default, (int, str))}
    found: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        _require(name in defaults, name, f"one of {', '.join(defaults)}, written NAME=VALUE", text)
        if isinstance(defaults[name], bool):
            _require(value in ("true", "false"), name, "true or false", value)
            found[name] = value == "true"
        elif isinstance(defaults[name], int):
            _require(value.isdecimal(), name, "a whole number", value)
            found[name] = int(value)
        else:
            found[name] = value
    return found


def _require(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise BadInput(f"ModelConfig.{name} must be {expected}, not {found!r}")
