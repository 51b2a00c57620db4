"""Plain clients of the simulated venues: raw frames as they come, and the requests of each dialect."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from daemon.simulator import Simulator, SimulatorOptions

DEADLINE_S = 60.0  # no bound of a requirement: long enough for a machine that does other things


@asynccontextmanager
async def simulating(**options: Any) -> AsyncIterator[Simulator]:
    """One simulator on free ports, without heartbeats unless a test wants them."""
    running = Simulator(SimulatorOptions(**{"pingpong_interval_s": 60.0, **options}))
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


async def wait_until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def post(url: str, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.post(url, data=body) as reply:
        text = await reply.text()
        return reply.status, json.loads(text) if text.startswith("{") else text


def credentials(app_key: str = "app-1") -> bytes:
    return json.dumps({"grant_type": "client_credentials", "appkey": app_key, "secretkey": "secret"}).encode()


class Wire(WSListener):
    """One connection that keeps every frame as (kind, bytes)."""

    def __init__(self) -> None:
        self.frames: list[tuple[WSMsgType, bytes]] = []
        self.closed_with: int | None = None
        self.is_lost = False
        self.transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            self.closed_with = frame.get_close_code().value
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        else:
            self.frames.append((frame.msg_type, frame.get_payload_as_bytes()))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.is_lost = True

    def send(self, text: str | bytes) -> None:
        assert self.transport is not None
        self.transport.send(WSMsgType.TEXT, text.encode() if isinstance(text, str) else text)

    def texts(self) -> list[bytes]:
        return [payload for _, payload in self.frames]

    def parsed(self) -> list[Any]:
        """Every whole JSON message."""
        found = []
        for payload in self.texts():
            try:
                found.append(json.loads(payload))
            except ValueError:
                continue
        return found


@asynccontextmanager
async def connected(url: str, *, max_frame_size: int = 64 << 20, **options: Any) -> AsyncIterator[Wire]:
    wire = Wire()
    transport, _ = await ws_connect(lambda: wire, url, max_frame_size=max_frame_size, enable_auto_pong=False, **options)
    try:
        yield wire
    finally:
        transport.disconnect(graceful=False)


class Kis:
    """KIS's words on a wire."""

    def __init__(self, wire: Wire, key: str) -> None:
        self.wire, self.key = wire, key

    def register(self, tr_id: str, tr_key: str, tr_type: str = "1") -> None:
        header = {"approval_key": self.key, "custtype": "P", "tr_type": tr_type, "content-type": "utf-8"}
        self.wire.send(json.dumps({"header": header, "body": {"input": {"tr_id": tr_id, "tr_key": tr_key}}}))

    def codes(self) -> list[str]:
        return [reply["body"]["msg_cd"] for reply in self.wire.parsed() if "body" in reply]

    def data(self) -> list[bytes]:
        return [text for text in self.wire.texts() if text[:2] in (b"0|", b"1|")]

    def records(self, tr_id: str, width: int) -> Iterator[list[str]]:
        """Every record of one TR; frames whose count does not fit are left out."""
        for text in self.data():
            _, found, count, payload = text.decode("latin-1").split("|", 3)
            fields = payload.split("^")
            if found == tr_id and len(fields) == width * int(count):
                yield from (fields[start : start + width] for start in range(0, len(fields), width))


@asynccontextmanager
async def kis(simulator: Simulator, app_key: str = "app-1") -> AsyncIterator[Kis]:
    addresses = simulator.addresses()["kis"]
    _, fields = await post(f"{addresses['rest_url']}/oauth2/Approval", credentials(app_key))
    async with connected(addresses["ws_url"]) as wire:
        yield Kis(wire, fields["approval_key"])


class Kiwoom:
    """Kiwoom's words on a wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def ask(self, trnm: str, items: list[str], types: list[str], **more: str) -> None:
        fields = {"trnm": trnm, "grp_no": "1", "refresh": "1", **more, "data": [{"item": items, "type": types}]}
        self.wire.send(json.dumps(fields))

    def replies(self, trnm: str) -> list[Any]:
        return [message for message in self.wire.parsed() if message.get("trnm") == trnm]

    def entries(self, kind: str | None = None) -> list[Any]:
        found = [entry for message in self.replies("REAL") for entry in message["data"]]
        return [entry for entry in found if kind in (None, entry["type"])]


async def kiwoom_token(simulator: Simulator, app_key: str = "app-1") -> str:
    _, fields = await post(f"{simulator.addresses()['kiwoom']['rest_url']}/oauth2/token", credentials(app_key))
    return str(fields["token"])


@asynccontextmanager
async def kiwoom(simulator: Simulator, app_key: str = "app-1", token: str | None = None) -> AsyncIterator[Kiwoom]:
    """A session that has logged in; with a token of "", one that has not."""
    token = await kiwoom_token(simulator, app_key) if token is None else token
    async with connected(simulator.addresses()["kiwoom"]["ws_url"]) as wire:
        session = Kiwoom(wire)
        if token:
            wire.send(json.dumps({"trnm": "LOGIN", "token": token}))
            await wait_until(lambda: session.replies("LOGIN"))
        yield session


class Upbit:
    """Upbit's words on a wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def ask(self, *members: dict[str, Any], form: str | None = None) -> None:
        request: list[Any] = [{"ticket": str(uuid.uuid4())}, *members]
        self.wire.send(json.dumps(request + ([{"format": form}] if form else [])))

    def errors(self) -> list[str]:
        return [m["error"]["name"] for m in self.wire.parsed() if isinstance(m, dict) and "error" in m]

    def data(self, kind: str) -> list[Any]:
        return [m for m in self.wire.parsed() if isinstance(m, dict) and kind in (m.get("type"), m.get("ty"))]


@asynccontextmanager
async def upbit(simulator: Simulator, **options: Any) -> AsyncIterator[Upbit]:
    async with connected(simulator.addresses()["upbit"]["ws_url"], **options) as wire:
        yield Upbit(wire)
