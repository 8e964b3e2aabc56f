"""The user phase: one run of the exported graph folds everything of a user into weights for the head's first layer."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnxruntime

from domain.artifact import USER_PHASE, Dimensions
from domain.cross_features import cross_features
from domain.item_features import category_buckets
from domain.lsh import signs
from domain.n2o import Flag
from domain.tiers import group_table
from domain.user_features import UserInputs
from schemas.errors import ArtifactError
from serving.joining import ItemRows, one_version
from serving.kernels import Folded

__all__ = ["UserPhase"]

_INPUTS: Final = ("windows", "vectors", "signatures", "actions", "ages", "present", "cross")
_OUTPUTS: Final = ("bias", "bridge_weight", "signature_weight", "attention_weight", "category_weight")
_ERRORS_ONLY: Final = 3  #: onnxruntime's log severity


class UserPhase:
    """`user_phase.onnx` of one model on the CPU.

    One thread per run: a run is small, and request threads are the parallelism. Runs may overlap.
    Raises ArtifactError where the graph cannot be loaded or has other inputs or outputs.
    """

    def __init__(self, graph: bytes, sizes: Dimensions, version_tag: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have no public common base
            raise ArtifactError(f"{USER_PHASE} cannot be loaded: {error}") from error
        found = {each.name for each in self._session.get_inputs()}, {each.name for each in self._session.get_outputs()}
        if found != (set(_INPUTS), set(_OUTPUTS)):
            raise ArtifactError(
                f"{USER_PHASE} must have inputs {', '.join(_INPUTS)} and outputs {', '.join(_OUTPUTS)}, "
                f"found {', '.join(sorted(found[0]))} and {', '.join(sorted(found[1]))}"
            )
        self.version_tag = version_tag
        self._sizes = sizes
        self._groups = group_table(sizes.tier_groups)  # [actions, G]

    def run(self, inputs: UserInputs, rows: ItemRows) -> list[Folded]:
        """Fold B users, whose L behaviours' rows ([B * L], user after user) are at hand, in one run of the graph.

        A behaviour without a row is masked, exactly as in training; so is what pads a shorter history to the longest
        of the batch. Raises VersionMismatch where the rows are another version's.
        """
        tag = one_version("a user phase", graph=self.version_tag, behaviours=rows.version_tag)
        sizes, shape = self._sizes, inputs.item_ids.shape
        records = rows.raw.view(sizes.layout.dtype).reshape(shape)  # [B, L]
        present = inputs.present & rows.known.reshape(shape)
        signed = present & (records["flags"] & Flag.HAS_SIGNATURE != 0)
        buckets = category_buckets(
            records["category_id"], records["flags"] & Flag.HAS_CATEGORY != 0, sizes.category_buckets
        )  # [B, L]
        categories, cross = cross_features(buckets, inputs.actions, inputs.ages, present, sizes.cross_categories)
        outputs = self._session.run(
            _OUTPUTS,
            {
                "windows": inputs.windows,
                "vectors": sizes.layout.vectors(records) * present[..., None],
                "signatures": signs(records["signature"]) * signed[..., None],
                "actions": inputs.actions,
                "ages": inputs.ages,
                "present": present.astype(np.float32),
                "cross": cross,
            },
        )
        counted = self._groups[inputs.actions] & signed[..., None]  # [B, L, G]
        packed, newest = records["signature"], slice(sizes.attended)
        return [
            Folded(
                # Copies: a state that is kept must not keep the outputs of its whole batch.
                **{name: output[user].copy() for name, output in zip(_OUTPUTS, outputs, strict=True)},
                groups=tuple(packed[user][counted[user, :, group]] for group in range(counted.shape[-1])),
                attended=np.ascontiguousarray(packed[user, newest]),
                attended_signed=signed[user, newest].copy(),
                categories=categories[user].copy(),
                version_tag=tag,
            )
            for user in range(len(inputs))
        ]

    def warm(self) -> None:
        """Run once for nobody, so that the first request does not pay for the session's set-up.

        Raises ArtifactError where the graph does not run, or gives other shapes or numbers that are not finite.
        """
        sizes = self._sizes
        (h1, _), count = sizes.hidden, sizes.behaviours
        nobody = UserInputs(
            windows=np.zeros((1, sizes.user_features), dtype=np.float32),
            item_ids=np.zeros((1, count), dtype=np.int64),
            actions=np.zeros((1, count), dtype=np.int64),
            ages=np.zeros((1, count), dtype=np.float32),
            present=np.zeros((1, count), dtype=np.bool_),
        )
        no_rows = ItemRows.checked(self.version_tag, sizes.layout.empty(count), np.zeros(count, dtype=np.bool_))
        try:
            folded = self.run(nobody, no_rows)[0]
        except Exception as error:  # see __init__
            raise ArtifactError(f"{USER_PHASE} does not run: {error}") from error
        expected = [
            (h1,), (sizes.bridges, h1), (sizes.signature_bits, h1), (sizes.attended, h1), (sizes.cross_categories, h1)
        ]  # fmt: skip
        outputs = [getattr(folded, name) for name in _OUTPUTS]
        if [output.shape for output in outputs] != expected or not all(np.isfinite(each).all() for each in outputs):
            raise ArtifactError(
                f"{USER_PHASE} must give finite outputs of {expected}, found {[output.shape for output in outputs]}"
            )
