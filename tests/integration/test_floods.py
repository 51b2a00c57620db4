"""A flood of tiny frames in one write: how long it holds the event loop of a worker, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from tests.integration.invented_venue import InventedVenue
from tests.integration.test_sessions import SYMBOLS, planned, settings, working
from tests.integration.test_worker import Bench, bench, lines, on_uvloop, wait_until

__all__ = ["bench", "lines"]  # fixtures

FRAMES = 100_000
REPLIES = 20_000  # Python takes some 10,000 a second, in portions; the rest waits in the listener and in the socket
# Of one turn of the event loop; CPU time, so that a busy machine does not count so much.
MOST_CPU_S = 0.05


class Venue:
    """A server in a thread of its own, so that its work is not the loop's; confirms everything, then floods."""

    def __init__(self) -> None:
        self.url = ""
        self.transport: WSTransport | None = None
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server: Any = self._loop.run_until_complete(ws_create_server(lambda _request: _Peer(self), "127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        self._is_up.set()
        self._loop.run_forever()
        if self.transport is not None:
            self.transport.disconnect(graceful=False)
        server.close()
        self._loop.run_until_complete(server.wait_closed())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def __enter__(self) -> Venue:
        self._thread.start()
        self._is_up.wait()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def write(self, blob: bytes) -> None:
        """Send *blob*, whole frames, in one write."""
        assert self.transport is not None
        self._loop.call_soon_threadsafe(self.transport.underlying_transport.write, blob)


class _Peer(WSListener):
    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._venue.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            transport.send(WSMsgType.TEXT, b'{"is":"on"}')


@contextlib.asynccontextmanager
async def longest_turn() -> AsyncIterator[list[float]]:
    """Give the CPU time of the longest turn of this loop so far, seconds."""
    found = [0.0]

    async def watch() -> None:
        at = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            found[0] = max(found[0], now - at)
            at = now

    task = asyncio.create_task(watch(), name="watch")
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])


def drain(bench: Bench) -> None:
    """Read as the writer would, and forget."""
    bench.read()
    bench.records.clear()


@pytest.fixture
def venue() -> Iterator[Venue]:
    with Venue() as running:
        yield running


def frame(text: bytes, opcode: int = 1) -> bytes:
    return bytes((0x80 | opcode, len(text))) + text


@pytest.mark.requirement("F17")
@pytest.mark.parametrize(
    ("one", "count", "counted"),
    [
        (frame(b"0|Z|1|"), FRAMES, "records_quarantined"),
        (frame(b"{"), REPLIES, "control_frames"),
        (frame(b'{"is":"?"}'), REPLIES, "control_frames"),
        (frame(b"", 9), FRAMES, "frames_received"),
    ],
    ids=["data that cannot be read", "replies that cannot be read", "replies", "pings"],
)  # fmt: skip
@on_uvloop
async def test_a_flood_of_tiny_frames_in_one_write_never_holds_the_loop(
    bench: Bench, lines: io.StringIO, venue: Venue, one: bytes, count: int, counted: str
) -> None:
    async with working(bench, settings(venue.url), planned(*SYMBOLS[:1]), venue=InventedVenue) as running:
        await wait_until(lambda: running.confirmed == 1)
        before = bench.value(counted)
        async with longest_turn() as longest:
            venue.write(one * count)
            async with asyncio.timeout(30.0):
                while bench.value(counted) - before < count:
                    await asyncio.to_thread(drain, bench)
        assert bench.value("connections_lost") == 0
        assert lines.getvalue().count("\n") < 50

    print(f"longest turn: {longest[0] * 1e3:.1f} ms of CPU")
    assert longest[0] < MOST_CPU_S
