"""Assumptions about Faust and aiokafka."""

import pytest

from schemas.errors import BadInput
from streams import internals


def test_the_installed_versions_are_those_the_lane_fits() -> None:
    """The pinned packages pass the check."""
    internals.check()


def test_another_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of Faust fails at start-up with the package's name, not at run time with lost records."""
    monkeypatch.setitem(internals._TESTED, "faust-streaming", "0.16.0")
    with pytest.raises(BadInput, match="faust-streaming"):
        internals.check()
