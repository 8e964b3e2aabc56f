"""A worker's claim on its folder."""

import os
from pathlib import Path

import pytest

from schemas.deployment import Deployment
from schemas.errors import BadInput, Corrupt, Unavailable
from schemas.stores_on_disk import worker_description
from streams.datadir import claim


def test_second_worker_of_the_same_name_is_refused(tmp_path: Path) -> None:
    """While one process holds the folder, another gets a sentence that tells it to take another name."""
    lock = claim(tmp_path / "worker-0", Deployment())
    with pytest.raises(Unavailable, match="--name"):
        claim(tmp_path / "worker-0", Deployment())
    os.close(lock)
    os.close(claim(tmp_path / "worker-0", Deployment()))


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (Deployment(partitions=8), "partitions"),
        (Deployment(prefix="other-"), "group"),
        (Deployment(signature_bits=128), "signature_version"),
    ],
)
def test_tables_of_another_deployment_are_refused(tmp_path: Path, other: Deployment, names: str) -> None:
    """A folder made by another group, partition count or signature is refused by name of what differs."""
    os.close(claim(tmp_path, Deployment()))
    with pytest.raises(BadInput, match=names):
        claim(tmp_path, other)


def test_tables_of_an_older_format_are_refused(tmp_path: Path) -> None:
    """A folder of an unknown table format is refused."""
    os.close(claim(tmp_path, Deployment()))
    description = tmp_path / "worker.json"
    description.write_text(description.read_text().replace('"table_format": 1', '"table_format": 0'))
    with pytest.raises(BadInput, match="table_format"):
        claim(tmp_path, Deployment())


@pytest.mark.parametrize("text", ["", '{"group": "a', "[]", '{"partitions": 4}'])
def test_a_folder_that_does_not_say_what_it_is_is_corrupt(tmp_path: Path, text: str) -> None:
    """A broken worker.json is refused by name, with what to do, and the folder's lock is free again."""
    (tmp_path / "worker.json").write_text(text)
    with pytest.raises(Corrupt, match=r"worker\.json is no description.*move .* away"):
        claim(tmp_path, Deployment())
    (tmp_path / "worker.json").unlink()
    os.close(claim(tmp_path, Deployment()))


def test_a_description_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies while it writes its description leaves none, so the next one writes its own."""

    def die(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        claim(tmp_path, Deployment())
    assert not (tmp_path / "worker.json").exists()
    monkeypatch.undo()
    os.close(claim(tmp_path, Deployment()))
    assert worker_description(tmp_path)["group"] == "aif"
