import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli.options import broker_record, deployment_options, require_broker
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable


@click.command()
@deployment_options
def show(deployment: Deployment) -> None:
    """Prints where it would connect."""
    settings = (deployment.bootstrap_servers, deployment.prefix, deployment.partitions)
    click.echo(" ".join(map(str, settings)))


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A data folder with the record of a local broker."""
    broker_record(tmp_path).parent.mkdir()
    broker_record(tmp_path).write_text(json.dumps({"bootstrap_servers": "recorded:1", "pid": 1, "started": "x"}))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "environment", "found"),
    [
        ([], {}, "recorded:1  4"),
        ([], {"AIF_BOOTSTRAP_SERVERS": "env:1", "AIF_PREFIX": "e-", "AIF_PARTITIONS": "8"}, "env:1 e- 8"),
        (
            ["--bootstrap-servers", "option:1", "--prefix", "o-", "--partitions", "2"],
            {"AIF_BOOTSTRAP_SERVERS": "env:1", "AIF_PREFIX": "e-", "AIF_PARTITIONS": "8"},
            "option:1 o- 2",
        ),
    ],
)
def test_option_then_environment_then_record(
    recorded: Path, arguments: list[str], environment: dict[str, str], found: str
) -> None:
    """An option wins over its variable, and the running local broker's record over the default address only."""
    answer = CliRunner().invoke(show, arguments, env={"AIF_DATA_DIR": str(recorded), **environment})
    assert answer.output == f"{found}\n"


def test_default_without_a_record(tmp_path: Path) -> None:
    """Without option, variable and record the address is the deployment's default."""
    answer = CliRunner().invoke(show, ["--data-dir", str(tmp_path)])
    assert answer.output.startswith(Deployment().bootstrap_servers)


def test_damaged_record_is_named(recorded: Path) -> None:
    """A record that cannot be read is reported with its path and the way out."""
    broker_record(recorded).write_text("[]")
    answer = CliRunner().invoke(show, ["--data-dir", str(recorded)])
    assert isinstance(answer.exception, BadInput)
    assert str(broker_record(recorded)) in str(answer.exception)


def test_bad_variable_is_named() -> None:
    """A variable that is no number is named in the error."""
    answer = CliRunner().invoke(show, [], env={"AIF_PARTITIONS": "many"})
    assert isinstance(answer.exception, BadInput)
    assert "AIF_PARTITIONS='many'" in str(answer.exception)


def test_require_broker_names_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no broker answers, the error has the address and the two ways to get one."""
    monkeypatch.setattr("cli.options._ANSWER_WITHIN_S", 0.3)  # how long commands take is test_main.py's claim
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 .*aif broker start.*--bootstrap-servers"):
        require_broker(Deployment(bootstrap_servers="127.0.0.1:9"))
