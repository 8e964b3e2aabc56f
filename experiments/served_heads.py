"""A kernel of serving in the place of a model's head: what its rounding costs is then judged as everything else is."""

from __future__ import annotations

import copy
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from domain.item_features import category_buckets
from domain.n2o import Flag
from domain.tiers import group_table
from models.aif import AIF, Candidates, Folded, Past
from models.config import ModelConfig
from models.export import head_arrays
from serving import kernels
from serving.kernels import Kernel

__all__ = ["with_kernel"]

_VERSION: Final = 1
#: Categories looked through for one of each bucket, per bucket.
_TRIED: Final = 16


def with_kernel(model: nn.Module, kernel: Kernel) -> nn.Module:
    """A copy of a trained AIF whose head is computed by a kernel, from records as N2O keeps them."""
    assert isinstance(model, AIF)
    served = copy.deepcopy(model)
    served.head = _KernelHead(model, kernel)  # type: ignore[assignment]
    return served


class _KernelHead(nn.Module):
    """Takes what the head takes, a batch of users, and asks the kernel for one after the other."""

    def __init__(self, model: AIF, kernel: Kernel) -> None:
        super().__init__()
        self._sizes = model.config.dimensions
        self._head = kernels.Head.of(head_arrays(model.head), self._sizes, _VERSION)
        self._kernel = kernel
        self._groups = group_table(self._sizes.tier_groups)
        self._category = _category_of_bucket(model.config)

    def forward(self, candidates: Candidates, past: Past, folded: Folded) -> Tensor:
        """Logits [B, C]."""
        of_users = zip(zip(*candidates, strict=True), zip(*past, strict=True), zip(*folded, strict=True), strict=True)
        scores = [
            self._kernel.prepare(self._head, self._sizes, self._user(Past(*its), Folded(*own))).score(
                self._rows(Candidates(*theirs))
            )
            for theirs, its, own in of_users
        ]
        return torch.logit(torch.from_numpy(np.stack(scores)).double()).float()

    def _user(self, past: Past, folded: Folded) -> kernels.Folded:
        signed = past.signs[:, 0].numpy() != 0
        signatures, actions = _packed(past.signs), past.actions.numpy()
        attended = self._sizes.attended
        weights: dict[str, npt.NDArray[np.float32]] = {name: each.numpy() for name, each in folded._asdict().items()}
        return kernels.Folded(
            **weights,
            groups=tuple(signatures[signed & self._groups[actions, group]] for group in range(self._groups.shape[1])),
            attended=signatures[:attended], attended_signed=signed[:attended],
            categories=past.categories.numpy(), version_tag=_VERSION,
        )  # fmt: skip

    def _rows(self, candidates: Candidates) -> npt.NDArray[np.uint8]:
        layout, category = self._sizes.layout, candidates.category.numpy()
        records = layout.empty(len(category))
        layout.set_vectors(records, candidates.vector.numpy(), candidates.bridges.numpy())
        records["signature"] = _packed(candidates.signs)
        records["category_id"] = self._category[category]
        signed = candidates.signs[:, 0].numpy() != 0
        records["flags"] = Flag.HAS_SIGNATURE * signed | Flag.HAS_CATEGORY * (category != 0)
        return records.view(np.uint8).reshape(len(records), layout.stride)


def _packed(signs: Tensor) -> npt.NDArray[np.uint8]:
    """Signatures ([..., m] of +-1) as bits ([..., m / 8])."""
    return np.packbits(signs.numpy() > 0, axis=-1)


def _category_of_bucket(config: ModelConfig) -> npt.NDArray[np.int64]:
    """A category that is hashed into each bucket ([buckets]); 0 where none was found."""
    tried = np.arange(_TRIED * config.category_buckets, dtype=np.int64)
    found: npt.NDArray[Any] = np.zeros(config.category_buckets, dtype=np.int64)
    found[category_buckets(tried, np.ones(len(tried), dtype=np.bool_), config.category_buckets)] = tried
    return found
