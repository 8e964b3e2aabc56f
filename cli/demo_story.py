"""What the demo does, step by step, and what it measures."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from cli.demo_fleet import Fleet
from domain.rollout import SLOTS
from schemas.errors import BadInput, Unavailable
from schemas.ids import hashed_id
from schemas.records import UserEvent

__all__ = ["Cast", "Story", "Summary"]

#: User events held back from the replay and sent at a human pace, to time event -> servable: at most so many, and no
#: more than a tenth of the log.
_LIVE_EVENTS: Final = 1_500
_LIVE_SHARE: Final = 0.1
#: Of fewer events nothing is learned.
_FEWEST_EVENTS: Final = 1_500
_LIVE_PER_S: Final = 200
_CANDIDATES: Final = 1_000
_TRAIN_EXAMPLES: Final = 20_000
_SHOWN: Final = 5


@dataclass
class Summary:
    """What the demo found out."""

    events_in: int = 0
    items: int = 0
    users: int = 0
    dead_letters: int = 0
    freshness_ms: dict[str, float | None] = field(default_factory=dict)
    rank_ms: dict[str, float] = field(default_factory=dict)
    stage_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    model_version: str = ""
    queries: int = 0
    errors: int = 0
    candidates: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    person: int = 0
    chosen: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    def for_programs(self) -> dict[str, Any]:
        """The JSON object of `aif demo --json`."""
        names = (
            "events_in", "items", "users", "dead_letters", "freshness_ms", "rank_ms", "model_version", "queries",
            "errors",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


@dataclass
class Cast:
    """Who and what is in the log: users by events, items with titles and embeddings."""

    events: int = 0
    users: Counter[int] = field(default_factory=Counter)
    bought: dict[int, set[int]] = field(default_factory=dict)
    popular: Counter[int] = field(default_factory=Counter)
    items: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    newest_ms: int = 0

    @classmethod
    def of(cls, entries: Iterator[tuple[str, Any]]) -> Cast:
        """From the log's entries."""
        cast = cls()
        for kind, record in entries:
            if kind == "item":
                cast.items[record["item_id"]] = record
                continue
            cast.events += 1
            cast.users[record["user_id"]] += 1
            cast.bought.setdefault(record["user_id"], set()).add(record["item_id"])
            cast.popular[record["item_id"]] += 1
            cast.newest_ms = max(cast.newest_ms, record["event_time_ms"])
        return cast

    def title(self, item: int) -> str:
        """What to call an item."""
        record = self.items.get(item, {})
        return str(record.get("title") or record.get("original_id") or item)

    def alike(self, seed: int, count: int) -> list[int]:
        """The item and those whose embeddings are nearest to it."""
        known = [item for item, record in self.items.items() if record["embedding"] is not None]
        if seed not in known:
            return [seed]
        vectors: npt.NDArray[np.float32] = np.stack(
            [np.frombuffer(self.items[item]["embedding"], dtype="<f4") for item in known]
        )
        scores = vectors @ vectors[known.index(seed)]
        return [known[place] for place in np.argsort(-scores)[:count].tolist()]


class Story:
    """One telling; every step prints a line when it is done."""

    def __init__(
        self, fleet: Fleet, console: Console, dataset: str, path: Path | None, limit: int, queries: int
    ) -> None:
        self._fleet, self._console = fleet, console
        self._dataset, self._path, self._limit, self._queries = dataset, path, limit, queries
        self._summary = Summary(queries=queries)
        self._random = np.random.default_rng(7)

    def tell(self) -> Summary:
        """All of it, in order."""
        fleet = self._fleet
        fleet.run("worker", "worker", "--web-port", str(fleet.worker.port))
        fleet.run("server", "serve", "--port", str(fleet.server.port))
        cast = self._timed("read", self._read)
        sent = self._timed("replay", lambda: self._replay(cast))
        self._timed("train", self._train)
        self._timed("build", self._await_model)
        self._timed("live", lambda: self._live(sent))
        self._count()
        self._timed("queries", lambda: self._query(cast))
        self._timed("behaviour", lambda: self._behave(cast))
        return self._summary

    def _timed(self, step: str, work: Any) -> Any:
        started_s = time.monotonic()
        result = work()
        self._summary.seconds[step] = time.monotonic() - started_s
        return result

    def _open(self, limit: int) -> Any:
        from producers.datasets import open_dataset

        return open_dataset(self._dataset, self._path, limit=limit, embedding_dim=self._fleet.deployment.embedding_dim)

    def _read(self) -> Cast:
        cast = Cast.of(self._open(self._limit).entries())
        if cast.events < _FEWEST_EVENTS:
            raise BadInput(
                f"{self._dataset} has {cast.events:,} user events, the demo needs {_FEWEST_EVENTS:,}: take a longer log"
            )
        return cast

    def _replay(self, cast: Cast) -> int:
        """Send the log but for its newest events; returns the number of entries sent."""
        from producers.replay import Options, Status, replay

        first = cast.events - min(_LIVE_EVENTS, int(cast.events * _LIVE_SHARE))
        dataset = self._open(first)
        dataset.rejects_path = self._fleet.log("rejects").with_suffix(".jsonl")
        with Progress(console=self._console) as bars:
            bar = bars.add_task(f"replay   {self._dataset}", total=first)

            def show(status: Status) -> None:
                bars.update(bar, completed=status.events)

            sent = replay(dataset, self._fleet.deployment, Options(), threading.Event(), show)
        self._summary.events_in = sent.events + sent.items
        self._console.print(f"replayed {sent.events:,} user events and {sent.items:,} item updates")
        return sent.events + sent.items

    def _train(self) -> None:
        from producers.publish import publish

        arguments = ["--dataset", self._dataset, *(["--path", str(self._path)] if self._path else [])]
        arguments += [
            "--limit",
            str(self._limit),
            "--max-examples",
            str(_TRAIN_EXAMPLES),
            "--epochs",
            "1",
            "--threads",
            "2",
        ]
        command = [sys.executable, "-c", "from cli.main import main; main()", "train", *arguments]
        done = subprocess.run(
            command,
            env={**self._fleet.environment(), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            check=False,
            text=True,
        )
        if done.returncode:
            raise Unavailable(f"training ended with status {done.returncode}")
        folders = sorted((self._fleet.deployment.data_dir / "artifacts").iterdir())
        announced = publish(self._fleet.deployment, str(folders[-1]), published_by="aif demo", reason="first model")
        self._summary.model_version = announced.version
        self._console.print(f"model    {announced.version} published")

    def _await_model(self) -> None:
        def live() -> bool | None:
            status, body = self._fleet.server.get("/readyz")
            return True if status == 200 and body["model_version"] == self._summary.model_version else None

        self._fleet.wait("building item vectors and going live", live, within_s=90)
        self._console.print("serving  live: every item has its vector")

    def _live(self, skip: int) -> None:
        """Send the newest events at a human pace and ask the server how late they were."""
        from producers.sender import Sender

        live = list(islice(self._open(self._limit).entries(), skip, None))
        sender = Sender(self._fleet.deployment)
        started_s = time.monotonic()
        step = _LIVE_PER_S // 20
        for at in range(0, len(live), step):
            sender.send(live[at : at + step])
            time.sleep(max(0.0, started_s + at / _LIVE_PER_S - time.monotonic()))
        sender.flush()
        sender.close()
        self._summary.events_in += len(live)
        time.sleep(1)
        body = self._answer(f"/v1/freshness?window_s={time.monotonic() - started_s:.1f}")
        tables = [each for name, each in body["tables"].items() if name in (*SLOTS, "users") and each["batches"]]
        self._summary.freshness_ms = {
            name: max((each[f"{name}_ms"] for each in tables), default=None) for name in ("p50", "p99")
        }
        self._console.print(f"live     {len(live):,} more records at {_LIVE_PER_S}/s")

    def _count(self) -> None:
        ready = self._answer("/readyz")
        self._summary.items, self._summary.users = ready["items"], ready["users"]
        self._summary.dead_letters = sum(self._dead_letters())

    def _answer(self, path: str) -> Any:
        status, body = self._fleet.server.get(path)
        if status != 200:
            raise Unavailable(f"the server answered {path} with {status or 'nothing'}: {body}")
        return body

    def _dead_letters(self) -> Iterator[int]:
        from producers.connection import consumer_client
        from schemas.topics import REFUSING

        deployment = self._fleet.deployment
        with consumer_client(deployment) as consumer:
            from kafka import TopicPartition

            for source in REFUSING:
                tp = TopicPartition(deployment.dead_letters(source), 0)
                consumer.assign([tp])
                consumer.seek_to_beginning(tp)
                end = consumer.end_offsets([tp])[tp]
                while consumer.position(tp) < end:
                    yield sum(map(len, consumer.poll(500).values()))

    def _query(self, cast: Cast) -> None:
        items, users = np.array(sorted(cast.items)), np.array(sorted(cast.users))
        self._summary.candidates = min(_CANDIDATES, len(items))
        times, stages = [], []
        for _ in range(self._queries):
            candidates = self._random.choice(items, self._summary.candidates, replace=False)
            body = {"user_id": int(self._random.choice(users)), "candidates": candidates.tolist(), "top_k": 100}
            started_s = time.perf_counter()
            status, answer = self._fleet.server.post("/v1/rank", body)
            times.append((time.perf_counter() - started_s) * 1000)
            if status != 200 or answer["model_version"] != self._summary.model_version:
                self._summary.errors += 1
            else:
                stages.append(answer["stages_ms"])
        self._summary.rank_ms = _percentiles(times)
        names = stages[0] if stages else ()  # none where every query failed: the summary counts them
        self._summary.stage_ms = {name: _percentiles([each[name] for each in stages]) for name in names}

    def _behave(self, cast: Cast) -> None:
        """One user's top items before and after a few new behaviours."""
        person = cast.users.most_common(20)[-1][0]
        candidates = sorted(cast.items)[:10_000]
        popular = [item for item, _ in cast.popular.most_common()]
        seed = next((item for item in popular if item not in cast.bought[person]), popular[0])
        chosen = cast.alike(seed, _SHOWN)
        self._summary.person = person
        self._summary.chosen = [cast.title(item) for item in chosen]
        self._summary.before = self._top(cast, person, candidates)
        self._send_behaviour(person, chosen, cast.newest_ms)
        self._summary.after = self._top(cast, person, candidates)

    def _top(self, cast: Cast, person: int, candidates: list[int]) -> list[str]:
        status, answer = self._fleet.server.post(
            "/v1/rank", {"user_id": person, "candidates": candidates, "top_k": _SHOWN}
        )
        if status != 200:
            raise Unavailable(f"the server answered a rank query with {status or 'nothing'}: {answer}")
        return [cast.title(int(each["item_id"])) for each in answer["items"]]

    def _send_behaviour(self, person: int, items: list[int], newest_ms: int) -> None:
        from producers.sender import Sender

        events = [
            UserEvent(
                event_id=hashed_id(f"demo-{self._fleet.deployment.prefix}-{number}"), user_id=person, item_id=item,
                event_time_ms=newest_ms + 60_000 * (number + 1), action="purchase", category_id=None, value=1.0,
                original_user_id=None, original_item_id=None,
            )
            for number, item in enumerate(items)
        ]  # fmt: skip
        sender = Sender(self._fleet.deployment)
        sender.send([("user", event) for event in events])
        sender.flush()
        sender.close()

        def applied() -> bool | None:
            status, body = self._fleet.server.get(f"/v1/users/{person}/features")
            return True if status == 200 and body["newest_event_time_ms"] == events[-1]["event_time_ms"] else None

        self._fleet.wait("applying new behaviours", applied, within_s=20)


def _percentiles(values: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99]).tolist()
    return {"p50": round(p50, 3), "p99": round(p99, 3)}
