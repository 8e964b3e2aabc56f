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
    for each in (getattr(errors, name) for name in errors.__all__ if name != "exit_status"):
        assert issubclass(each, errors.AifError)
        assert each.retriable is (each is errors.Unavailable)


@pytest.mark.parametrize("kind", [errors.BadRecord, errors.DecodeError])
def test_a_bad_record_has_a_countable_reason(kind) -> None:
    """Reason and detail are kept apart, and shown together."""
    error = kind("far_future", "by 3 days")
    assert (error.reason, error.detail, str(error)) == ("far_future", "by 3 days", "far_future: by 3 days")
    assert str(kind("null_key")) == "null_key"


def test_statuses_say_whose_fault_it_was() -> None:
    """2 the caller's, 69 worth a retry, 70 anything else, errors of others included."""
    found = [errors.exit_status(each) for each in (
        errors.ArtifactError("x"), errors.Unavailable("x"), errors.Corrupt("x"), errors.BadRecord("x"), OSError("x"),
    )]  # fmt: skip
    assert found == [2, 69, 70, 70, 70]
