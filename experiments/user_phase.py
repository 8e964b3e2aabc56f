"""The user phase in other precisions and with less graph optimisation, by onnxruntime on this machine's processor.

What is exported is float32, for every processor: onnxruntime chooses its kernels (AVX2, AVX-512, ...) when it loads the
graph. Here the same graph is rewritten to float16 and to bfloat16, which some processors compute directly, and run
beside the original at every level of optimisation (fusion of nodes is the last two). One thread, one user with as many
behaviours as the model reads. A rewritten graph that onnxruntime cannot run has no time, and its reason instead.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from matplotlib.figure import Figure
from onnx import TensorProto, helper, numpy_helper

from domain.artifact import USER_PHASE
from experiments.measured import Report, Settings
from experiments.record import COLOURS, new_figure, table
from models.aif import AIF
from models.config import ModelConfig
from models.export import USER_INPUTS, USER_OUTPUTS, checked_users, export
from models.fitting import reproducible

__all__ = ["figure", "run", "tables"]

_LEVELS: Final = {
    "fp32, graph as written": "ORT_DISABLE_ALL", "fp32, basic": "ORT_ENABLE_BASIC",
    "fp32, extended": "ORT_ENABLE_EXTENDED", "fp32, all": "ORT_ENABLE_ALL",
}  # fmt: skip
_NARROW: Final = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_SERVED: Final = "fp32, all"
_REPEATS: Final = 200
_REASON: Final = 100  #: letters of an error that are kept


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Time, size and largest difference to torch of every variant."""
    config = ModelConfig()
    with reproducible(1, threads=1), tempfile.TemporaryDirectory() as folder:
        model = AIF(config)
        graph = onnx.load_from_string((export(model, {}, Path(folder)).folder / USER_PHASE).read_bytes())
        inputs = [each[:1] for each in checked_users(config.dimensions)]
        with torch.no_grad():
            expected = [each.numpy() for each in model.user(*inputs)]
    feed = {name: value.numpy() for name, value in zip(USER_INPUTS, inputs, strict=True)}
    variants = [(name, graph, level) for name, level in _LEVELS.items()]
    variants += [(name, _narrowed(graph, kind), "ORT_ENABLE_ALL") for name, kind in _NARROW.items()]
    rows = []
    for number, (name, each, level) in enumerate(variants):
        report("timing", number, len(variants))
        rows.append({"name": name, **_measured(each, level, feed, expected)})
    return {
        "onnxruntime": onnxruntime.__version__, "torch_cpu": torch.backends.cpu.get_cpu_capability(),
        "behaviours": config.long_behaviours, "repeats": _REPEATS, "rows": rows,
    }  # fmt: skip


def _narrowed(graph: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """The graph with float32 weights and arithmetic of another kind; inputs and outputs stay float32."""
    narrow = onnx.ModelProto()
    narrow.CopyFrom(graph)
    inside = narrow.graph
    del inside.value_info[:]
    for weight in inside.initializer:
        if weight.data_type == TensorProto.FLOAT:
            weight.CopyFrom(_cast(weight, kind))
    for node in inside.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = kind
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_cast(attribute.t, kind))
    floats = [each.name for each in inside.input if each.type.tensor_type.elem_type == TensorProto.FLOAT]
    outputs = [each.name for each in inside.output]
    for node in inside.node:
        node.input[:] = [f"{name}_narrow" if name in floats or name in outputs else name for name in node.input]
        node.output[:] = [f"{name}_narrow" if name in outputs else name for name in node.output]
    into = [helper.make_node("Cast", [name], [f"{name}_narrow"], to=kind) for name in floats]
    out = [helper.make_node("Cast", [f"{name}_narrow"], [name], to=TensorProto.FLOAT) for name in outputs]
    nodes = [*into, *inside.node, *out]
    del inside.node[:]
    inside.node.extend(nodes)
    return narrow


def _cast(tensor: onnx.TensorProto, kind: int) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    return helper.make_tensor(tensor.name, kind, tensor.dims, values.astype(helper.tensor_dtype_to_np_dtype(kind)))


def _measured(
    graph: onnx.ModelProto, level: str, feed: dict[str, npt.NDArray[Any]], expected: list[npt.NDArray[Any]]
) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    data = graph.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found = session.run(list(USER_OUTPUTS), feed)
    except Exception as error:  # onnxruntime's own classes have no public common base
        return {"bytes": len(data), "us": None, "difference": None, "reason": " ".join(str(error).split())[:_REASON]}
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        session.run(list(USER_OUTPUTS), feed)
        times.append(time.perf_counter() - started)
    difference = max(
        float(np.abs(ours - theirs).max(initial=0)) / max(1.0, float(np.abs(ours).max(initial=0)))
        for ours, theirs in zip(expected, found, strict=True)
    )
    return {"bytes": len(data), "us": round(min(times) * 1e6), "difference": difference, "reason": None}


def tables(found: dict[str, Any]) -> str:
    """A row for every variant."""
    rows = (
        [
            row["name"],
            f"{row['bytes']:,}",
            "does not run" if row["us"] is None else f"{row['us']:,}",
            row["reason"] if row["difference"] is None else f"{row['difference']:.1e}",
        ]
        for row in found["rows"]
    )
    return (
        f"onnxruntime {found['onnxruntime']}, one thread, one user with {found['behaviours']} behaviours, the fastest "
        f"of {found['repeats']} runs; torch calls this processor {found['torch_cpu']}. Differences are to torch in "
        f"float32, relative to the largest value of an output. Served is `{_SERVED}`.\n\n"
        + table(("variant", "bytes", "us", "largest difference"), rows)
    )


def figure(found: dict[str, Any]) -> Figure:
    """Times of the variants that run."""
    drawn, (axes,) = new_figure(1, width=6)
    rows = [row for row in found["rows"] if row["us"] is not None]
    colours = [COLOURS[row["name"] == _SERVED] for row in rows]
    axes.barh([row["name"] for row in rows], [row["us"] for row in rows], color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("microseconds of a user phase")
    return drawn
