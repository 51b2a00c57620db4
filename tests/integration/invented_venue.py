"""A venue that does not exist: its server, and its side in the daemon, with whatever habits a test wants.

Its wire: JSON texts {"do": "login" | "on" | "off", "keys": [...]}; data are trade frames that a real parser reads.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from daemon.config import Account
from daemon.errors import BadFrame
from daemon.ingest.venues.kis import KisVenue
from daemon.ingest.venues.venue import (
    AccessKey,
    ControlMessage,
    Heartbeat,
    HttpRequest,
    KeepAlive,
    LoggedIn,
    Refusal,
    Registration,
    RegistrationRefused,
    SessionFault,
    SessionRefused,
    Subscribed,
    Unsubscribed,
)

TRADE = (Path(__file__).parent.parent / "frames" / "kis" / "data" / "H0STCNT0_single.txt").read_bytes().strip()
SAMPLE_SYMBOL = TRADE.split(b"|")[3].split(b"^")[0]


def trade(symbol: str) -> bytes:
    """A frame with one trade of *symbol*."""
    return TRADE.replace(SAMPLE_SYMBOL, symbol.encode(), 1)


class InventedVenue(KisVenue):
    """The daemon's side."""

    needs_approval_key = False
    needs_login = False
    acknowledges = True
    replaces_all = False
    max_batch = 1
    default_max_subscriptions = 100
    keep_alive: KeepAlive | None = None

    def record_symbol(self, registration: Registration) -> str:
        return registration.key

    def on_session_start(self) -> None:
        pass

    def encode_login(self, key: str) -> bytes:
        return msgspec.json.encode({"do": "login", "keys": [key]})

    def encode_subscribe(self, key: str, registrations: Sequence[Registration]) -> bytes:
        return msgspec.json.encode({"do": "on", "keys": [r.key for r in registrations]})

    def encode_unsubscribe(self, key: str, registrations: Sequence[Registration]) -> bytes:
        return msgspec.json.encode({"do": "off", "keys": [r.key for r in registrations]})

    def decode_control(self, frame: bytes) -> ControlMessage:
        try:
            said = msgspec.json.decode(frame)
        except msgspec.DecodeError as exc:
            raise BadFrame(str(exc)) from exc
        registration = Registration("TRADES", said["key"]) if said.get("key") else None
        match said["is"]:
            case "in":
                return LoggedIn("0")
            case "on":
                return Subscribed(registration, "0")
            case "off":
                return Unsubscribed(registration, "0")
            case "refused":
                return RegistrationRefused(registration, Refusal(said["why"]), "1", said.get("text", "no"))
            case "ended":
                return SessionRefused(SessionFault(said["why"]), "9", "no")
            case _:
                return Heartbeat(b"")

    def approval_request(self, account: Account) -> HttpRequest:
        return HttpRequest(url="http://127.0.0.1:1/key", headers={}, body=account.app_key.encode())

    def decode_approval(self, status: int, body: bytes, now: datetime.datetime) -> AccessKey:
        assert now.tzinfo is not None
        return AccessKey(body.decode(), 3600.0)


class Server:
    """The venue's side. answer: what to say to a request, by default yes; it may return nothing at all."""

    def __init__(self, answer: Callable[[str, list[str]], Sequence[dict[str, Any]]] | None = None) -> None:
        self.answer = answer or (lambda do, _keys: [{"is": {"login": "in"}.get(do, do)}])
        self.requests: list[tuple[str, list[str]]] = []
        self.other: list[bytes] = []
        self.sessions: list[WSTransport] = []
        self.opened = 0
        self._server: Any = None

    async def __aenter__(self) -> Server:
        self._server = await ws_create_server(lambda _request: _Peer(self), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for transport in self.sessions:
            transport.disconnect(graceful=False)
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"

    def say(self, message: dict[str, Any]) -> None:
        for transport in self.sessions:
            transport.send(WSMsgType.TEXT, msgspec.json.encode(message))

    def trade(self, symbol: str) -> None:
        for transport in self.sessions:
            transport.send(WSMsgType.TEXT, trade(symbol))

    def kick(self) -> Sequence[dict[str, Any]]:
        for transport in self.sessions:
            transport.disconnect(graceful=False)
        return ()

    def asked(self, do: str) -> list[list[str]]:
        return [keys for done, keys in self.requests if done == do]

    def take(self, transport: WSTransport, text: bytes) -> None:
        try:
            request = msgspec.json.decode(text)
        except msgspec.DecodeError:
            self.other.append(text)
            return
        self.requests.append((request["do"], request["keys"]))
        for reply in self.answer(request["do"], request["keys"]):
            transport.send(WSMsgType.TEXT, msgspec.json.encode(reply))


class _Peer(WSListener):
    def __init__(self, server: Server) -> None:
        self.server = server

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.server.opened += 1
        self.server.sessions.append(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            self.server.take(transport, frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if transport in self.server.sessions:
            self.server.sessions.remove(transport)
