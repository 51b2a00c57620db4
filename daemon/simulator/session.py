"""One WebSocket session: answers its requests, keeps its registrations, and sends in batches.

A session holds an app key from its first accepted request until it closes. It is a picows listener; picows reads and
does the handshake, while messages are framed here so that a batch leaves in one system call.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import Enum, auto
from typing import cast

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from daemon.simulator import dialect, framing
from daemon.simulator.dialect import Code, Refusal, Request
from daemon.simulator.faults import GARBAGE
from daemon.simulator.market import ExchangeTime, Instrument
from daemon.simulator.venue import Venue

MAX_UNSENT_BYTES = 4 << 20  # a client so far behind gets nothing new until it has read
CLOSE_GRACE_S = 5.0  # for the client's half of a close handshake
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() sends RST


class State(Enum):
    """Where a session is in its life; it only ever moves downwards."""

    CONNECTING = auto()  # the upgrade is not finished
    OPEN = auto()  # sends and receives
    CLOSING = auto()  # a close frame left: nothing more is sent
    CLOSED = auto()


class Registration:
    """One (TR, symbol) of one session."""

    __slots__ = ("frame_head", "instrument", "is_trade", "journal_head", "produce", "session", "tr_id", "tr_key")

    def __init__(self, session: "Session", tr_id: str, tr_key: str, instrument: Instrument) -> None:
        self.session = session
        self.tr_id = tr_id
        self.tr_key = tr_key
        self.instrument = instrument
        self.is_trade = tr_id == dialect.TRADE_TR
        self.produce = instrument.trade if self.is_trade else instrument.book
        self.frame_head = dialect.data_frame(tr_id, [""])
        self.journal_head = f"{session.number},{dialect.KINDS[tr_id]},{tr_key},"


class Session(WSListener):
    """The server's end of one connection."""

    def __init__(self, venue: Venue) -> None:
        self.number = venue.new_session_number()
        self.registrations: dict[tuple[str, str], Registration] = {}
        self.state = State.CONNECTING
        self.closed = asyncio.Event()
        self._venue = venue
        self._fragment = venue.options.fragment
        self._transport: WSTransport | None = None
        self._outbox: list[str] = []
        self._journal_lines: list[str] = []
        self._partial = b""  # of a fragmented request
        self._iv = f"{venue.draw.getrandbits(64):016x}"
        self._key = f"{venue.draw.getrandbits(128):032x}"
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._late_replies: list[asyncio.TimerHandle] = []
        self._pinged_at: float | None = None  # when the oldest unanswered heartbeat left

    # Called by picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Enter the venue's list of sessions and start the heartbeat."""
        self._transport = transport
        self.state = State.OPEN
        self._venue.sessions[self.number] = self
        self._venue.note("connect", self.number)
        self._start_timer("pingpong", self._venue.options.pingpong_interval_s, self._ping)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Collect one message; answer it when it is whole."""
        if frame.msg_type == WSMsgType.CLOSE:
            self.state = State.CLOSING
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            self._partial += frame.get_payload_as_bytes()
            if frame.fin:
                message, self._partial = self._partial, b""
                self._answer(message)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Free the app key and forget the registrations."""
        self.state = State.CLOSED
        self.closed.set()
        for timer in (*self._timers.values(), *self._late_replies):
            timer.cancel()
        venue = self._venue
        venue.sessions.pop(self.number, None)
        venue.approvals.release(self.number)
        self.registrations.clear()
        venue.refresh_registrations()
        venue.note("disconnect", self.number)

    # Called by the offer

    @property
    def accepts_records(self) -> bool:
        """Whether a record would be handed to the transport now; False for a client that does not read."""
        return (
            self.state is State.OPEN
            and cast(WSTransport, self._transport).underlying_transport.get_write_buffer_size() <= MAX_UNSENT_BYTES
        )

    def put_frame(self, text: str) -> None:
        """Queue one message (latin-1 text) for the next `flush()`."""
        fragment = self._fragment
        if fragment and self._venue.draw.random() < fragment:
            self._venue.counts["fragmented"] += 1
            self._outbox.append("".join(framing.fragments(text, framing.random_cuts(len(text), self._venue.draw))))
        else:
            self._outbox.append(framing.frame(text))

    def put_record(self, registration: Registration, now: ExchangeTime) -> None:
        """Produce one record and queue its frame and its line of the journal, which lacks only the last column."""
        text, key, price, size = registration.produce(now)
        self.put_frame(registration.frame_head + text)
        self._journal_lines.append(f"{registration.journal_head}{key},{price},{size}")

    def put_records(self, registrations: list[Registration], now: ExchangeTime) -> None:
        """Produce one record for each of *registrations* (of one TR) and queue them as one frame."""
        texts = []
        for registration in registrations:
            text, key, price, size = registration.produce(now)
            texts.append(text)
            self._journal_lines.append(f"{registration.journal_head}{key},{price},{size}")
        self.put_frame(dialect.data_frame(registrations[0].tr_id, texts))

    def flush(self) -> None:
        """Hand everything queued to the transport, then journal the records among it."""
        outbox, self._outbox = self._outbox, []
        lines, self._journal_lines = self._journal_lines, []
        if self.state is not State.OPEN or not outbox:
            return
        payload = "".join(outbox).encode("latin-1")
        sent_ns = self._venue.wall_ns()
        cast(WSTransport, self._transport).underlying_transport.write(payload)
        self._venue.counts["messages"] += len(outbox)
        self._venue.counts["bytes"] += len(payload)
        if lines and self._venue.journal is not None:
            end = f",{sent_ns}\n"
            self._venue.journal.record_lines(end.join(lines) + end)

    def send(self, text: str) -> None:
        """Send one message now, unless a stall swallows it."""
        if not self._venue.is_stalled:
            self.put_frame(text)
            self.flush()

    # Called by the faults and by the simulator

    def close(self, code: WSCloseCode = WSCloseCode.OK) -> None:
        """Begin a proper close; the connection is cut if the client does not answer in time."""
        if self.state is State.OPEN:
            transport = cast(WSTransport, self._transport)
            self.flush()
            self.state = State.CLOSING
            transport.send_close(code)
            self._start_timer("close", CLOSE_GRACE_S, self.cut)

    def cut(self) -> None:
        """Drop the connection without waiting for anything."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def abort(self) -> None:
        """Reset the connection in the middle of a fragmented frame. Bytes that still wait in a buffer are lost."""
        if self.state is not State.OPEN:
            return
        transport = cast(WSTransport, self._transport).underlying_transport
        unfinished = dialect.data_frame(dialect.TRADE_TR, [GARBAGE[0][1].split("|")[3]])
        transport.write(framing.fragments(unfinished, [len(unfinished) // 2])[0].encode("latin-1"))
        self.state = State.CLOSING
        self._venue.note("abort", self.number)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    # Heartbeat

    def _ping(self) -> None:
        venue, now = self._venue, asyncio.get_running_loop().time()
        timeout_s = venue.options.pingpong_timeout_s
        if timeout_s and self._pinged_at is not None and now - self._pinged_at > timeout_s:
            venue.counts["pingpong_timeouts"] += 1
            self.cut()
            return
        if not venue.is_stalled:
            time = venue.exchange_time()
            self.send(dialect.pingpong(time.yyyymmdd + time.hhmmss))
            venue.counts["pingpong_sent"] += 1
            if self._pinged_at is None:
                self._pinged_at = now
        self._start_timer("pingpong", venue.options.pingpong_interval_s, self._ping)

    def _on_echo(self) -> None:
        venue = self._venue
        venue.counts["pingpong_echoed"] += 1
        if self._pinged_at is not None:
            delay_ms = (asyncio.get_running_loop().time() - self._pinged_at) * 1000
            venue.pingpong_echo_max_ms = max(venue.pingpong_echo_max_ms, delay_ms)
            self._pinged_at = None

    # Requests

    def _answer(self, message: bytes) -> None:
        if dialect.is_pingpong(message):
            self._on_echo()
            return
        request = dialect.parse_request(message)
        if isinstance(request, Refusal):
            self._reply(request.code, request.tr_id, request.tr_key)
            if not message:
                self.close(WSCloseCode.POLICY_VIOLATION)  # the venue hangs up on an empty text
            return
        plan, key = self._venue.faults, request.tr_key
        if request.subscribe and key in plan.no_ack and plan.no_ack[key].take():
            self._note_request(request, "ignored")
            return
        code, detail = self._decide(request)
        self._note_request(request, code)
        if request.subscribe and key in plan.lost_ack and plan.lost_ack[key].take():
            return
        if plan.ack_wrong_tr and code == Code.SUBSCRIBED:
            self._send_stray_successes(request)
        no_tr = code in (Code.APP_KEY_IN_USE, Code.INVALID_TR_ID)
        self._reply(code, *(() if no_tr else (request.tr_id, key)), detail=detail, delay_s=plan.late_ack_s)

    def _decide(self, request: Request) -> tuple[str, str]:
        """Apply *request*; return the code of the reply and its detail."""
        venue, place = self._venue, (request.tr_id, request.tr_key)
        app_key = venue.approvals.app_key_of(request.approval_key)
        if app_key is None:
            return Code.INVALID_APPROVAL, request.approval_key or "NOT FOUND"
        if not venue.approvals.claim(app_key, self.number):
            return Code.APP_KEY_IN_USE, ""
        if not request.subscribe:
            if self.registrations.pop(place, None) is None:
                return Code.NOT_SUBSCRIBED, ""
            venue.refresh_registrations()
            return Code.UNSUBSCRIBED, ""
        return self._register(*place), ""

    def _register(self, tr_id: str, tr_key: str) -> str:
        venue, place = self._venue, (tr_id, tr_key)
        error = venue.faults.errors.get(tr_key)
        if error is not None and error[1].take():
            return error[0]
        if place in self.registrations:
            return Code.ALREADY_SUBSCRIBED
        if len(self.registrations) >= venue.max_registrations:
            return Code.MAX_SUBSCRIBE_OVER
        self.registrations[place] = Registration(self, tr_id, tr_key, venue.market.instrument(tr_key))
        venue.refresh_registrations()
        return Code.SUBSCRIBED

    def _reply(self, code: str, *tr: str, detail: str = "", delay_s: float = 0.0) -> None:
        text = dialect.reply(code, *tr, detail=detail, iv=self._iv, key=self._key)
        self._venue.replies[str(code)] += 1
        if delay_s:
            self._late_replies.append(asyncio.get_running_loop().call_later(delay_s, self.send, text))
        else:
            self.send(text)

    def _send_stray_successes(self, request: Request) -> None:
        """Send UNSUBSCRIBE SUCCESS for what is not registered yet: the requested TR, and its sister if that is free."""
        for tr_id in dialect.KINDS:
            if tr_id == request.tr_id or (tr_id, request.tr_key) not in self.registrations:
                self.send(dialect.reply(Code.UNSUBSCRIBED, tr_id, request.tr_key, iv=self._iv, key=self._key))

    def _note_request(self, request: Request, code: str) -> None:
        event = "subscribe" if request.subscribe else "unsubscribe"
        self._venue.note(event, self.number, tr_id=request.tr_id, tr_key=request.tr_key, msg_cd=str(code))

    def _start_timer(self, name: str, delay_s: float, call: Callable[[], None]) -> None:
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, call)
