"""The item tower as workers run it: catalogue rows and activity in, N2O records out.

The hot path of item updates and of rebuilds. Rows always pass the tower in chunks of one size, the last one padded:
with a single GEMM shape a row's result does not depend on its neighbours, so that an update, a rebuild and a recompute
make the same bytes (on one kind of machine).
"""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.export.graph_signature import InputKind

from domain.activity_row import Snapshots
from domain.artifact import ITEM_TOWER, Manifest
from domain.item_columns import ItemColumns, RowFormat
from domain.item_features import ItemInputs, inputs_of
from domain.n2o import Flag, N2OLayout
from schemas.errors import ArtifactError
from schemas.records import ItemRow

__all__ = ["SAMPLE_INPUTS", "LoadedTower", "n2o_records", "records_of"]

#: Rows per call of the network: large enough for GEMM speed, small enough that a single row costs well below 1 ms.
_CHUNK: Final = 128

#: torch.export.load keeps what it reads in a global: two at once fail with an AssertionError.
_LOADING: Final = threading.Lock()

#: Where a torch.export archive keeps example inputs, always pickled by torch; ours is empty.
SAMPLE_INPUTS: Final = "/data/sample_inputs/"


class LoadedTower:
    """The exported item tower of an artifact. For use by several threads at once: a call shares nothing but weights."""

    def __init__(self, module: Callable[..., Any], manifest: Manifest, threads: int = 1) -> None:
        self.manifest = manifest
        self._module = module
        self._threads = threads

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, threads: int = 1) -> LoadedTower:
        """The tower in an artifact folder whose checksums `check_artifact` found right; runs on `threads` threads.

        Raises ArtifactError where this build of torch cannot read it.
        """
        path = folder / ITEM_TOWER
        try:
            _refuse_pickles(path)
            with _LOADING:
                program = torch.export.load(path)
        except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path} cannot be loaded by torch {torch.__version__}: {error}") from error
        return cls(_graph(program), manifest, threads)

    def __call__(self, inputs: ItemInputs) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Item vectors [n, vector_dim] and bridge weights [n, bridges], float32."""
        dims, count = self.manifest.dimensions, len(inputs)
        vectors = np.empty((count, dims.vector_dim), dtype=np.float32)
        bridges = np.empty((count, dims.bridges), dtype=np.float32)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # holds for the calling thread, which may be any of an executor's
        columns = inputs.columns(dims)
        with torch.inference_mode():
            # Buffers of torch's own: aligned alike every time, and how a GEMM rounds may depend on that.
            chunk = [torch.zeros((_CHUNK, *each.shape[1:]), dtype=torch.from_numpy(each).dtype) for each in columns]
            for start in range(0, count, _CHUNK):
                stop = min(start + _CHUNK, count)
                for buffer, column in zip(chunk, columns, strict=True):
                    buffer[: stop - start] = torch.from_numpy(column[start:stop])
                vector, weights = self._module(*chunk)
                vectors[start:stop] = vector[: stop - start].numpy()
                bridges[start:stop] = weights[: stop - start].numpy()
        return vectors, bridges


def _graph(program: torch.export.ExportedProgram) -> Callable[..., Any]:
    """The exported graph with its weights.

    What `program.module()` makes proves by symbolic algebra that the shapes are allowed, in every call, which takes as
    long as the network does; here they are always the same.
    """
    kept = {**program.state_dict, **program.constants}
    weights = [
        kept[spec.target] for spec in program.graph_signature.input_specs if spec.kind is not InputKind.USER_INPUT
    ]
    forward = program.graph_module.forward
    return lambda *inputs: forward(*weights, *inputs)


def _refuse_pickles(path: Path) -> None:
    """Raises ArtifactError where loading the archive would unpickle something, which could run any code."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename
            pickled = (
                entry.file_size > 0
                if SAMPLE_INPUTS in name
                else name.endswith("_config.json")
                and any(payload["use_pickle"] for payload in json.loads(archive.read(entry))["config"].values())
            )
            if pickled:
                raise ArtifactError(f"{path} holds pickled data in {name}: export it with `aif train`")


def n2o_records(
    rows: Sequence[ItemRow], activity: Snapshots, tower: LoadedTower, layout: N2OLayout, version_tag: int
) -> npt.NDArray[Any]:
    """The N2O records of catalogue rows and their items' activity ([n] of `layout.dtype`), in their order.

    Raises BadInput where an embedding or signature is of another length than the model's.
    """
    manifest = tower.manifest
    row_format = RowFormat(manifest.dimensions.embedding_dim, layout.signature_bits, manifest.signature_version)
    return records_of(ItemColumns.of(rows, row_format), activity, tower, layout, version_tag)


def records_of(
    items: ItemColumns, activity: Snapshots, tower: LoadedTower, layout: N2OLayout, version_tag: int
) -> npt.NDArray[Any]:
    """`n2o_records` of rows by the column, whose signatures of other hyperplanes than the model's are left out."""
    records = layout.empty(len(items))
    if not len(items):
        return records
    columns = items.catalogue
    records["item_id"] = items.item_id
    records["event_time_ms"] = items.event_time_ms
    records["source_topic_id"] = items.source_topic_id
    records["source_offset"] = items.source_offset
    records["version"] = version_tag
    records["snapshot_ms"] = activity.made_ms
    records["category_id"] = columns.category
    with np.errstate(over="ignore"):
        price = columns.price.astype(np.float32)
    has_price = np.isfinite(price)
    records["price"] = np.where(has_price, price, 0)
    records["signature"] = items.signature
    flags = np.where(items.deleted, np.uint32(Flag.DELETED), np.uint32(0))
    flags |= np.where(columns.has_category, np.uint32(Flag.HAS_CATEGORY), np.uint32(0))
    flags |= np.where(has_price, np.uint32(Flag.HAS_PRICE), np.uint32(0))
    flags |= np.where(items.has_signature, np.uint32(Flag.HAS_SIGNATURE), np.uint32(0))
    records["flags"] = flags
    layout.set_vectors(records, *tower(inputs_of(items.item_id, columns, tower.manifest.dimensions, activity)))
    return records
