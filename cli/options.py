"""Options that commands share, and how a command finds its deployment and its broker."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable

__all__ = ["broker_record", "data_dir_option", "deployment_options", "require_broker", "size_option"]

#: A command says that its broker does not answer within this time; the promise to the user is 10 s.
_ANSWER_WITHIN_S: Final = 4.0

#: Adds `--size NAME=VALUE`, passed as `sizes: tuple[str, ...]`, which `models.config.sizes` reads.
size_option: Final = click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another size of the model, as tiers=16; repeat for more",
)


def broker_record(data_dir: Path) -> Path:
    """Where `aif broker start` writes what it started; the file is there while that broker should be running."""
    return data_dir / "broker" / "broker.json"


def data_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--data-dir`, passed as `data_dir: Path`."""

    @functools.wraps(command)
    def with_data_dir(*args: Any, data_dir: Path | None, **kwargs: Any) -> Any:
        return command(*args, data_dir=Deployment.from_env(os.environ, data_dir=data_dir).data_dir, **kwargs)

    return _data_dir(with_data_dir)


def deployment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the deployment's options and passes `deployment: Deployment`.

    The first that says something wins: option, AIF_* variable, for the brokers the record of the local broker
    (`broker_record`), default.
    """

    @click.option(
        "--bootstrap-servers",
        metavar="HOST:PORT,...",
        help="Kafka brokers  [env: AIF_BOOTSTRAP_SERVERS; else the local broker's]",
    )
    @click.option("--prefix", help="Put before topic and group names  [env: AIF_PREFIX]")
    @click.option("--partitions", type=int, help="Partitions of item and user topics  [env: AIF_PARTITIONS]")
    @_data_dir
    @functools.wraps(command)
    def with_deployment(
        *args: Any,
        bootstrap_servers: str | None,
        prefix: str | None,
        partitions: int | None,
        data_dir: Path | None,
        **kwargs: Any,
    ) -> Any:
        given = {
            "bootstrap_servers": bootstrap_servers,
            "prefix": prefix,
            "partitions": partitions,
            "data_dir": data_dir,
        }
        deployment = Deployment.from_env(os.environ, **given)
        if bootstrap_servers is None and "AIF_BOOTSTRAP_SERVERS" not in os.environ:
            recorded = _recorded_servers(deployment.data_dir)
            deployment = Deployment.from_env(os.environ, **{**given, "bootstrap_servers": recorded})
        return command(*args, deployment=deployment, **kwargs)

    return with_deployment


def require_broker(deployment: Deployment) -> None:
    """Raises Unavailable, naming the address and what to do, when the brokers do not answer a metadata request."""
    from cli.broker_probe import answers

    servers = deployment.bootstrap_servers
    if not answers(servers, _ANSWER_WITHIN_S):
        raise Unavailable(
            f"no Kafka broker answers at {servers} (tried for {_ANSWER_WITHIN_S:.0f} s); start one with "
            "`aif broker start`, or name yours with --bootstrap-servers or AIF_BOOTSTRAP_SERVERS"
        )


def _data_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Tables, artifacts, local broker  [env: AIF_DATA_DIR; default: .aif]",
    )(command)


def _recorded_servers(data_dir: Path) -> str | None:
    path = broker_record(data_dir)
    try:
        return str(json.loads(path.read_text())["bootstrap_servers"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} is not the record of a local broker ({error}); delete it, then `aif broker start`"
        ) from error
