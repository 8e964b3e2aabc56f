"""A whole running system for a test: real topics, one worker process, one server process, and what was sent to them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import httpx
from fleet import WorkerProcess, drained, free_port, wait_for
from integration.shop import Shop
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from domain.activity_row import Snapshots
from producers.sender import Sender
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.ids import entity_id

__all__ = ["ServerProcess", "System"]


class ServerProcess:
    """`aif serve` as its own process."""

    def __init__(self, deployment: Deployment, name: str = "server-0") -> None:
        self.deployment, self.port = deployment, free_port()
        self.log = deployment.data_dir / f"{name}.log"
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> ServerProcess:
        """Start it, without waiting."""
        d = self.deployment
        settings = {
            "AIF_BOOTSTRAP_SERVERS": d.bootstrap_servers, "AIF_PREFIX": d.prefix,
            "AIF_PARTITIONS": str(d.partitions), "AIF_DATA_DIR": str(d.data_dir),
        }  # fmt: skip
        arguments = [sys.executable, "-c", "from cli.main import main; main()", "serve", "--port", str(self.port)]
        arguments += ["--kernel", "numpy"]  # compared with a recompute in float64
        arguments += ["--shadow-share", "1", *options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(arguments, env={**os.environ, **settings}, stdout=log, stderr=log)
        return self

    def ready(self) -> dict[str, Any] | None:
        """What /readyz says, None while nothing answers."""
        assert self._process is not None and self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            body: dict[str, Any] = self.http.get("/readyz").json()
        except httpx.TransportError:
            return None
        return body

    def stop(self) -> None:
        """Ask it to end and wait; kill it where it does not."""
        self.http.close()
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


class System:
    """The processes, and the shop that holds what they must know."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.shop = deployment, Shop()
        self.worker, self.server = WorkerProcess(deployment), ServerProcess(deployment)

    # -- in ----------------------------------------------------------------------------------------------------------

    def send(self, entries: Sequence[tuple[str, Any]]) -> None:
        """Send records as a producer does, and take them into the shop."""
        sender = Sender(self.deployment)
        try:
            for start in range(0, len(entries), 1_000):
                sender.send(entries[start : start + 1_000])
            sender.flush()
        finally:
            sender.close()
        self.shop.take(entries)

    def write(self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]) -> list[int]:
        """Append (key, value) pairs as they are, in one producer batch; their offsets."""
        producer = KafkaProducer(bootstrap_servers=self.deployment.bootstrap_servers, linger_ms=50, acks="all")
        try:
            name = self.deployment.topic(topic)
            futures = [producer.send(name, value, key, partition=partition) for key, value in records]
            producer.flush()
            return [future.get(10).offset for future in futures]
        finally:
            producer.close()

    def settle(self) -> None:
        """Wait until the worker has applied all that was sent, vectors included, and the server all that it wrote."""
        drained(self.deployment, self.worker)
        wait_for(self._followed, 60, lambda: "item vectors do not follow what users do")
        since_s = time.monotonic()

        def current() -> bool:
            asked_s = time.monotonic()
            age_ms = (self.server.ready() or {}).get("age_ms")
            return age_ms is not None and asked_s - age_ms / 1000 > since_s

        wait_for(current, 30, lambda: f"the server does not catch up: {self.server.ready()}")

    def _followed(self) -> bool:
        """Whether every vector is made with its item's newest snapshot; notes those for the shop."""
        phases = {each["phase"]: each["slot"] for each in self.get("/v1/versions")["versions"]}
        if "live" not in phases:
            return False
        rows, vectors = self.newest("item_activity"), self.newest(phases["live"])
        decode, decode_vector = codec("item_activity_row").decode, codec("n2o_row").decode
        self.shop.activity = {entity_id(key): decode(value) for key, value in rows.items() if len(key) == 8}
        named = {
            entity_id(key): int.from_bytes(decode_vector(value)["record"][40:48], "little", signed=True)
            for key, value in vectors.items()
            if len(key) == 8
        }
        newest = Snapshots.of([self.shop.activity.get(item) for item in named]).made_ms.tolist()
        return newest == list(named.values())

    # -- out ---------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """JSON of a route that answers 200."""
        answer = self.server.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def rank(self, user: int, candidates: Sequence[int], **fields: Any) -> dict[str, Any]:
        """The answer to a rank request."""
        answer = self.server.http.post("/v1/rank", json={"user_id": user, "candidates": list(candidates), **fields})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def records(self, topic: str) -> list[Any]:
        """All committed records of a topic (its name on the broker), partition by partition in log order."""
        with KafkaConsumer(
            bootstrap_servers=self.deployment.bootstrap_servers, group_id=None, isolation_level="read_committed"
        ) as consumer:
            tps = [TopicPartition(topic, partition) for partition in sorted(consumer.partitions_for_topic(topic))]
            consumer.assign(tps)
            consumer.seek_to_beginning(*tps)
            ends, found = consumer.end_offsets(tps), []
            while any(consumer.position(tp) < ends[tp] for tp in tps):
                for records in consumer.poll(timeout_ms=200).values():
                    found += records
        return found

    def newest(self, table: str) -> dict[bytes, bytes]:
        """The newest value of every key of a table's changelog."""
        return {record.key: record.value for record in self.records(self.deployment.changelog(table))}

    def dead_letters(self, source: str) -> list[Any]:
        """All dead letters of a source topic."""
        decode = codec("dead_letter").decode
        return [decode(record.value) for record in self.records(self.deployment.dead_letters(source))]

    def worker_metric(self, name: str, **labels: str) -> float:
        """A counter or gauge of the worker."""
        return _metric(httpx.get(f"http://127.0.0.1:{self.worker.port}/metrics").text, name, labels)

    def server_metric(self, name: str, **labels: str) -> float:
        """A counter or gauge of the server."""
        return _metric(self.server.http.get("/metrics").text, name, labels)


def _metric(page: str, name: str, labels: dict[str, str]) -> float:
    """Sum of the samples of a Prometheus page that have these labels; 0 where there is none yet."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
