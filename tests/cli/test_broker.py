import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.broker import command
from cli.broker_probe import answers
from cli.kafka_jars import java, kafka_jars
from cli.local_broker import LocalBroker
from cli.options import broker_record
from cli.processes import Process, spawn
from schemas.errors import Corrupt, Unavailable

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def _program(folder: Path, name: str, prints: str) -> dict[str, str]:
    """An environment whose PATH has one program of that name, which prints a version."""
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{prints}' >&2\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_a_process_is_stopped_by_its_exact_identity(tmp_path: Path) -> None:
    """A pid that now belongs to a process with another start time is never signalled."""
    running = spawn(SLEEP, tmp_path / "out")
    namesake = Process(running.pid, "an-earlier-boot:1")
    assert not namesake.alive()
    assert not namesake.send(signal.SIGKILL)
    assert running.alive()
    assert running.stop(timeout_s=5.0)
    assert not running.alive()
    assert not running.stop(timeout_s=5.0)


def test_a_process_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    """`stop` ends a process that ignores SIGTERM, once its time is over."""
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    deaf = spawn([sys.executable, "-c", script], tmp_path / "out")
    while b"deaf" not in (tmp_path / "out").read_bytes():
        assert deaf.alive()
    assert deaf.stop(timeout_s=0.3)
    assert not deaf.alive()


def test_missing_java_is_named_with_what_to_install(tmp_path: Path) -> None:
    """Without Java the error says so and names the JDK to install."""
    with pytest.raises(Unavailable, match=r"Java 17 or later, and none was found; install .*openjdk-17"):
        java({"PATH": str(tmp_path)})


def test_old_java_is_refused_with_its_version(tmp_path: Path) -> None:
    """A Java before 17 is refused with the version found, not left to fail later."""
    with pytest.raises(Unavailable, match=r"java is 11\.0; install a JDK of version 17"):
        java(_program(tmp_path, "java", 'openjdk version "11.0.2" 2019-01-15'))


def test_java_home_wins_over_the_path(tmp_path: Path) -> None:
    """JAVA_HOME decides which Java runs the broker."""
    (tmp_path / "bin").mkdir()
    env = _program(tmp_path / "bin", "java", 'openjdk version "21" 2023-09-19')
    assert java({**env, "PATH": "/nowhere:/bin", "JAVA_HOME": str(tmp_path)}) == str(tmp_path / "bin" / "java")


def test_missing_and_old_maven_are_named(tmp_path: Path) -> None:
    """Maven is needed only to download, and is asked for by name and version then."""
    with pytest.raises(Unavailable, match=r"Maven 3\.8 or later, and none was found"):
        kafka_jars({"PATH": str(tmp_path / "empty"), "XDG_CACHE_HOME": str(tmp_path)})
    env = _program(tmp_path, "mvn", "Apache Maven 3.6.3")
    with pytest.raises(Unavailable, match=r"mvn is 3\.6; install Maven 3\.8"):
        kafka_jars({**env, "XDG_CACHE_HOME": str(tmp_path)})


def test_downloaded_jars_are_used_without_maven(tmp_path: Path) -> None:
    """A second start, or clone, of the same user finds the jars and calls no Maven."""
    cached = kafka_jars(os.environ)
    env = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(cached.parent.parent)}
    assert kafka_jars(env) == cached


def test_status_and_stop_without_a_broker(tmp_path: Path) -> None:
    """Where nothing runs, `status` exits with 3 and says what to do, and `stop` is harmless."""
    status = CliRunner().invoke(command, ["status", "--data-dir", str(tmp_path)])
    assert (status.exit_code, "aif broker start" in status.output) == (3, True)
    stop = CliRunner().invoke(command, ["stop", "--data-dir", str(tmp_path)])
    assert (stop.exit_code, stop.output) == (0, "no local broker was running\n")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    """A record that is not JSON is reported with its path instead of being guessed around."""
    broker_record(tmp_path).parent.mkdir()
    broker_record(tmp_path).write_text("{")
    with pytest.raises(Corrupt, match=r"broker\.json"):
        LocalBroker(tmp_path, os.environ).start()


@pytest.mark.broker
def test_a_failed_start_shows_the_brokers_own_words(tmp_path: Path) -> None:
    """A broker that ends while it starts is reported with the last lines of its log, and leaves no record."""
    broker = LocalBroker(tmp_path, os.environ)
    (tmp_path / "broker" / "data").mkdir(parents=True)
    (tmp_path / "broker" / "data" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=x\n")
    with pytest.raises(Unavailable, match=r"(?s)ended while it started.*Stored node id 7"):
        broker.start()
    assert not broker_record(tmp_path).exists()


@pytest.mark.broker
def test_a_crash_loses_no_data_and_keeps_the_address(tmp_path: Path) -> None:
    """After `kill -9` of the JVM and a new start, records are there again under the same address."""
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
    from kafka.admin import NewTopic

    broker = LocalBroker(tmp_path, os.environ)
    try:
        assert broker.start()
        assert not broker.start(), "a second start finds the running one"
        address, first = broker.bootstrap_servers, broker.process
        assert json.loads(broker_record(tmp_path).read_text())["bootstrap_servers"] == address
        admin = KafkaAdminClient(bootstrap_servers=address)
        admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
        admin.close()
        producer = KafkaProducer(bootstrap_servers=address, acks="all")
        sent = [producer.send("kept", str(number).encode()) for number in range(100)]
        for record in sent:
            record.get(timeout=10)
        producer.close()

        broker.kill()
        assert broker.process is None
        assert not answers(address, within_s=1.0)
        assert broker.start()
        assert broker.bootstrap_servers == address
        assert broker.process != first
        consumer = KafkaConsumer(
            "kept", bootstrap_servers=address, auto_offset_reset="earliest", consumer_timeout_ms=10_000
        )
        assert [next(consumer).value for _ in range(100)] == [str(number).encode() for number in range(100)]
        consumer.close()
    finally:
        broker.stop()
    assert broker.process is None
    assert not broker_record(tmp_path).exists()


@pytest.mark.broker
def test_the_command_starts_and_stops_a_broker_that_outlives_it(tmp_path: Path) -> None:
    """`aif broker start` returns while Kafka goes on; `status` and `stop` of later commands find it."""
    aif = [sys.executable, "-m", "cli.main", "broker"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command_line = [*aif, *arguments, "--data-dir", str(tmp_path)]
        return subprocess.run(command_line, capture_output=True, text=True, timeout=90, check=False)

    try:
        started = run("start")
        assert started.returncode == 0, started.stderr
        assert "ready after" in started.stdout
        assert run("status").stdout.startswith("running at 127.0.0.1:")
        assert "Kafka Server started" in run("logs").stdout
    finally:
        stopped = run("stop")
    assert stopped.stdout == "Kafka stopped\n"
    assert run("status").returncode == 3
