from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bf16 import from_bf16, to_bf16
from models.aif import AIF
from models.config import ModelConfig
from models.examples import Batches, examples_of
from models.export import export
from models.log import Log
from models.quantization import Precision, int8_parts, quantize_head, quantize_rows, rounded
from models.training import Trained
from schemas.errors import BadInput

_rows = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(_rows)
def test_int8_rows_are_whole_numbers_and_a_scale(rows: list[list[float]]) -> None:
    """What is stored fits a byte, and comes back within half a scale; a row of zeros stays one."""
    values = torch.tensor(rows)
    whole, scale = int8_parts(values)
    assert torch.equal(whole, whole.to(torch.int8).float()) and int(whole.abs().max()) <= 127
    back = rounded(values, "int8")
    assert ((back - values).abs() <= 0.5001 * scale + 1e-30).all()
    torch.testing.assert_close(back, whole * scale, rtol=1e-6, atol=1e-30)


@settings(max_examples=50, deadline=None)
@given(_rows)
def test_bf16_is_what_records_hold(rows: list[list[float]]) -> None:
    """Rounding to bf16 gives exactly what an N2O record gives back, and fp32 changes nothing."""
    values = np.array(rows, dtype=np.float32)
    assert np.array_equal(rounded(torch.from_numpy(values), "bf16").numpy(), from_bf16(to_bf16(values)))
    assert np.array_equal(rounded(torch.from_numpy(values), "fp32").numpy(), values)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_gradients_pass_through(precision: Precision) -> None:
    """The gradient of rounded values is that of the values themselves."""
    values = torch.randn(4, 6, requires_grad=True)
    (rounded(values, precision, 0) ** 2).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, 2 * rounded(values.detach(), precision, 0))


def test_a_head_has_a_scale_for_every_output(config: ModelConfig) -> None:
    """Weights of one output share their scale with no other's, in both layers, and training still reaches them."""
    model = AIF(config)
    plain = copy.deepcopy(model.head)
    quantize_head(model, "int8")
    for weight, before, dim in (
        (model.head.vector_weight, plain.vector_weight, 0),
        (model.head.second.weight, plain.second.weight, 1),
    ):
        steps = weight / (before.abs().amax(dim, keepdim=True) / 127)
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    model.head.vector_weight.sum().backward()
    assert all(each.grad is not None for each in (model.head.parametrizations.vector_weight.original,))


def test_rows_lose_more_with_fewer_bits(trained: Trained, log: Log) -> None:
    """Scores of a model with int8 rows and head stay close to the full ones, those with bf16 closer; none is equal."""
    examples = examples_of(log).take(slice(0, 200))
    batch = Batches(log, trained.model.config, 2).batch(examples, np.random.default_rng(0))
    found = {}
    for precision in ("fp32", "bf16", "int8"):
        model = copy.deepcopy(trained.model)
        quantize_rows(model, precision)
        quantize_head(model, precision)
        with torch.no_grad():
            found[precision] = model(batch)
    differences = {name: float((value - found["fp32"]).abs().mean()) for name, value in found.items()}
    assert 0 < differences["bf16"] < differences["int8"] < 0.3


def test_other_rows_are_not_exported(config: ModelConfig, tmp_path: object) -> None:
    """A model trained on rows that serving does not have is refused."""
    model = AIF(config)
    quantize_rows(model, "int8")
    with pytest.raises(BadInput, match="bfloat16"):
        export(model, {}, tmp_path)  # type: ignore[arg-type]
