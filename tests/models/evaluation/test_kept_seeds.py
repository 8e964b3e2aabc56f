from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.evaluation import kept_seeds
from models.evaluation.kept_seeds import KeptSeeds
from models.log import Log

_RESULTS = {"aif": {"auc": np.array(0.1 + 0.2), "user_auc": np.array([0.25, np.nan])}, "eta": {"auc": np.array(0.5)}}


def test_a_seed_comes_back_as_it_was_kept(log: Log, tmp_path: Path) -> None:
    """Every number of every model comes back bit for bit, with its time; seeds that were not kept are not there."""
    kept = KeptSeeds.of(tmp_path / "new", (log, None), {"trained": 5})
    kept.keep(3, _RESULTS, 12.5)
    again = KeptSeeds.of(tmp_path / "new", (log, None), {"trained": 5}).find(3)
    assert again is not None
    np.testing.assert_equal(again, (_RESULTS, 12.5))
    assert kept.find(1) is None


def test_nothing_stale_is_believed(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another setting, one other byte of the log, true chances where there were none, other code and a file that was
    cut off each leave no kept seed; the same of everything finds it."""
    settings = {"trained": 5}
    kept = KeptSeeds.of(tmp_path, (log, None), settings)
    kept.keep(1, _RESULTS, 1.0)
    actions = log.events.action.copy()
    actions[-1] ^= 1
    other_log = replace(log, events=replace(log.events, action=actions))
    assert KeptSeeds.of(tmp_path, (log, None), {"trained": 6}).find(1) is None
    assert KeptSeeds.of(tmp_path, (other_log, None), settings).find(1) is None
    assert KeptSeeds.of(tmp_path, (log, np.zeros(3)), settings).find(1) is None
    assert KeptSeeds.of(tmp_path, (log, None), settings).find(1) is not None

    code = tmp_path / "code"
    code.mkdir()
    (code / "model.py").write_text("width = 1")
    monkeypatch.setattr(kept_seeds, "_CODE", (code,))
    KeptSeeds.of(tmp_path, (log, None), settings).keep(1, _RESULTS, 1.0)
    assert KeptSeeds.of(tmp_path, (log, None), settings).find(1) is not None
    (code / "model.py").write_text("width = 2")
    assert KeptSeeds.of(tmp_path, (log, None), settings).find(1) is None

    monkeypatch.undo()
    kept.keep(1, _RESULTS, 1.0)
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:-40])
    assert kept.find(1) is None
