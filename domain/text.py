"""Text as vectors without a model: hashed words and character 3-grams, each a frozen random direction.

A token's direction is the bits of its xxh3-64 hashes as +-1; a text is the weighted sum over its *different* tokens,
scaled to length 1. Texts that share words point the same way, a misspelt word still shares 3-grams, and texts with
nothing in common are close to orthogonal (expected |cosine| about 1 / sqrt(dim)), which is what signed random
projections (lsh.py) need. Sums are of integers and hence exact: the same text gives the same bytes on any machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

__all__ = ["embed", "embedding_bytes", "tokens"]

_WORD: Final = re.compile(r"\w+")
#: A whole word says more than one of its 3-grams; a code (a category, a tag) has none and gets their share.
_WORD_WEIGHT: Final = 4
_GRAM_WEIGHT: Final = 1
_CODE_WEIGHT: Final = 8


def tokens(text: str, codes: Sequence[str] = ()) -> dict[str, int]:
    """The different tokens of a text, with weights: words, 3-grams of `#word#`, and `codes` taken whole."""
    weights: dict[str, int] = {}
    for word in _WORD.findall(text.casefold()):
        weights[f"w:{word}"] = _WORD_WEIGHT
        padded = f"#{word}#"
        for at in range(len(padded) - 2):
            weights[f"g:{padded[at : at + 3]}"] = _GRAM_WEIGHT
    for code in codes:
        weights[f"c:{code}"] = _CODE_WEIGHT
    return weights


@lru_cache(maxsize=65_536)
def _direction(token: str, dim: int) -> npt.NDArray[np.int64]:
    """A token's frozen +-1 direction ([dim] int64): 64 signs from each seeded hash."""
    data = token.encode()
    words = [xxhash.xxh3_64_intdigest(data, seed) for seed in range(-(-dim // 64))]
    bits = np.unpackbits(np.array(words, dtype="<u8").view(np.uint8), bitorder="little")[:dim]
    signs = bits.astype(np.int64) * 2 - 1
    signs.setflags(write=False)
    return signs


@lru_cache(maxsize=65_536)
def embedding_bytes(text: str, dim: int, codes: tuple[str, ...] = ()) -> bytes:
    """One text as `dim` little-endian float32 of length 1, the form of ItemUpdate.embedding; zeros where no token is.

    Raises UnicodeEncodeError, a ValueError, on text that is not valid Unicode (lone surrogates).
    """
    weights = tokens(text, codes)
    if not weights:
        return bytes(4 * dim)
    total = np.array(list(weights.values()), dtype=np.int64) @ np.stack([_direction(token, dim) for token in weights])
    # An exact integer, then one correctly rounded root and division each: no summation order to differ in.
    squared = int(total @ total)
    length = np.sqrt(np.float64(squared)) if squared else np.float64(1)
    return (total / length).astype("<f4").tobytes()


def embed(texts: Sequence[str], dim: int, codes: Sequence[tuple[str, ...]] | None = None) -> npt.NDArray[np.float32]:
    """Texts, with the codes of each where given, as unit vectors ([n, dim] float32); a row equals `embedding_bytes`."""
    if codes is None:
        codes = [()] * len(texts)
    rows = [embedding_bytes(text, dim, own) for text, own in zip(texts, codes, strict=True)]
    return np.frombuffer(b"".join(rows), dtype="<f4").astype(np.float32).reshape(len(texts), dim)
