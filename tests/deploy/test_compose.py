import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
#: Addresses differ inside a container; everything else must be said twice alike.
ADDRESSES = {
    "controller.quorum.voters",
    "listeners",
    "advertised.listeners",
    "listener.security.protocol.map",
    "log.dirs",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as YAML says it, variables not filled in."""
    content = yaml.safe_load((ROOT / "docker-compose.kafka.yml").read_text())
    assert isinstance(content, dict)
    return content


def _validator() -> Any:
    schema = json.loads((Path(__file__).parent / "compose-spec" / "compose-spec.json").read_text())
    return jsonschema.validators.validator_for(schema)(schema)


def test_follows_the_compose_specification(compose: dict[str, Any]) -> None:
    """The file is valid by the Compose Specification's own JSON schema."""
    _validator().validate(compose)


def test_schema_refuses_what_compose_would_refuse(compose: dict[str, Any]) -> None:
    """The schema has teeth: an unknown key of a service fails it."""
    broken = {**compose, "services": {"kafka": {**compose["services"]["kafka"], "imagee": "x"}}}
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        _validator().validate(broken)


def test_container_and_local_broker_are_configured_alike(compose: dict[str, Any]) -> None:
    """Each setting of the local broker that is no address has the same value in the container's environment."""
    lines = (ROOT / "cli" / "broker_files" / "server.properties").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    environment = compose["services"]["kafka"]["environment"]
    local = {f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in settings.items() if key not in ADDRESSES}
    assert local == {key: environment.get(key) for key in local}


def test_reachable_from_this_machine_only(compose: dict[str, Any]) -> None:
    """Every published port is bound to the loopback address, since the broker authenticates nobody."""
    assert all(port.startswith("127.0.0.1:") for port in compose["services"]["kafka"]["ports"])


def test_same_kafka_version_as_the_local_broker(compose: dict[str, Any]) -> None:
    """The image's tag is the version that pom.xml names."""
    version = compose["services"]["kafka"]["image"].removeprefix("apache/kafka:")
    assert f"<version>{version}</version>" in (ROOT / "cli" / "broker_files" / "pom.xml").read_text()
