"""Times of a log as Unix milliseconds, UTC.

Parsing by format costs about 8 us, a log repeats most of its times (all lines of an order share one), and so texts are
remembered: a bounded dictionary, emptied when full.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from producers.mapping import TimeSpec
from schemas.errors import BadInput, BadRecord

__all__ = ["parse_cli_time", "time_reader", "time_text"]

_REMEMBERED: Final = 65_536
#: 9999-12-31, the last day that calendars here can write.
_LAST_MS: Final = 253_402_300_799_999
_PER_UNIT: Final = {"s": 1000.0, "ms": 1.0, "us": 0.001}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def time_reader(spec: TimeSpec) -> Callable[[str], int]:
    """A function from a column's text to Unix milliseconds; it raises BadRecord `bad_time`."""
    parse = _number_parser(spec) if spec.unit in _PER_UNIT else _calendar_parser(spec)
    known: dict[str, int] = {}

    def read(text: str) -> int:
        at_ms = known.get(text)
        if at_ms is None:
            try:
                at_ms = parse(text)
            except (ValueError, OverflowError) as error:
                raise BadRecord("bad_time", f"{spec.column}: expected {spec.unit}, found {text!r}") from error
            if not 0 <= at_ms <= _LAST_MS:
                raise BadRecord("bad_time", f"{spec.column}: {text!r} is outside 1970..9999")
            if len(known) >= _REMEMBERED:
                known.clear()
            known[text] = at_ms
        return at_ms

    return read


def _number_parser(spec: TimeSpec) -> Callable[[str], int]:
    scale = _PER_UNIT[spec.unit]
    whole = int(scale) if scale >= 1 else None

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            # "1511658000.25", or a whole number that passed through a float column.
            return int(float(text) * scale)
        return number * whole if whole else number // 1000

    return parse


def _calendar_parser(spec: TimeSpec) -> Callable[[str], int]:
    zone = ZoneInfo(spec.zone)

    def parse(text: str) -> int:
        moment = datetime.fromisoformat(text) if spec.unit == "iso" else datetime.strptime(text, spec.unit)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        return (moment - _EPOCH) // _MILLISECOND

    return parse


def parse_cli_time(text: str | None, option: str) -> int | None:
    """An option's time as Unix milliseconds: a whole number of them, or ISO 8601 (UTC where it says nothing else)."""
    if text is None:
        return None
    try:
        if text.isdecimal():
            return int(text)
        return _calendar_parser(TimeSpec(option, "iso", "UTC"))(text)
    except (ValueError, OverflowError) as error:
        raise BadInput(
            f"{option} must be ISO 8601 (2011-11-01 or 2011-11-01T08:00) or Unix milliseconds, not {text!r}"
        ) from error


def time_text(at_ms: int | None) -> str:
    """A time for people, to the second, in UTC."""
    if at_ms is None:
        return "-"
    return (_EPOCH + timedelta(milliseconds=at_ms)).strftime("%Y-%m-%d %H:%M:%S")
