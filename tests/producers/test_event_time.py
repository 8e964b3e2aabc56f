from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.event_time import parse_cli_time, time_reader, time_text
from producers.mapping import TimeSpec
from schemas.errors import BadInput, BadRecord


@pytest.mark.parametrize(
    ("text", "unit", "zone", "expected"),
    [
        ("1511658000", "s", "UTC", 1_511_658_000_000),
        ("1511658000.25", "s", "UTC", 1_511_658_000_250),
        ("1511658000250", "ms", "UTC", 1_511_658_000_250),
        ("1511658000250999", "us", "UTC", 1_511_658_000_250),
        ("2011-07-01 09:00:00", "%Y-%m-%d %H:%M:%S", "Europe/London", 1_309_507_200_000),
        ("2011-01-01 09:00:00", "%Y-%m-%d %H:%M:%S", "Europe/London", 1_293_872_400_000),
        ("2022-04-10", "iso", "Asia/Shanghai", 1_649_520_000_000),
        ("2022-04-10T00:00:00+02:00", "iso", "Asia/Shanghai", 1_649_541_600_000),
    ],
)
def test_units_and_zones(text: str, unit: str, zone: str, expected: int) -> None:
    """Each unit reads its own form, and a zone counts only where the text has no offset."""
    assert time_reader(TimeSpec("at", unit, zone))(text) == expected


@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)))
def test_iso_round_trip(moment: datetime) -> None:
    """Any time written as ISO 8601 in UTC reads as its milliseconds, rounded down."""
    since = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    expected = since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
    assert time_reader(TimeSpec("at", "iso", "UTC"))(moment.isoformat()) == expected


@pytest.mark.parametrize("text", ["", "soon", "nan", "1e400", "-5", "99999999999999999999"])
def test_bad_times_are_bad_records(text: str) -> None:
    """What is no time between 1970 and 9999 rejects the row with a countable reason."""
    with pytest.raises(BadRecord) as error:
        time_reader(TimeSpec("at", "ms", "UTC"))(text)
    assert error.value.reason == "bad_time"


def test_options_take_iso_or_milliseconds() -> None:
    """A time option is ISO 8601 or Unix milliseconds; anything else names the option."""
    assert parse_cli_time("2011-11-01", "--from") == parse_cli_time("1320105600000", "--from") == 1_320_105_600_000
    assert parse_cli_time(None, "--from") is None
    assert time_text(1_320_105_600_000) == "2011-11-01 00:00:00" and time_text(None) == "-"
    with pytest.raises(BadInput, match="--from"):
        parse_cli_time("yesterday", "--from")
