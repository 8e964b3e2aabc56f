"""`aif why`: make a kept answer's scores again from the logs, and say what they are made of."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import deployment_options
from schemas.deployment import Deployment
from schemas.errors import BadInput

if TYPE_CHECKING:
    from models.recompute import Recomputed
    from streams.past_rows import PastRecords, PastUser

__all__ = ["command"]

_MOST_SIMILAR = 5
#: Terms that text shows; JSON has all.
_MOST_TERMS = 8


@click.command("why")
@click.argument("answer", metavar="ID")
@click.option(
    "--server", default="http://127.0.0.1:8080", show_default=True, help="Asked where no file has the answer."
)
@click.option("--item", "items", type=int, multiple=True, help="Explain this candidate; may be repeated.")
@click.option("--top", default=3, show_default=True, help="Else the best so many.")
@click.option("--candidates", default=20, show_default=True, help="Score so many of the best again; 0: all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@deployment_options
def command(
    deployment: Deployment, answer: str, server: str, items: tuple[int, ...], top: int, candidates: int, as_json: bool
) -> None:
    """Recompute the scores of a kept answer from the changelogs, and show what each term contributed.

    ID is the `sample_id` of an answer. Its sample is read from <data-dir>/answers, else asked of the server. Then the
    rows of the user and of the items are read from the changelogs, each the newest below the offset that the server had
    applied, and scored by the slow plain oracle. Exit status 1: a score is another than the one that was answered.
    Changelogs are compacted: rows are found until some time after newer ones have come, ten minutes at least.

    \b
    Examples:
      aif why 3f2a9c0d11e45b67
      aif why 3f2a9c0d11e45b67 --item 22423 --json
    """
    from models.recompute import recompute
    from producers.publish import check_for

    sample = _sample(deployment.data_dir, answer, server)
    artifact = _artifact(deployment, sample["model_version"])
    dims = check_for(deployment, artifact).dimensions
    read = asyncio.run(_rows(deployment, sample, dims.layout))
    user, past = read
    count = sample["behaviours_used"] + sample["behaviours_missing"]
    behaviours = user.newest_first[user.newest_first["event_time_ms"] <= sample["at_ms"]][:count]
    head = user.head if sample["user_known"] else None
    made = recompute(artifact, dims, head, behaviours, sample["at_ms"], past.records)
    report = _report(sample, user, past, made, list(items), top, candidates)
    click.echo(json.dumps(report) if as_json else _text(report))
    raise SystemExit(0 if report["same"] else 1)


def _sample(data_dir: Path, answer: str, server: str) -> dict[str, Any]:
    """A kept answer, of this machine's files or of a server."""
    from serving.client import Client
    from serving.ranking.samples import SAMPLES_FOLDER

    for path in sorted((data_dir / SAMPLES_FOLDER).glob("answers*.jsonl")):
        with path.open() as file:
            for line in file:
                if answer in line[:64]:
                    found: dict[str, Any] = json.loads(line)
                    return found
    with Client(server, token=os.environ.get("AIF_TOKEN") or None) as client:
        return client.get(f"/v1/answers/{answer}")


def _artifact(deployment: Deployment, version: str) -> Path:
    """The folder of a version: in the data folder, else fetched from where it was published."""
    from domain.artifact import check_artifact
    from producers.rollout_view import commands
    from schemas.artifact_cache import artifacts_folder, local_artifact

    folder = artifacts_folder(deployment.data_dir) / version
    if folder.is_dir():
        return folder
    for command in commands(deployment):
        said = command.record
        if said and said["command"] == "publish" and said["version"] == version:
            return local_artifact(said["uri"], version, said["manifest_sha256"], deployment.data_dir, check_artifact)
    raise BadInput(f"model {version} is not in {folder.parent}, and was never published: see --data-dir")


async def _rows(deployment: Deployment, sample: dict[str, Any], layout: Any) -> tuple[PastUser, PastRecords]:
    """The user's row and the rows of all candidates and behaviours, as they were."""
    import numpy as np

    from streams.log_reader import LogReader
    from streams.past_rows import PastRows

    applied = {
        table: {int(partition): offset for partition, offset in partitions.items()}
        for table, partitions in sample["applied"].items()
    }
    async with LogReader(deployment.bootstrap_servers) as reader:
        rows = PastRows(deployment, reader, applied)
        user = await rows.user(sample["user_id"])
        if sample["user_known"] and user.head is None:
            raise BadInput(
                f"the row that user {sample['user_id']} had is gone from the changelog: a newer one has come, and it "
                "was compacted"
            )
        ids = np.unique(np.concatenate([np.array(sample["candidates"], dtype=np.int64), user.newest_first["item_id"]]))
        return user, await rows.records(ids, layout, int(sample["model_version"], 16))


def _report(
    sample: dict[str, Any], user: PastUser, past: PastRecords, made: Recomputed, items: list[int], top: int, most: int
) -> dict[str, Any]:
    """What was answered beside what comes out now."""
    import numpy as np

    from serving.kernels import ROUNDING

    stored = dict(zip(sample["candidates"], sample["scores"], strict=True))
    if unknown := [each for each in items if each not in stored]:
        raise BadInput(f"item {unknown[0]} was no candidate of this answer")
    ranked = sample["ranking"] + [each for each in sample["candidates"] if each not in set(sample["ranking"])]
    chosen = list(dict.fromkeys([*items, *(ranked[:most] if most else ranked)]))
    known = dict(zip(sample["candidates"], sample["known"], strict=True))
    gone = [each for each in chosen if known[each] and each not in made.records]
    chosen = [each for each in chosen if each not in gone]
    scores = made.scores(np.array(chosen, dtype=np.int64)).tolist()
    lines = [
        {"item_id": item_id, "stored": stored[item_id], "recomputed": score, "difference": score - stored[item_id]}
        for item_id, score in zip(chosen, scores, strict=True)
    ]
    worst = max((abs(line["difference"]) for line in lines), default=0.0)
    return {
        **{name: sample[name] for name in ("sample_id", "model_version", "user_id", "at_ms", "applied")},
        "user_row_offset": user.offset,
        "item_rows": len(past.records),
        "candidates": len(stored),
        "scores": lines,
        "gone": gone,
        "largest_difference": worst,
        "allowed": (allowed := max(ROUNDING.values())),  # which kernel of which machine answered is not known
        "same": worst <= allowed,
        "explained": [_explained(made, item_id) for item_id in (items or ranked[:top]) if item_id not in gone],
    }


def _explained(made: Recomputed, item_id: int) -> dict[str, Any]:
    from schemas.records import ACTIONS

    return {
        "item_id": item_id,
        "terms": made.contributions(item_id),
        "similar": [
            {
                "item_id": int(made.item_ids[place]),
                "action": ACTIONS[made.feed["actions"][place]],
                "equal_bits": equal,
                "bits": made.dims.signature_bits,
            }
            for place, equal in made.similar(item_id, _MOST_SIMILAR)
        ],
    }


def _text(report: dict[str, Any]) -> str:
    applied = ", ".join(
        f"{table}-{partition} below {offset}"
        for table, partitions in report["applied"].items()
        for partition, offset in partitions.items()
    )
    row = "none" if report["user_row_offset"] is None else f"offset {report['user_row_offset']}"
    lines = [
        f"answer {report['sample_id']} of model {report['model_version']}",
        f"user {report['user_id']} at {report['at_ms']}, row: {row}; items' rows: {report['item_rows']}",
        f"changelogs read: {applied}",
        f"{'item':>20}  {'answered':>9}  {'again':>9}  difference",
    ]
    lines += [
        f"{each['item_id']:>20}  {each['stored']:9.6f}  {each['recomputed']:9.6f}  {each['difference']:+.1e}"
        for each in report["scores"]
    ]
    verdict = "the same" if report["same"] else f"NOT the same: more than {report['allowed']:g} apart"
    compared = f"{len(report['scores'])} of {report['candidates']} candidates"
    if report["gone"]:
        lines.append(f"rows compacted away since, not compared: items {', '.join(map(str, report['gone']))}")
    lines.append(f"largest difference {report['largest_difference']:.1e} over {compared}: {verdict}")
    for each in report["explained"]:
        lines.append(f"item {each['item_id']}, the logit less that without the term (the {_MOST_TERMS} largest):")
        largest = sorted(each["terms"].items(), key=lambda term: -abs(term[1]))[:_MOST_TERMS]
        lines += [f"  {name:24} {value:+.4f}" for name, value in largest if value]
        lines += [
            f"  like item {past['item_id']} ({past['action']}): {past['equal_bits']} of {past['bits']} bits"
            for past in each["similar"]
        ]
    return "\n".join(lines)
