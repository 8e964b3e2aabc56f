"""Checkpoints of verifications."""

from pathlib import Path

import pytest

from domain.feature_plan import Plan
from domain.features import FEATURES
from schemas.codec import codec
from schemas.deployment import Deployment
from schemas.errors import BadInput
from schemas.ids import entity_key
from streams.checkpoint import Checkpoint, PartitionState
from streams.oracle import ItemsOracle
from streams.user_oracle import UsersOracle


class _Record:
    def __init__(self, offset: int, key: int, value: bytes) -> None:
        self.offset, self.timestamp, self.key, self.value = offset, 2_000_000, entity_key(key), value


def _item(offset: int) -> _Record:
    update = {
        "event_id": offset,
        "item_id": offset % 3,
        "event_time_ms": 1000 - offset,
        "op": "upsert",
        "embedding": b"",
    }
    return _Record(
        offset, offset % 3, codec("item_update").encode({**update, "embedding": None, "title": f"t{offset}"})
    )


def _user(offset: int) -> _Record:
    event = {
        "event_id": offset % 37,
        "user_id": offset % 2,
        "item_id": 5 + offset % 3,
        "event_time_ms": 1_000 * offset,
        "action": ("click", "view", "purchase")[offset % 3],
        "category_id": None if offset % 5 == 0 else offset % 4,
        "value": None if offset % 4 == 0 else float(offset),
    }
    return _Record(offset, offset % 2, codec("user_event").encode(event))


@pytest.mark.parametrize(("kind", "record"), [(ItemsOracle, _item), (UsersOracle, _user)])
def test_going_on_from_a_checkpoint_equals_never_having_stopped(
    tmp_path: Path, kind: type[ItemsOracle] | type[UsersOracle], record: object
) -> None:
    """An oracle restored from the file and fed the rest of the log ends in the same state as one that saw it all."""
    whole, first, second = kind(Deployment(), 9), kind(Deployment(), 9), kind(Deployment(), 9)
    for offset in range(40):
        whole.apply(record(offset))  # type: ignore[operator]
        if offset < 25:
            first.apply(record(offset))  # type: ignore[operator]
    path = tmp_path / "verify.checkpoint"
    Checkpoint(5, {"x-0": PartitionState.of(first, 9, 25)}).save(path)
    Checkpoint.load(path).partitions["x-0"].restore(second)
    for offset in range(25, 40):
        second.apply(record(offset))  # type: ignore[operator]
    name = "newest" if kind is ItemsOracle else "users"
    assert getattr(second, name) == getattr(whole, name)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    """Bytes that are no checkpoint, and one of another format, name the file and say to delete it; none is empty."""
    path = tmp_path / "verify.checkpoint"
    assert Checkpoint.load(path).partitions == {}
    path.write_bytes(b"garbage")
    with pytest.raises(BadInput, match=r"verify\.checkpoint"):
        Checkpoint.load(path)


def test_a_checkpoint_of_other_features_is_declared_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Users of a checkpoint whose features were declared otherwise become what today's would have made of them."""
    few = UsersOracle(Deployment(), 9, plan=Plan.of(FEATURES[:1]))
    whole, restored = UsersOracle(Deployment(), 9), UsersOracle(Deployment(), 9)
    for offset in range(70):
        whole.apply(_user(offset))
        few.apply(_user(offset))
    assert few.users != whole.users
    Checkpoint(5, {"x-0": PartitionState.of(few, 9, 70)}).save(tmp_path / "verify.checkpoint")
    Checkpoint.load(tmp_path / "verify.checkpoint").partitions["x-0"].restore(restored)
    assert restored.users == whole.users
    assert "other features than declared now" in caplog.text
