"""Where parts of a model meet: each says of which version it is, and unlike ones are refused here and nowhere else.

A score joins three parts: the head of the artifact, the user as the artifact's graph folded him, and item rows as the
artifact's tower made them. Each carries the version (the head of the manifest's digest, 64 bits, as rows do): `Head`,
`Folded` and what is made of the two, and `ItemRows`. The functions that take two of them compare first, so a caller
cannot join unlike ones, whatever a cache or a flip has put into its hands.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.errors import VersionMismatch

__all__ = ["MISMATCHES", "ItemRows", "one_version"]

#: Joins refused in this process, by what was to be made; anything but nothing is a fault of this program.
MISMATCHES: Final[Counter[str]] = Counter()


def one_version(made: str, **parts: int) -> int:
    """The version that all parts (tags by what they are) are of. Raises VersionMismatch, and counts it."""
    tags = set(parts.values())
    if len(tags) > 1:
        MISMATCHES[made] += 1
        found = ", ".join(f"{name} of version {tag:016x}" for name, tag in parts.items())
        raise VersionMismatch(f"{made}: {found} do not belong together; the request gets no answer")
    return tags.pop()


@dataclass(frozen=True, eq=False)
class ItemRows:
    """Rows of one version as they were read, for who scores or folds with them."""

    version_tag: int
    raw: npt.NDArray[np.uint8]  #: [n, stride] records, zeros where there is none
    known: npt.NDArray[np.bool_]  #: [n] which there are

    @classmethod
    def checked(
        cls, version_tag: int, records: npt.NDArray[Any], known: npt.NDArray[np.bool_] | None = None
    ) -> ItemRows:
        """Records ([n] of a layout's dtype) from elsewhere than a slab; `known` None: all there.

        Raises VersionMismatch where one says that it is of another version.
        """
        there = np.ones(len(records), dtype=np.bool_) if known is None else known
        for tag in np.unique(records["version"][there]).tolist():
            one_version("item rows", rows=tag, expected=version_tag)
        return cls(version_tag, records.view(np.uint8).reshape(len(records), records.dtype.itemsize), there)
