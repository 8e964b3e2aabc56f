from __future__ import annotations

from click.testing import CliRunner

from cli.main import main
from experiments.catalogue import QUESTIONS


def test_the_questions_are_listed() -> None:
    """`list` prints a line for every question; another name is refused with the names there are."""
    listed = CliRunner().invoke(main, ["experiment", "list"])
    assert [line.partition(" ")[0] for line in listed.stdout.splitlines()] == list(QUESTIONS)
    refused = CliRunner().invoke(main, ["experiment", "nonsense"])
    assert (refused.exit_code, "neighbours" in refused.output) == (2, True)
