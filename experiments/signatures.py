"""Bits and tiers of the long-term part: quality and cost of every pair.

The log has signatures of the most bits; a variant with fewer reads their first ones, which are the very signatures that
fewer hyperplanes of the same seed give (domain/lsh.py), so that all variants differ in nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.measured import Report, Settings, Variant, about, against, measured, on_logs
from experiments.record import band, legend, new_figure, section, span, table
from models.aif import AIF
from models.batch import Batch
from models.config import ModelConfig

__all__ = ["Shortened", "figure", "run", "tables", "variants"]

BITS: Final = (64, 128, 256)  # a model's are a multiple of 64
TIERS: Final = (4, 8, 16, 32)
_LOGS: Final = ("planted", "online-retail-2")
_CONFIG: Final = ModelConfig(long_behaviours=64, signature_bits=max(BITS))
_REFERENCE: Final = f"{ModelConfig.signature_bits} bits, {ModelConfig.tiers} tiers"


class Shortened(nn.Module):
    """An AIF that reads the first bits of a batch's signatures."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = AIF(config)
        self.bits = config.signature_bits

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, C]."""
        logits: Tensor = self.model(replace(batch, signs=batch.signs[:, : self.bits]))
        return logits

    def online_multiply_adds(self) -> int:
        """See `AIF.online_multiply_adds`."""
        return self.model.online_multiply_adds()


def variants(config: ModelConfig) -> dict[str, Variant]:
    """Every number of bits with every number of tiers."""

    def of(bits: int, tiers: int) -> Variant:
        return Variant(lambda: Shortened(replace(config, signature_bits=bits, tiers=tiers)))

    return {f"{bits} bits, {tiers} tiers": of(bits, tiers) for bits in BITS for tiers in TIERS}


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Every pair on every log."""
    logs = {}
    for name, data, of_log in on_logs(_LOGS, _CONFIG, settings, report):
        found = measured(data, variants(_CONFIG), settings.seeds, of_log)
        rows = against(found, _REFERENCE)
        for row, (bits, tiers) in zip(rows, ((bits, tiers) for bits in BITS for tiers in TIERS), strict=True):
            row |= {"bits": bits, "tiers": tiers, "record_bytes": bits // 8}
        logs[name] = {**about(data, settings.seeds), "rows": rows}
    return {"logs": logs}


def tables(found: dict[str, Any]) -> str:
    """A table a log."""
    head = ["bits", "tiers", "GAUC (95 %)", f"minus {_REFERENCE} (95 %)", "online MACs a candidate", "bytes a record"]
    parts = []
    for name, log in found["logs"].items():
        lines = [
            [
                str(row["bits"]), str(row["tiers"]), span(row["gauc"]),
                "" if row["name"] == _REFERENCE else span(row["difference"], "+.4f"),
                f"{row['online_multiply_adds']:,}", str(row["record_bytes"]),
            ]
            for row in log["rows"]
        ]  # fmt: skip
        parts.append(section(name, log, table(head, lines)))
    return "\n".join(parts)


def figure(found: dict[str, Any]) -> Figure:
    """GAUC by tiers, a line for each number of bits, a panel a log."""
    drawn, panels = new_figure(len(found["logs"]))
    for axes, (name, log) in zip(panels, found["logs"].items(), strict=True):
        for place, bits in enumerate(dict.fromkeys(row["bits"] for row in log["rows"])):
            rows = [row for row in log["rows"] if row["bits"] == bits]
            band(axes, [row["tiers"] * 1.03**place for row in rows], rows, "difference", f"{bits} bits", place)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(TIERS, labels=[str(tiers) for tiers in TIERS])
        axes.set(xlabel=f"tiers ({name})", ylabel=f"GAUC minus {_REFERENCE}")
        legend(axes)
    return drawn
