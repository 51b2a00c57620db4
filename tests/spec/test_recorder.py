"""The recorder: each message once in its hour's file, everything missed counted, and no error that stops it."""

import errno
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from daemon.alerts import RecordingAlerts
from daemon.config import Raw
from daemon.recording import recorder as module
from daemon.recording.capture import HOUR_NS, CapturedFrame, Damage, decode_line, file_name, read_lines
from daemon.recording.recorder import Recorder
from daemon.recording.retention import Disk
from daemon.sinks.host import Host

pytestmark = pytest.mark.requirement("RAW-01", "BP-01")

NOON_NS = 1_795_132_800 * 10**9
EPOCH = 1_000
KIS, UPBIT = 1, 3
ROOM = Disk(used_bytes=10, free_bytes=90)


class Ring:
    """A raw ring and its reader in one, as the recorder sees it."""

    def __init__(self, ring: int = 0) -> None:
        self.ring = ring
        self.epoch = EPOCH
        self.capacity_bytes = 1 << 20
        self.head = 0
        self.position_bytes = 0
        self.lapped_records = 0
        self.corrupt_records = 0
        self.frames: list[Any] = []
        self.taken = 0
        self.committed = 0

    def add(self, *seqs: int, venue: int = KIS, recv_ns: int = NOON_NS, message: bytes = b"x") -> None:
        self.frames += [(EPOCH + seq, False, recv_ns, venue, 0, True, False, message) for seq in seqs]

    def commit(self) -> None:
        self.committed = self.taken

    def close(self) -> None:
        pass

    def rewind(self) -> "Ring":
        """What a successor finds."""
        self.taken = self.committed
        return self


def take(ring: Ring, _max_bytes: int) -> list[Any]:
    frames = ring.frames[ring.taken :]
    ring.taken = len(ring.frames)
    return frames


class Line:
    """A recorder under test, and what it is given."""

    def __init__(self, directory: Path, *rings: Ring, disk: Disk = ROOM, **settings: Any) -> None:
        self.directory = directory
        self.now = 100.0
        self.wall_ns = NOON_NS
        self.disk = disk
        self.counts: Counter[str] = Counter()
        self.alerts = RecordingAlerts()
        self.waits: list[float] = []
        self.is_stopping = False
        self.recorder = Recorder(
            readers=rings,
            directory=directory,
            settings=Raw(enabled=True, **settings),
            counters=self,
            alerts=self.alerts,
            host=Host(wait=self.wait, beat=lambda: None, stopping=lambda: self.is_stopping, drain_s=10.0),
            clock=self,
            disk_of=lambda _: self.disk,
            take=take,
        )

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return self.wall_ns

    def increment(self, name: str, n: int = 1) -> None:
        self.counts[name] += n

    def set(self, name: str, value: int) -> None:
        raise AssertionError(name)

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.is_stopping = True

    def run(self) -> None:
        self.is_stopping = True
        self.recorder.run()

    def step(self, seconds: float = 2.0) -> int:
        self.now += seconds
        return self.recorder.step()


def lines(directory: Path, venue: str = "kis", hour: int = 0) -> list[CapturedFrame]:
    path = directory / file_name(venue, NOON_NS + hour * HOUR_NS)
    return [decode_line(line) for line in read_lines(path, Damage())] if path.exists() else []


def seqs(directory: Path, venue: str = "kis", hour: int = 0) -> list[int]:
    return [line.seq - EPOCH for line in lines(directory, venue, hour)]


def test_each_venue_and_hour_has_its_file(tmp_path: Path) -> None:
    ring, other = Ring(0), Ring(1)
    ring.add(1, 2)
    ring.add(3, venue=UPBIT)
    ring.add(4, recv_ns=NOON_NS + HOUR_NS)
    other.add(1)
    line = Line(tmp_path, ring, other)
    line.run()

    assert seqs(tmp_path) == [1, 2] or seqs(tmp_path) == [1, 2, 1]
    assert seqs(tmp_path, "upbit") == [3]
    assert 4 in seqs(tmp_path, hour=1)
    assert line.counts["raw_frames_recorded"] == 5
    assert line.counts["raw_frames_dropped"] == 0
    assert (ring.committed, other.committed) == (4, 1)


def test_a_line_that_is_a_little_late_goes_to_the_file_that_is_open(tmp_path: Path) -> None:
    ring = Ring()
    ring.add(1, recv_ns=NOON_NS + HOUR_NS)
    ring.add(2, recv_ns=NOON_NS + HOUR_NS - 1)
    ring.add(3, recv_ns=NOON_NS + HOUR_NS - 61 * 10**9)
    Line(tmp_path, ring).run()

    assert seqs(tmp_path, hour=1) == [1, 2]
    assert seqs(tmp_path) == [3]


def test_a_successor_writes_nothing_twice_that_was_written_before_the_position_was_given_back(tmp_path: Path) -> None:
    ring = Ring()
    ring.add(1, 2)
    ring.add(3, venue=UPBIT)
    Line(tmp_path, ring).run()
    ring.committed = 0
    ring.add(4)
    line = Line(tmp_path, ring.rewind())
    line.run()

    assert seqs(tmp_path) == [1, 2, 4]
    assert seqs(tmp_path, "upbit") == [3]
    assert line.counts["raw_frames_recorded"] == 1
    assert line.counts["raw_frames_dropped"] == 0


def test_what_a_reader_missed_is_counted_and_told_once_a_minute(tmp_path: Path) -> None:
    ring = Ring()
    line = Line(tmp_path, ring)
    ring.add(1)
    line.step()
    ring.lapped_records, ring.corrupt_records = 7, 1
    ring.add(10)
    line.step()
    ring.lapped_records = 9
    ring.add(13)
    line.step()

    assert line.counts["raw_frames_dropped"] == 10
    assert line.alerts.codes() == ["raw_frames_dropped"]
    line.step(60.0)
    assert line.alerts.sent[-1][2] == "raw capture: 2 messages were not recorded"


def test_what_went_round_between_two_recorders_is_counted_by_the_files(tmp_path: Path) -> None:
    ring = Ring()
    ring.add(1, 2)
    Line(tmp_path, ring).run()
    ring.add(10)
    ring.head = ring.capacity_bytes + 1
    line = Line(tmp_path, ring.rewind())
    line.run()

    assert line.counts["raw_frames_dropped"] == 7


def test_a_disk_that_refuses_is_told_once_and_nothing_that_waits_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Ring()
    line = Line(tmp_path, ring)
    ring.add(1)
    line.step()

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)
    ring.add(2)
    line.step()
    ring.add(3)
    assert line.step(0.1) == 0
    assert line.step() == 0
    assert line.alerts.codes() == ["raw_capture_failed"]
    assert ring.committed == 1
    monkeypatch.undo()
    line.step()
    line.step()

    assert seqs(tmp_path) == [1, 2, 3]
    assert line.counts["raw_frames_dropped"] == 0
    assert ring.committed == 3


def test_capture_pauses_while_the_disk_is_nearly_full_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    ring = Ring()
    line = Line(tmp_path, ring, disk=Disk(95, 5))
    ring.add(1, 2)
    line.step()
    assert line.alerts.codes() == ["raw_disk_full", "raw_capture_paused", "raw_frames_dropped"]
    assert line.counts["raw_frames_dropped"] == 2

    line.disk = ROOM
    ring.add(3)
    line.step(10.0)
    line.step()
    assert seqs(tmp_path) == [3]
    assert line.alerts.codes()[-1] == "raw_capture_resumed"


def test_old_files_go_and_foreign_ones_stay(tmp_path: Path) -> None:
    old = tmp_path / file_name("kis", NOON_NS - 200 * HOUR_NS)
    recent = tmp_path / file_name("kis", NOON_NS - 100 * HOUR_NS)
    for path in (old, recent, tmp_path / "notes.txt"):
        path.write_bytes(b"")
    line = Line(tmp_path)
    line.step()
    assert {path.name for path in tmp_path.iterdir()} == {recent.name, "notes.txt"}

    line.disk = Disk(90, 10)
    line.step(10.0)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt"}


def test_it_polls_once_a_second_while_nothing_comes(tmp_path: Path) -> None:
    line = Line(tmp_path, Ring())
    line.recorder.run()

    assert line.waits == [module.IDLE_POLL_S]
