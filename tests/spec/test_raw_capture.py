"""What a frame listener keeps in the raw ring: data as it came, nothing that may hold a key, never at data's cost."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from picows import WSMsgType

from daemon.config import Config, Raw
from daemon.errors import RingError
from daemon.recording import raw_rings
from daemon.shard_plan import Plan
from daemon.topology import process_specs
from daemon.watching.health import dead_reasons, unready_reasons
from native_pipeline.raw_frames import read_raw_frames
from native_pipeline.ring_creation import LOSSY, create_ring
from native_pipeline.ring_file import RingFile
from native_pipeline.ring_reader import LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import QUARANTINE
from tests.spec.made_readings import process, reading
from tests.spec.test_frame_listener import Line, text, trade, wire

pytestmark = pytest.mark.requirement("RAW-01", "BP-01")

CONTROL = b'{"header":{"tr_id":"H0STCNT0"},"body":{"output":{"iv":"secret","key":"secret"}}}'
MIB = 1 << 20


class Tap:
    """A raw ring, and what is in it."""

    def __init__(self, directory: Path) -> None:
        path = directory / "raw-0.ring"
        create_ring(path, ring=0, capacity_bytes=MIB, consumers=(("recorder", LOSSY),))
        self.ring = RingWriter(path)
        self.reader = LossyReader(path, "recorder")

    def messages(self) -> list[tuple[bytes, bool]]:
        """(message, is_text) of everything new."""
        return [(frame[-1], frame[-3]) for frame in read_raw_frames(self.reader, 1 << 30)]


def play(tmp_path: Path, tap: Tap, scenario: Callable[[Line], Coroutine[None, None, None]], **options: Any) -> Line:
    line = Line(tmp_path, raw=tap.ring, **options)

    async def whole() -> None:
        await line.open()
        await scenario(line)
        await line.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())
    return line


def test_data_is_kept_as_it_came_and_control_messages_are_not(tmp_path: Path) -> None:
    tap = Tap(tmp_path)

    async def scenario(line: Line) -> None:
        cut = trade(2)
        line.venue.send(
            text(trade(1))
            + text(CONTROL)
            + wire(WSMsgType.TEXT, cut[:9], fin=False)
            + wire(WSMsgType.CONTINUATION, cut[9:])
            + wire(WSMsgType.BINARY, b"9|\xff nonsense")
        )
        await line.until(lambda: line.listener.frames == 5)

    line = play(tmp_path, tap, scenario)
    assert tap.messages() == [(trade(1), True), (trade(2), True), (b"9|\xff nonsense", False)]
    assert line.control == [CONTROL]
    assert (line.counters.get("raw_frames"), line.counters.get("raw_frames_dropped")) == (3, 0)


def test_each_message_has_time_venue_connection_and_number(tmp_path: Path) -> None:
    tap = Tap(tmp_path)

    async def scenario(line: Line) -> None:
        line.parser.connection = 7
        line.parser.is_redundant = True
        line.venue.send(text(trade(1)) + text(trade(2)))
        await line.until(lambda: line.listener.frames == 2)

    line = play(tmp_path, tap, scenario)
    found = read_raw_frames(tap.reader, 1 << 30)
    received_ns = line.listener.last_frame_ns
    assert found == [(tap.ring.first_seq + n, False, received_ns, 1, 7, True, True, trade(n + 1)) for n in range(2)]


def test_what_finds_no_room_is_counted_and_costs_no_record(tmp_path: Path) -> None:
    tap = Tap(tmp_path)
    long = b"9" + bytes(MIB // 8)

    async def scenario(line: Line) -> None:
        line.venue.send(text(trade(1)) + text(long) + text(trade(2)))
        await line.until(lambda: line.listener.frames == 3)

    line = play(tmp_path, tap, scenario)
    assert tap.messages() == [(trade(1), True), (trade(2), True)]
    assert (line.counters.get("raw_frames"), line.counters.get("raw_frames_dropped")) == (2, 1)
    assert len(line.take()) == 3


def test_a_message_longer_than_the_bound_is_not_kept_in_part(tmp_path: Path) -> None:
    tap = Tap(tmp_path)

    async def scenario(line: Line) -> None:
        line.venue.send(wire(WSMsgType.TEXT, trade(1), fin=False) + wire(WSMsgType.CONTINUATION, trade(2)))
        await line.until(lambda: line.listener.frames == 2)

    line = play(tmp_path, tap, scenario, max_message_bytes=len(trade(1)) + 1)
    assert tap.messages() == []
    assert line.counters.get("raw_frames_dropped") == 1


def test_a_message_that_waited_for_room_in_the_ring_is_kept_once_in_its_place(tmp_path: Path) -> None:
    tap = Tap(tmp_path)

    async def scenario(line: Line) -> None:
        while line.ring.room_bytes > 200:
            line.ring.append(QUARANTINE, bytes(100))
        line.venue.send(text(trade(1)) + text(trade(2)) + text(CONTROL) + text(trade(3)))
        await line.until(lambda: line.listener.held_bytes > 0)
        waited = len(tap.messages())
        assert waited < 3
        line.take()
        assert line.listener.try_resume()
        assert tap.messages() == [(trade(number), True) for number in range(waited + 1, 4)]

    line = play(tmp_path, tap, scenario)
    assert line.counters.get("raw_frames") == 3


def test_every_worker_gets_a_raw_ring_and_one_of_another_size_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "rings").mkdir()
    raw_rings.prepare_raw_rings(tmp_path, workers=2, capacity_mb=1)
    first = [RingFile(path).epoch for path in raw_rings.raw_ring_paths(tmp_path)]
    raw_rings.prepare_raw_rings(tmp_path, workers=2, capacity_mb=1)
    assert [RingFile(path).epoch for path in raw_rings.raw_ring_paths(tmp_path)] == first

    raw_rings.raw_ring_path(tmp_path, 0).write_bytes(b"no ring")
    raw_rings.prepare_raw_rings(tmp_path, workers=3, capacity_mb=2)
    rings = [RingFile(path) for path in raw_rings.raw_ring_paths(tmp_path)]
    assert [ring.capacity_bytes for ring in rings] == [2 * MIB] * 3
    assert all(ring.consumers()["recorder"]["mode"] == "lossy" for ring in rings)


def test_a_raw_ring_that_cannot_be_made_is_no_reason_to_refuse_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RingError("no room")

    (tmp_path / "rings").mkdir()
    monkeypatch.setattr(raw_rings, "create_ring", refuse)
    raw_rings.prepare_raw_rings(tmp_path, workers=1, capacity_mb=1)
    assert raw_rings.raw_ring_paths(tmp_path) == []


def test_there_is_a_recorder_only_where_it_is_asked_for() -> None:
    plan = Plan(workers=())
    assert "recorder" not in {spec.name for spec in process_specs(plan)}
    specs = process_specs(plan, has_recorder=True)
    assert "recorder" in {spec.name for spec in specs}
    assert len({spec.counters_block for spec in specs}) == len(specs)
    assert not Config().raw.enabled
    assert (Raw().keep_h, Raw().protect_h, Raw().disk_percent) == (120, 48, 90)


def test_a_recorder_that_is_dead_makes_the_daemon_neither_dead_nor_unready() -> None:
    recorder = process("recorder", silent_for_s=99.0, state="starting")
    now = reading(missing=("recorder",))
    now.processes.append(recorder)

    assert dead_reasons(now, silence_limit_s=30.0) == []
    assert unready_reasons([now], silence_limit_s=30.0) == unready_reasons([reading()], silence_limit_s=30.0)
