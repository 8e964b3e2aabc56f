from __future__ import annotations

import pytest
from click.testing import CliRunner

from cli.main import main
from producers.topics import create_topics
from schemas.deployment import Deployment


def test_a_missing_artifact_is_named() -> None:
    """Publishing what does not exist exits with 2 before any broker is asked."""
    result = CliRunner().invoke(main, ["model", "publish", "nowhere", "--bootstrap-servers", "127.0.0.1:1"])
    assert result.exit_code == 2 and "nowhere" in result.stderr


@pytest.mark.broker
def test_an_empty_list_says_so(deployment: Deployment) -> None:
    """Before the first publication the list is empty on standard output and explained on standard error."""
    create_topics(deployment)
    options = ["--bootstrap-servers", deployment.bootstrap_servers, "--prefix", deployment.prefix]
    result = CliRunner().invoke(main, ["model", "list", *options])
    assert result.exit_code == 0 and result.stdout == "" and "aif model publish" in result.stderr
