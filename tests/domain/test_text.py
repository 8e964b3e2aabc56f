"""Text vectors: frozen bytes, unit length, near for texts that share words."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from domain.text import embed, embedding_bytes, tokens

valid_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def cosine(left: str, right: str) -> float:
    """Cosine of two texts at 256 values."""
    a, b = embed([left, right], 256).astype(np.float64)
    return float(a @ b)


@given(st.lists(valid_text, max_size=5), st.integers(1, 130))
def test_rows_are_their_own_bytes_of_length_one_or_zero(texts, dim) -> None:
    """A row equals the text's bytes whatever stands beside it, and is a unit vector unless the text has no word."""
    vectors = embed(texts, dim)
    assert vectors.shape == (len(texts), dim)
    for text, vector in zip(texts, vectors, strict=True):
        assert vector.astype("<f4").tobytes() == embedding_bytes(text, dim)
        length = float(np.linalg.norm(vector.astype(np.float64)))
        assert abs(length - 1) < 1e-6 or not vector.any()
        assert bool(tokens(text)) or not vector.any()


def test_bytes_are_frozen() -> None:
    """Fixed bytes: embeddings in a log and those made today must compare."""
    raw = embedding_bytes("Vintage Union Jack BUNTING", 64, ("85123A",))
    assert hashlib.sha256(raw).hexdigest()[:16] == "77a7c22d774a0695"


@given(valid_text)
def test_case_and_spacing_do_not_matter(text) -> None:
    """Only words count: repeated, re-ordered or differently cased they are the same text."""
    assert tokens(text + " " + text) == tokens(text)
    assert embedding_bytes(" ".join(reversed(text.split())), 64) == embedding_bytes(text, 64)


def test_shared_words_are_near() -> None:
    """Texts that share words are nearer than a misspelt word, and that nearer than unrelated text."""
    same, misspelt, unrelated = (
        cosine("red woolly hottie white heart", other)
        for other in ("red woolly hottie", "wooly hotie", "cake stand ceramic")
    )
    assert same > 0.6 > misspelt > 0.15 > abs(unrelated)


def test_codes_are_taken_whole() -> None:
    """A code is one token, unlike the same text as a word."""
    assert len(tokens("", ("85123A",))) == 1
    assert embedding_bytes("", 64, ("a",)) != embedding_bytes("a", 64)
