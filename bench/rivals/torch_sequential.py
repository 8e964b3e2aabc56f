"""The same network computed at request time: no row made nearline, nothing of the user folded into weights.

For every candidate of every request its features are fetched and the item tower runs; similarities to all behaviours
are a matrix, with which linear DIN pools the behaviours and which SimTier counts, attention has its own; bridges pool
the user's fields; the head's first layer reads all of that side by side. Scores are those of the served model.

Tuned: one thread, bfloat16 where the processor multiplies it, `torch.compile` with frozen weights where there is a C++
compiler (a quarter faster; its compilation is not counted), candidates in chunks whose similarities stay in the cache,
glibc told to keep what is freed, row numbers given (we look ids up), linear DIN's constant part taken out of the
matrix, tiers counted in one pass over it. (Eagerly, comparisons and products with ones are fastest; `scatter_add` and
sums of booleans take six to twelve times as long.)

A process of its own (bench/job.py).
"""

from __future__ import annotations

import copy
import ctypes
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.job import Job
from bench.serving_fill import untrained
from bench.serving_world import TOP_K, World, WorldUser, shape_key
from bench.stopwatch import in_rounds, milliseconds
from domain.lsh import signs
from domain.n2o import Flag
from domain.tiers import group_table
from models.aif import AIF, served
from schemas.deployment import Deployment

__all__ = ["Ranker", "SequentialUser", "has_fast_bf16"]

#: A block's counts are exact in bfloat16, which has 8 bits.
_BLOCK: Final = 256
#: Candidates computed at a time, by measurement; divides the numbers that are measured, so that one shape is compiled.
_CHUNK: Final = 1_000
_REQUESTS: Final = 8
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bfloat16."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class SequentialUser(NamedTuple):
    """What does not depend on candidates. L counts the behaviours with a signature, those of one group of actions
    side by side, each group padded to whole blocks."""

    signs: Tensor  #: [m, L], zeros where padded
    values: Tensor  #: [L, d] x / 2mP
    group: Tensor  #: [L / 256, G] float32, 1 where a block is of a group
    padded: Tensor  #: [L / 256] float32, how many of a block are none
    newest_signs: Tensor  #: [m, Ls]
    newest_signed: Tensor  #: [Ls] float32, 0 where a newest behaviour has no signature
    newest: Tensor  #: [Ls, d] x
    bridged: Tensor  #: [n, d]
    bias: Tensor  #: [h1]
    category_row: Tensor  #: [buckets] int64, a category's row of the next
    category_weight: Tensor  #: [1 + K, h1], the first one zeros


class Ranker:
    """The model and the features of all items, in one precision."""

    def __init__(self, model: AIF, world: World, dtype: torch.dtype, compiled: bool = False) -> None:
        self._model, self._dims = copy.deepcopy(model).to(dtype), model.config.dimensions
        bits, tiers = self._dims.signature_bits, self._dims.tiers
        self._embedding = torch.from_numpy(np.array(world.array("embedding"))).to(dtype)
        self._numeric = torch.from_numpy(np.array(world.array("numeric"))).to(dtype)
        self._category = torch.from_numpy(np.array(world.array("category")))
        self._signs = torch.from_numpy(_item_signs(world)).to(dtype)
        self._exact = model.user
        user, head = self._model.user, self._model.head
        self._first = torch.cat(
            (head.vector_weight, user.to_bridges, user.to_din, user.to_attention, head.tier_weight)
        )  # [4 d + G T, h1]
        self._table = model.head.attention_table()
        #: A tier and those above it begin at these products of signatures.
        self._edges = [2 * -(-tier * bits // tiers) - bits for tier in range(1, tiers)]
        self._groups = group_table(model.config.tier_groups)
        self._ones = torch.ones(_BLOCK, dtype=dtype)
        self._dtype, self._compiled = dtype, compiled
        if compiled:
            torch._inductor.config.freezing = True
            torch._inductor.config.cpp.threads = 1
        self._chunk = torch.compile(self._score) if compiled else self._score

    def user(self, user: WorldUser) -> SequentialUser:
        """The user's side of a request, the item tower for the behaviours included. Its encoders stay float32."""
        exact, inputs, bits = self._exact, user.inputs, self._dims.signature_bits
        rows, present = torch.from_numpy(user.rows), torch.from_numpy(inputs.present).float()
        vectors = self._tower(rows)[0].float()
        context = exact.context(
            torch.from_numpy(inputs.windows), vectors[None], torch.from_numpy(inputs.actions),
            torch.from_numpy(inputs.ages), present,
        )  # fmt: skip
        x, signed = context.behaviours[0], self._signs[rows]
        has = signed[:, 0].abs().float() * present[0]
        values = x * (has / (2 * bits * has.sum().clamp(min=1))).unsqueeze(-1)
        order, group, padded = self._blocks(inputs.actions[0], has > 0)
        newest = slice(self._dims.behaviours)
        cross = torch.from_numpy(user.cross)[0]
        there = (cross.amax(dim=-1, keepdim=True) > 0).float()
        category_row = torch.zeros(self._dims.category_buckets, dtype=torch.int64)
        top = torch.from_numpy(user.categories[0])
        category_row[top] = torch.arange(1, len(top) + 1) * (top > 0)
        cast = self._dtype
        return SequentialUser(
            signs=F.pad(signed, (0, 0, 0, 1))[order].T.contiguous(), values=F.pad(values, (0, 0, 0, 1))[order].to(cast),
            group=group, padded=padded, newest_signs=signed[newest].T.contiguous(), newest_signed=has[newest],
            newest=x[newest].to(cast), bridged=context.bridged[0].to(cast),
            bias=(exact.to_bias(context.user)[0] + bits * (values.sum(0) @ exact.to_din)).to(cast),
            category_row=category_row,
            category_weight=F.pad(exact.to_category(cross) * there, (0, 0, 1, 0)).to(cast),
        )  # fmt: skip

    def score(self, user: SequentialUser, rows: Tensor) -> Tensor:
        """Probabilities of candidates ([C] rows of items -> [C] float32)."""
        return torch.cat([self._chunk(user, chunk) for chunk in rows.split(_CHUNK)])

    def rank(self, user: SequentialUser, rows: Tensor) -> Tensor:
        """The best candidates, best first."""
        return torch.topk(self.score(user, rows), min(TOP_K, len(rows))).indices

    def _score(self, user: SequentialUser, rows: Tensor) -> Tensor:
        head, own = self._model.head, self._signs.index_select(0, rows)
        vector, weights = self._tower(rows)
        dot = own @ user.signs  # [C, L]
        signed = own[:, :1].abs().float()  # [C, 1]
        first = torch.cat(
            (
                vector, weights @ user.bridged, dot @ user.values, self._attended(user, own, signed),
                (torch.log1p(self._tiers(user, dot)) * signed).to(self._dtype),
            ),
            dim=1,
        )  # fmt: skip
        hidden = torch.addmm(user.bias, first, self._first)
        category = self._category.index_select(0, rows)
        hidden += user.category_weight.index_select(0, user.category_row.index_select(0, category))
        hidden = F.relu_(head.second(F.relu_(hidden)))
        logits = hidden.float() @ head.third.weight[0].float() + head.third.bias.float()
        return torch.sigmoid(logits)

    def _tower(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        vector, weights = self._model.tower(
            self._embedding.index_select(0, rows), self._category.index_select(0, rows),
            self._numeric.index_select(0, rows),
        )  # fmt: skip
        return served(vector).to(self._dtype), served(weights).to(self._dtype)

    def _attended(self, user: SequentialUser, own: Tensor, signed: Tensor) -> Tensor:
        """[C, d]: the newest behaviours, weighted by the number of equal bits."""
        equal = ((own @ user.newest_signs).int() + self._dims.signature_bits) // 2  # [C, Ls]
        weights = self._table.index_select(0, equal.view(-1)).view(equal.shape) * user.newest_signed * signed
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-30)
        return weights.to(self._dtype) @ user.newest

    def _tiers(self, user: SequentialUser, dot: Tensor) -> Tensor:
        """[C, G T] float32 counts of behaviours by tier of similarity."""
        cumulated = [user.group.T @ (_BLOCK - user.padded)]
        for edge in self._edges:
            counts = self._at_least(dot.view(len(dot), -1, _BLOCK), edge)  # [C, L / 256]
            cumulated.append((counts - user.padded if edge <= 0 else counts) @ user.group)
        cumulated[0] = cumulated[0].expand(len(dot), -1)
        cumulated.append(torch.zeros_like(cumulated[1]))
        at_least = torch.stack(cumulated, dim=-1)  # [C, G, T + 1]
        return (at_least[..., :-1] - at_least[..., 1:]).flatten(1)

    def _at_least(self, dot: Tensor, edge: int) -> Tensor:
        """[C, L / 256] float32: how many of each block reach an edge."""
        if self._compiled:
            return (dot >= edge).to(torch.float32).sum(-1)
        # One product of a matrix with a vector: of three dimensions it takes many times as long.
        return ((dot >= edge).to(self._dtype).view(-1, _BLOCK) @ self._ones).view(dot.shape[:2]).float()

    def _blocks(self, actions: npt.NDArray[np.int64], signed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Places of behaviours by group of actions (their number where padded), `group` and `padded`."""
        member = np.concatenate((self._groups, ~self._groups.any(axis=1, keepdims=True)), axis=1)
        order: list[npt.NDArray[np.int64]] = []
        group: list[npt.NDArray[np.bool_]] = []
        padded: list[int] = []
        for number in range(member.shape[1]):
            places = np.flatnonzero(member[actions, number] & signed.numpy())
            blocks = -(-len(places) // _BLOCK)
            order.append(np.pad(places, (0, blocks * _BLOCK - len(places)), constant_values=len(actions)))
            group.extend([np.arange(self._groups.shape[1]) == number] * blocks)
            padded.extend([0] * (blocks - 1) + [blocks * _BLOCK - len(places)] * bool(blocks))
        one_hot = torch.from_numpy(np.array(group, dtype=np.float32).reshape(-1, self._groups.shape[1]))
        return torch.from_numpy(np.concatenate(order)), one_hot, torch.tensor(padded, dtype=torch.float32)


def main(job: Job) -> None:
    """Time the job's shapes; scores of the request that all answer, in float32 and as timed."""
    _keep_freed_memory()
    torch.set_num_threads(1)
    world, rounds = World.open(Path(job.folder)), int(job.options["rounds"])
    model, enough_s = untrained(Deployment(), max(world.behaviours)), float(job.options["enough_s"])
    compiled = shutil.which("c++") is not None and bool(job.options["compiled"])
    dtype = torch.bfloat16 if has_fast_bf16() else torch.float32
    with torch.inference_mode():
        checked = world.user(world.check_behaviours)
        exact, ranker = Ranker(model, world, torch.float32), Ranker(model, world, dtype, compiled)
        rows = torch.from_numpy(world.check_candidates)
        scores = [each.score(each.user(checked), rows).tolist() for each in (exact, ranker)]
        del exact
        figures = {shape_key(*shape): _ranked(ranker, world, *shape, enough_s) for shape in job.options["shapes"]}
        apart = {"user_ms": lambda: milliseconds([lambda: ranker.user(checked)], enough_s)}
        report = {"ms": in_rounds(figures, rounds), **in_rounds(apart, rounds)}
    job.report(
        **report, dtype=str(dtype).removeprefix("torch."), compiled=compiled, scores=scores[0], rounded_scores=scores[1]
    )


def _ranked(ranker: Ranker, world: World, candidates: int, behaviours: int, enough_s: float) -> Callable[[], float]:
    user = ranker.user(world.user(behaviours))
    requests = [torch.from_numpy(world.candidates(candidates, seed)) for seed in range(_REQUESTS)]
    return lambda: milliseconds([partial(ranker.rank, user, rows) for rows in requests], enough_s)


def _item_signs(world: World) -> npt.NDArray[np.float32]:
    records = world.array("records")
    has = (records["flags"] & Flag.HAS_SIGNATURE != 0).astype(np.float32)
    return signs(np.array(records["signature"])) * has[:, None]


def _keep_freed_memory() -> None:
    """Without it glibc maps and unmaps the larger tensors of every request, which takes longer than they do."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)


if __name__ == "__main__":
    main(Job.from_argv())
