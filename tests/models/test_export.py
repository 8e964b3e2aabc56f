from __future__ import annotations

import dataclasses
import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from domain.artifact import HEAD, USER_PHASE, check_artifact
from domain.cross_features import CROSS_FEATURES
from models.aif import AIF
from models.config import ModelConfig
from models.export import USER_INPUTS, USER_OUTPUTS, Exported, export, run_parts, tower_example
from models.log import Log
from models.tower import LoadedTower
from models.training import Trained, TrainingOptions, train
from schemas.errors import ArtifactError, BadInput
from schemas.records import ACTIONS


def test_the_same_model_is_the_same_bytes(trained: Trained, exported: Exported, tmp_path: Path) -> None:
    """Exporting twice gives equal files and one version; a second export beside the first leaves it alone."""
    shutil.copytree(exported.folder, tmp_path / exported.manifest.version)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / exported.manifest.version).iterdir()}
    again = export(trained.model, exported.manifest.training, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in again.folder.iterdir()} == before
    assert again.manifest == exported.manifest
    assert [path.name for path in tmp_path.iterdir()] == [exported.manifest.version]
    for name in (*again.manifest.files, "manifest.json"):
        assert (again.folder / name).read_bytes() == (exported.folder / name).read_bytes(), name


def test_other_weights_are_another_version(trained: Trained, exported: Exported, tmp_path: Path) -> None:
    """A model that differs in one weight has another version."""
    with torch.no_grad():
        before = trained.model.head.third.bias.clone()
        trained.model.head.third.bias += 1
        other = export(trained.model, exported.manifest.training, tmp_path)
        trained.model.head.third.bias.copy_(before)  # to subtract it again would round
    assert other.manifest.version != exported.manifest.version


def test_ids_reach_the_rows_of_a_model_that_knows_them(
    entries: list[tuple[str, Any]], config: ModelConfig, tmp_path: Path
) -> None:
    """Training moves the rows of ids that it met; the exported tower tells items of equal features apart by them."""
    config = dataclasses.replace(config, id_buckets=64, id_dim=4)
    trained = train(Log.of(entries, config), config, TrainingOptions(epochs=1, batch_size=128))
    exported = export(trained.model, {}, tmp_path)
    inputs = tower_example(config.dimensions, 1)
    two = dataclasses.replace(inputs.take(np.zeros(2, dtype=np.int64)), identity=np.array([3, 4]))
    vectors, _ = LoadedTower.open(exported.folder, exported.manifest)(two)
    assert exported.manifest.dimensions.id_buckets == 64
    assert not np.allclose(vectors[0], vectors[1])


@pytest.mark.parametrize(("users", "behaviours", "categories"), [(1, 8, 1), (2, 20, 4), (7, 300, 0), (1, 9, 11)])
def test_exported_user_phase_equals_torch(
    users: int, behaviours: int, categories: int, trained: Trained, exported: Exported
) -> None:
    """The ONNX graph gives what the model gives for any numbers of users, behaviours (from those attended to on) and
    categories, users without behaviours included."""
    config, generator = trained.model.config, torch.Generator().manual_seed(users)
    shape = (users, behaviours)
    present = torch.randint(2, shape, generator=generator).float()
    present[-1] = 0
    inputs = (
        torch.rand(users, config.dimensions.user_features, generator=generator),
        torch.randn(*shape, config.vector_dim, generator=generator) * present.unsqueeze(-1),
        torch.randn(*shape, config.signature_bits, generator=generator).sign() * present.unsqueeze(-1),
        torch.randint(len(ACTIONS), shape, generator=generator),
        torch.rand(shape, generator=generator),
        present,
        torch.rand(users, categories, CROSS_FEATURES, generator=generator),
    )
    session = onnxruntime.InferenceSession(exported.folder / USER_PHASE, providers=["CPUExecutionProvider"])
    found = session.run(list(USER_OUTPUTS), {n: v.numpy() for n, v in zip(USER_INPUTS, inputs, strict=True)})
    with torch.no_grad():
        for ours, theirs in zip(trained.model.user(*inputs), found, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


def test_nothing_is_pickled_and_no_path_leaks(exported: Exported) -> None:
    """No file of an artifact holds a pickle, and none names a folder of the machine that made it."""
    here = str(Path(__file__).parent.parent.parent).encode()
    for path in exported.folder.iterdir():
        data = path.read_bytes()
        assert here not in data and b"site-packages" not in data, path.name
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(path) as archive:
                assert not any(archive.read(name)[:2] == b"PK" for name in archive.namelist())
                assert not any(name.endswith(".pkl") for name in archive.namelist())
    with np.load(exported.folder / HEAD, allow_pickle=False) as head:
        assert {name: head[name].shape for name in head.files} == exported.manifest.dimensions.head_shapes


def test_an_altered_file_is_refused(exported: Exported, tmp_path: Path) -> None:
    """One flipped byte in any file fails the check, naming the file."""
    for name in exported.manifest.files:
        folder = tmp_path / name
        shutil.copytree(exported.folder, folder)
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(ArtifactError, match=name):
            check_artifact(lambda each, at=folder: (at / each).read_bytes())


def test_a_head_of_other_shape_does_not_run(exported: Exported, tmp_path: Path) -> None:
    """Parts that do not fit the manifest's sizes are refused when they are run."""
    shutil.copytree(exported.folder, tmp_path / "copy")
    with np.load(exported.folder / HEAD) as head:
        arrays = dict(head)
    np.savez(tmp_path / "copy" / HEAD, **arrays | {"b2": np.zeros(3, "f4")})
    with pytest.raises(ArtifactError, match="b2"):
        run_parts(tmp_path / "copy", exported.manifest)


def test_default_sizes_export(tmp_path: Path) -> None:
    """A model of the default sizes exports and agrees with torch."""
    config = ModelConfig()
    assert export(AIF(config), {}, tmp_path).manifest.dimensions == config.dimensions


@pytest.mark.parametrize(
    "part",
    [{"bea": "none"}, {"bea": "B"}, {"din": "none"}, {"attention": False}, {"tiers": 0}, {"cross_categories": 0}],
)
def test_a_model_without_a_part_exports(part: dict[str, Any], config: ModelConfig, tmp_path: Path) -> None:
    """Each part can be left out, in torch and in the artifact alike; the graph keeps all its inputs and outputs."""
    model = AIF(dataclasses.replace(config, **part))
    exported = export(model, {}, tmp_path)
    assert exported.manifest.dimensions == model.config.dimensions
    session = onnxruntime.InferenceSession(exported.folder / USER_PHASE, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == list(USER_INPUTS)
    assert [each.name for each in session.get_outputs()] == list(USER_OUTPUTS)


def test_an_unwritable_folder_is_the_callers_fault(trained: Trained, tmp_path: Path) -> None:
    """A path that cannot be a folder is refused by name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        export(trained.model, {}, tmp_path / "file")
