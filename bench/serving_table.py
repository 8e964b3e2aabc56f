"""The figures of `aif bench serving` as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["serving_table"]

#: Shown in one table, a row for each shape, a column for each key.
_BY_SHAPE: Final = (
    "inprocess_c_ms", "inprocess_c_bfloat16_ms", "inprocess_ms", "numpy_ms", "torch_sequential_ms",
    "rocksdb_multi_get_ms",
)  # fmt: skip
_APART: Final = ("machine", "versions", "commit", "cpu_features")


def serving_table(found: Mapping[str, Any]) -> str:
    """What was measured, nothing of what was not."""
    return "\n".join([*_shapes(found), *_rest(found), _surroundings(found)])


def _shapes(found: Mapping[str, Any]) -> Iterator[str]:
    columns = {key: found[key] for key in _BY_SHAPE if found.get(key)}
    shapes = list(dict.fromkeys(shape for figures in columns.values() for shape in figures))
    if not shapes:
        return
    yield f"{'candidates x behaviours':24}" + "".join(f"{key:>25}" for key in columns)
    for shape in sorted(shapes, key=lambda shape: [int(part) for part in shape.split("x")][::-1]):
        yield f"{shape:24}" + "".join(
            f"{figures[shape]:>25,.3f}" if shape in figures else f"{'':25}" for figures in columns.values()
        )
    yield ""


def _rest(found: Mapping[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        if name in _APART or (name in _BY_SHAPE and value):
            continue
        if isinstance(value, Mapping):
            for part, figure in value.items():
                yield f"{name + ' ' + part:48} {_text(figure):>14}"
        else:
            yield f"{name:48} {_text(value):>14}"


def _surroundings(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    return f"{machine['cpu']} ({', '.join(found['cpu_features'])}), {machine['kernel']}, commit {found['commit']}"


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
