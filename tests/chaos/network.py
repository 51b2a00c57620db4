"""The network in a test's hands: a line for TCP that is slow, uneven, narrow, cut, silent or gone, on command.

A `Line` forwards bytes and never looks into them. What a packet network does to a stream (loss, reordering) shows in
TCP as moments in which nothing arrives, then much at once: `hiccup`. For packets themselves see lossy_link.py.
"""

import asyncio
import collections
import contextlib
import dataclasses
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

READ_BYTES = 64 * 1024
BUFFERED_BYTES = 1 << 20  # on the way in one direction; beyond it nothing more is read, as with a full window
POLL_S = 0.005
STOP_TIMEOUT_S = 10.0
ABORTING = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset
Result = TypeVar("Result")


class _Pump:
    """One direction of one connection."""

    def __init__(self, line: "Line", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._line = line
        self._reader = reader
        self._writer = writer
        self._waiting: collections.deque[tuple[float, bytes]] = collections.deque()
        self._bytes = 0
        self._has_more = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._last_due_s = 0.0

    async def take_in(self, on_first: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        is_first = True
        while data := await self._reader.read(READ_BYTES):
            if is_first:
                on_first(data[:8])
                is_first = False
            # a stream keeps its order
            self._last_due_s = max(self._last_due_s, loop.time() + self._line.draw_delay_s())
            self._waiting.append((self._last_due_s, data))
            self._bytes += len(data)
            self._has_more.set()
            if self._bytes >= BUFFERED_BYTES:
                self._has_room.clear()
            await self._has_room.wait()
        self._waiting.append((loop.time(), b""))
        self._has_more.set()

    async def give_out(self, is_silent: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._has_more.clear()
                await self._has_more.wait()
            due_s, data = self._waiting.popleft()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            while is_silent():
                await asyncio.sleep(POLL_S)
            if not data:
                with contextlib.suppress(OSError):
                    self._writer.write_eof()
                return
            if self._line.bytes_per_s:
                await asyncio.sleep(len(data) / self._line.bytes_per_s)
            self._writer.write(data)
            await self._writer.drain()
            self._line.bytes_forwarded += len(data)
            self._bytes -= len(data)
            if self._bytes < BUFFERED_BYTES:
                self._has_room.set()


@dataclasses.dataclass(eq=False)
class _Connection:
    """The two sockets of one connection."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    is_forgotten: bool = False


class Line:
    """Everything that connects to `port` reaches *target*; the attributes may be changed at any time from any thread.

    latency_s, jitter_s: each piece is delayed by latency plus or minus a random part of jitter, in order.
    hiccup: (probability, seconds) with which a piece is held up for so much longer, like a lost packet sent again.
    bytes_per_s: of each direction of each connection; 0: unlimited.
    is_partitioned: nothing passes, for old and new connections, and nothing is closed; then all that waited arrives.
    """

    def __init__(
        self, target: tuple[str, int], *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None,
        seed: int | str = 0,
    ) -> None:  # fmt: skip
        """host, port: where to listen. tls: what the client sees; behind the line it is plain."""
        self.target = target
        self.host = host
        self.port = port
        self.tls = tls
        self.latency_s = 0.0
        self.jitter_s = 0.0
        self.hiccup = (0.0, 0.0)
        self.bytes_per_s = 0.0
        self.is_partitioned = False
        self.accepted = 0  # connections; with TLS: those whose handshake succeeded
        self.bytes_forwarded = 0
        self.first_bytes: list[bytes] = []  # what each client said first (within TLS)
        self._draw = random.Random(f"line:{seed}")
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_TIMEOUT_S)
        self._loop.close()

    def url(self, url: str, *, host: str | None = None) -> str:
        """Return *url* by way of this line; with TLS, its secure scheme."""
        parts = urlsplit(url)
        scheme = {"ws": "wss", "http": "https"}[parts.scheme] if self.tls is not None else parts.scheme
        return urlunsplit(parts._replace(scheme=scheme, netloc=f"{host or self.host}:{self.port}"))

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def reset(self) -> int:
        """Reset every connection towards the client; return how many there were."""
        return self._run(self._reset())

    def half_open(self) -> int:
        """Forget every connection without a word: no byte and no end will arrive any more. New ones work."""
        forgotten = [connection for connection in self._open if not connection.is_forgotten]
        for connection in forgotten:
            connection.is_forgotten = True
        return len(forgotten)

    def refuse(self) -> None:
        """Take no more connections: they are refused. The old ones live."""
        self._run(self._stop_listening())

    def take_again(self, tls: ssl.SSLContext | None = None) -> None:
        """End refuse(), at the same port; *tls*: with another certificate."""
        self.tls = tls or self.tls
        self._run(self._listen())

    def draw_delay_s(self) -> float:
        """Return how long the next piece takes."""
        chance, held_s = self.hiccup
        delay_s = self.latency_s + self.jitter_s * self._draw.uniform(-1.0, 1.0)
        return max(0.0, delay_s) + (held_s if self._draw.random() < chance else 0.0)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(STOP_TIMEOUT_S)

    async def _listen(self) -> None:
        self._loop.set_exception_handler(lambda *_: None)  # a client that refuses our certificate is what is tested
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        while self.is_partitioned:
            await asyncio.sleep(POLL_S)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return
        connection = _Connection(writer, far_writer)
        self._open.add(connection)

        def is_silent() -> bool:
            return self.is_partitioned or connection.is_forgotten

        there, back = _Pump(self, reader, far_writer), _Pump(self, far_reader, writer)
        work = [
            asyncio.ensure_future(each)
            for each in (
                there.take_in(self.first_bytes.append), there.give_out(is_silent),
                back.take_in(lambda _: None), back.give_out(is_silent),
            )
        ]  # fmt: skip
        try:
            await asyncio.gather(*work)
        except OSError:
            pass
        finally:
            for task in work:
                task.cancel()
            self._open.discard(connection)
            for each in (writer, far_writer):
                each.close()

    async def _reset(self) -> int:
        harmed = [connection for connection in self._open if not connection.is_forgotten]
        for connection in harmed:
            connection.near.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORTING)
            connection.near.transport.abort()
            connection.far.transport.abort()
        return len(harmed)

    async def _end(self) -> None:
        await self._stop_listening()
        for connection in list(self._open):
            connection.near.transport.abort()
            connection.far.transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
