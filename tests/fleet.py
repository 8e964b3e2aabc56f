"""Real worker processes and real records for tests that need a broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from forked import Forked, aif
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import TopicAlreadyExistsError

from domain.partitioner import partition_of
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_key
from schemas.records import ACTIONS
from schemas.topics import Topic, all_topics
from streams.lag import measure
from streams.verification import Report, verify


def create_topics(deployment: Deployment) -> None:
    """All topics of the deployment."""
    admin = KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers)
    try:
        admin.create_topics([_new(deployment, topic) for topic in all_topics()])
        admin.wait_for_topics([deployment.topic(topic.name) for topic in all_topics()])
    finally:
        admin.close()


def recreate(deployment: Deployment, name: str) -> None:
    """Delete a topic of the deployment and make it again, empty."""
    [topic] = [each for each in all_topics() if each.name == name]
    admin = KafkaAdminClient(bootstrap_servers=deployment.bootstrap_servers)
    admin.delete_topics([deployment.topic(name)])

    def made() -> bool:
        try:
            admin.create_topics([_new(deployment, topic)])
        except TopicAlreadyExistsError:  # deletion is not finished
            return False
        return True

    try:
        wait_for(made, 30)
        admin.wait_for_topics([deployment.topic(name)])
        time.sleep(0.5)  # until every part of the broker has heard of it
    finally:
        admin.close()


def _new(deployment: Deployment, topic: Topic) -> NewTopic:
    partitions = deployment.partitions if topic.partitions == "deployment" else 1
    configs = {"cleanup.policy": topic.cleanup, "message.timestamp.type": topic.timestamps}
    return NewTopic(deployment.topic(topic.name), partitions, 1, topic_configs=configs)


def free_port() -> int:
    """A port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class WorkerProcess:
    """`aif worker` as its own process. `session_s` is the shortest that the local broker allows, unless given."""

    def __init__(
        self, deployment: Deployment, name: str = "worker-0", env: dict[str, str] | None = None, session_s: float = 3.0
    ):
        self.deployment, self.name = deployment, name
        self.port = free_port()
        self.log = deployment.data_dir / f"{name}.log"
        self._env, self._session_s = env or {}, session_s
        self._process: Forked | subprocess.Popen[bytes] | None = None

    def start(self, *options: str, before: Callable[[], None] | None = None) -> WorkerProcess:
        """Start it, without waiting; `before` is called first in its process (a function of a module)."""
        arguments = ["worker", "--name", self.name, "--web-port", str(self.port)]
        arguments += ["--session-timeout", str(self._session_s), *options]
        self._process = aif(arguments, self._environment(), self.log, before)
        return self

    def _environment(self) -> dict[str, str]:
        d = self.deployment
        settings = {
            "AIF_BOOTSTRAP_SERVERS": d.bootstrap_servers,
            "AIF_PREFIX": d.prefix,
            "AIF_PARTITIONS": str(d.partitions),
            "AIF_DATA_DIR": str(d.data_dir),
        }
        return {**os.environ, **settings, **self._env}

    @property
    def process(self) -> Forked | subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None
        return self._process

    def health(self) -> dict[str, Any] | None:
        """What /readyz says, None while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return json.load(answer)  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            return json.load(error)  # type: ignore[no-any-return]
        except OSError:
            return None

    def metric(self, name: str) -> float:
        """The sum of a metric's samples on /metrics; 0.0 where it has none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def wait_ready(self, partitions: int | None = None, within_s: float = 60) -> dict[str, Any]:
        """Wait until it is ready (and owns this many source partitions)."""

        def ready() -> Any:
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}"
            health = self.health()
            owns = health is not None and (partitions is None or len(health["partitions"]) == partitions)
            return health if health and health["ready"] and health["partitions"] and owns else None

        return wait_for(ready, within_s, lambda: f"{self.name} not ready: {self.health()}\n{self.log_tail()}")

    def log_tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self, within_s: float = 20) -> int:
        """Ask it to end and wait; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(within_s)


@contextmanager
def running(*workers: WorkerProcess) -> Iterator[None]:
    """Start workers and see that none is left behind."""
    try:
        for worker in workers:
            worker.start()
        yield
    finally:
        for worker in workers:
            if worker._process is not None and worker.process.poll() is None:
                worker.kill()


def wait_for(condition: Any, within_s: float, otherwise: Any = lambda: "condition not met") -> Any:
    """The first true value of `condition()`, looked at ten times a second; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(otherwise())


class Traffic:
    """Seeded item updates and user events, with duplicates, disorder and bad records mixed in."""

    def __init__(self, deployment: Deployment, seed: int, items: int = 500, users: int = 200) -> None:
        self.deployment = deployment
        self._random = np.random.default_rng(seed)
        self._items, self._users = items, users
        self._producer = KafkaProducer(bootstrap_servers=deployment.bootstrap_servers, linger_ms=5, acks="all")
        self._event = 0
        self._now_ms = 1_500_000_000_000
        self.sent = {"item-updates": 0, "user-events": 0}
        self._recent: list[tuple[str, bytes, bytes | None]] = []

    def send(self, count: int) -> None:
        """Send `count` records to each source topic and wait until the broker has them."""
        for _ in range(count):
            self._now_ms += int(self._random.integers(0, 60_000))
            self._send("item-updates", *self._item_update())
            self._send("user-events", *self._user_event())
            if self._random.random() < 0.05:
                self._send(*self._recent[int(self._random.integers(len(self._recent)))])  # sent again, unchanged
            if self._random.random() < 0.01:
                self._send("user-events", entity_key(1), b"no record")
        self._producer.flush()

    def send_events(self, partition: int, count: int) -> None:
        """Send `count` user events to one partition, and nothing else."""
        for _ in range(count):
            key, value = self._user_event()
            while partition_of(int.from_bytes(key, "big", signed=True), self.deployment.partitions) != partition:
                key, value = self._user_event()
            self._send("user-events", key, value)
        self._producer.flush()

    @contextmanager
    def flowing(self, count: int = 20, every_s: float = 0.05) -> Iterator[None]:
        """Send in another thread meanwhile: `count` records to each source topic at a time."""
        over = threading.Event()

        def flow() -> None:
            while not over.wait(every_s):
                self.send(count)

        thread = threading.Thread(target=flow, name="traffic")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        """Close the producer."""
        self._producer.close()

    def _send(self, topic: str, key: bytes, value: bytes | None) -> None:
        partition = partition_of(int.from_bytes(key, "big", signed=True), self.deployment.partitions)
        self._producer.send(self.deployment.topic(topic), value, key, partition=partition)
        self.sent[topic] += 1
        self._recent = [*self._recent[-63:], (topic, key, value)]

    def _time_ms(self) -> int:
        return self._now_ms - int(self._random.exponential(600_000))

    def _item_update(self) -> tuple[bytes, bytes]:
        self._event += 1
        item = int(self._random.integers(self._items))
        record = {
            "event_id": self._event, "item_id": item, "event_time_ms": self._time_ms(),
            "op": "delete" if self._random.random() < 0.05 else "upsert",
            "title": f"item {item} as of {self._event}", "category_id": item % 17, "price": float(item),
            "embedding": self._random.standard_normal(self.deployment.embedding_dim).astype("<f4").tobytes(),
        }  # fmt: skip
        return entity_key(item), codec("item_update").encode(record)

    def _user_event(self) -> tuple[bytes, bytes]:
        self._event += 1
        user, item = int(self._random.integers(self._users)), int(self._random.integers(self._items))
        record = {
            "event_id": self._event, "user_id": user, "item_id": item, "event_time_ms": self._time_ms(),
            "action": ACTIONS[int(self._random.integers(len(ACTIONS)))],
            "category_id": None if item % 5 == 0 else item % 17,
            "value": None if item % 3 == 0 else float(item),
        }  # fmt: skip
        return entity_key(user), codec("user_event").encode(record)


def source_ends(deployment: Deployment) -> dict[str, int]:
    """End offsets of all source partitions, by topic-partition without the prefix."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=deployment.bootstrap_servers)
    try:
        tps = [
            TopicPartition(deployment.topic(topic), partition)
            for topic in ("item-updates", "user-events")
            for partition in range(deployment.partitions)
        ]
        return {f"{tp.topic}-{tp.partition}": offset for tp, offset in consumer.end_offsets(tps).items()}
    finally:
        consumer.close()


def drained(deployment: Deployment, *workers: WorkerProcess, within_s: float = 60) -> None:
    """Wait until the workers together have applied everything that the sources hold now."""
    ends = source_ends(deployment)

    def applied() -> bool:
        assert any(worker.process.poll() is None for worker in workers), workers[0].log_tail()
        found: dict[str, int] = {}
        for worker in workers:
            for entry in (worker.health() or {"partitions": []})["partitions"]:
                found[entry["partition"]] = max(found.get(entry["partition"], 0), entry["next_offset"] or 0)
        return all(found.get(name, 0) >= end for name, end in ends.items())

    wait_for(applied, within_s, lambda: f"lag does not drain: {ends}, {[(w.health(), w.log_tail()) for w in workers]}")

    # What the user lane sent on ends with transaction markers, which no batch has: records count.
    def passed_on() -> bool:
        return all(found.lag == 0 and found.held_back == 0 for found in asyncio.run(measure(deployment)))

    wait_for(passed_on, within_s, lambda: f"activity does not drain: {asyncio.run(measure(deployment))}")


def verified(deployment: Deployment) -> Report:
    """The report of a verification, stores on this machine included, that finds no difference."""
    report = asyncio.run(verify(deployment, lambda where, count: None, stores=True))
    assert report.equal, report
    return report


def log_of(path: Path) -> str:
    """A log's text."""
    return path.read_text(errors="replace")
