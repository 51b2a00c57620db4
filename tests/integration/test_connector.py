"""Opening sockets against peers that are away, silent or late."""

import asyncio
import base64
import contextlib
import functools
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from picows import WSFrame, WSListener, WSTransport

from daemon.errors import Retryable
from daemon.ingest.connector import NetworkConnector
from daemon.ingest.venues.venue import HttpRequest

WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
A_FRAME = b"\x81\x02{}"
IMPATIENT = NetworkConnector(connect_timeout_s=0.2, max_frame_bytes=65536)
PATIENCE_S = 10.0


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run *test* on the loop that the worker runs on in production."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        uvloop.run(test(**fixtures))

    return run


class Heard(WSListener):
    """Notes whether anything reached it."""

    def __init__(self) -> None:
        self.frames = 0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.frames += 1


class SlowPeer:
    """Takes the upgrade request, and answers it, a frame right behind, only when told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.ended = asyncio.Event()
        self.url = ""

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        headers = dict(line.split(b": ", 1) for line in request.split(b"\r\n")[1:] if b": " in line)
        key = next(value for name, value in headers.items() if name.lower() == b"sec-websocket-key")
        self.asked.set()
        await self.answer.wait()
        accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + A_FRAME
        )
        with contextlib.suppress(ConnectionResetError):
            await reader.read()  # until the client is gone
        self.ended.set()
        writer.close()


@on_uvloop
async def test_a_frame_that_comes_with_the_upgrade_is_not_lost() -> None:
    peer, heard = SlowPeer(), Heard()
    peer.answer.set()
    async with await peer.start():
        transport = await NetworkConnector(connect_timeout_s=PATIENCE_S, max_frame_bytes=65536).open(peer.url, heard)
        async with asyncio.timeout(PATIENCE_S):
            while heard.frames == 0:
                await asyncio.sleep(0.001)
        transport.disconnect()
        await transport.wait_disconnected()

    assert heard.frames == 1


@on_uvloop
async def test_an_upgrade_that_is_not_answered_in_time_is_given_up() -> None:
    peer = SlowPeer()
    async with await peer.start():
        with pytest.raises(Retryable, match=r"not connected within 0\.2 s"):
            await IMPATIENT.open(peer.url, Heard())
        peer.answer.set()
        async with asyncio.timeout(PATIENCE_S):
            await peer.ended.wait()


@on_uvloop
async def test_an_upgrade_that_completes_after_a_cancellation_leaves_no_second_session() -> None:
    peer, heard = SlowPeer(), Heard()
    async with await peer.start():
        connector = NetworkConnector(connect_timeout_s=PATIENCE_S, max_frame_bytes=65536)
        attempt = asyncio.ensure_future(connector.open(peer.url, heard))
        await peer.asked.wait()
        attempt.cancel()
        await asyncio.wait([attempt])
        peer.answer.set()
        async with asyncio.timeout(PATIENCE_S):
            await peer.ended.wait()

    assert attempt.cancelled()
    assert heard.frames == 0


@on_uvloop
async def test_a_peer_that_is_away_can_be_tried_again() -> None:
    peer = SlowPeer()
    async with await peer.start():
        url = peer.url
    request = HttpRequest(url=url.replace("ws:", "http:"), headers={}, body=b"secret")

    with pytest.raises(Retryable, match=url):
        await IMPATIENT.open(url, Heard())
    with pytest.raises(Retryable, match="refused") as failure:
        await IMPATIENT.post(request)
    assert "secret" not in str(failure.value)


@on_uvloop
async def test_a_peer_that_is_no_websocket_server_can_be_tried_again() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(Retryable, match="503"):
            await IMPATIENT.open(url, Heard())


@pytest.mark.requirement("KEY-01")
@on_uvloop
async def test_a_rest_call_that_is_not_answered_in_time_is_given_up_and_a_late_answer_ignored() -> None:
    answer, called = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        called.set()
        await answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/oauth2/Approval"
        request = HttpRequest(url=url, headers={"content-type": "application/json"}, body=b"{}")
        with pytest.raises(Retryable, match=url):
            await IMPATIENT.post(request)
        assert called.is_set()
        answer.set()
        assert await NetworkConnector(connect_timeout_s=PATIENCE_S, max_frame_bytes=65536).post(request) == (200, b"{}")
