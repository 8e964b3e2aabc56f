from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError

from schemas.errors import Unavailable
from streams.topic_reader import TopicReader, lone_consumer


class Noting:
    """A consumer that notes what is done with it, and may not start."""

    def __init__(self, name: str, notes: list[str], error: Exception | None = None) -> None:
        self._name, self._notes, self._error = name, notes, error

    async def start(self) -> None:
        """Start, or fail."""
        self._notes.append(f"{self._name} starts")
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """Stop."""
        self._notes.append(f"{self._name} stops")


class Beginning(TopicReader):
    """Begins with a note, or an error."""

    def __init__(self, notes: list[str], *consumers: Noting, error: Exception | None = None) -> None:
        self._notes, self._error = notes, error
        super().__init__("connecting", *consumers)  # type: ignore[arg-type]

    async def _begin(self) -> None:
        self._notes.append("begins")
        if self._error is not None:
            raise self._error


async def _inside(reader: Beginning, notes: list[str]) -> None:
    async with reader as entered:
        assert entered is reader
        notes.append("inside")


def test_consumers_start_before_it_begins_and_stop_at_the_end() -> None:
    """All consumers are started when the reader begins, and none is left running behind the context."""
    notes: list[str] = []
    asyncio.run(_inside(Beginning(notes, Noting("a", notes), Noting("b", notes)), notes))
    assert notes == ["a starts", "b starts", "begins", "inside", "a stops", "b stops"]


def test_a_start_that_fails_leaves_no_consumer_running() -> None:
    """Where one consumer cannot start, all are stopped, and the error says what was being done."""
    notes: list[str] = []
    reader = Beginning(notes, Noting("a", notes), Noting("b", notes, KafkaConnectionError("refused")))
    with pytest.raises(Unavailable, match=r"connecting: KafkaConnectionError.*refused"):
        asyncio.run(_inside(reader, notes))
    assert notes == ["a starts", "b starts", "a stops", "b stops"]


def test_a_beginning_that_fails_leaves_no_consumer_running() -> None:
    """An error of the beginning is the reader's own and leaves as it is, once the consumers are stopped."""
    notes: list[str] = []
    with pytest.raises(ValueError, match="no such offset"):
        asyncio.run(_inside(Beginning(notes, Noting("a", notes), error=ValueError("no such offset")), notes))
    assert notes == ["a starts", "begins", "a stops"]


def test_where_nothing_listens_it_is_unavailable() -> None:
    """A real consumer that finds no broker is an Unavailable, without waiting."""

    async def enter() -> None:
        async with TopicReader("connecting to nobody", lone_consumer("127.0.0.1:1")):
            raise AssertionError("nothing listens there")

    with pytest.raises(Unavailable, match="connecting to nobody"):
        asyncio.run(enter())
