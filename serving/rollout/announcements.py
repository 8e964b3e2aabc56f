"""Records of topic model-versions as they are kept: decoded, and in the order in which versions were last announced."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, cast

from schemas.codec import codec
from schemas.errors import DecodeError
from schemas.records import ModelVersion

__all__ = ["announced_in", "tag_of"]

_MOST_ANNOUNCED: Final = 64


def announced_in(encoded: Sequence[bytes]) -> list[ModelVersion]:
    """Announced versions by their values in log order, each once: one announced again is the newest, the last."""
    found: dict[str, ModelVersion] = {}
    for value in encoded:
        with suppress(DecodeError):  # of an earlier build; one that cannot be read now was counted when it came
            record = cast(ModelVersion, codec("model_version").decode(value))
            found.pop(record["version"], None)
            found[record["version"]] = record
    return list(found.values())[-_MOST_ANNOUNCED:]


def tag_of(record: ModelVersion) -> int:
    """A version as rows name it."""
    return int(record["version"], 16)
