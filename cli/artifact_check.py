"""What runs an artifact's parts on this machine, and how far each is from a slower way to compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from domain.artifact import HEAD, ITEM_TOWER, USER_PHASE, Manifest
from domain.n2o import Flag
from domain.user_features import UserInputs
from models.export import tower_example
from models.reference import score as formula
from models.reference import user_feed
from models.tower import LoadedTower
from schemas.errors import ArtifactError
from schemas.records import ACTIONS
from serving.joining import ItemRows
from serving.kernels import ROUNDING, available
from serving.rollout.versions import load_head
from serving.user.user_phase import UserPhase

__all__ = ["Target", "targets"]

#: Largest difference relative to the largest value; roundings of float32 are some 1e-6. Kernels have their own.
_TOLERANCE: Final = 1e-4
_ITEMS: Final = 300
_CANDIDATES: Final = 24
_OUTPUTS: Final = ("bias", "bridge_weight", "signature_weight", "attention_weight", "category_weight")


class Target(NamedTuple):
    """A part, what runs it here, what it was compared with, and the largest difference."""

    part: str
    runs_on: str
    compared_with: str
    difference: float
    allowed: float


def targets(folder: Path, manifest: Manifest) -> list[Target]:
    """Run tower, user phase and head of an artifact whose checksums were found right, each in two ways.

    Raises ArtifactError where a part does not run, or where its two ways differ by more than rounding explains.
    """
    found = [_tower(folder, manifest), *_user_side(folder, manifest)]
    for target in found:
        if not target.difference <= target.allowed:
            raise ArtifactError(
                f"{target.part} on {target.runs_on} is {target.difference:.2g} away from {target.compared_with} "
                f"(allowed {target.allowed:g}): do not serve it with that from this machine; another version of the "
                "runtime may help"
            )
    return found


def _tower(folder: Path, manifest: Manifest) -> Target:
    sizes = manifest.dimensions
    inputs = tower_example(sizes, _ITEMS)
    tower = LoadedTower.open(folder, manifest, torch.get_num_threads())
    whole = torch.export.load(folder / ITEM_TOWER).module()
    with torch.inference_mode():
        expected = whole(*map(torch.from_numpy, inputs.columns(sizes)))
    difference = max(_difference(theirs.numpy(), ours) for theirs, ours in zip(expected, tower(inputs), strict=True))
    return Target(
        ITEM_TOWER, f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})",
        "the whole program on all rows at once", difference, _TOLERANCE,
    )  # fmt: skip


def _user_side(folder: Path, manifest: Manifest) -> list[Target]:
    """The user phase beside its graph as it is written, and a user's scores beside the formula."""
    sizes = manifest.dimensions
    graph = (folder / USER_PHASE).read_bytes()
    tag = manifest.version_tag
    phase, head = UserPhase(graph, sizes, tag), load_head((folder / HEAD).read_bytes(), sizes, tag)
    user, records = _user(manifest)
    behaviours = records[: sizes.long_behaviours]
    folded = phase.run(user, ItemRows.checked(tag, behaviours))[0]

    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, plain, providers=["CPUExecutionProvider"])
    feed, categories = user_feed(user, behaviours, sizes)
    unfused = {name: each[0] for name, each in zip(_OUTPUTS, session.run(_OUTPUTS, feed), strict=True)}
    of_phase = max(_difference(unfused[name], getattr(folded, name)) for name in _OUTPUTS)

    candidates = np.ascontiguousarray(records[-_CANDIDATES:])
    with np.load(folder / HEAD, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    of_user = {name: value[0] for name, value in feed.items()}
    expected = formula(sizes, arrays, unfused, of_user, categories[0], candidates)
    rows = ItemRows.checked(tag, candidates).raw
    runtime = f"onnxruntime {onnxruntime.__version__} (fp32)"
    return [
        Target(USER_PHASE, runtime, "its graph as it is written", of_phase, _TOLERANCE),
        *(
            Target(
                HEAD, f"{kernel.name}, {kernel.precision}", "the formula, one candidate and behaviour at a time",
                _difference(expected, kernel.prepare(head, sizes, folded).score(rows)), ROUNDING[kernel.precision],
            )
            for kernel in available()
        ),
    ]  # fmt: skip


def _user(manifest: Manifest) -> tuple[UserInputs, npt.NDArray[Any]]:
    """A user with as many behaviours as there can be, and records of those and of candidates."""
    sizes, random = manifest.dimensions, np.random.default_rng(1)
    count, layout = sizes.long_behaviours, manifest.dimensions.layout
    records = layout.empty(count + _CANDIDATES)
    records["item_id"] = np.arange(len(records))
    records["version"] = manifest.version_tag
    records["category_id"] = random.integers(5, size=len(records))
    records["flags"] = np.where(random.random(len(records)) < 0.9, Flag.HAS_SIGNATURE, 0) | Flag.HAS_CATEGORY
    records["signature"] = random.integers(0, 256, (len(records), sizes.signature_bits // 8))
    layout.set_vectors(
        records,
        random.normal(size=(len(records), sizes.vector_dim)).astype(np.float32),
        random.dirichlet(np.ones(sizes.bridges), len(records)).astype(np.float32),
    )
    user = UserInputs(
        windows=random.random((1, sizes.user_features)).astype(np.float32),
        item_ids=np.arange(count)[None],
        actions=random.integers(len(ACTIONS), size=(1, count)),
        ages=np.sort(random.random((1, count)) * 5).astype(np.float32),
        present=np.ones((1, count), dtype=np.bool_),
    )
    return user, records


def _difference(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(expected - found).max(initial=0) / max(1.0, np.abs(expected).max(initial=0)))
