"""The error tree."""

from __future__ import annotations

import pytest

from schemas import errors


def test_the_docstring_draws_every_class() -> None:
    """The tree in the module's docstring names all exported classes."""
    for name in errors.__all__:
        assert name in errors.__doc__


def test_one_base_and_only_unavailable_is_retriable() -> None:
    """All are AifError; the same call can succeed later only where the surroundings failed."""
    for name in errors.__all__:
        each = getattr(errors, name)
        assert issubclass(each, errors.AifError)
        assert each.retriable is (each is errors.Unavailable)


@pytest.mark.parametrize("kind", [errors.BadRecord, errors.DecodeError])
def test_a_bad_record_has_a_countable_reason(kind) -> None:
    """Reason and detail are kept apart, and shown together."""
    error = kind("far_future", "by 3 days")
    assert (error.reason, error.detail, str(error)) == ("far_future", "by 3 days", "far_future: by 3 days")
    assert str(kind("null_key")) == "null_key"
