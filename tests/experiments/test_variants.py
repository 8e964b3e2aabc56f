"""The experiments that train: each on a small log, from its run to its page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from experiments import behaviours, bridges, distillation, lag, parts, quantization, signatures, staleness
from experiments.bridge_cures import Watched, choice, overlap
from experiments.measured import Data, Settings
from experiments.record import page, write
from models.aif import AIF
from models.config import ModelConfig

_MADE = {"command": "aif experiment any", "minutes": 0.1, "machine": "any"}
_MODULES = {
    "parts": parts, "bridges": bridges, "signatures": signatures, "behaviours": behaviours, "staleness": staleness,
    "lag": lag, "quantization": quantization, "distillation": distillation,
}  # fmt: skip


@pytest.mark.parametrize("name", _MODULES)
def test_an_experiment_runs_from_log_to_page(
    name: str, one_log: Any, small: ModelConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A run gives JSON values, a row in the table for every variant, a figure, and files that hold the same."""
    module = _MODULES[name]
    logs = ("globo-news", "online-retail-2") if name == "staleness" else ("shop",)
    if name == "bridges":
        monkeypatch.setattr(bridges, "COUNTS", (1, 2))
        monkeypatch.setattr(bridges, "_FEWER_COUNTS", (1, 2))
    if name == "signatures":
        monkeypatch.setattr(signatures, "BITS", (64,))
        monkeypatch.setattr(signatures, "TIERS", (4, 8))
    if name == "behaviours":
        monkeypatch.setattr(behaviours, "LENGTHS", (2, 12))
    one_log(module, names=logs)
    found = {**_MADE, **module.run(Settings(seeds=2), lambda *_: None)}
    assert json.loads(json.dumps(found)) == found
    write(name, found, tmp_path)
    text = (tmp_path / f"{name}.md").read_text()
    assert text == page(name, found)
    assert json.loads((tmp_path / f"{name}.json").read_bytes()) == found
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for log in logs:
        of_log = found["logs"][log]
        rows = [row for each in of_log.get("curves", of_log).values() if isinstance(each, list) for row in each]
        assert text.count(f"## {log}\n") == 1
        assert len(text.partition(f"## {log}\n")[2].partition("\n## ")[0].split("\n| ")) >= 2 + len(rows)


def test_a_piece_of_the_encoder_is_left_out(data: Data, small: ModelConfig) -> None:
    """Without the user vector the scores do not depend on what the encoder mixed in; with it they do."""
    made = parts.variants(small)
    changed = []
    for name in ("AIF", "without the user vector"):
        torch.manual_seed(1)
        model = made[name].make().eval()
        before = data.held.scores(model)
        with torch.no_grad():
            model.get_parameter("user.mix.0.weight").mul_(-1)
        changed.append(not np.array_equal(before, data.held.scores(model)))
    assert changed == [True, False]


def test_the_whole_model_is_the_plain_one(data: Data, small: ModelConfig) -> None:
    """Wrappers that leave nothing out, shorten nothing and drop nothing score exactly as AIF does."""

    def scores(model: torch.nn.Module) -> Any:
        return data.held.scores(model.eval())

    def seeded(make: Any) -> Any:
        torch.manual_seed(1)
        return scores(make())

    plain = seeded(lambda: AIF(small))
    np.testing.assert_array_equal(seeded(parts.variants(small)["AIF"].make), plain)
    np.testing.assert_array_equal(seeded(lambda: signatures.Shortened(small)), plain)
    np.testing.assert_array_equal(seeded(lambda: behaviours.Forgetful(small)), plain)
    np.testing.assert_array_equal(seeded(lambda: Watched(small, dropped=0.5)), plain)  # nothing is dropped when judged


def test_the_first_bits_are_the_shorter_signature(small: ModelConfig) -> None:
    """A signature of more bits begins with that of fewer: planes of one seed are drawn one after the other."""
    from domain.lsh import hyperplanes

    many = hyperplanes(small.signature_seed, max(signatures.BITS), small.embedding_dim)
    for bits in signatures.BITS:
        np.testing.assert_array_equal(hyperplanes(small.signature_seed, bits, small.embedding_dim), many[:bits])


def test_forgotten_behaviours_do_not_matter(data: Data, small: ModelConfig) -> None:
    """Scores of a model that reads four behaviours do not change with the older ones, in hard search neither."""
    short = replace(small, behaviours=4, long_behaviours=4)
    model = behaviours.Forgetful(short).eval()
    batch = data.held.batches[0]
    older = replace(batch, behaviours=torch.cat((batch.behaviours[:, :4], batch.behaviours[:, 4:].flip(0)), dim=1))
    with torch.no_grad():
        assert torch.equal(model(batch), model(older))
        assert not torch.equal(AIF(small).eval()(batch), AIF(small).eval()(older))


def test_terms_of_the_loss_fall_where_they_press(small: ModelConfig) -> None:
    """Orthogonal bridges overlap less than equal ones; items that choose apart cost less than items that do not."""
    model = Watched(small)
    with torch.no_grad():
        model.tower.bridges.copy_(torch.eye(small.bridges, small.vector_dim))
        orthogonal = float(overlap(model))
        model.tower.bridges.copy_(torch.ones(small.bridges, small.vector_dim))
        assert orthogonal == pytest.approx(0, abs=1e-6) and float(overlap(model)) == pytest.approx(1, rel=1e-5)
        costs = []
        for weights in (torch.eye(4), torch.full((4, 4), 0.25), torch.eye(4)[:1].expand(4, 4)):
            model.weights = weights
            costs.append(float(choice(1.0)(model)))
    np.testing.assert_allclose(costs, [-np.log(4), 0, 0], atol=1e-5)


def test_times_are_told_in_their_largest_unit() -> None:
    """Labels of ages and lags."""
    assert [staleness.label(each) for each in (0, 60_000, 7_200_000, 86_400_000 * 3)] == ["none", "1 min", "2 h", "3 d"]
