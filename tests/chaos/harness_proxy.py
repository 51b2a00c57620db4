"""A TCP proxy in front of the database that cuts connections where it hurts: at random bytes, around a COMMIT."""

import asyncio
import contextlib
import threading
from enum import Enum, auto
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 16
SERVED_S = 0.05  # the server acts on what it got, and its answer is not passed on


class Cut(Enum):
    """Where the next connection that gets there is cut, once."""

    BEFORE_COMMIT = auto()  # the server never hears of it
    AFTER_COMMIT = auto()  # the server commits, nobody is told
    INSIDE_COMMIT = auto()  # half of the message arrives


class CuttingProxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to *port*, until told otherwise."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._links: set[asyncio.StreamWriter] = set()
        self._replies_to: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._muted: asyncio.StreamWriter | None = None
        self._cuts: list[Cut] = []
        self._bytes_until_cut: int | None = None
        self.cuts_made = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut_at(self, cut: Cut) -> None:
        """Cut the next connection that commits."""
        self._loop.call_soon_threadsafe(self._cuts.append, cut)

    def cut_after(self, count: int) -> None:
        """Cut the connection that brings the *count*-th byte from now on, in the middle of what it says."""
        self._loop.call_soon_threadsafe(setattr, self, "_bytes_until_cut", count)

    async def _listen(self) -> int:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        self._server = server
        return port

    async def _close(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_read, to_write = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        self._links |= {writer, to_write}
        self._replies_to[to_write] = writer
        requests = asyncio.create_task(self._pass_on(reader, to_write, is_request=True))
        replies = asyncio.create_task(self._pass_on(to_read, writer, is_request=False))
        try:
            await asyncio.wait([requests, replies], return_when=asyncio.FIRST_COMPLETED)
        finally:
            requests.cancel()
            replies.cancel()
            del self._replies_to[to_write]
            for link in (writer, to_write):
                link.transport.abort()
                self._links.discard(link)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        """Return when the link is to be cut."""
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self._bytes_until_cut is not None:
                    self._bytes_until_cut -= len(data)
                    if self._bytes_until_cut <= 0:
                        writer.write(data[: max(len(data) + self._bytes_until_cut, 0)])
                        await self._deliver(writer)
                        self._bytes_until_cut = None
                        return
                if self._muted is writer:
                    return
                if is_request and self._cuts and (at := data.find(b"COMMIT")) >= 0:
                    cut = self._cuts.pop(0)
                    self._muted = self._replies_to.get(writer)
                    end = {Cut.BEFORE_COMMIT: at - 5, Cut.INSIDE_COMMIT: at + 3, Cut.AFTER_COMMIT: len(data)}[cut]
                    writer.write(data[: max(end, 0)])
                    await self._deliver(writer)
                    await asyncio.sleep(SERVED_S)
                    return
                writer.write(data)
                await writer.drain()

    async def _deliver(self, writer: asyncio.StreamWriter) -> None:
        """What was written reaches the server before the reset does: abort() would throw it away."""
        self.cuts_made += 1
        while writer.transport.get_write_buffer_size():
            await asyncio.sleep(0.001)
