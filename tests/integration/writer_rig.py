"""Rings with producers, and the writer that empties them, in a thread of this process or as a process to be killed."""

import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daemon.alerts import RecordingAlerts
from daemon.config import Database, Spill
from daemon.embedded import EmbeddedPostgres
from daemon.sinks.host import Host
from daemon.sinks.spill import DIRECTORY
from daemon.sinks.stream_gaps import PlannedStream, StreamGaps
from daemon.sinks.writer_process import run as run_writer
from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.ring_creation import create_ring
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import Book, Event, Record, Trade

CHILD = Path(__file__).with_name("writer_child.py")
ROOT = Path(__file__).parents[2]
# Market data of every kind, with texts that no text column takes.
MIXTURE = (
    Trade(flags=16),
    Event(type=1, price=(712, 1), text="005930^\ub3d9\uc2dc\ud638\uac00".encode()),
    Book(asks=[((71300, 0), (5, 0))]),
    Event(symbol=b"", type=4, text=b'\0\xff\xed\xa0\x80\t"\\' * 40),
)
MARKET_TABLES = ("market_ticks", "market_orderbook", "market_events")
QUICK_SPILL = Spill(min_free_mb=0, segment_mb=1, interval_s=0.02, probe_s=0.1)
QUICK = (0.01, 0.02, 0.05)  # retry delays of tests that do not look at them


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


@dataclass
class Rings:
    """Rings with a producer each, and the counters block of the writer."""

    directory: Path
    producers: list[RingWriter]
    counters: CountersBlock
    wake_fd: int
    planned: Collection[PlannedStream] = ()  # of every ring

    @property
    def paths(self) -> list[Path]:
        return [self.directory / f"worker-{number}.ring" for number in range(len(self.producers))]

    def writer_pid(self) -> int:
        """The process that counts now."""
        snapshot = self.counters.snapshot()
        assert snapshot is not None
        return snapshot["pid"]

    def fill(self, records: int, *, ring: int = 0, mixture: Sequence[Record] = (Trade(),)) -> None:
        """Append those of *mixture* in turn and publish them; waits for room like a worker does."""
        producer = self.producers[ring]
        bodies = itertools.cycle([(record.kind, record.body(), record.flags) for record in mixture])
        for kind, body, flags in itertools.islice(bodies, records):
            while producer.room_bytes < 4096:
                producer.publish()
                time.sleep(0.001)
            producer.append(kind, body, flags=flags, venue=1, market=1, recv_ns=time.time_ns(), utc_offset_min=540)
        producer.publish()


@pytest.fixture
def make_rings(tmp_path: Path) -> Iterator[Callable[..., Rings]]:
    wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
    made: list[Rings] = []

    def make(count: int = 1, capacity_bytes: int = 1 << 20) -> Rings:
        producers = []
        for number in range(count):
            path = tmp_path / f"worker-{number}.ring"
            create_ring(path, ring=number, capacity_bytes=capacity_bytes)
            producers.append(RingWriter(path, wake_fds={"writer": wake_fd}))
        create_counters_file(tmp_path / "counters", 1)
        counters = CountersBlock(tmp_path / "counters", 0)
        counters.take("writer")
        made.append(Rings(tmp_path, producers, counters, wake_fd))
        return made[-1]

    yield make
    for rings in made:
        for producer in rings.producers:
            producer.close()
    os.close(wake_fd)


class RunningWriter:
    """The writer's loop in a thread of this process."""

    def __init__(self, rings: Rings, settings: Database, drain_s: float = 30.0, spill: Spill = QUICK_SPILL) -> None:
        self.alerts = RecordingAlerts()
        self.is_ready = threading.Event()
        self.result: bool | None = None
        self.error: BaseException | None = None
        self.beats: list[float] = []
        self.wakes = 0
        self._rings = rings
        self._stop_fd, self._stop_write_fd = os.pipe()
        self._stop = threading.Event()
        host = Host(wait=self._wait, beat=self._beat, stopping=self._stop.is_set, drain_s=drain_s)

        def work() -> None:
            try:
                self.result = run_writer(
                    settings,
                    rings.directory,
                    rings.counters,
                    host,
                    on_ready=self.is_ready.set,
                    spill_directory=rings.directory / DIRECTORY,
                    spill=spill,
                    alerts=self.alerts,
                    gaps=StreamGaps(lambda ring: rings.planned),
                )
            except BaseException as exc:
                self.error = exc

        self._thread = threading.Thread(target=work)

    def _beat(self) -> None:
        self.beats.append(time.monotonic())

    def _wait(self, seconds: float) -> None:
        self._beat()
        poll = select.poll()
        poll.register(self._rings.wake_fd, select.POLLIN)
        if not self._stop.is_set():
            poll.register(self._stop_fd, select.POLLIN)
        if any(fd == self._rings.wake_fd for fd, _ in poll.poll(seconds * 1000)):
            os.eventfd_read(self._rings.wake_fd)
            self.wakes += 1
        self._beat()

    def longest_pause_s(self, since: float = 0.0) -> float:
        """Longest time between two beats after *since*."""
        beats = [beat for beat in self.beats if beat >= since]
        return max((later - earlier for earlier, later in itertools.pairwise(beats)), default=0.0)

    def __enter__(self) -> "RunningWriter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        os.close(self._stop_fd)
        os.close(self._stop_write_fd)

    def stop(self) -> bool | None:
        if not self._stop.is_set():
            self._stop.set()
            os.write(self._stop_write_fd, b"s")
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.result

    def wait_for_end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def settings_for(dsn: str, **overrides: Any) -> Database:
    values = {
        "dsn": dsn,
        "flush_interval_ms": 10,
        "retry_delays_s": QUICK,
        "connect_timeout_s": 2,
        "retention_days": 0,  # the trades of these tests have a time that does not change, and get old
    }
    return Database(**{**values, **overrides})


def query(dsn: str, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


def stored(dsn: str, *tables: str) -> tuple[int, int]:
    """Rows, and different rows, of *tables*: only of market_ticks if there are none."""
    rows = " UNION ALL ".join(f"SELECT source, seq FROM {table}" for table in tables or MARKET_TABLES[:1])
    (row,) = query(dsn, f"SELECT count(*), count(DISTINCT (source, seq)) FROM ({rows}) AS rows")
    return int(row[0]), int(row[1])


def execute(dsn: str, statement: str) -> None:
    query(dsn, statement)


def drain(rings: Rings, dsn: str) -> None:
    """What a restarted daemon does at the latest when it stops: store all that is left, in rings and files."""
    with RunningWriter(rings, settings_for(dsn)) as last:
        wait_until(lambda: not spilled_files(rings))
        assert last.stop() is True


def spilled_files(rings: Rings) -> list[Path]:
    return sorted((rings.directory / DIRECTORY).glob("batch_*"))


@contextmanager
def writer_process(rings: Rings, dsn: str, **settings: int) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [dsn, *rings.paths, rings.directory / "counters", *settings.values()]
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def freeze(server: EmbeddedPostgres) -> list[int]:
    """SIGSTOP to the postmaster and all its children; return who got it."""
    os.kill(server.pid, signal.SIGSTOP)  # from now on there are no new ones
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.pid)], capture_output=True, check=True, text=True)
    frozen = [server.pid]
    for pid in map(int, found.stdout.split()):
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGSTOP)
            frozen.append(pid)
    return frozen
