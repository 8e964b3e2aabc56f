"""A trained model as one file: what `aif artifact export` makes artifacts of, without training again.

An artifact holds programs (torch.export, ONNX) that belong to the torch and onnxruntime of their time; the state holds
the weights alone. It is a .npz of plain arrays: every weight by its name in the model, and `about`, JSON bytes with the
configuration and what the manifest says of the training. Nothing in it is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import torch

from models.aif import AIF
from models.config import ModelConfig
from schemas.errors import ArtifactError, BadInput
from schemas.whole_file import write_whole

__all__ = ["load_state", "save_state"]

_ABOUT: Final = "about"
#: Of the file's layout; what the model's own shape is, its configuration and weights say.
_FORMAT: Final = 1


def save_state(path: Path, model: AIF, training: Mapping[str, Any]) -> None:
    """Write the model, and what its manifest says of the training. Raises BadInput where the file cannot be written."""
    about = {"format": _FORMAT, "config": asdict(model.config), "training": dict(training)}
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    arrays[_ABOUT] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8)
    write_whole(path, lambda file: np.savez(file, **arrays), "--state")


def load_state(path: Path) -> tuple[AIF, dict[str, Any]]:
    """The model and what was said of its training.

    Raises ArtifactError where the file is no state, is damaged, or is of a model that this build does not have.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(arrays.pop(_ABOUT).tobytes())
        if about["format"] != _FORMAT:
            raise ArtifactError(f"{path} has format {about['format']}, this build reads {_FORMAT}: train again")
        config = ModelConfig(**{name: _tuples(value) for name, value in about["config"].items()})
        training = dict(about["training"])
    except ArtifactError:
        raise
    except BadInput as error:
        raise ArtifactError(f"{path} is of a model that cannot be: {error}") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
        raise ArtifactError(
            f"{path} is no state that `aif train --state` wrote: {type(error).__name__}: {error}"
        ) from error
    model = AIF(config)
    try:
        model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    except (RuntimeError, TypeError) as error:
        raise ArtifactError(f"{path} is of a model that this build does not have, train again: {error}") from error
    return model, training


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that a configuration has."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
