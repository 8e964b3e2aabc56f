"""Where Apache Kafka's own jars come from: Maven, once per user, and which Java runs them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from schemas.errors import Unavailable

__all__ = ["java", "kafka_jars", "recipe"]

_JAVA_AT_LEAST: Final = (17,)
_MAVEN_AT_LEAST: Final = (3, 8)
_DOWNLOAD_TIMEOUT_S: Final = 600


def recipe(name: str) -> str:
    """Text of one of the broker's files: pom.xml, server.properties, log4j2.properties."""
    return (resources.files("cli") / "broker_files" / name).read_text()


def java(env: Mapping[str, str]) -> str:
    """Path of a Java that Kafka 4.1 runs on: JAVA_HOME's, else the one on the PATH. Raises Unavailable."""
    home = env.get("JAVA_HOME")
    found = shutil.which(f"{home}/bin/java") if home else shutil.which("java", path=env.get("PATH"))
    return _checked(
        found, "Java", _JAVA_AT_LEAST, "a JDK of version 17 or later (Debian, Ubuntu: openjdk-17-jdk-headless)", env
    )


def kafka_jars(env: Mapping[str, str]) -> Path:
    """Folder of the jars that pom.xml names, downloaded by Maven when this user has none yet. Raises Unavailable.

    All clones of a user share it: `$XDG_CACHE_HOME/aif-nearline/kafka-<hash of pom.xml>`, about 45 MB.
    """
    pom = recipe("pom.xml")
    cache = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aif-nearline"
    jars = cache / f"kafka-{hashlib.sha256(pom.encode()).hexdigest()[:12]}"
    if jars.is_dir():
        return jars
    maven = _checked(
        shutil.which("mvn", path=env.get("PATH")), "Maven", _MAVEN_AT_LEAST,
        "Maven 3.8 or later (Debian, Ubuntu: maven); it downloads Apache Kafka", env,
    )  # fmt: skip
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as folder:
        _copy_dependencies(maven, pom, Path(folder), env)
        # In one step: neither a download that was cut short nor two at once can leave half a set of jars.
        try:
            os.rename(Path(folder) / "jars", jars)
        except OSError:
            if not jars.is_dir():
                raise
    return jars


def _copy_dependencies(maven: str, pom: str, folder: Path, env: Mapping[str, str]) -> None:
    (folder / "pom.xml").write_text(pom)
    command = [maven, "-q", "-B", "-f", str(folder / "pom.xml"), "dependency:copy-dependencies"]
    command += [f"-DoutputDirectory={folder / 'jars'}", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(
            command, env=dict(env), capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"Maven did not finish downloading Apache Kafka in {_DOWNLOAD_TIMEOUT_S} s; try again"
        ) from error
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise Unavailable(
            f"Maven could not download Apache Kafka; look at its network, proxy or mirror settings:\n{last}"
        )


def _checked(found: str | None, what: str, at_least: tuple[int, ...], install: str, env: Mapping[str, str]) -> str:
    wanted = f"the local broker needs {what} {'.'.join(map(str, at_least))} or later"
    if found is None:
        raise Unavailable(f"{wanted}, and none was found; install {install}, or set JAVA_HOME or PATH")
    answer = subprocess.run([found, "-version"], env=dict(env), capture_output=True, text=True, check=False)
    # `openjdk version "17.0.15"` on stderr; `Apache Maven 3.8.7` on stdout.
    version = re.search(r'(?:version "|Maven )(\d+)(?:\.(\d+))?', answer.stderr + answer.stdout)
    if version is None:
        raise Unavailable(
            f"{wanted}; {found} does not say its version: {(answer.stderr + answer.stdout).strip()[:200]}"
        )
    numbers = tuple(int(number or 0) for number in version.groups())
    if numbers < at_least:
        raise Unavailable(f"{wanted}; {found} is {'.'.join(map(str, numbers))}; install {install}")
    return found
