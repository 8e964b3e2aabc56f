from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cli.main import main
from producers.topology_document import topology_document
from schemas.deployment import Deployment


def test_document_prints_the_topology() -> None:
    """`aif topics document` prints exactly the generated document, without a broker."""
    result = CliRunner().invoke(main, ["topics", "document"])
    assert result.exit_code == 0 and result.stdout == topology_document()


@pytest.mark.broker
def test_create_list_describe(deployment: Deployment) -> None:
    """Topics are missing, then created, then listed, described and found to exist."""
    options = ["--bootstrap-servers", deployment.bootstrap_servers, "--prefix", deployment.prefix, "--partitions", "2"]

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["topics", *arguments, *options])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    assert "missing" in run("list")
    assert "created" in run("create") and "created" not in run("create")
    assert "missing" not in run("list")
    assert json.loads(run("describe", "user-events"))["user-events"]["partitions"] == 2
