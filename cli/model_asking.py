"""What the commands of `aif model` that ask for something have in common: send, wait for the decision, say it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from cli.options import deployment_options
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from producers.publish import Sent
    from producers.rollout_view import RolloutView
    from schemas.records import RolloutEvent

__all__ = ["ask_of", "asking", "settle"]

#: How long a command waits for its decision. With a worker running that takes a fraction of a second.
_DECIDED_WITHIN_S: Final = 10.0
_LIVE_LOOK_S: Final = 1.0
_VERSION: Final = re.compile(r"[0-9a-f]{16}")


def asking(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that asks for something."""
    options = (
        click.option("--reason", default="", help="Why, for those who read the history."),
        click.option("--no-wait", is_flag=True, help="Do not wait for the decision."),
        click.option("--json", "as_json", is_flag=True, help="Print command and decision as one JSON object."),
        deployment_options,
    )
    for option in reversed(options):
        function = option(function)
    return function


def ask_of(
    deployment: Deployment, ask: Callable[..., Sent], version: str | None, reason: str, *,
    no_wait: bool, as_json: bool, left_out: str | None = None,
) -> None:  # fmt: skip
    """Ask something of one version; where none is named, of `left_out`, or of the one that is on its way."""
    from producers.rollout_view import RolloutView

    if version is None and left_out is not None:
        meant = left_out
    elif version is not None and _VERSION.fullmatch(version):
        meant = version
    else:
        with RolloutView(deployment) as view:
            meant = view.named(version) if version else view.on_its_way()
    settle(deployment, ask(deployment, meant, reason=reason), no_wait=no_wait, as_json=as_json)


def settle(
    deployment: Deployment, sent: Sent, *,
    no_wait: bool, as_json: bool, names_version: bool = False, wait_live: bool = False,
) -> None:  # fmt: skip
    """Wait for the decision on a command, and print both; the version alone on stdout where `names_version`.

    Raises BadInput where it is refused, or with `wait_live` where its version is rejected, and Unavailable where
    nothing is decided in time.
    """
    from producers.rollout_view import RolloutView

    if names_version and not as_json:
        click.echo(sent.version)
    if no_wait:
        if as_json:
            _print(sent, None)
        return
    with RolloutView(deployment) as view:
        decision = view.decision_on(sent.offset, _DECIDED_WITHIN_S)
        if as_json:
            _print(sent, decision)
        if decision is None:
            raise Unavailable(
                f"nothing was decided within {_DECIDED_WITHIN_S:.0f} s, so no worker runs, or none reaches the broker "
                "(`aif lag`). The command is in the log and is decided on when one does. There is no need to send it "
                "again"
            )
        if decision["decision"] == "refuse":
            raise BadInput(f"refused: {decision['reason']}")
        if not as_json:
            click.echo(_sentence(decision), err=names_version)
        if wait_live:
            _until_live(view, sent)


def _print(sent: Sent, decision: RolloutEvent | None) -> None:
    click.echo(json.dumps({"offset": sent.offset, "command": sent.record, "decision": decision}))


def _sentence(decision: RolloutEvent) -> str:
    because = f": {decision['reason']}" if decision["reason"] else ""
    return f"epoch {decision['epoch']}: {decision['decision']} {decision['version']} by {decision['by']}{because}"


def _until_live(view: RolloutView, sent: Sent) -> None:
    """Wait until a version is live, saying what is decided meanwhile. Raises BadInput where it never will be."""
    from domain.rollout import Phase

    told = 1 + next(at for at, each in enumerate(view.decided) if each.event["command_offset"] == sent.offset)
    while True:
        for each in view.decided[told:]:
            click.echo(_sentence(each.event), err=True)
        told = len(view.decided)
        version = view.state.get(sent.version)
        if version is not None and version.phase is Phase.LIVE:
            return
        if version is None or version.phase in (Phase.REJECTED, Phase.RETIRED):
            raise BadInput(f"{sent.version} does not go live: {version.reason if version else 'it is forgotten'}")
        view.wait(lambda told=told: len(view.decided) > told, _LIVE_LOOK_S)  # type: ignore[misc]
