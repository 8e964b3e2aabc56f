"""The user phase: one run of the exported graph folds everything of a user into weights for the head's first layer."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from domain.artifact import USER_PHASE, Dimensions
from domain.lsh import signs
from domain.n2o import Flag
from domain.user_features import UserInputs
from schemas.errors import ArtifactError

__all__ = ["Folded", "UserPhase"]

Floats = npt.NDArray[np.float32]

_INPUTS: Final = ("windows", "vectors", "signatures", "actions", "ages", "present")
_OUTPUTS: Final = ("bias", "bridge_weight", "signature_weight")
_ERRORS_ONLY: Final = 3  #: onnxruntime's log severity


class Folded(NamedTuple):
    """The user in the head's first layer."""

    bias: Floats  #: [h1]
    bridge_weight: Floats  #: [n, h1]
    signature_weight: Floats  #: [m, h1]


class UserPhase:
    """`user_phase.onnx` of one model on the CPU.

    One thread per run: a run is small, and request threads are the parallelism. Runs may overlap.
    Raises ArtifactError where the graph cannot be loaded or has other inputs or outputs.
    """

    def __init__(self, graph: bytes, sizes: Dimensions) -> None:
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
        self._sizes = sizes

    def run(self, inputs: UserInputs, records: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> Folded:
        """Fold one user (`inputs` of one) whose behaviours' records ([L] of the layout's dtype) are at hand.

        A behaviour without a row (`known` [L] false) is masked, exactly as in training.
        """
        sizes = self._sizes
        present = inputs.present[0] & known
        signed = present & (records["flags"] & Flag.HAS_SIGNATURE != 0)
        outputs = self._session.run(
            _OUTPUTS,
            {
                "windows": inputs.windows,
                "vectors": (sizes.layout.vectors(records) * present[:, None])[None],
                "signatures": (signs(records["signature"]) * signed[:, None])[None],
                "actions": inputs.actions,
                "ages": inputs.ages,
                "present": present[None].astype(np.float32),
            },
        )
        return Folded(*(output[0] for output in outputs))

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
        try:
            folded = self.run(nobody, sizes.layout.empty(count), np.zeros(count, dtype=np.bool_))
        except Exception as error:  # see __init__
            raise ArtifactError(f"{USER_PHASE} does not run: {error}") from error
        expected = [(h1,), (sizes.bridges, h1), (sizes.signature_bits, h1)]
        if [output.shape for output in folded] != expected or not all(np.isfinite(output).all() for output in folded):
            raise ArtifactError(
                f"{USER_PHASE} must give finite outputs of {expected}, found {[output.shape for output in folded]}"
            )
