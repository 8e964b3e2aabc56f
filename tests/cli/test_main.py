import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from forked import aif

from cli.main import COMMANDS, main
from schemas.errors import ArtifactError, BadInput, BadRecord, Corrupt, Unavailable, exit_status


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command below `command`, groups included."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _commands(child, (*path, name))


@pytest.mark.parametrize("path", list(_commands(main)), ids=lambda path: " ".join(path) or "aif")
def test_every_help_has_an_example(path: tuple[str, ...]) -> None:
    """`--help` of every command and sub-command works and shows an example that begins with `aif`."""
    answer = CliRunner().invoke(main, [*path, "--help"])
    assert answer.exit_code == 0, answer.output
    _, found, examples = answer.output.partition("Example")
    assert found, answer.output
    assert "aif " in examples


def test_table_and_modules_agree() -> None:
    """`aif --help` lists each command of the table, and each module with a command is in the table."""
    folder = Path(sys.modules["cli.main"].__file__ or "").parent
    with_command = {f"cli.{path.stem}" for path in folder.glob("*.py") if "\ndef command(" in path.read_text()}
    assert with_command == {target.partition(":")[0] for target in COMMANDS.values()}
    listed = CliRunner().invoke(main, ["--help"]).output
    assert all(f"\n  {name} " in listed for name in COMMANDS)


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    """`aif --help` imports no torch, Faust, numpy, Kafka client or web framework."""
    script = (
        "import sys; from click.testing import CliRunner; from cli.main import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "print({'torch', 'faust', 'numpy', 'kafka', 'starlette', 'aiokafka'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert answer.stdout == "set()\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("the file"), 2),
        (ArtifactError("a checksum"), 2),
        (Unavailable("the broker"), 69),
        (Corrupt("a table"), 70),
        (BadRecord("reason"), 70),
    ],
)
def test_errors_become_one_line_and_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, error: BadInput | Unavailable | Corrupt | BadRecord, code: int
) -> None:
    """An error raised on purpose is one line on stderr and the exit status of whose fault it is; no traceback."""

    def fail(_: click.Context) -> None:
        raise error

    monkeypatch.setattr("cli.broker.command.invoke", fail)
    answer = CliRunner().invoke(main, ["broker", "status"])
    assert exit_status(error) == answer.exit_code == code
    assert answer.stderr == f"aif: {error}\n"
    assert answer.stdout == ""


def test_an_unknown_command_is_a_usage_error() -> None:
    """A mistyped command exits with 2 and names it."""
    answer = CliRunner().invoke(main, ["brokr"])
    assert answer.exit_code == 2
    assert "brokr" in answer.stderr


#: Commands that talk to the broker at once, with the arguments they need to get that far.
NEED_A_BROKER: list[list[str]] = [
    ["topics", "create"], ["model", "status"], ["dead-letters", "list"], ["dead-letters", "replay", "--yes"], ["lag"],
]  # fmt: skip


def test_a_broker_that_does_not_answer_is_named_within_ten_seconds(tmp_path: Path) -> None:
    """Without a broker a command says which address it tried and what to do, in under 10 s, and exits with 69."""
    assert aif(["--help"], os.environ, tmp_path / "help.log").wait(60) == 0  # what all of them import is imported
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        where, began = ["--bootstrap-servers", address, "--data-dir", str(tmp_path)], time.monotonic()
        logs = [tmp_path / f"{'-'.join(words)}.log" for words in NEED_A_BROKER]
        started = [aif([*words, *where], os.environ, log) for words, log in zip(NEED_A_BROKER, logs, strict=True)]
        ended = [each.wait(30) for each in started]
        took_s = time.monotonic() - began
    said = [log.read_text() for log in logs]
    assert ended == [69] * len(started), said
    assert all(address in each and "aif broker start" in each for each in said), said
    assert took_s < 10
