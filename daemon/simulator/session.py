"""One WebSocket session: keeps its registrations, sends in batches, and misbehaves on command.

What it says is in the session of each venue. It is a picows listener; picows reads and does the handshake, while
messages are framed here so that a batch leaves in one system call.
"""

import asyncio
import socket
import struct
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, ClassVar, cast

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from daemon.simulator import framing
from daemon.simulator.faults import FaultPlan
from daemon.simulator.market import ExchangeTime
from daemon.simulator.streams import Fate, Record, Registration, Stream
from daemon.simulator.venue import Venue

MAX_UNSENT_BYTES = 4 << 20  # a client so far behind gets nothing new until it has read
CLOSE_GRACE_S = 5.0  # for the client's half of a close handshake
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() sends RST


class State(Enum):
    """Where a session is in its life; it only ever moves downwards."""

    CONNECTING = auto()  # the upgrade is not finished
    OPEN = auto()  # sends and receives
    HALF_OPEN = auto()  # neither reads nor writes any more, and does not say so
    CLOSING = auto()  # a close frame left: nothing more is sent
    CLOSED = auto()


class Session(WSListener):
    """The server's end of one connection."""

    is_binary: ClassVar[bool] = False  # data travels in binary frames

    def __init__(self, venue: Venue) -> None:
        self.venue = venue
        self.number = venue.new_session_number()
        self.app_key = ""  # until the client has said it
        self.plan: FaultPlan = venue.world.faults.plan(venue.name)
        self.is_meddled = self.plan.touches_records
        self.registrations: dict[tuple[str, str], Registration] = {}
        self.by_stream: dict[Stream, Registration] = {}
        self.state = State.CONNECTING
        self.is_stalled = False
        self.closed = asyncio.Event()
        self._fragment = venue.options.fragment
        self._transport: WSTransport | None = None
        self._outbox: list[str] = []
        self._journal_lines: list[str] = []
        self._partial = b""  # of a fragmented request
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._late: list[asyncio.TimerHandle] = []
        self._jittered_until_s = 0.0
        self._delayed: deque[bytes] = deque()
        self._frames = 0  # data frames that faults looked at
        self._said_goodbye = False
        self.frame_of = framing.binary_frame if self.is_binary else framing.frame

    # What a venue says

    @abstractmethod
    def on_open(self) -> None:
        """Start the timers of a new session."""

    @abstractmethod
    def answer(self, message: bytes) -> None:
        """Answer one whole message of the client."""

    def supersede(self) -> None:
        """End this session as if its app key were used elsewhere."""
        self.close()

    @abstractmethod
    def compose(self, parts: Sequence[tuple[Registration, Record]]) -> str:
        """Return the message that carries these records, one of each part."""

    @abstractmethod
    def spoil(self, message: str, shape: str) -> str | None:
        """Return *message* with "wrong_count" or "bad_utf8"; None where the venue's frames have no such thing."""

    # Called by picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Enter the venue's list of sessions, unless it is kicked at once."""
        self._transport = transport
        self.state = State.OPEN
        self.venue.sessions[self.number] = self
        self.venue.note("connect", self.number)
        self.on_open()
        self.kick_if_due()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Collect one message; answer it when it is whole."""
        if frame.msg_type == WSMsgType.CLOSE:
            self._said_goodbye = True
            self.state = State.CLOSING
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
            self.on_traffic()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            self._partial += frame.get_payload_as_bytes()
            self.on_traffic()
            if frame.fin:
                message, self._partial = self._partial, b""
                self.answer(message)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Free the app key and forget the registrations."""
        self.state = State.CLOSED
        self.closed.set()
        for timer in (*self._timers.values(), *self._late):
            timer.cancel()
        venue = self.venue
        venue.sessions.pop(self.number, None)
        self._release()
        self.registrations.clear()
        self.by_stream.clear()
        venue.note_change()
        venue.note("disconnect", self.number)

    def on_traffic(self) -> None:
        """Take note that the client said anything at all."""

    # Registrations

    def become(self, app_key: str) -> None:
        """Take note of whose session this is, and of the faults meant for it."""
        if app_key != self.app_key:
            self.app_key = app_key
            self.refresh_plan()
            self.kick_if_due()

    def refresh_plan(self) -> None:
        """Look up the faults again."""
        self.plan = self.venue.world.faults.plan(self.app_key, self.venue.name)
        self.is_meddled = self.plan.touches_records
        self.venue.note_change()

    @property
    def max_registrations(self) -> int:
        """How many registrations this session takes."""
        limit = self.plan.limit
        return self.venue.max_registrations if limit is None else min(limit, self.venue.max_registrations)

    def add(self, channel: str, key: str, how: Any = None) -> Registration:
        """Register; what the faults want to be sent again is sent when the reply has left. Any: see Registration."""
        stream = self.venue.stream(channel, key)
        registration = Registration(self, stream, how)
        self.registrations[channel, key] = self.by_stream[stream] = registration
        self.venue.note_change()
        if self.plan.replay and stream.recent:
            self._late.append(asyncio.get_running_loop().call_later(0, self._replay, registration))
        return registration

    def remove(self, channel: str, key: str) -> bool:
        """Give a registration up; False if there was none."""
        registration = self.registrations.pop((channel, key), None)
        if registration is None:
            return False
        del self.by_stream[registration.stream]
        self.venue.note_change()
        return True

    def hears(self, registration: Registration) -> bool:
        """Whether records of *registration* are sent at all."""
        return not self.plan.pingpong_only and registration.stream.subject.symbol not in self.plan.silent

    # Called by the offer

    @property
    def is_muted(self) -> bool:
        """Whether a stall swallows what is said."""
        return self.is_stalled or self.venue.is_stalled

    @property
    def is_half_open(self) -> bool:
        """Whether the session pretends to live."""
        return self.state is State.HALF_OPEN

    @property
    def is_open(self) -> bool:
        """Whether what is flushed now goes to the client."""
        return self.state is State.OPEN

    @property
    def accepts_records(self) -> bool:
        """Whether a record would be handed to the transport now; False for a client that does not read."""
        return (
            self.state is State.OPEN
            and not self.is_muted
            and cast(WSTransport, self._transport).underlying_transport.get_write_buffer_size() <= MAX_UNSENT_BYTES
        )

    def put_frame(self, text: str) -> None:
        """Queue one message (latin-1 text) for the next `flush()`."""
        fragment = self._fragment
        if fragment and self.venue.draw.random() < fragment:
            self.venue.counts["fragmented"] += 1
            cuts = framing.random_cuts(len(text), self.venue.draw)
            self._outbox.append("".join(framing.fragments(text, cuts, binary=self.is_binary)))
        else:
            self._outbox.append(self.frame_of(text))

    def put_one(self, registration: Registration, now: ExchangeTime) -> None:
        """Produce one record for this session alone, and queue its frame and its line of the journal."""
        stream = registration.stream
        record = stream.produce(now)
        self.put_frame(self.compose([(registration, record)]))
        self._journal_lines.append(stream.line(self.number, record, Fate.SENT))

    def put(self, streams: Sequence[Stream], records: Sequence[Record]) -> list[Fate] | None:
        """Queue records, as one frame where the venue can, and return what became of each; None: all are sent."""
        by_stream = self.by_stream
        parts = [(by_stream[stream], record) for stream, record in zip(streams, records, strict=True)]
        if self.is_meddled:
            return self._put_meddled(parts)
        self.put_frame(self.compose(parts))
        return None

    def _put_meddled(self, parts: list[tuple[Registration, Record]]) -> list[Fate]:
        plan = self.plan
        fates: list[Fate] = []
        out: list[tuple[Registration, Record]] = []
        for registration, record in parts:
            left, fate = registration.meddle(record)
            fates.append(fate)
            out += [(registration, one) for one in left]
        if not out:
            return fates
        message = self.compose(out)
        self._frames += 1
        is_plain = len(out) == len(parts)  # a record that was held keeps the fate that the journal has already
        for shape, every in (("wrong_count", plan.wrong_count_every), ("truncate", plan.truncate_every)):
            if every and is_plain and self._frames % every == 0:
                spoiled = (
                    message[: -len(message) // (3 * len(out))] if shape == "truncate" else self.spoil(message, shape)
                )
                if spoiled is not None:
                    message = spoiled
                    fates = [Fate.DAMAGED if fate is Fate.SENT else fate for fate in fates]
                    self.venue.counts[f"frames_{shape}"] += 1
                    break
        if plan.bad_utf8_every and self._frames % plan.bad_utf8_every == 0:
            message = self.spoil(message, "bad_utf8") or message
            self.venue.counts["frames_bad_utf8"] += 1
        self.put_frame(message)
        if plan.duplicate and self.venue.draw.random() < plan.duplicate:
            self.put_frame(message)
            self.venue.counts["duplicates"] += len(out)
        return fates

    def note_record(self, line: str) -> None:
        """Queue a line of the journal, to be written when the queued frames have left."""
        self._journal_lines.append(line)

    def flush(self) -> None:
        """Hand everything queued to the transport, then journal the records among it."""
        outbox, self._outbox = self._outbox, []
        lines, self._journal_lines = self._journal_lines, []
        if self.state is not State.OPEN:
            return
        if outbox:
            payload = "".join(outbox).encode("latin-1")
            self._write(payload)
            self.venue.counts["messages"] += len(outbox)
            self.venue.counts["bytes"] += len(payload)
        if lines:  # perhaps only of records that were left out on purpose
            self.venue.write_lines(lines)

    def _write(self, payload: bytes) -> None:
        jitter = self.plan.jitter_ms
        if jitter is None and not self._jittered_until_s:
            cast(WSTransport, self._transport).underlying_transport.write(payload)
            return
        loop = asyncio.get_running_loop()
        delay_s = self.venue.draw.uniform(*jitter) / 1000 if jitter else 0.0
        self._jittered_until_s = max(self._jittered_until_s, loop.time() + delay_s)  # never before what came earlier
        self._late = [timer for timer in self._late if timer.when() > loop.time()]
        self._delayed.append(payload)
        self._late.append(loop.call_at(self._jittered_until_s, self._write_late))

    def _write_late(self) -> None:
        payload = self._delayed.popleft()  # not an argument: timers of one moment come in any order
        if self.state is State.OPEN:
            cast(WSTransport, self._transport).underlying_transport.write(payload)

    def send(self, text: str) -> None:
        """Send one message now, unless a stall swallows it."""
        if not self.is_muted:
            self.put_frame(text)
            self.flush()

    def send_later(self, delay_s: float, text: str) -> None:
        """Send one message after a while; at once if that is 0."""
        if delay_s:
            self._late.append(asyncio.get_running_loop().call_later(delay_s, self.send, text))
        else:
            self.send(text)

    def _replay(self, registration: Registration) -> None:
        for record in registration.stream.recent:
            self.put_frame(self.compose([(registration, record)]))
            self.venue.counts["duplicates"] += 1
        self.flush()

    # Called by the faults and by the simulator

    def kick_if_due(self) -> None:
        """Close at once while connections are accepted only to be closed."""
        if self.plan.kick_for_s and self.venue.world.elapsed_s() < self.plan.kick_for_s:
            self.venue.counts["kicked"] += 1
            self.close()

    def close(self, code: WSCloseCode = WSCloseCode.OK) -> None:
        """Begin a proper close; the connection is cut if the client does not answer in time."""
        if self.state is State.OPEN:
            transport = cast(WSTransport, self._transport)
            self._send_held()
            self.flush()
            self._said_goodbye = True
            self.state = State.CLOSING
            transport.send_close(code)
            self.start_timer("close", CLOSE_GRACE_S, self.cut)

    def _send_held(self) -> None:
        """Queue what was to come after a record that will not come any more: the journal has it as sent."""
        for registration in self.registrations.values():
            if registration.held is not None:
                self.put_frame(self.compose([(registration, registration.held)]))
                registration.held = None

    def cut(self) -> None:
        """Drop the connection without waiting for anything."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def abort(self) -> None:
        """Reset the connection in the middle of a fragmented frame. Bytes that still wait in a buffer are lost."""
        if self.state is not State.OPEN:
            return
        transport = cast(WSTransport, self._transport).underlying_transport
        unfinished = self.venue.speech.garbage()[0][1]
        first = framing.fragments(unfinished, [len(unfinished) // 2], binary=self.is_binary)[0]
        transport.write(first.encode("latin-1"))
        self.state = State.CLOSING
        self.venue.note("abort", self.number)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    def half_open(self) -> None:
        """Stop reading and writing without a word; the client finds out by itself. The app key is free again."""
        if self.state is not State.OPEN:
            return
        self.flush()
        self.state = State.HALF_OPEN
        cast(WSTransport, self._transport).underlying_transport.pause_reading()
        self._release()
        self.venue.note_change()
        self.venue.note("half_open", self.number)

    def stall(self, seconds: float) -> None:
        """Say nothing for a while."""
        self.is_stalled = True
        self.start_timer("stall", seconds, self._end_stall)
        self.venue.note("stall", self.number)

    def _end_stall(self) -> None:
        self.is_stalled = False

    def write_raw(self, data: bytes) -> None:
        """Hand bytes that are frames already to the transport in one write."""
        if self.accepts_records:
            self.flush()
            self._write(data)

    def _release(self) -> None:
        plan = self.plan
        held_s = 0.0 if self._said_goodbye else plan.slot_held_s
        self.venue.approvals.release(self.number, held_s=held_s, held_attempts=plan.slot_held_attempts)

    def start_timer(self, name: str, delay_s: float, call: Callable[[], None]) -> None:
        """Call later, once, instead of what was called so before."""
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, call)

    def stop_timer(self, name: str) -> None:
        """Do not call any more."""
        if name in self._timers:
            self._timers.pop(name).cancel()
