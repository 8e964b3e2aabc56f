"""Lengths of time as people write and read them."""

from __future__ import annotations

import click
import pytest

from cli.durations import DURATION, ago, span


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("24h", 86_400), ("7d", 604_800), ("1h30m", 5_400), ("0", 0)]
)
def test_lengths_have_units(text: str, seconds: int) -> None:
    """A number with a unit is so many seconds, several are their sum, and nothing needs none."""
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "1.5h", "10 m", "10min"])
def test_what_is_no_length_says_what_is_expected(text: str) -> None:
    """Anything else, a bare number included, is refused with the form that is expected."""
    with pytest.raises(click.BadParameter, match="write 90s, 10m, 24h or 7d"):
        DURATION.convert(text, None, None)


def test_lengths_are_said_in_their_largest_unit() -> None:
    """A span is one number and one unit; a moment is before or after now, or unknown."""
    assert [span(seconds) for seconds in (0.4, 59, 60, 5_400, 200_000)] == ["0 s", "59 s", "1.0 min", "1.5 h", "2.3 d"]
    assert [ago(seconds) for seconds in (3, -180, None)] == ["3 s ago", "in 3.0 min", "-"]
