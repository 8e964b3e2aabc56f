"""How many of a user's newest behaviours are read, by everything that reads them: quality and cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from domain.cross_features import cross_features
from experiments.measured import Data, Report, Settings, Variant, about, against, measured, on_logs
from experiments.record import band, legend, new_figure, section, span, table
from models.aif import AIF
from models.batch import Batch
from models.config import ModelConfig

__all__ = ["Forgetful", "figure", "run", "tables", "variants"]

LENGTHS: Final = (8, 16, 32, 64, 128, 256)
_LOGS: Final = ("planted", "online-retail-2")
_CONFIG: Final = ModelConfig(long_behaviours=max(LENGTHS))


class Forgetful(nn.Module):
    """An AIF of users who are known by their newest behaviours alone, in hard search too."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.model = config, AIF(config)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, C]."""
        logits: Tensor = self.model(shortened(batch, self.config))
        return logits

    def online_multiply_adds(self) -> int:
        """See `AIF.online_multiply_adds`."""
        return self.model.online_multiply_adds()


def shortened(batch: Batch, config: ModelConfig) -> Batch:
    """The batch of users who have `config.long_behaviours` behaviours at most."""
    batch = batch.newest(config.long_behaviours)
    categories, cross = cross_features(
        batch.category[batch.behaviours].numpy(), batch.actions.numpy(), batch.ages.numpy(),
        batch.present.numpy() > 0, config.cross_categories,
    )  # fmt: skip
    return replace(batch, categories=torch.from_numpy(categories), cross=torch.from_numpy(cross))


def variants(config: ModelConfig) -> dict[str, Variant]:
    """Every length; attention reads at most what it does in `config`."""

    def of(length: int) -> Variant:
        sizes = replace(config, behaviours=min(length, config.behaviours), long_behaviours=length)
        return Variant(lambda: Forgetful(sizes))

    return {str(length): of(length) for length in LENGTHS}


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Every length on every log."""
    logs = {}
    for name, data, of_log in on_logs(_LOGS, _CONFIG, settings, report):
        found = measured(data, variants(_CONFIG), settings.seeds, of_log)
        rows = against(found, str(LENGTHS[0]))
        for row, length in zip(rows, LENGTHS, strict=True):
            row["longer"] = _longer(data, length)
        logs[name] = {**about(data, settings.seeds), "rows": rows}
    return {"attended": _CONFIG.behaviours, "logs": logs}


def _longer(data: Data, length: int) -> float:
    """Share of the judged examples whose users have more behaviours than `length`."""
    counts = torch.cat([batch.present.sum(1) for batch in data.held.batches])
    return round(float((counts > length).float().mean()), 4)


def tables(found: dict[str, Any]) -> str:
    """A table a log."""
    head = ["behaviours", "users with more", "GAUC (95 %)", f"minus {LENGTHS[0]} (95 %)", "online MACs a candidate"]
    parts = [f"Attention and encoders read the newest {found['attended']} at most, everything else all.\n"]
    for name, log in found["logs"].items():
        lines = [
            [
                row["name"], f"{100 * row['longer']:.0f} %", span(row["gauc"]),
                "" if row is log["rows"][0] else span(row["difference"], "+.4f"), f"{row['online_multiply_adds']:,}",
            ]
            for row in log["rows"]
        ]  # fmt: skip
        parts.append(section(name, log, table(head, lines)))
    return "\n".join(parts)


def figure(found: dict[str, Any]) -> Figure:
    """Difference to the shortest, by length."""
    drawn, (axes,) = new_figure(1, width=5)
    for place, (name, log) in enumerate(found["logs"].items()):
        lengths = [int(row["name"]) * 1.03**place for row in log["rows"]]
        band(axes, lengths, log["rows"], "difference", name, place)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(LENGTHS, labels=[str(length) for length in LENGTHS])
    axes.set(xlabel="newest behaviours read", ylabel=f"GAUC minus {LENGTHS[0]} behaviours")
    legend(axes)
    return drawn
