"""Ending aiokafka's clients, whatever state their broker is in."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

__all__ = ["close_client"]

_CLOSE_S: Final = 2.0

_log = logging.getLogger(__name__)


async def close_client(client: Any) -> None:
    """Give the connections of a consumer or producer back, within two seconds. Never raises."""
    # As a task of its own: with a dead broker aiokafka lets the cancellation of its inner tasks out of `stop`.
    stopping = asyncio.create_task(client.stop())
    await asyncio.wait({stopping}, timeout=_CLOSE_S)
    if not stopping.done():
        stopping.cancel()
    elif not stopping.cancelled() and (error := stopping.exception()):
        _log.debug("closing a client: %s", error)
