"""Lengths of time as people write and read them: 90s, 10m, 24h; 3.0 min ago."""

from __future__ import annotations

import re
from typing import Any, Final

import click

__all__ = ["DURATION", "ago", "span"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PARTS: Final = re.compile(r"(?:\d+[smhd])+|0")


class _Duration(click.ParamType):
    """Whole seconds from text such as 90s, 10m, 1h30m or 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See click. Fails with what was expected."""
        if isinstance(value, int):
            return value
        if not _PARTS.fullmatch(value):
            self.fail(f"{value!r} is no length of time: write 90s, 10m, 24h or 7d", param, ctx)
        return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", value))


#: Of a click option: gives whole seconds.
DURATION: Final = _Duration()


def span(seconds: float) -> str:
    """A length of time for people, in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def ago(seconds: float | None) -> str:
    """How long ago something was; `-` where it is unknown, `in 3.0 min` where it lies ahead."""
    if seconds is None:
        return "-"
    return f"in {span(-seconds)}" if seconds < 0 else f"{span(seconds)} ago"
