"""From a trained model to an artifact folder, checked before anybody can see it.

Everything is written to a hidden folder beside the final one, read back, compared with the model in torch, and only
then renamed to its version. Equal models make equal bytes: traces of this machine (paths, stack traces, example
inputs, which torch would pickle) are taken out.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from domain.artifact import HEAD, ITEM_TOWER, MANIFEST, USER_PHASE, Dimensions, Manifest, check_artifact, sha256
from domain.cross_features import CROSS_FEATURES
from domain.item_features import ItemInputs
from domain.user_row import FINGERPRINT
from models.aif import AIF, Folded, Head, served
from models.tower import SAMPLE_INPUTS, LoadedTower
from schemas.errors import ArtifactError, BadInput
from schemas.records import ACTIONS

__all__ = [
    "OPSET",
    "USER_INPUTS",
    "USER_OUTPUTS",
    "Exported",
    "checked_users",
    "export",
    "head_arrays",
    "run_parts",
    "tower_example",
]

OPSET: Final = 20
USER_INPUTS: Final = ("windows", "vectors", "signatures", "actions", "ages", "present", "cross")
USER_OUTPUTS: Final = Folded._fields
#: Largest difference of an exported part from the model, relative to the largest value.
_TOLERANCE: Final = 1e-4
_CHECKED_ITEMS, _CHECKED_USERS = 300, 3
_ALL: Final = (ITEM_TOWER, USER_PHASE, HEAD)


@dataclass(frozen=True)
class Exported:
    """An artifact on disk."""

    folder: Path
    manifest: Manifest


def export(model: AIF, training: Mapping[str, Any], artifacts: Path) -> Exported:
    """Write the model to `<artifacts>/<version>`; the same model twice is the same folder.

    `training` goes into the manifest for people to read; values must be JSON. Raises ArtifactError where what was
    written does not compute what the model computes, BadInput where the folder cannot be written or the model was made
    for other rows than N2O has.
    """
    if model.rows is not served:
        raise BadInput("a model whose rows are not rounded to bfloat16 is for comparison: N2O records hold bfloat16")
    try:
        artifacts.mkdir(parents=True, exist_ok=True)  # first: exporting takes long
    except OSError as error:
        raise _unwritable(artifacts, error) from error
    model.eval()
    files = {ITEM_TOWER: _tower_bytes(model), USER_PHASE: _user_phase_bytes(model), HEAD: _head_bytes(model.head)}
    dims = model.config.dimensions
    manifest = Manifest(
        dimensions=dims,
        signature_version=model.config.signature_version,
        window_fingerprint=FINGERPRINT,
        record_stride=dims.layout.stride,
        files={name: sha256(data) for name, data in files.items()},
        training=training,
    )
    final = artifacts / manifest.version
    try:
        hidden = Path(tempfile.mkdtemp(prefix=".export-", dir=artifacts))
        try:
            for name, data in {**files, MANIFEST: manifest.to_json()}.items():
                _write(hidden / name, data)
            _check(hidden, manifest.version, model)
            hidden.chmod(0o755)  # mkdtemp keeps others out; workers and servers may be others
            if not final.exists():
                hidden.rename(final)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    except OSError as error:
        raise _unwritable(final, error) from error
    check_artifact(lambda name: (final / name).read_bytes(), version=manifest.version)
    return Exported(final, manifest)


def _unwritable(folder: Path, error: OSError) -> BadInput:
    return BadInput(f"{folder} cannot be written: {error}; choose another folder for artifacts")


def _tower_bytes(model: AIF) -> bytes:
    items, dims = torch.export.Dim("items", min=1), model.config.dimensions
    example = tuple(map(torch.from_numpy, tower_example(dims, 4).columns(dims)))
    shapes = tuple({0: items} for _ in example)
    program = torch.export.export(model.tower, example, dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    program.example_inputs = None
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return _without_pickles(buffer)


def _without_pickles(archive: io.BytesIO) -> bytes:
    """The archive with its example inputs empty: torch pickles them even where there are none."""
    cleaned = io.BytesIO()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(cleaned, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            target.writestr(zipfile.ZipInfo(name), b"" if SAMPLE_INPUTS in name else source.read(name))
    return cleaned.getvalue()


def _user_phase_bytes(model: AIF) -> bytes:
    dims = model.config.dimensions
    # Other sizes than any that is fixed, or the exporter would take one for the other.
    example = _user_example(dims, users=2, behaviours=dims.behaviours + 3, categories=5)
    users, categories = torch.export.Dim("users", min=1), torch.export.Dim("categories")
    # The exporter wants more than are attended to, the graph itself runs with as many as well.
    behaviours = torch.export.Dim("behaviours", min=dims.behaviours + 1)
    # Its notes on operators of packages that are not installed, and on axis names, say nothing of this model.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.user, example, dynamo=True, opset_version=OPSET, verbose=False,
            input_names=list(USER_INPUTS), output_names=list(USER_OUTPUTS),
            dynamic_shapes=({0: users}, *({0: users, 1: behaviours} for _ in example[1:-1]), {0: users, 1: categories}),
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(proto)
    serialised: bytes = proto.SerializeToString(deterministic=True)
    return serialised


def head_arrays(head: Head) -> dict[str, npt.NDArray[np.float32]]:
    """The head as head.npz keeps it."""
    with torch.no_grad():
        return {
            "vector_weight": head.vector_weight.numpy(),  # [d, h1]
            "tier_weight": head.tier_weight.numpy(),  # [G * T, h1]
            "attention_table": head.attention_table().numpy(),  # [m + 1]
            "w2": head.second.weight.T.contiguous().numpy(),  # [h1, h2]
            "b2": head.second.bias.numpy(),  # [h2]
            "w3": head.third.weight[0].numpy(),  # [h2]
            "b3": head.third.bias[0].numpy(),  # []
        }


def _head_bytes(head: Head) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **head_arrays(head))  # type: ignore[arg-type]
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def run_parts(folder: Path, manifest: Manifest) -> tuple[list[Any], list[Any]]:
    """Outputs of an artifact's tower and of its user phase on fixed examples, and a look at its head's shapes.

    Raises ArtifactError where a part cannot be loaded or run, or gives something that is not finite.
    """
    dims = manifest.dimensions
    items, users = tower_example(dims, _CHECKED_ITEMS), checked_users(dims)
    tower = LoadedTower.open(folder, manifest, torch.get_num_threads())
    try:
        session = onnxruntime.InferenceSession(folder / USER_PHASE, providers=["CPUExecutionProvider"])
        feed = {name: value.numpy() for name, value in zip(USER_INPUTS, users, strict=True)}
        parts = list(tower(items)), session.run(list(USER_OUTPUTS), feed)
        with np.load(folder / HEAD, allow_pickle=False) as head:
            shapes = {name: head[name].shape for name in head.files}
            finite = all(np.isfinite(head[name]).all() for name in head.files)
    except ArtifactError:
        raise
    except Exception as error:  # each runtime has its own; whatever it is, the artifact is unusable here
        raise ArtifactError(f"{folder} does not run: {type(error).__name__}: {error}") from error
    if shapes != dims.head_shapes:
        raise ArtifactError(f"{HEAD} holds {shapes}, its manifest asks for {dims.head_shapes}: export it again")
    if not finite or not all(np.isfinite(output).all() for part in parts for output in part):
        raise ArtifactError(f"{folder} gives values that are not finite: train it again")
    return parts


def _check(folder: Path, version: str, model: AIF) -> None:
    manifest = check_artifact(lambda name: (folder / name).read_bytes(), version=version)
    tower, user_phase = run_parts(folder, manifest)
    dims = manifest.dimensions
    items = map(torch.from_numpy, tower_example(dims, _CHECKED_ITEMS).columns(dims))
    with torch.no_grad():
        _compare(ITEM_TOWER, model.tower(*items), tower)
        _compare(USER_PHASE, model.user(*checked_users(dims)), user_phase)


def _compare(name: str, expected: tuple[torch.Tensor, ...], found: list[Any]) -> None:
    for output, theirs in zip(expected, found, strict=True):
        ours = output.numpy()
        difference = float(np.abs(ours - theirs).max(initial=0)) if ours.shape == theirs.shape else float("inf")
        bound = _TOLERANCE * max(1.0, float(np.abs(ours).max(initial=0)))
        if not difference <= bound:
            raise ArtifactError(
                f"{name} as exported differs from the model by {difference:.2g} (allowed {bound:.2g}): "
                f"not published; torch {torch.__version__} and onnxruntime {onnxruntime.__version__} disagree"
            )


def tower_example(dims: Dimensions, items: int) -> ItemInputs:
    """Inputs of the item tower for as many made-up items, the same every time."""
    random = np.random.default_rng(0)
    return ItemInputs(
        random.normal(size=(items, dims.embedding_dim)).astype(np.float32),
        random.integers(dims.category_buckets, size=items),
        random.normal(size=(items, dims.item_numeric)).astype(np.float32),
        random.integers(max(dims.id_buckets, 1), size=items),
    )


def checked_users(dims: Dimensions) -> tuple[torch.Tensor, ...]:
    """Users with all the behaviours and categories that there can be."""
    return _user_example(dims, _CHECKED_USERS, dims.long_behaviours, dims.cross_categories)


def _user_example(dims: Dimensions, users: int, behaviours: int, categories: int) -> tuple[torch.Tensor, ...]:
    """Inputs in the order of USER_INPUTS; the last user has no behaviours."""
    generator = torch.Generator().manual_seed(0)
    shape = (users, behaviours)
    present = torch.randint(2, shape, generator=generator).float()
    present[-1] = 0
    known = present.unsqueeze(-1)
    signs = torch.randint(2, (*shape, dims.signature_bits), generator=generator) * 2.0 - 1
    cross = torch.rand(users, categories, CROSS_FEATURES, generator=generator)
    cross[-1] = 0
    return (
        torch.rand(users, dims.user_features, generator=generator),
        torch.randn(*shape, dims.vector_dim, generator=generator) * known,
        signs * known,
        torch.randint(len(ACTIONS), shape, generator=generator) * present.long(),
        torch.rand(shape, generator=generator) * present,
        present,
        cross,
    )
