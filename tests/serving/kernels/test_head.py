from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import ArtifactError
from serving.kernels import Head
from tests.serving.conftest import tiny_head


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("w3", None), ("b2", np.zeros(3, "f4")), ("w2", np.zeros((5, 4), "f8")),
        ("attention_table", np.full(65, -1, "f4")),
    ],
)  # fmt: skip
def test_a_head_of_other_shapes_is_refused_by_name(sizes, name, value) -> None:
    """A missing, wrongly shaped or wrongly typed array is named, and so is a table with a negative weight."""
    arrays = tiny_head(1)
    Head.of(arrays, sizes, 1)
    arrays[name] = value
    with pytest.raises(ArtifactError, match=name):
        Head.of({each: array for each, array in arrays.items() if array is not None}, sizes, 1)
