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

    def whole_until(self, now_ns: int, transit_ns: int) -> int:
        """Return until when everything that the venue sent has arrived, wall clock ns.

        Closed in order, or by us: its last frame. Otherwise what was sent while that frame was on its way
        (*transit_ns*) may be lost with the socket; and a link is not whole because it brings heartbeats.
        """
        until_ns = self.listener.last_frame_ns or now_ns
        event = self.ended.result() if self.ended.done() else None
        if event is Event.DATA_SILENT and self.listener.last_data_ns:
            until_ns = min(until_ns, self.listener.last_data_ns)
        if event in (Event.DATA_SILENT, Event.LINK_SILENT) or (
            event is Event.LOST and not self.listener.close_received
        ):
            until_ns -= transit_ns
        return until_ns
