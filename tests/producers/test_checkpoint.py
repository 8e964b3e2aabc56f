from __future__ import annotations

from pathlib import Path

import pytest

from producers.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, save_checkpoint, stream_identity
from producers.datasets import open_dataset
from schemas.deployment import Deployment
from schemas.errors import BadInput, Unavailable


def test_a_position_comes_back(tmp_path: Path) -> None:
    """What was saved is loaded for the same stream; without a file there is nothing to resume."""
    path = tmp_path / "replay" / "x.json"
    identity = stream_identity(open_dataset("online-retail-sample"), {"user-events": "id-1"})
    assert load_checkpoint(path, identity) is None
    saved = Checkpoint(identity, 5, 30, 20, 10, False, {"user-events": {"0": 19}})
    save_checkpoint(path, saved)
    assert load_checkpoint(path, identity) == saved


def test_another_stream_is_refused(tmp_path: Path) -> None:
    """A position of another selection, or of topics that were made anew, is refused with the reason."""
    path = tmp_path / "x.json"
    topics = {"user-events": "id-1"}
    save_checkpoint(path, Checkpoint(stream_identity(open_dataset("online-retail-sample"), topics), 0))
    for options, ids, named in (({"limit": 5}, topics, "limit"), ({}, {"user-events": "id-2"}, "topic_id user-events")):
        with pytest.raises(BadInput, match=named):
            load_checkpoint(path, stream_identity(open_dataset("online-retail-sample", **options), ids))


def test_damage_and_a_full_disk_are_named(tmp_path: Path) -> None:
    """A broken position and one that cannot be written name the file."""
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(BadInput, match=r"x\.json is damaged"):
        load_checkpoint(tmp_path / "x.json", {})
    with pytest.raises(Unavailable, match="replay position"):
        save_checkpoint(tmp_path / "x.json" / "y.json", Checkpoint({}, 0))


def test_deployments_do_not_share_positions(tmp_path: Path) -> None:
    """Each prefix and data set has a file of its own."""
    dataset = open_dataset("online-retail-sample")
    one, other = (checkpoint_path(Deployment(prefix=prefix, data_dir=tmp_path), dataset) for prefix in ("a-", "b-"))
    assert one != other and one.parent == tmp_path / "replay"
