"""Values of a slot's rows to records, whole batches at a time.

An n2o_row is a fixed prefix and one record, so that equal lengths mean equal layouts: a batch is joined, checked
against the prefix and cut, without decoding any value by itself. (A retired n2o_row schema would need decoding: there
is none, and a row of an unknown one is refused and counted.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import compress

import numpy as np

from schemas.codec import codec
from schemas.errors import DecodeError
from schemas.ids import entity_ids
from serving.tables.slab import Records, header_dtype

__all__ = ["split_by_version"]

_CODEC = codec("n2o_row")
_STRIDE_UNIT = 64  # domain/n2o.py pads records to multiples of this


def split_by_version(
    keys: Sequence[bytes], values: Sequence[bytes], refused: list[str]
) -> Iterator[tuple[int, Records]]:
    """(version tag, rows [n, stride] uint8) of each version among the values, their order kept.

    A value that is no record, or not the record of its key's item, is left out and its reason added to `refused`.
    """
    by_length: dict[int, tuple[list[bytes], list[bytes]]] = {}
    for key, value in zip(keys, values, strict=True):
        same_keys, same_values = by_length.setdefault(len(value), ([], []))
        same_keys.append(key)
        same_values.append(value)
    for same_keys, same_values in by_length.values():
        good_keys, records = _records(same_keys, same_values, refused)
        if not len(records):
            continue
        heads = records.view(header_dtype(records.shape[1]))[:, 0]
        own = heads["item_id"] == entity_ids(good_keys)
        refused.extend(["wrong_item"] * int(np.count_nonzero(~own)))
        for tag in np.unique(heads["version"][own]).tolist():
            yield tag, records[own & (heads["version"] == tag)]


def _records(keys: list[bytes], values: list[bytes], refused: list[str]) -> tuple[list[bytes], Records]:
    """Records of values of one length, and their keys; [0, 0] where none can be read."""
    prefix, stride = _layout(len(values[0]))
    if stride and stride % _STRIDE_UNIT == 0:
        joined = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), -1)
        fits = (joined[:, : len(prefix)] == np.frombuffer(prefix, dtype=np.uint8)).all(axis=1)
        refused.extend(_reason(values[row]) for row in np.flatnonzero(~fits).tolist())
        return list(compress(keys, fits)), np.ascontiguousarray(joined[fits, len(prefix) :])
    refused.extend(map(_reason, values))
    return [], np.zeros((0, 0), dtype=np.uint8)


def _reason(value: bytes) -> str:
    """Why a value is no n2o_row of this build."""
    try:
        _CODEC.decode(value)
    except DecodeError as error:
        return error.reason
    return "wrong_stride"


@lru_cache(maxsize=64)
def _layout(length: int) -> tuple[bytes, int]:
    """Prefix and stride of an n2o_row value of this length; stride 0 where there is none."""
    for varint in range(1, 6):
        stride = length - len(_CODEC.header) - varint
        if stride > 0 and len(prefix := _CODEC.bytes_prefix(stride)) + stride == length:
            return prefix, stride
    return b"", 0
