"""Every error of the project, and whose fault it is.

::

    AifError
    ├── BadRecord          the sender's: one record is unusable; dead-letter it, go on
    │   └── DecodeError    bytes that are no record of ours
    ├── BadInput           the caller's: a file, option or request; say which and stop
    │   └── ArtifactError  a model artifact that fails its checks
    ├── Unavailable        the surroundings': broker or disk; retriable within a budget
    └── Corrupt            nobody's guess: state that contradicts itself; crash loudly
        └── VersionMismatch  parts of different model versions were about to be joined; no answer is made of them

A message always says what was expected, what was found and what to do. `exit_status` is what a process ends with.
"""

from __future__ import annotations

from typing import ClassVar, Final

__all__ = [
    "AifError",
    "ArtifactError",
    "BadInput",
    "BadRecord",
    "Corrupt",
    "DecodeError",
    "Unavailable",
    "VersionMismatch",
    "exit_status",
]


class AifError(Exception):
    """Base of all errors raised on purpose."""

    #: Whether the same call may succeed later without anybody changing anything.
    retriable: ClassVar[bool] = False


class BadRecord(AifError):
    """One record breaks its contract; `reason` is a stable, countable word."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class DecodeError(BadRecord):
    """Bytes that are not a record in Avro single-object encoding of a known schema."""


class BadInput(AifError):
    """A file, option, mapping or request is wrong; the message names it."""


class ArtifactError(BadInput):
    """A model artifact fails a checksum, a dimension or a schema fingerprint."""


class Unavailable(AifError):
    """The broker, a disk or another process does not answer; try again later."""

    retriable = True


class Corrupt(AifError):
    """Stored state contradicts itself or this build; the process must not go on."""


class VersionMismatch(Corrupt):
    """Parts of different model versions met: whoever asked gets an error and may ask again."""


_BAD_INPUT: Final = 2  # click's own for a usage error
_UNAVAILABLE: Final = 69  # EX_UNAVAILABLE of sysexits.h
_SOFTWARE: Final = 70  # EX_SOFTWARE


def exit_status(error: BaseException) -> int:
    """A process's exit status for what ends it: 2 the caller's fault, 69 worth a retry, 70 anything else."""
    if isinstance(error, BadInput):
        return _BAD_INPUT
    return _UNAVAILABLE if isinstance(error, AifError) and error.retriable else _SOFTWARE
