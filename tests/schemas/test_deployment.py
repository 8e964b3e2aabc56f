"""Settings come from the environment, are checked at the entry, and name what is wrong."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from schemas.deployment import Deployment
from schemas.errors import BadInput


def test_defaults_are_a_local_deployment() -> None:
    """Without any variable: a local broker, four partitions, one copy."""
    deployment = Deployment.from_env({})
    assert deployment == Deployment()
    assert (deployment.bootstrap_servers, deployment.partitions) == ("127.0.0.1:9092", 4)


def test_every_field_has_a_variable() -> None:
    """Each setting can be given as AIF_ and its name, and keeps its type."""
    env = {
        "AIF_BOOTSTRAP_SERVERS": "a:1,b:2", "AIF_PREFIX": "eu.", "AIF_PARTITIONS": "12", "AIF_REPLICATION_FACTOR": "3",
        "AIF_EMBEDDING_DIM": "32", "AIF_SIGNATURE_BITS": "128", "AIF_SIGNATURE_SEED": "-1",
        "AIF_FUTURE_TOLERANCE_MS": "0", "AIF_REEMBED_INTERVAL_S": "60", "AIF_CLOCK": "wall", "AIF_DATA_DIR": "/var/aif",
    }  # fmt: skip
    expected = Deployment("a:1,b:2", "eu.", 12, 3, 32, 128, -1, 0, 60, "wall", Path("/var/aif"))
    assert Deployment.from_env(env) == expected
    assert env.keys() == {f"AIF_{each.name.upper()}" for each in fields(Deployment)}
    for each in fields(Deployment):
        assert getattr(expected, each.name) != getattr(Deployment(), each.name)


def test_overrides_win_unless_none() -> None:
    """A command's option beats the environment; one not given does not."""
    env = {"AIF_PREFIX": "eu.", "AIF_PARTITIONS": "12", "OTHER": "ignored"}
    deployment = Deployment.from_env(env, prefix="us.", partitions=None)
    assert (deployment.prefix, deployment.partitions) == ("us.", 12)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AIF_PARTITIONS", "0"),
        ("AIF_PARTITIONS", "four"),
        ("AIF_REPLICATION_FACTOR", "0"),
        ("AIF_EMBEDDING_DIM", "0"),
        ("AIF_SIGNATURE_BITS", "0"),
        ("AIF_SIGNATURE_BITS", "100"),
        ("AIF_CLOCK", "sundial"),
        ("AIF_REEMBED_INTERVAL_S", "-1"),
        ("AIF_SIGNATURE_SEED", ""),
    ],
)
def test_a_bad_value_names_its_variable(variable, value) -> None:
    """Nothing starts with a setting that cannot work; the message says which and what it was."""
    with pytest.raises(BadInput, match=f"^{variable}.*{value}"):
        Deployment.from_env({variable: value})


def test_topic_names_carry_the_prefix() -> None:
    """Topics, changelogs, dead letters and the group of one deployment are apart from another's."""
    deployment = Deployment(prefix="eu.")
    assert deployment.topic("user-events") == "eu.user-events"
    assert deployment.changelog("items") == "eu.items-changelog"
    assert deployment.dead_letters("user-events") == "eu.user-events.dead-letter"
    assert deployment.group == "eu.aif"


def test_signature_version_names_all_that_decides_a_signature() -> None:
    """Bits, dimension and seed each change the name."""
    named = {
        each.signature_version
        for each in (
            Deployment(), Deployment(signature_bits=128), Deployment(embedding_dim=32), Deployment(signature_seed=1)
        )
    }  # fmt: skip
    assert len(named) == 4


def test_settings_are_frozen() -> None:
    """Nobody changes a setting after the start."""
    with pytest.raises(FrozenInstanceError):
        Deployment().partitions = 5  # type: ignore[misc]


def test_snapshots_are_an_interval_apart() -> None:
    """The interval between snapshots is the setting in ms, and never 0: the time of a snapshot is its name."""
    assert Deployment(reembed_interval_s=600).reembed_interval_ms == 600_000
    assert Deployment(reembed_interval_s=0).reembed_interval_ms == 1
