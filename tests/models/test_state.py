from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.export import Exported, export
from models.state import load_state, save_state
from models.training import Trained
from schemas.errors import ArtifactError, BadInput


def test_a_state_exports_to_the_same_version(trained: Trained, exported: Exported, tmp_path: Path) -> None:
    """Weights that were saved and read again make the artifact that the trained model made, byte for byte."""
    save_state(tmp_path / "state.npz", trained.model, exported.manifest.training)
    model, training = load_state(tmp_path / "state.npz")
    assert model.config == trained.model.config
    assert export(model, training, tmp_path).manifest == exported.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == [exported.manifest.version, "state.npz"]


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_damaged_state_is_refused(keep: int, trained: Trained, tmp_path: Path) -> None:
    """An empty, a cut and a foreign file end in one sentence that names the file."""
    path = tmp_path / "state.npz"
    save_state(path, trained.model, {})
    path.write_bytes(path.read_bytes()[:keep] if keep >= 0 else b"something else")
    with pytest.raises(ArtifactError, match=r"state\.npz is no state"):
        load_state(path)


def test_a_state_of_another_model_is_refused(trained: Trained, tmp_path: Path) -> None:
    """Weights of other shapes than the configuration makes, or a configuration that cannot be, are refused."""
    path = tmp_path / "state.npz"
    save_state(path, trained.model, {})
    with np.load(path) as stored:
        arrays = dict(stored)
    about = bytes(arrays["about"])
    np.savez(path, **arrays | {"head.third.bias": np.zeros(2, dtype=np.float32)})
    with pytest.raises(ArtifactError, match=r"third\.bias"):
        load_state(path)
    np.savez(path, **arrays | {"about": np.frombuffer(about.replace(b'"tiers": 8', b'"tiers": 7'), dtype=np.uint8)})
    with pytest.raises(ArtifactError, match="tiers"):
        load_state(path)


def test_an_unwritable_place_is_named(trained: Trained, tmp_path: Path) -> None:
    """A folder that is not there is the caller's to choose again."""
    with pytest.raises(BadInput, match="cannot be written"):
        save_state(tmp_path / "nowhere" / "state.npz", trained.model, {})
