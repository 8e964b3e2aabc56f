"""What every process of one deployment must agree on.

Built once at a process's entry from its environment (`Deployment.from_env(os.environ)`); nothing else reads the
environment. Fields marked *contract* decide what bytes mean: changing one means new topics or a rebuild.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from schemas.errors import BadInput
from schemas.topics import changelog_topic, dead_letter_topic

__all__ = ["Clock", "Deployment", "settings_from_env"]

Clock = Literal["event", "wall"]

_TRUTH: Final = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True)
class Deployment:
    """Settings shared by producers, workers and servers.

    Environment variable of a field: `AIF_` + its name in capitals.
    """

    #: host:port list of the Kafka brokers.
    bootstrap_servers: str = "127.0.0.1:9092"
    #: Put before every topic name and the consumer group, so that deployments can share a broker.
    prefix: str = ""
    #: Contract. Partitions of item and user topics and tables: the most workers that can share the work.
    partitions: int = 4
    #: Copies of each topic; 3 in production.
    replication_factor: int = 1
    #: Contract. float32 values in an item's multi-modal embedding.
    embedding_dim: int = 64
    #: Contract. LSH bits per signature; a multiple of 64.
    signature_bits: int = 64
    #: Contract. Seed of the frozen hyperplanes behind the signatures.
    signature_seed: int = 20251112
    #: An event later than its LogAppendTime plus this is refused as far-future.
    future_tolerance_ms: int = 300_000
    #: Contract. Event time between two snapshots of an item's activity, seconds: how often its vector follows what
    #: users do. 0 takes one at every millisecond that has events.
    reembed_interval_s: int = 600
    #: What "now" is for windows where a request does not say: the newest event time applied, or the machine's clock.
    clock: Clock = "event"
    #: Everything a process keeps on disk: tables, artifacts, the local broker.
    data_dir: Path = field(default=Path(".aif"))

    def __post_init__(self) -> None:
        _require(self.partitions >= 1, "AIF_PARTITIONS", "a number of at least 1", self.partitions)
        _require(
            self.replication_factor >= 1, "AIF_REPLICATION_FACTOR", "a number of at least 1", self.replication_factor
        )
        _require(self.embedding_dim >= 1, "AIF_EMBEDDING_DIM", "a number of at least 1", self.embedding_dim)
        bits = self.signature_bits
        _require(bits >= 64 and bits % 64 == 0, "AIF_SIGNATURE_BITS", "a multiple of 64", bits)
        _require(self.reembed_interval_s >= 0, "AIF_REEMBED_INTERVAL_S", "0 or more seconds", self.reembed_interval_s)
        _require(self.clock in get_args(Clock), "AIF_CLOCK", "'event' or 'wall'", self.clock)

    @classmethod
    def from_env(cls, env: Mapping[str, str], **overrides: object) -> Deployment:
        """Settings from `AIF_*` variables; `overrides` that are not None win. Raises BadInput naming the variable."""
        return cls(**settings_from_env(cls, env, "AIF_", overrides))

    @property
    def group(self) -> str:
        """The consumer group, and Faust's app id."""
        return f"{self.prefix}aif"

    @property
    def reembed_interval_ms(self) -> int:
        """Event time between two snapshots of an item's activity; at least 1, because its time names a snapshot."""
        return max(1, 1000 * self.reembed_interval_s)

    @property
    def signature_version(self) -> str:
        """Names the hyperplanes: equal where signatures compare."""
        return f"srp-{self.signature_bits}x{self.embedding_dim}-{self.signature_seed}"

    def topic(self, name: str) -> str:
        """A topic's name on the broker."""
        return f"{self.prefix}{name}"

    def changelog(self, table: str) -> str:
        """A table's changelog topic on the broker."""
        return self.topic(changelog_topic(table))

    def dead_letters(self, source: str) -> str:
        """A source topic's dead-letter topic on the broker."""
        return self.topic(dead_letter_topic(source))


def settings_from_env(
    kind: type[Any], env: Mapping[str, str], prefix: str, overrides: Mapping[str, object]
) -> dict[str, Any]:
    """Fields of a settings dataclass from variables named `prefix` + field in capitals; overrides not None win.

    Raises BadInput naming the variable whose text is not of its field's type.
    """
    values: dict[str, Any] = {}
    for each in fields(kind):
        variable = f"{prefix}{each.name.upper()}"
        if variable in env:
            values[each.name] = _parse(variable, env[variable], type(each.default))
    return values | {name: value for name, value in overrides.items() if value is not None}


def _parse(variable: str, text: str, kind: Any) -> object:
    try:
        return _TRUTH[text.lower()] if kind is bool else Path(text) if issubclass(kind, Path) else kind(text)
    except (ValueError, KeyError) as error:
        raise BadInput(f"{variable}={text!r} is not {'true or false' if kind is bool else kind.__name__}") from error


def _require(holds: bool, variable: str, expected: str, found: object) -> None:
    if not holds:
        raise BadInput(f"{variable} must be {expected}, not {found!r}")
