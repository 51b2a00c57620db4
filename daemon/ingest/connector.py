"""The only I/O of ingest: opening WebSockets, and the one REST call for the approval key."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import threading
from typing import Protocol
from urllib.parse import urlsplit

from picows import WSError, WSListener, WSTransport, ws_connect

from daemon.errors import Retryable, Untrusted
from daemon.ingest.venues.venue import HttpRequest

# An approval reply is below 1 KiB; whatever is longer is not one.
MAX_REPLY_BYTES = 64 * 1024


class Connector(Protocol):
    """What a session needs of the network."""

    async def open(self, url: str, listener: WSListener) -> WSTransport:
        """Connect *listener* to *url*. Raises Retryable."""

    async def post(self, request: HttpRequest) -> tuple[int, bytes]:
        """Return status and body of the reply. Raises Retryable."""


class NetworkConnector:
    """The real one."""

    def __init__(self, *, connect_timeout_s: float, max_frame_bytes: int) -> None:
        """connect_timeout_s: for a whole attempt: name resolution, TCP, TLS, upgrade; likewise for the REST call."""
        self._connect_timeout_s = connect_timeout_s
        self._max_frame_bytes = max_frame_bytes

    async def open(self, url: str, listener: WSListener) -> WSTransport:
        """Connect *listener* to *url*, without pings of our own: venues drop clients for unsolicited control frames."""
        is_taken = is_abandoned = False

        def accept() -> WSListener:
            if is_abandoned:
                raise WSError("the attempt was given up before the upgrade was complete")
            return listener

        # ws_connect must not be cancelled: a socket whose upgrade completes at that moment would live on unseen, as a
        # second session on the same account.
        attempt = asyncio.ensure_future(
            ws_connect(
                accept,
                url,
                websocket_handshake_timeout=self._connect_timeout_s,
                enable_auto_ping=False,
                enable_auto_pong=False,  # the frame listener answers pings: it needs to see every frame of a read
                max_frame_size=self._max_frame_bytes,
                # The event loop's own transport. That of aiofastnet waits with add_reader, and libuv stops polling such
                # a socket without a word when it is reset: of resets by the venue a third went unnoticed (measured).
                use_aiofastnet=False,
            )
        )
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                transport, _ = await asyncio.shield(attempt)
                is_taken = True
                _disable_delay(transport)
                return transport
        except TimeoutError as exc:
            raise Retryable(f"{url}: not connected within {self._connect_timeout_s:g} s") from exc
        except ssl.SSLCertVerificationError as exc:
            raise Untrusted(f"{url}: {exc.verify_message}") from exc
        except (OSError, WSError) as exc:
            raise Retryable(f"{url}: {exc}") from exc
        finally:
            if not is_taken:
                is_abandoned = True
                attempt.add_done_callback(_disconnect)

    async def post(self, request: HttpRequest) -> tuple[int, bytes]:
        """Make one blocking call in a thread of its own.

        It happens about once a day; a client library for it would cost every worker 10 MB of memory (measured). The
        thread is a daemon, so that a venue that never answers cannot hold up our exit.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()

        def settle(result: tuple[int, bytes] | None, error: Exception | None) -> None:
            if answer.done():
                return
            if isinstance(error, ssl.SSLCertVerificationError):
                answer.set_exception(Untrusted(f"{request.url}: {error.verify_message}"))
            elif result is None:
                answer.set_exception(Retryable(f"{request.url}: {error}"))
            else:
                answer.set_result(result)

        def call() -> None:
            result: tuple[int, bytes] | None = None
            error: Exception | None = None
            try:
                result = _post(request, self._connect_timeout_s)
            except (OSError, http.client.HTTPException) as exc:
                error = exc
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=call, name="approval-key", daemon=True).start()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await answer
        except TimeoutError as exc:
            raise Retryable(f"{request.url}: no answer within {self._connect_timeout_s:g} s") from exc


def _disable_delay(transport: WSTransport) -> None:
    """Send small frames (heartbeats, requests) at once."""
    raw = transport.underlying_transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        # A session that ended in the moment in which it began has no socket any more (uvloop: ValueError); the listener
        # has heard, or hears, of that.
        with contextlib.suppress(OSError, ValueError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _disconnect(attempt: asyncio.Future[tuple[WSTransport, WSListener]]) -> None:
    """End a connection that nobody waits for any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result()[0].disconnect(graceful=False)


def _post(request: HttpRequest, timeout_s: float) -> tuple[int, bytes]:
    """POST over HTTP or, with certificate and host name checked, HTTPS."""
    url = urlsplit(request.url)
    client: http.client.HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context()
        client = http.client.HTTPSConnection(url.netloc, timeout=timeout_s, context=context)
    else:
        client = http.client.HTTPConnection(url.netloc, timeout=timeout_s)
    try:
        client.request("POST", url.path, body=request.body, headers=dict(request.headers))
        reply = client.getresponse()
        return reply.status, reply.read(MAX_REPLY_BYTES)
    finally:
        client.close()
