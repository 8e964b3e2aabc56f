"""How this package compiles functions with numba, and where their machine code is kept.

numba keeps machine code per source file and looks at that file alone: code inlined from a neighbour that has changed
since would run as it was. Here the folder of the cache is named after all sources that compiled code is made of, so
that any change compiles anew.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any, Final

import numba
from numba.core import config

import schemas.records

__all__ = ["njit", "source_digest"]


def source_digest(files: list[Path]) -> str:
    """Names the content of source files, and the version of numba."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _keep_machine_code() -> None:
    here = Path(__file__).parent
    cached = here / "__pycache__"
    if "NUMBA_CACHE_DIR" in os.environ or not os.access(cached if cached.exists() else here, os.W_OK):
        return  # numba's own places: the one that the user names, or the user's
    sources = [*here.glob("*.py"), Path(schemas.records.__file__)]
    config.CACHE_DIR = str(cached / f"compiled-{source_digest(sources)}")


_keep_machine_code()

#: numba.njit whose machine code is kept.
njit: Final[Any] = partial(numba.njit, cache=True)
