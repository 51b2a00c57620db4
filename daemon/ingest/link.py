"""One WebSocket of a session, from its first byte to the event that ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from daemon.ingest.connection import Event

if TYPE_CHECKING:
    from picows import WSTransport

    from native_pipeline.frame_listener import FrameListener


class Link:
    """The first of the events that can end a WebSocket wins; later ones are of no interest."""

    def __init__(self, make_listener: Callable[[Callable[[], None]], FrameListener]) -> None:
        """make_listener: is given what to call when the socket is gone."""
        self.ended: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self.logged_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.listener = make_listener(lambda: self.end(Event.LOST))
        self.transport: WSTransport | None = None  # until the upgrade is complete

    def end(self, event: Event) -> None:
        """Take the event that ends it, if there was none before."""
        if not self.ended.done():
            self.ended.set_result(event)
