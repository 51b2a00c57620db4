"""The frame listener on real loopback sockets: a picows server as the venue, the KIS parser, a ring."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import picows
import pytest
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.frame_listener import FrameListener
from native_pipeline.parse_kis import KisParser
from native_pipeline.records import QUARANTINE_REASONS
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.spec.ring_support import MIB, QUARANTINE, Seen, drain, new_ring

SAMPLE = (Path(__file__).parents[1] / "frames" / "kis" / "data" / "H0STCNT0_single.txt").read_text("ascii").strip()
VOLUME = 12
TRADE = 1


def trade(number: int) -> bytes:
    """A frame of one trade whose volume is *number*."""
    head, payload = SAMPLE.rsplit("|", 1)
    fields = payload.split("^")
    fields[VOLUME] = str(number)
    return f"{head}|{'^'.join(fields)}".encode("ascii")


def wire(kind: WSMsgType, payload: bytes, *, fin: bool = True) -> bytes:
    """The bytes of an unmasked frame, as a server sends it."""
    first = (0x80 if fin else 0) | kind.value
    if len(payload) < 126:
        return struct.pack(">BB", first, len(payload)) + payload
    if len(payload) < 65_536:
        return struct.pack(">BBH", first, 126, len(payload)) + payload
    return struct.pack(">BBQ", first, 127, len(payload)) + payload


def text(payload: bytes) -> bytes:
    return wire(WSMsgType.TEXT, payload)


class Venue(WSListener):
    """The server's end of the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[tuple[WSMsgType, bytes]] = []
        self.transport: WSTransport | None = None
        self.news = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.news.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.received.append((frame.msg_type, frame.get_payload_as_bytes()))
        self.news.set()

    def send(self, data: bytes) -> None:
        """Write bytes as they are: in one call, so that they arrive in as few reads as possible."""
        assert self.transport is not None
        self.transport.underlying_transport.write(data)


class Line:
    """A listener under test, its ring, and the venue at the other end."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.ring = RingWriter(path := new_ring(directory))
        self.reader = GatingReader(path, "writer")
        create_counters_file(directory / "counters", 1)
        self.counters = CountersBlock(directory / "counters", 0)
        self.counters.take("worker-0")
        self.control: list[bytes] = []
        self.closed = 0
        self.parser = KisParser(venue=1, market=1)
        self.parser.keeps_all = True  # the same frame is sent again and again
        self.listener = FrameListener(
            self.ring, self.parser, self.counters, self.control.append, self._on_closed, **options
        )
        self.venue = Venue()

    def _on_closed(self) -> None:
        self.closed += 1

    async def open(self) -> None:
        self.server = await picows.ws_create_server(lambda _: self.venue, "127.0.0.1", 0, enable_auto_pong=False)
        port = self.server.sockets[0].getsockname()[1]
        self.transport, _ = await picows.ws_connect(
            lambda: self.listener, f"ws://127.0.0.1:{port}/", enable_auto_pong=False
        )
        await self.until(lambda: self.venue.transport is not None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for *condition*; the test's timeout is the only bound."""
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.transport.disconnect(graceful=False)
        await self.until(lambda: self.closed == 1)
        self.server.close()
        await self.server.wait_closed()

    def take(self) -> list[Seen]:
        """The published records; their space is given back."""
        seen = drain(self.reader)
        self.reader.commit()
        return seen


def volumes(records: list[Seen]) -> list[int]:
    assert {TRADE} >= {record.kind for record in records}
    return [int.from_bytes(record.body[40:48], "little") for record in records]


def reason(record: Seen) -> str:
    assert record.kind == QUARANTINE
    return QUARANTINE_REASONS[int.from_bytes(record.body[8:10], "little")]


Scenario = Callable[[Line], Coroutine[None, None, None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., Line]:
    """Run a scenario on uvloop, as the worker does."""

    def run(scenario: Scenario, **options: Any) -> Line:
        line = Line(tmp_path, **options)

        async def whole() -> None:
            await line.open()
            await scenario(line)
            await line.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())
        return line

    return run


@pytest.mark.requirement("DLP-01")
def test_a_message_cut_anywhere_is_joined_again(play: Callable[..., Line]) -> None:
    message = trade(1)

    async def scenario(line: Line) -> None:
        for number in range(1, len(message)):
            cut = trade(number)[:number], trade(number)[number:]
            line.venue.send(wire(WSMsgType.TEXT, cut[0], fin=False) + wire(WSMsgType.CONTINUATION, cut[1]))
        await line.until(lambda: line.listener.frames == 2 * (len(message) - 1))
        assert list(range(1, len(message))) == volumes(line.take())

    play(scenario)


def test_fragments_may_have_pings_between_them_and_be_empty(play: Callable[..., Line]) -> None:
    async def scenario(line: Line) -> None:
        message = trade(7)
        line.venue.send(wire(WSMsgType.TEXT, b"", fin=False))
        for byte in message:
            line.venue.send(wire(WSMsgType.PING, b"") + wire(WSMsgType.CONTINUATION, bytes([byte]), fin=False))
        line.venue.send(wire(WSMsgType.CONTINUATION, b"") + text(trade(8)))
        await line.until(lambda: line.reader.lag_bytes > 0)
        await line.until(lambda: len(line.venue.received) == len(message))
        assert volumes(line.take()) == [7, 8]

    play(scenario)


def test_a_ping_that_ends_a_read_is_answered_and_delays_nothing(play: Callable[..., Line]) -> None:
    async def scenario(line: Line) -> None:
        line.venue.send(text(trade(1)) + text(trade(2)) + wire(WSMsgType.PING, b"are you there"))
        await line.until(lambda: bool(line.venue.received))
        assert line.venue.received == [(WSMsgType.PONG, b"are you there")]
        assert volumes(line.take()) == [1, 2]

    play(scenario)


def test_frames_of_one_read_have_one_receive_time_and_become_visible_together(play: Callable[..., Line]) -> None:
    async def scenario(line: Line) -> None:
        line.venue.send(b"".join(text(trade(number)) for number in range(1, 20)))
        await line.until(lambda: line.reader.lag_bytes > 0)
        line.reader.fetch_bytes()
        stamps = [int.from_bytes(raw[16:24], "little") for raw in iter(line.reader.next_bytes, None)]
        assert len(stamps) == 19
        assert {line.listener.last_frame_ns} == set(stamps) == {line.listener.last_data_ns}

    line = play(scenario)
    assert (line.counters.get("frames_received"), line.counters.get("records_received")) == (19, 19)


def test_control_messages_reach_python_in_order_with_the_data_around_them(play: Callable[..., Line]) -> None:
    async def scenario(line: Line) -> None:
        line.venue.send(text(b'{"header":1}') + text(trade(1)) + text(b'{"header":2}'))
        await line.until(lambda: len(line.control) == 2)
        assert line.control == [b'{"header":1}', b'{"header":2}']
        assert volumes(line.take()) == [1]

    assert play(scenario).counters.get("control_frames") == 2


MOST_AT_ONCE = 200  # MOST_CONTROL in frame_listener.pyx


@pytest.mark.requirement("F17")
@pytest.mark.parametrize("is_closed", [False, True], ids=["on an open line", "that outlives its connection"])
def test_a_flood_of_control_messages_is_handed_over_in_portions_with_the_data_around_it(
    play: Callable[..., Line], is_closed: bool
) -> None:
    control = [b'{"n":%d}' % number for number in range(3_000)]
    numbers = range(1, 1 + len(control) // 10)

    async def scenario(line: Line) -> None:
        order: list[Any] = []  # as it came out of the listener; of one turn of the loop, control messages first
        parts = [*(one for number in numbers for one in (*control[10 * number - 10 : 10 * number], trade(number)))]
        blob = b"".join(map(text, parts))
        line.venue.send(blob + (wire(WSMsgType.CLOSE, struct.pack(">H", 1000)) if is_closed else b""))
        while len(order) < len(control) + len(numbers):
            await line.until(lambda: line.listener.paused or line.reader.lag_bytes > 0 or len(line.control) > 0)
            assert len(line.control) <= 2 * MOST_AT_ONCE  # the rest of what was held, and a portion of the next read
            order += [*line.control, *volumes(line.take())]
            line.control.clear()
            line.listener.try_resume()
            await asyncio.sleep(0)
        assert [one for one in order if isinstance(one, bytes)] == control
        assert [one for one in order if isinstance(one, int)] == list(numbers)
        for number in numbers:  # each trade behind the control messages before it, and not far behind
            before = sum(isinstance(one, bytes) for one in order[: order.index(number)])
            assert 10 * number <= before <= 10 * number + 2 * MOST_AT_ONCE
        assert line.listener.held_bytes == 0
        if is_closed:
            await line.until(lambda: line.closed == 1)

    line = play(scenario)
    assert line.counters.get("control_frames") == len(control)
    assert line.counters.get("socket_pauses") >= 1


@pytest.mark.requirement("BP-01", "DLP-01")
def test_a_full_ring_pauses_the_socket_and_loses_and_reorders_nothing(play: Callable[..., Line]) -> None:
    count = 8 * MIB // 120  # eight times what the ring holds

    async def scenario(line: Line) -> None:
        line.venue.send(b"".join(text(trade(number)) for number in range(1, count + 1)) + text(b'{"after":1}'))
        found: list[int] = []
        held = 0
        while len(found) < count or not line.control:
            await line.until(lambda: line.listener.paused or line.reader.lag_bytes > 0 or bool(line.control))
            if line.listener.paused:
                frames = line.listener.frames
                held = max(held, line.listener.held_bytes)
                await asyncio.sleep(0)
                assert frames == line.listener.frames, "paused, but frames go on arriving"
                assert not line.listener.try_resume(), "there is no room yet"
            found += volumes(line.take())
            line.listener.try_resume()
        assert list(range(1, count + 1)) == found
        # what is kept aside is one read of picows at most: its buffer doubles until a read of the kernel's queue fits
        queue_bytes = int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[2])
        assert held < 2 * queue_bytes

    line = play(scenario)
    assert line.counters.get("socket_pauses") > 0
    assert count == line.counters.get("records_received")


@pytest.mark.requirement("DLP-01")
def test_what_waits_for_room_survives_the_connection(play: Callable[..., Line]) -> None:
    async def scenario(line: Line) -> None:
        while line.ring.room_bytes > 200:
            line.ring.append(QUARANTINE, bytes(100))
        line.venue.send(text(trade(1)) + text(trade(2)) + text(trade(3)))
        await line.until(lambda: line.listener.held_bytes > 0)
        assert line.venue.transport is not None
        line.venue.transport.disconnect(graceful=False)

    line = play(scenario)
    assert line.listener.paused
    records = line.take()
    assert line.listener.try_resume()
    records += line.take()
    assert volumes([seen for seen in records if seen.kind == TRADE]) == [1, 2, 3]


@pytest.mark.parametrize("full", [False, True], ids=["room", "full ring"])
def test_a_message_beyond_the_bound_is_quarantined_with_its_beginning(play: Callable[..., Line], full: bool) -> None:
    async def scenario(line: Line) -> None:
        while full and line.ring.room_bytes > 200:
            line.ring.append(QUARANTINE, bytes(100))
        line.venue.send(wire(WSMsgType.TEXT, b"0|H0STCNT0|" + b"x" * 600, fin=False))
        line.venue.send(wire(WSMsgType.CONTINUATION, b"y" * 600, fin=False) + wire(WSMsgType.CONTINUATION, b"z"))
        line.venue.send(text(trade(5)))
        await line.until(lambda: line.listener.frames == 4)
        if full:
            line.take()
            await line.until(line.listener.try_resume)
        *_, long, after = line.take()
        assert reason(long) == "message is longer than the limit"
        assert long.body[16:1016] == (b"0|H0STCNT0|" + b"x" * 600 + b"y" * 389)
        assert volumes([after]) == [5]

    line = play(scenario, max_message_bytes=1000)
    assert line.counters.get("records_quarantined") == 1


@pytest.mark.parametrize(("sent", "answered"), [(struct.pack(">H", 1001), 1001), (b"", 1000)])
def test_a_close_is_answered_once_and_reported_once(play: Callable[..., Line], sent: bytes, answered: int) -> None:
    async def scenario(line: Line) -> None:
        line.venue.send(text(trade(1)) + wire(WSMsgType.CLOSE, sent))
        await line.until(lambda: line.closed == 1)
        await line.until(lambda: bool(line.venue.received))
        assert [(WSMsgType.CLOSE, struct.pack(">H", answered))] == [(k, p[:2]) for k, p in line.venue.received]
        assert volumes(line.take()) == [1]

    assert play(scenario).closed == 1


def test_a_message_cut_by_the_disconnection_is_no_data(play: Callable[..., Line]) -> None:
    async def scenario(line: Line) -> None:
        line.venue.send(text(trade(1)) + wire(WSMsgType.TEXT, trade(2), fin=False))
        await line.until(lambda: line.listener.frames == 2)

    line = play(scenario)
    assert volumes(line.take()) == [1]


# Of every length at which the header of a frame changes its form, and of those that no header can cover alone.
LENGTHS = [*range(6), *range(118, 132), 65_535, 65_536]


@pytest.mark.requirement("DLP-01")
@pytest.mark.parametrize("seed", range(8))
def test_whatever_arrives_together_is_taken_once_and_in_order(play: Callable[..., Line], seed: int) -> None:
    rng = random.Random(seed)
    sent, data, control, pongs = [], [], [], []
    for number in range(1, 3000):
        match rng.choices(("trade", "garbage", "control", "ping", "fragments", "binary"), (60, 20, 2, 1, 1, 2))[0]:
            case "trade":
                sent.append(text(trade(number)))
                data.append(number)
            case "garbage" | "binary" as form:
                payload = b"\xfe" * rng.choice(LENGTHS[:-2] if rng.random() < 0.99 else LENGTHS)
                sent.append(wire(WSMsgType.TEXT if form == "garbage" else WSMsgType.BINARY, payload))
                data.append(len(payload))
            case "control":
                control.append(b'{"n":%d}' % number)
                sent.append(text(control[-1]))
            case "ping":
                pongs.append((WSMsgType.PONG, b"%d" % number))
                sent.append(wire(WSMsgType.PING, pongs[-1][1]))
            case "fragments":
                sent.append(wire(WSMsgType.TEXT, trade(number)[:9], fin=False))
                sent.append(wire(WSMsgType.CONTINUATION, trade(number)[9:]))
                data.append(number)
    stream = b"".join(sent)

    async def scenario(line: Line) -> None:
        found: list[int] = []
        at = 0
        while at < len(stream):
            size = rng.choice((1, 50, 1000, 20_000, 200_000))
            line.venue.send(stream[at : at + size])
            at += size
            await asyncio.sleep(0)
        while len(found) < len(data) or len(line.venue.received) < len(pongs) or len(line.control) < len(control):
            await asyncio.sleep(0)
            found += [
                int.from_bytes(record.body[40:48] if record.kind == TRADE else record.body[4:8], "little")
                for record in line.take()
            ]
            line.listener.try_resume()
        assert (data, control, pongs) == (found, line.control, line.venue.received)

    line = play(scenario)
    assert line.counters.get("frames_received") == len(sent)
    assert line.counters.get("bytes_received") == sum(map(len, sent)) - sum(map(header_bytes, sent))


def test_frames_that_end_a_read_together_may_have_any_length(play: Callable[..., Line]) -> None:
    lengths = [(first, total - first - 4) for total in range(4, 200) for first in (0, (total - 4) // 2)]

    async def scenario(line: Line) -> None:
        for pair in lengths:
            frames = line.listener.frames
            line.venue.send(b"".join([text(trade(1)), *(text(b"\xfe" * length) for length in (0, *pair))]))
            await line.until(lambda: line.listener.frames >= frames + 4)  # noqa: B023 - awaited within the turn
            kept = [int.from_bytes(record.body[4:8], "little") for record in line.take()[1:]]
            assert kept == [0, *pair]

    play(scenario)


def header_bytes(frame: bytes) -> int:
    return {126: 4, 127: 10}.get(frame[1], 2)


def test_garbage_is_quarantined_and_the_connection_goes_on(play: Callable[..., Line]) -> None:
    async def scenario(line: Line) -> None:
        line.venue.send(text(b"\xff\x00garbage") + wire(WSMsgType.BINARY, b"\x01\x02") + text(trade(9)))
        await line.until(lambda: line.listener.frames == 3)
        first, second, third = line.take()
        assert reason(first).startswith("neither a data")
        assert reason(second) == "unexpected binary frame"
        assert volumes([third]) == [9]

    play(scenario)
