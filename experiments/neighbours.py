"""Neighbours by signature beside neighbours by exact cosine, on a fashion catalogue, without training anything.

A neighbour is right where it is of the query's article type, or of its base colour: neither is an input. Titles name
both rather often, pictures show them. Precision@10 counts the right ones among the 10 most similar other products; of
equally similar ones (few bits make many) it counts the share that a random choice among them would have.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from domain.lsh import hyperplanes, signatures
from domain.text import embed
from experiments.measured import Report, Settings, interval
from experiments.pictures import embed_pictures, read_pictures
from experiments.record import COLOURS, band, legend, new_figure, span, table
from models.config import ModelConfig
from models.evaluation.bootstrap import Paired
from schemas.errors import BadInput

__all__ = ["figure", "precision", "run", "tables"]

_BITS: Final = (32, 64, 128, 256)
_TRUTHS: Final = ("article_type", "base_colour")
_NEAREST: Final = 10
_QUERIES: Final = 2000
_AT_A_TIME: Final = 64
_DIM: Final = ModelConfig.embedding_dim
_Float = npt.NDArray[np.float32]


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Precision of every embedding, by bits and by exact cosine."""
    folder = _folder()
    with gzip.open(folder / "items.csv.gz", "rt", encoding="utf-8") as file:
        items = list(csv.DictReader(file))
    if settings.small:
        items = items[::8]
    names = [f"{item['product_id']}.jpg" for item in items]
    pictures = read_pictures(
        folder / "images.tar.xz", set(names), lambda done: report("reading pictures", done, len(names))
    )
    text = embed([item["title"] for item in items], _DIM)
    picture = embed_pictures([pictures[name] for name in names], _DIM)
    vectors = {"title": text, "picture": picture, "both": np.concatenate((text, picture), axis=1) / np.float32(2**0.5)}
    truths = {name: np.unique([item[name] for item in items], return_inverse=True)[1] for name in _TRUTHS}
    queries = np.linspace(0, len(items) - 1, min(_QUERIES, len(items))).astype(np.int64)
    rows, kinds = [], [*_BITS, None]
    for number, (name, bits) in enumerate((name, bits) for name in vectors for bits in kinds):
        report("searching", number, len(vectors) * len(kinds))
        found = _precisions(vectors[name], bits, queries, truths)
        paired = Paired(1, np.ones(len(queries)))
        estimates = {truth: interval(paired.estimate(found[truth][None])) for truth in _TRUTHS}
        rows.append({"embedding": name, "bits": bits, **estimates})
    chance = {name: float(np.mean(_share_of_own(truth, queries))) for name, truth in truths.items()}
    return {"items": len(items), "queries": len(queries), "dim": _DIM, "chance": chance, "rows": rows}


def precision(scores: _Float, right: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.float64]:
    """Expected share of right ones among the `count` highest scores ([Q, N], [Q, N] -> [Q]), ties broken at random."""
    edge = -np.partition(-scores, count - 1, axis=1)[:, count - 1, None]  # the count-th highest
    above, tied = scores > edge, scores == edge
    left = count - above.sum(1)  # places for those that are tied; at least one
    return np.asarray(((above & right).sum(1) + left * (tied & right).sum(1) / tied.sum(1)) / count, dtype=np.float64)


def _precisions(
    vectors: _Float, bits: int | None, queries: npt.NDArray[np.int64], truths: dict[str, npt.NDArray[np.int64]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Each truth's precision of every query; None bits is exact cosine."""
    packed = None if bits is None else _words(vectors, bits)
    found: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in truths}
    for start in range(0, len(queries), _AT_A_TIME):
        part = queries[start : start + _AT_A_TIME]
        if packed is None:
            scores = vectors[part] @ vectors.T
        else:
            differing = np.bitwise_count(packed[part][:, None] ^ packed[None]).sum(-1, dtype=np.int16)
            scores = -differing.astype(np.float32)
        scores[np.arange(len(part)), part] = -np.inf  # a product is not its own neighbour
        for name, truth in truths.items():
            found[name].append(precision(scores, truth[None] == truth[part][:, None], _NEAREST))
    return {name: np.concatenate(each) for name, each in found.items()}


def _words(vectors: _Float, bits: int) -> npt.NDArray[np.uint32]:
    """Signatures of the deployment's hyperplanes as 32-bit words ([n, bits / 32])."""
    return signatures(vectors, hyperplanes(ModelConfig.signature_seed, bits, vectors.shape[1])).view(np.uint32)


def _share_of_own(truth: npt.NDArray[np.int64], queries: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Share of the other products that are of the query's kind: what a random choice finds."""
    return np.asarray((np.bincount(truth)[truth[queries]] - 1) / (len(truth) - 1), dtype=np.float64)


def _folder() -> Path:
    shared = Path("shared") / "data" / "fashion-items"
    candidates = (Path("..") / shared, Path(__file__).resolve().parents[2] / shared)
    for folder in candidates:
        if (folder / "items.csv.gz").is_file() and (folder / "images.tar.xz").is_file():
            return folder
    raise BadInput(f"the catalogue fashion-items lies neither at {candidates[0]} nor beside the project")


def tables(found: dict[str, Any]) -> str:
    """A table for each truth: bits down, embeddings across."""
    parts = [
        f"Precision@{_NEAREST} of {found['queries']:,} queries against {found['items']:,} products, with 95 % "
        f"intervals over queries. Titles and pictures are {found['dim']} numbers each, both are joined end to end.\n"
    ]
    names = list(dict.fromkeys(row["embedding"] for row in found["rows"]))
    for truth, chance in found["chance"].items():
        lines = []
        for bits in dict.fromkeys(row["bits"] for row in found["rows"]):
            cells = {row["embedding"]: span(row[truth], ".3f") for row in found["rows"] if row["bits"] == bits}
            cost = f"{bits // 8}" if bits else ""
            lines.append([str(bits or "exact cosine"), cost, *(cells[name] for name in names)])
        lines.append(["a random choice", "", *[f"{chance:.3f}"] * len(names)])
        parts.append(f"## {truth}\n\n" + table(["bits", "byte operations a pair", *names], lines))
    return "\n".join(parts)


def figure(found: dict[str, Any]) -> Figure:
    """Precision by bits, exact cosine as dashed lines."""
    drawn, panels = new_figure(len(_TRUTHS))
    for axes, truth in zip(panels, _TRUTHS, strict=True):
        for place, name in enumerate(dict.fromkeys(row["embedding"] for row in found["rows"])):
            rows = [row for row in found["rows"] if row["embedding"] == name]
            by_bits = [row for row in rows if row["bits"]]
            band(axes, [row["bits"] for row in by_bits], by_bits, truth, name, place)
            exact = next(row for row in rows if row["bits"] is None)
            axes.axhline(exact[truth]["value"], color=COLOURS[place], linestyle="--", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(_BITS, labels=[str(bits) for bits in _BITS])
        axes.set(xlabel="bits (dashed: exact cosine)", ylabel=f"precision@{_NEAREST}, {truth}")
        legend(axes)
    return drawn
