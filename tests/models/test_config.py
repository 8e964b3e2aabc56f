from __future__ import annotations

from typing import Any

import pytest

from models.config import ModelConfig, sizes
from schemas.deployment import Deployment
from schemas.errors import BadInput


@pytest.mark.parametrize(
    "sizes",
    [
        {"signature_bits": 63}, {"tiers": 6}, {"behaviours": 33}, {"bridges": 0}, {"hidden": (8,)}, {"bea": "C"},
        {"din": "softmax"}, {"long_behaviours": 31}, {"tier_groups": (("gaze",),)}, {"cross_categories": -1},
    ],
)  # fmt: skip
def test_impossible_sizes_are_refused_by_name(sizes: dict[str, Any]) -> None:
    """A size that no network or record can have is refused with the field's name."""
    with pytest.raises(BadInput, match=next(iter(sizes))):
        ModelConfig(**sizes)


def test_default_record_is_256_bytes() -> None:
    """At the default sizes an N2O record is 256 bytes."""
    assert ModelConfig().dimensions.layout.stride == 256


def test_hyperplanes_are_the_deployments() -> None:
    """A model made for a deployment names the same hyperplanes as the deployment's workers."""
    deployment = Deployment(embedding_dim=32, signature_bits=128, signature_seed=5)
    assert ModelConfig.of(deployment).signature_version == deployment.signature_version


def test_sizes_are_read_from_text() -> None:
    """Numbers, words and flags of ModelConfig are read by name, each as its field's type; the last of a name holds."""
    found = sizes(["tiers=4", "din=none", "attention=false", "tiers=16"])
    assert found == {"tiers": 16, "din": "none", "attention": False}
    assert ModelConfig(**found).dimensions.attention is False


@pytest.mark.parametrize("text", ["tears=4", "tiers", "tiers=four", "tiers=-4", "attention=1", "hidden=8"])
def test_a_text_that_is_no_size_is_refused(text: str) -> None:
    """An unknown name, a missing value and one of another type end in a sentence that repeats what was asked."""
    with pytest.raises(BadInput, match=text.partition("=")[0]):
        sizes([text])
