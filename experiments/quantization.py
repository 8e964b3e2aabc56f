"""Fewer bits for item rows and the head: what it costs in GAUC, what it saves in bytes, and how fast it is.

The same AIF is trained with full precision, with bf16 rows (as it is served), with int8 rows, and with int8 rows and
head; what was trained in full precision is also rounded afterwards, in every way, and scored by every kernel that
serves on this machine (served_heads.py), from bf16 rows. Sizes are of a row's vector and bridge weights with their
scales, of the whole N2O record, and of the head's two layers. Times are of one thread: making float32 of the
candidates' rows in numpy, and the two layers by the kernels that torch has for each precision (int8 quantizes
activations as it goes). They compare precisions and are not the served kernel's.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import nn

from domain.bf16 import to_bf16
from domain.n2o import N2OLayout
from experiments.measured import Data, Measured, Report, Settings, Variant, about, interval, measured, on_logs
from experiments.record import COLOURS, columns, new_figure, span, table
from experiments.served_heads import with_kernel
from models.aif import AIF
from models.config import ModelConfig
from models.fitting import reproducible
from models.metrics import group_auc
from models.quantization import BYTES, Precision, int8_parts, quantize_head, quantize_rows
from serving.kernels import available

__all__ = ["figure", "run", "tables"]

_LOGS: Final = ("planted", "online-retail-2")
_CONFIG: Final = ModelConfig()
_FULL: Final = "fp32"
#: name -> rows, head; trained so, and made so of the model that was trained in full precision.
_TRAINED: Final[dict[str, tuple[Precision, Precision]]] = {
    _FULL: ("fp32", "fp32"), "bf16 rows": ("bf16", "fp32"), "int8 rows": ("int8", "fp32"),
    "int8 rows and head": ("int8", "int8"),
}  # fmt: skip
_ROUNDED: Final[dict[str, tuple[Precision, Precision]]] = {
    "bf16 rows": ("bf16", "fp32"), "int8 rows": ("int8", "fp32"), "bf16 head": ("fp32", "bf16"),
    "int8 head": ("fp32", "int8"), "bf16 rows and head": ("bf16", "bf16"), "int8 rows and head": ("int8", "int8"),
}  # fmt: skip
_WHEN: Final = ("in training", "after training", "served by")
_CANDIDATES: Final = 4096
_REPEATS: Final = 60
_SCALE_BYTES: Final = 4
_RECORD_UNIT: Final = 64


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """GAUC of every precision on every log, sizes and times."""
    logs = {}
    for name, data, of_log in on_logs(_LOGS, _CONFIG, settings, report):
        logs[name] = {**about(data, settings.seeds), "rows": _gauc(data, settings.seeds, of_log)}
    report("timing", 0, 1)
    with reproducible(1, threads=1):
        times = _times(_CONFIG)
    return {
        "sizes": {name: _sizes(_CONFIG, name) for name in BYTES},
        "candidates": _CANDIDATES,
        "us": times,
        "logs": logs,
    }


def _gauc(data: Data, seeds: int, report: Report) -> list[dict[str, Any]]:
    """A row for every precision, trained so and rounded to it."""
    variants = {each: Variant(lambda each=each: _quantized(AIF(_CONFIG), *_TRAINED[each])) for each in _TRAINED}  # type: ignore[misc]
    found = measured(data, variants, seeds, report)
    rows = [_row(found, each, "in training") for each in _TRAINED]
    for each, (of_rows, of_head) in _ROUNDED.items():
        models = [_quantized(copy.deepcopy(model), of_rows, of_head) for model in found.models[_FULL]]
        after = f"{each}, after"
        found.user_auc[after] = np.stack([_user_auc(data, model) for model in models])
        rows.append({**_row(found, after, "after training"), "name": each})
    for kernel in available():
        served = f"{kernel.name}, {kernel.precision}"
        models = [with_kernel(model, kernel) for model in found.models[_FULL]]
        found.user_auc[served] = np.stack([_user_auc(data, model) for model in models])
        rows.append(_row(found, served, "served by"))
    return rows


def _quantized(model: nn.Module, rows: Precision, head: Precision) -> nn.Module:
    assert isinstance(model, AIF)
    quantize_rows(model, rows)
    if head != _FULL:
        quantize_head(model, head)
    return model


def _user_auc(data: Data, model: nn.Module) -> npt.NDArray[np.float64]:
    return group_auc(data.held.users, data.held.labels, data.held.scores(model))[1]


def _row(found: Measured, name: str, when: str) -> dict[str, Any]:
    own = found.gauc(name)
    return {"name": name, "when": when, "gauc": interval(own), "difference": interval(own - found.gauc(_FULL))}


def _sizes(config: ModelConfig, precision: Precision) -> dict[str, int]:
    """Bytes of a row's vector and bridge weights, of the record around them, and of the head's two layers."""
    layout = N2OLayout(config.vector_dim, config.bridges, config.signature_bits)
    beside = layout.dtype.fields["bridges"][1] if layout.dtype.fields else 0  # header and signature come before
    scales = _SCALE_BYTES if precision == "int8" else 0
    row = (config.vector_dim + config.bridges) * BYTES[precision] + 2 * scales
    h1, h2 = config.hidden
    weights = (config.vector_dim * h1 + h1 * h2) * BYTES[precision] + (h1 + h2) * scales
    return {"row": row, "record": -(-(beside + row) // _RECORD_UNIT) * _RECORD_UNIT, "head": weights}


def _times(config: ModelConfig) -> dict[str, dict[str, float]]:
    """Microseconds for the candidates' rows to float32, and for the two layers on them, by precision."""
    torch.manual_seed(1)
    vectors = torch.randn(_CANDIDATES, config.vector_dim)
    whole, scale = (each.numpy() for each in int8_parts(vectors))
    bf16, int8 = to_bf16(vectors.numpy()), whole.astype(np.int8)
    out = np.empty(vectors.shape, dtype=np.float32)

    def widen() -> None:
        np.left_shift(bf16, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32, casting="safe")

    h1, h2 = config.hidden
    layers = nn.Sequential(nn.Linear(config.vector_dim, h1), nn.ReLU(), nn.Linear(h1, h2), nn.ReLU())
    half, narrow = copy.deepcopy(layers).to(torch.bfloat16), vectors.to(torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's plans for another interface to these kernels
        bytewise = torch.ao.quantization.quantize_dynamic(layers, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        return {
            "fp32": {
                "rows": _fastest(lambda: np.copyto(out, vectors.numpy())),
                "head": _fastest(lambda: layers(vectors)),
            },
            "bf16": {"rows": _fastest(widen), "head": _fastest(lambda: half(narrow))},
            "int8": {
                "rows": _fastest(lambda: np.multiply(int8, scale, out=out)),
                "head": _fastest(lambda: bytewise(vectors)),
            },
        }


def _fastest(work: Callable[[], Any]) -> float:
    """Microseconds of the fastest of some runs: what others do on the machine only adds."""
    fastest = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - started)
    return round(fastest * 1e6, 1)


def tables(found: dict[str, Any]) -> str:
    """Sizes and times, and a table of GAUC for each log."""
    sizes = (
        [name, *(f"{size[key]:,}" for key in ("row", "record", "head")), f"{time['rows']:,.0f}", f"{time['head']:,.0f}"]
        for (name, size), time in zip(found["sizes"].items(), found["us"].values(), strict=True)
    )
    head = ("precision", "bytes a row", "bytes a record", "bytes of the head", "rows, us", "layers, us")
    parts = [
        "A row is an item's vector and bridge weights with their scales, a record all that N2O holds of it, in whole "
        f"cache lines. Times are the fastest of {_REPEATS} runs on one thread for {found['candidates']:,} candidates: "
        "rows to float32 in numpy, and two layers by torch's kernels.\n\n" + table(head, sizes)
    ]
    for name, log in found["logs"].items():
        rows = ([row["name"], row["when"], span(row["gauc"]), span(row["difference"], ".5f")] for row in log["rows"])
        parts.append(
            f"\n## {name}\n\n{log['train_examples']:,} examples to learn from, {log['judged_candidates']:,} judged "
            f"candidates of {log['users_with_auc']:,} users. Differences are to full precision.\n\n"
            + table(("precision", "rounded", "GAUC", "difference"), rows)
        )
    return "".join(parts)


def figure(found: dict[str, Any]) -> Figure:
    """Differences to full precision, a panel for each log; dotted is a tenth of a point."""
    drawn, axes = new_figure(len(found["logs"]), width=5.2)
    for each, (name, log) in zip(axes, found["logs"].items(), strict=True):
        rows = [row for row in log["rows"] if row["name"] != _FULL]
        values, below, above = columns(rows, "difference")
        colours = [COLOURS[_WHEN.index(row["when"])] for row in rows]
        for place, colour in enumerate(colours):
            error = [[below[place]], [above[place]]]
            each.errorbar(values[place], place, xerr=error, fmt="o", capsize=3, color=colour)
        each.set_yticks(range(len(rows)), [f"{row['name']}, {row['when']}" for row in rows])
        each.invert_yaxis()
        each.axvline(0, color="black", linewidth=0.8)
        each.axvline(-0.001, color="black", linewidth=0.8, linestyle=":")
        each.locator_params(axis="x", nbins=5)
        each.set_xlabel("GAUC, difference to fp32")
        each.set_title(name)
    return drawn
