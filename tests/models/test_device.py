from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.aif import AIF
from models.alignment import Alignment, drawn_lists
from models.baselines.cold import Cold
from models.baselines.din import Din
from models.baselines.eta import Eta
from models.baselines.parts import BaselineConfig
from models.baselines.ranker import Ranker
from models.baselines.two_tower import TwoTower
from models.config import ModelConfig
from models.device import CPU, best_device, device_named
from models.examples import Batches, examples_of
from models.log import Log
from schemas.errors import BadInput

_CUDA = torch.device("cuda")
_SIZES = BaselineConfig(long_behaviours=20, searched=2, ranker_hidden=(8, 4))


@pytest.fixture(scope="module")
def whole(config: ModelConfig) -> ModelConfig:
    """A model that reads all behaviours of a batch: which items a shorter history needs depends on their values."""
    return dataclasses.replace(config, behaviours=20)


def _moved(model: nn.Module) -> nn.Module:
    """What `model.to(cuda)` does, which tensors that hold nothing do not support."""
    for part in model.modules():
        for name, weight in part._parameters.items():
            part._parameters[name] = weight if weight is None else nn.Parameter(weight.to(_CUDA))
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer if buffer is None else buffer.to(_CUDA)
    return model


@pytest.mark.parametrize("kind", [AIF, TwoTower, Cold, Din, Eta, Ranker])
def test_a_step_leaves_nothing_on_the_cpu(kind: type[nn.Module], log: Log, whole: ModelConfig) -> None:
    """The logits of every model can be computed on a CUDA device. Shown with tensors that know their device and hold
    nothing: an operation between two devices is an error there, as it is on a real one."""
    made = Batches(log, whole, 2).batch(examples_of(log).take(slice(500, 508)), np.random.default_rng(0))
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        batch = dataclasses.replace(made, **{name: fake.from_tensor(each) for name, each in vars(made).items()})
        model = _moved(kind(whole) if kind in (AIF, TwoTower, Cold) else kind(whole, _SIZES))
        assert model(batch.to(_CUDA)).device.type == "cuda"


def test_lists_are_made_where_their_teacher_is(log: Log, whole: ModelConfig) -> None:
    """Lists of candidates for alignment are ordered, cut and drawn on the teacher's device."""
    known = examples_of(log).take(slice(500, 508))
    with FakeTensorMode(allow_non_fake_inputs=True):
        alignment = Alignment(_moved(AIF(whole)), users=4, candidates=8, chunks=2)
        lists = drawn_lists(Batches(log, whole, 2), known, alignment, np.random.default_rng(0), _CUDA)
        assert {each.device.type for each in (lists.chosen, lists.grades, lists.batch.labels)} == {"cuda"}


def test_a_device_that_is_not_there_is_refused() -> None:
    """The best device can be had; CUDA on a machine without it is refused with a way out."""
    assert device_named(best_device()).type == best_device()
    assert device_named("cpu") == CPU
    if best_device() == "cpu":
        with pytest.raises(BadInput, match="--device cpu"):
            device_named("cuda")
