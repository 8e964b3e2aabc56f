"""A fleet whose models change under load: workers that may die, a server, the log of decisions as it is written.

Of the catalogue and the users one half is left alone, so that answers about it can be made again offline; the other
half is updated and deleted all the time.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fleet import WorkerProcess, wait_for
from integration.system import System
from kafka import KafkaConsumer, TopicPartition
from rollout_load import Answer, Load, requests_of

from domain.artifact import MANIFEST, Manifest
from domain.rollout import Phase, Rollout
from domain.sequence import unpacked_behaviours
from models.recompute import recompute
from producers.sender import Sender
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_id, entity_key
from schemas.records import ACTIONS, RolloutEvent

STATIC, CHURNING, USERS = range(1, 301), range(301, 601), range(1, 25)
START_MS = 1_700_000_000_000
AT_MS = START_MS + 3_600_000
#: Rows a second: a build of the catalogue takes some seconds, in which things can go wrong.
REBUILD = ("--rebuild-items-per-s", "150")


def item_update(item: int, number: int, chance: np.random.Generator, *, deleted: bool = False) -> dict[str, Any]:
    """An update of an item; the greatest number is the newest."""
    return {
        "event_id": number, "item_id": item, "event_time_ms": START_MS + number,
        "op": "delete" if deleted else "upsert", "original_id": None, "title": f"item {item}",
        "category_id": item % 17, "price": float(item), "published_ms": None,
        "embedding": chance.standard_normal(64).astype("<f4").tobytes(), "numeric": {},
    }  # fmt: skip


class RolloutFleet(System):
    """Two workers, a server with two scoring processes, and what the log of decisions says."""

    def __init__(self, deployment: Deployment, artifacts: dict[str, Path]) -> None:
        super().__init__(deployment)
        self.artifacts = artifacts  #: by version
        self.workers = [self.worker, WorkerProcess(deployment, "worker-1")]
        self.load = Load([self.server.port], requests_of(USERS, STATIC, AT_MS))
        self.log: list[tuple[RolloutEvent, Rollout]] = []  #: decisions that count, each with the state that it made
        self._over = threading.Event()
        self._checked: dict[Answer, float] = {}

    @property
    def state(self) -> Rollout:
        """As of the newest decision that was read."""
        return self.log[-1][1] if self.log else Rollout()

    def phase(self, version: str) -> Phase | None:
        """Where a version stands."""
        found = self.state.get(version)
        return found.phase if found else None

    def wait_phase(self, version: str, *phases: Phase, within_s: float = 60) -> None:
        """Wait until a version stands there."""

        def stands() -> bool:
            self.supervise()
            return self.phase(version) in phases

        wait_for(stands, within_s, lambda: f"{version} is {self.state}")

    def supervise(self) -> None:
        """Start workers again that have ended, as systemd would: they do where the broker is slow to answer."""
        for worker in self.workers:
            if worker.process.poll() is not None:
                worker.start(*REBUILD)

    def coordinates(self, worker: WorkerProcess) -> bool:
        """Whether a worker owns the partition whose owner coordinates roll-outs."""
        partitions = (worker.health() or {"partitions": []})["partitions"]
        return f"{self.deployment.topic('item-updates')}-0" in [each["partition"] for each in partitions]

    def wait_answers(self, version: str, within_s: float = 60) -> None:
        """Wait until every client is answered by a version."""
        since_s = time.monotonic()

        def answered() -> bool:
            newest = self.load.newest.values()
            return all(name == version and at_s > since_s for name, at_s in list(newest))

        wait_for(answered, within_s, lambda: f"{self.load.newest}, not {version}: {self.server.ready()}")

    def follow(self) -> None:
        """Fold topic rollout until the end; for a thread."""
        tp, state, decode = (
            TopicPartition(self.deployment.topic("rollout"), 0),
            Rollout(),
            codec("rollout_event").decode,
        )
        with KafkaConsumer(bootstrap_servers=self.deployment.bootstrap_servers, group_id=None) as consumer:
            consumer.assign([tp])
            consumer.seek_to_beginning(tp)
            while not self._over.is_set():
                for record in consumer.poll(timeout_ms=100).get(tp, []):
                    event: Any = decode(record.value)
                    before, state = state, state.applied(event)
                    if state is not before:
                        self.log.append((event, state))

    def fill(self) -> None:
        """The catalogue, and users who did something with the half of it that stays as it is."""
        chance = np.random.default_rng(7)
        entries = [("item", item_update(item, item, chance)) for item in (*STATIC, *CHURNING)]
        for number in range(10 * len(USERS)):
            item, action = int(chance.choice(STATIC)), ACTIONS[int(chance.integers(len(ACTIONS)))]
            event = {
                "event_id": number, "user_id": USERS[number % len(USERS)], "item_id": item, "action": action,
                "event_time_ms": START_MS + 1000 * number, "category_id": item % 17, "value": 1.0,
                "original_user_id": None, "original_item_id": None,
            }  # fmt: skip
            entries.append(("user", event))
        self.send(entries)

    def churn(self) -> None:
        """Update and delete items of the other half until the end; for a thread."""
        chance, sender = np.random.default_rng(8), Sender(self.deployment, give_up_after_s=300)
        for number in range(1000, 10**9):
            if self._over.wait(0.02):
                break
            item = int(chance.choice(CHURNING))
            sender.send([("item", item_update(item, number, chance, deleted=chance.random() < 0.1))])
        sender.close()

    @contextmanager
    def under_load(self) -> Iterator[None]:
        """Clients, live updates and the follower of decisions, until the block ends."""
        threads = [threading.Thread(target=each, daemon=True) for each in (self.follow, self.churn)]
        for thread in threads:
            thread.start()
        try:
            with self.load:
                yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def kill_server(self) -> None:
        """kill -9 of every process of the server."""
        assert self.server._process is not None
        for process in family(self.server._process.pid):
            os.kill(process, signal.SIGKILL)
        self.server._process.wait()

    # -- answers and coverage, made again -----------------------------------------------------------------------------

    def rows_of(self, version: str, items: Sequence[int]) -> dict[int, Any]:
        """The newest row that a version ever had of each item, in whichever slot."""
        layout = self._manifest(version).dimensions.layout
        prefix, found = codec("n2o_row").bytes_prefix(layout.stride), {}
        wanted = {entity_key(item) for item in items}
        for slot in ("n2o_a", "n2o_b", "n2o_c"):
            for record in self.records(self.deployment.changelog(slot)):
                if record.key in wanted and record.value:
                    row = np.frombuffer(record.value, layout.dtype, offset=len(prefix))[0]
                    if int(row["version"]) == int(version, 16):
                        found[entity_id(record.key)] = row
        return found

    def _manifest(self, version: str) -> Manifest:
        return Manifest.from_json((self.artifacts[version] / MANIFEST).read_bytes())

    def largest_difference(self) -> float:
        """Score every distinct answer again by the version that it names; the largest difference of any score."""
        heads = {entity_id(key): value for key, value in self.newest("users").items() if len(key) == 8}
        requests = requests_of(USERS, STATIC, AT_MS)
        for version in {answer.version for answer in self.load.answers}:
            rows = self.rows_of(version, STATIC)
            for number, request in enumerate(requests):
                head: Any = codec("user_head").decode(heads[request.user_id])
                behaviours = unpacked_behaviours(head["behaviours"])[::-1]
                dims, records = self._manifest(version).dimensions, np.array(list(rows.values()))
                made = recompute(self.artifacts[version], dims, head, behaviours, AT_MS, records)
                expected = made.scores(request.candidates)
                for answer in self.load.answers:
                    if (answer.request, answer.version) == (number, version):
                        scores = np.frombuffer(answer.scores, np.float32)
                        self._checked[answer] = float(np.abs(scores - expected).max())
        assert set(self._checked) == set(self.load.answers)
        return max(self._checked.values())


def family(process: int) -> list[int]:
    """A process and all below it."""
    found = [process]
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found
