"""The writer with a real ring and a real PostgreSQL: whatever is killed or cut, every record is stored exactly once."""

import itertools
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daemon.alerts import RecordingAlerts
from daemon.config import Database, Spill
from daemon.embedded import EmbeddedPostgres
from daemon.sinks import writer
from daemon.sinks.database import Fenced
from daemon.sinks.host import Host
from daemon.sinks.spill import DIRECTORY
from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.ring_creation import create_ring
from native_pipeline.ring_writer import RingWriter
from tests.integration.cutting_proxy import Cut, CuttingProxy
from tests.reference.packed_records import EVENT, Book, Event, Gap, Ledger, Quarantine, Record, Trade, append

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
                self.result = writer.run(
                    settings,
                    rings.paths,
                    rings.counters,
                    host,
                    on_ready=self.is_ready.set,
                    spill_directory=rings.directory / DIRECTORY,
                    spill=spill,
                    alerts=self.alerts,
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


def test_records_of_every_kind_reach_their_tables(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()
    level = ((71300, 0), (5, 0))
    for record in (
        Trade(price=(7120012, 2), side=2),
        Book(asks=[level], bids=[level], flags=32),
        Event(symbol=b"0001", type=2, price=(265012, 2), text=b"0001^\0^\xff", flags=16),
        Quarantine(frame=b"\0raw\xff", reason=1),
        Gap(missing=3, reason=4),
        Ledger(count=4, through_seq=5, data_kind=EVENT),
    ):
        append(rings.producers[0], record)
    rings.producers[0].publish()

    drain(rings, postgres_dsn)

    assert query(postgres_dsn, "SELECT symbol, price, side, market, venue FROM market_ticks") == [
        ("005930", 71200.12, "sell", "kr", "kis")
    ]
    assert query(postgres_dsn, "SELECT ask_price1, ask_vol1, bid_vol2, exchange FROM market_orderbook") == [
        (71300.0, 5.0, None, "sor")
    ]
    assert query(postgres_dsn, "SELECT symbol, type, price, volume, exchange, detail FROM market_events") == [
        ("0001", "index", 2650.12, None, "nxt", "0001^\ufffd^\ufffd")
    ]
    assert query(postgres_dsn, "SELECT venue, frame FROM quarantine") == [("kis", b"\0raw\xff")]
    assert query(postgres_dsn, "SELECT kind, missing, reason FROM feed_gaps") == [
        ("trade", 3.0, "cumulative volume does not add up")
    ]
    assert query(postgres_dsn, "SELECT received, through_seq, kind FROM ingest_ledger") == [(4, 5, "event")]
    assert rings.counters.get("rows_committed") == 6
    assert rings.counters.get("writer_lag_bytes") == 0


def test_the_cursor_is_stored_with_the_rows(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()
    rings.fill(25)

    drain(rings, postgres_dsn)

    producer = rings.producers[0]
    assert query(postgres_dsn, "SELECT ring, epoch, seq FROM ingest_cursor") == [(0, producer.epoch, producer.last_seq)]


def test_several_rings_share_a_batch_and_none_is_starved(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings(3)
    rings.fill(2_000, ring=0)
    rings.fill(10, ring=1)
    rings.fill(10, ring=2)

    with RunningWriter(rings, settings_for(postgres_dsn, batch_rows=100)) as running:
        wait_until(lambda: stored(postgres_dsn)[0] == 2_020)
        assert running.stop() is True

    first = query(postgres_dsn, "SELECT DISTINCT source FROM market_ticks WHERE xmin = (SELECT xmin FROM market_ticks"
                  " ORDER BY ctid LIMIT 1)")  # fmt: skip
    assert sorted(first) == [(0,), (1,), (2,)]


def test_a_batch_is_stored_when_it_is_full_or_when_its_time_is_up(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()

    with RunningWriter(rings, settings_for(postgres_dsn, batch_rows=100, flush_interval_ms=300_000)):
        rings.fill(100)
        wait_until(lambda: stored(postgres_dsn)[0] == 100)
    with RunningWriter(rings, settings_for(postgres_dsn, batch_rows=100, flush_interval_ms=20)):
        rings.fill(1)
        wait_until(lambda: stored(postgres_dsn)[0] == 101)


def test_an_idle_writer_sleeps_until_a_producer_wakes_it(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()

    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        wait_until(lambda: running.longest_pause_s() > 0.9)
        wakes_before = running.wakes
        rings.fill(1)
        wait_until(lambda: stored(postgres_dsn)[0] == 1)

    assert running.wakes == wakes_before + 1


@pytest.mark.requirement("DLP-01")
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_batch_one_row_short_of_full_survives_the_end_of_the_writer(
    make_rings: Callable[..., Rings], postgres_dsn: str, signal_number: signal.Signals
) -> None:
    rings = make_rings()
    with writer_process(rings, postgres_dsn, batch_rows=100, flush_interval_ms=300_000) as child:
        rings.fill(100)
        wait_until(lambda: stored(postgres_dsn)[0] == 100)  # it runs, and the next batch begins
        rings.fill(99)
        child.send_signal(signal_number)
        code = child.wait(30)

    assert code == (0 if signal_number == signal.SIGTERM else -signal.SIGKILL)
    if signal_number == signal.SIGKILL:
        assert stored(postgres_dsn) == (100, 100)
        drain(rings, postgres_dsn)
    assert stored(postgres_dsn) == (199, 199)


@pytest.mark.requirement("DLP-01")
@pytest.mark.requirement("QG-IT-01")
def test_events_one_row_short_of_a_batch_survive_the_kill_of_the_writer_once(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    events = [record for record in MIXTURE if isinstance(record, Event)]
    with writer_process(rings, postgres_dsn, batch_rows=100, flush_interval_ms=300_000) as child:
        rings.fill(100, mixture=events)
        wait_until(lambda: stored(postgres_dsn, "market_events")[0] == 100)
        rings.fill(99, mixture=events)
        child.kill()
        child.wait(30)

    assert stored(postgres_dsn, "market_events") == (100, 100)
    drain(rings, postgres_dsn)
    assert stored(postgres_dsn, "market_events") == (199, 199)
    by_type = "SELECT type, count(*), count(DISTINCT detail) FROM market_events GROUP BY 1 ORDER BY 1"
    assert query(postgres_dsn, by_type) == [("expected", 100, 1), ("status", 99, 1)]


@pytest.mark.requirement("DLP-01", "CH-PROC-01")
def test_a_writer_killed_at_random_moments_under_load_loses_and_repeats_nothing(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    records = 60_000
    load = threading.Thread(target=rings.fill, args=(records,), kwargs={"mixture": MIXTURE})
    load.start()

    kills = 0
    while kills < 6:
        with writer_process(rings, postgres_dsn, batch_rows=500, flush_interval_ms=5) as child:
            wait_until(lambda: rings.writer_pid() == child.pid)
            time.sleep(chance.uniform(0.0, 0.4))  # the moment of the kill is what is random, nothing is awaited
            child.kill()
            child.wait()
            kills += 1
    with writer_process(rings, postgres_dsn, batch_rows=5_000, flush_interval_ms=5) as child:
        load.join(60)
        wait_until(lambda: rings.writer_pid() == child.pid)
        child.terminate()
        assert child.wait(60) == 0

    assert stored(postgres_dsn, *MARKET_TABLES) == (records, records), f"seed {seed}"
    assert stored(postgres_dsn, "market_events") == (records // 2, records // 2), f"seed {seed}"


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


@pytest.mark.requirement("CH-RES-01")
@pytest.mark.parametrize("how", ["kill", "immediate", "fast"])
def test_nothing_is_missing_or_double_when_the_server_goes_away_under_load(
    make_rings: Callable[..., Rings], own_postgres: Callable[[], EmbeddedPostgres], how: str
) -> None:
    rings = make_rings()
    server = own_postgres()
    is_over = threading.Event()
    sent = itertools.count()

    def offer() -> None:
        while not is_over.wait(0.005):  # a rate that leaves the server time to catch up
            rings.fill(100)
            next(sent)

    load = threading.Thread(target=offer)
    with RunningWriter(rings, settings_for(server.dsn, batch_rows=1_000)) as running:
        load.start()
        for _ in (1, 2):
            before = rings.counters.get("rows_committed")
            wait_until(lambda: rings.counters.get("rows_committed") >= before + 2_000)  # noqa: B023 - awaited here
            server.kill() if how == "kill" else server.stop("immediate" if how == "immediate" else "fast")
            wait_until(lambda: not rings.counters.get("database_connected"))
            server.start()
        is_over.set()
        load.join(60)
        assert running.stop() is True
    drain(rings, server.dsn)

    records = next(sent) * 100
    assert stored(server.dsn) == (records, records)
    assert rings.counters.get("commit_retries") + rings.counters.get("batches_spilled") >= 2


@pytest.mark.requirement("DLP-01")
@pytest.mark.parametrize("cut", ["request", "answer"])
def test_a_connection_lost_during_commit_neither_loses_nor_repeats_the_batch(
    make_rings: Callable[..., Rings], postgres_dsn: str, cut: Cut
) -> None:
    rings = make_rings()

    with CuttingProxy(postgres_dsn) as proxy, RunningWriter(rings, settings_for(proxy.dsn)) as running:
        rings.fill(50)
        wait_until(lambda: rings.counters.get("rows_committed") == 50)
        sent = 50
        while not rings.counters.get("commit_retries"):  # the cut may hit a question of the recovery
            proxy.cut = cut
            rings.fill(70)
            sent += 70
            wait_until(lambda: rings.counters.get("rows_committed") == sent)  # noqa: B023 - awaited here
        assert running.stop() is True

    assert stored(postgres_dsn) == (sent, sent)
    assert rings.counters.get("commit_retries") == 1
    assert rings.counters.get("batches_spilled") == 0


def test_a_writer_that_was_overtaken_by_another_is_fenced(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()

    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        rings.fill(5)
        wait_until(lambda: stored(postgres_dsn)[0] == 5)
        execute(postgres_dsn, "UPDATE ingest_cursor SET seq = seq + 1")
        rings.fill(5)
        running.wait_for_end()

    assert isinstance(running.error, Fenced)
    assert stored(postgres_dsn) == (5, 5)


def test_a_database_older_than_the_ring_is_reported_with_the_number_of_missing_records(
    make_rings: Callable[..., Rings], postgres_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rings = make_rings()
    rings.fill(50)
    drain(rings, postgres_dsn)
    execute(postgres_dsn, "UPDATE ingest_cursor SET seq = seq - 20")  # restored from a backup
    rings.fill(10)

    drain(rings, postgres_dsn)

    assert rings.counters.get("writer_lapped") == 20
    assert "records_missing_in_ring" in "".join(capsys.readouterr())
    assert stored(postgres_dsn) == (60, 60)


KNOWN_GAPS = """
SELECT symbol, kind, source, started = (SELECT max(recv_time) FROM market_ticks WHERE seq <= {seq}), ended > started
FROM feed_gaps WHERE reason = '{reason}' AND seq = 0 ORDER BY 1, 2"""


@pytest.mark.requirement("DLP-01")
def test_what_a_ring_lacks_for_an_older_database_is_a_gap_of_each_of_its_streams(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(50)
    for symbol in (b"005930", b"000660"):
        append(rings.producers[0], Ledger(symbol=symbol, minute_ns=time.time_ns(), through_seq=5))
    rings.producers[0].publish()
    drain(rings, postgres_dsn)
    newest = rings.producers[0].last_seq
    execute(postgres_dsn, "UPDATE ingest_cursor SET seq = seq - 20")  # restored from a backup

    for _ in range(2):  # once, however often it starts
        drain(rings, postgres_dsn)

    expected = [("000660", "trade", 0, True, True), ("005930", "trade", 0, True, True)]
    assert query(postgres_dsn, KNOWN_GAPS.format(seq=newest, reason="ring lapped")) == expected


@pytest.mark.requirement("DLP-01")
def test_a_ring_that_was_replaced_is_a_gap_of_each_of_its_streams(
    make_rings: Callable[..., Rings], postgres_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rings = make_rings(2)
    rings.fill(50)
    rings.fill(50, ring=1)
    append(rings.producers[0], Ledger(symbol=b"005930", minute_ns=time.time_ns(), through_seq=5))
    append(rings.producers[1], Ledger(symbol=b"000660", minute_ns=time.time_ns(), through_seq=5))
    for producer in rings.producers:
        producer.publish()
    drain(rings, postgres_dsn)
    newest, old_epoch = rings.producers[0].last_seq, rings.producers[0].epoch
    assert "ring_lost" not in "".join(capsys.readouterr())

    rings.producers[0].close()
    rings.paths[0].unlink()
    create_ring(rings.paths[0], ring=0, capacity_bytes=1 << 20)
    rings.producers[0] = RingWriter(rings.paths[0], wake_fds={"writer": rings.wake_fd})
    rings.fill(10)
    for _ in range(2):
        drain(rings, postgres_dsn)

    assert query(postgres_dsn, KNOWN_GAPS.format(seq=newest, reason="ring lost").replace(
        "WHERE seq <=", "WHERE source = 0 AND seq <=")) == [("005930", "trade", 0, True, True)]  # fmt: skip
    lines = [line for line in "".join(capsys.readouterr()).splitlines() if "ring_lost" in line]
    assert len(lines) == 1
    assert str(old_epoch) in lines[0]
    assert str(rings.producers[0].epoch) in lines[0]


def test_a_ring_that_is_lost_before_its_first_checkpoint_is_a_gap_of_the_streams_that_have_rows(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(50, mixture=MIXTURE)
    drain(rings, postgres_dsn)

    rings.producers[0].close()
    rings.paths[0].unlink()
    create_ring(rings.paths[0], ring=0, capacity_bytes=1 << 20)
    rings.producers[0] = RingWriter(rings.paths[0], wake_fds={"writer": rings.wake_fd})
    drain(rings, postgres_dsn)

    gaps = "SELECT venue, market, symbol, kind FROM feed_gaps WHERE reason = 'ring lost' ORDER BY 3, 4"
    streams = [("", "event"), ("005930", "event"), ("005930", "orderbook"), ("005930", "trade")]
    assert query(postgres_dsn, gaps) == [("kis", "kr", symbol, kind) for symbol, kind in streams]


@pytest.mark.requirement("DLP-01", "F43")
def test_a_ring_that_is_lost_before_any_of_it_was_stored_makes_the_gap_of_its_predecessor_longer(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(50)
    drain(rings, postgres_dsn)

    for records in (10, 0):  # what the second ring takes is never stored
        rings.producers[0].close()
        rings.paths[0].unlink()
        create_ring(rings.paths[0], ring=0, capacity_bytes=1 << 20)
        rings.producers[0] = RingWriter(rings.paths[0], wake_fds={"writer": rings.wake_fd})
        drain(rings, postgres_dsn)
        if records:
            rings.fill(records)
            received = datetime.now(UTC)

    gaps = "SELECT symbol, count(*), max(ended) FROM feed_gaps WHERE reason = 'ring lost' GROUP BY 1"
    ((symbol, rows, ended),) = query(postgres_dsn, gaps)
    assert (symbol, rows) == ("005930", 1)
    assert ended > received


def test_a_replaced_ring_without_stored_rows_is_a_gap_since_its_cursor_moved(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    execute(postgres_dsn, "INSERT INTO ingest_cursor VALUES (0, 1, 9, now() - INTERVAL '2 hours')")
    execute(postgres_dsn, "INSERT INTO ingest_ledger VALUES (now() - INTERVAL '3 hours', 'kr', 'kis', '005930',"
                          " 'orderbook', 1, 1, 0, 2)")  # fmt: skip

    drain(rings, postgres_dsn)

    gaps = "SELECT kind, reason, started = (SELECT updated_at FROM ingest_cursor WHERE epoch = 1) FROM feed_gaps"
    assert query(postgres_dsn, gaps) == [("orderbook", "ring lost", True)]


@pytest.mark.requirement("DLP-01")
def test_damaged_records_are_counted_and_the_others_stored(
    make_rings: Callable[..., Rings], postgres_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rings = make_rings()
    rings.fill(50)
    with rings.paths[0].open("r+b") as ring:
        ring.seek(8192 + 20 * 120 + 70)  # behind the header, in the price of the 21st trade
        ring.write(b"\xff\xff")

    drain(rings, postgres_dsn)

    assert stored(postgres_dsn) == (49, 49)
    assert rings.counters.get("corrupt_records") == 1
    (line,) = [line for line in "".join(capsys.readouterr()).splitlines() if "records_damaged" in line]
    after_seq = int(line.partition("after_seq=")[2].split()[0])
    assert 0 <= after_seq + 1 - rings.producers[0].first_seq <= 20


@pytest.mark.requirement("GS-01")
def test_a_stop_stores_everything_and_leaves_no_connection(make_rings: Callable[..., Rings], postgres_dsn: str) -> None:
    rings = make_rings()
    with RunningWriter(rings, settings_for(postgres_dsn, flush_interval_ms=300_000)) as running:
        rings.fill(3_000)
        assert running.stop() is True

    assert stored(postgres_dsn) == (3_000, 3_000)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sise writer'"
    wait_until(lambda: query(postgres_dsn, sessions) == [(0,)])  # the server notices a closed socket by itself


@pytest.mark.requirement("GS-01", "DLP-02")
def test_a_stop_while_the_database_is_away_spills_what_is_left_in_time(
    make_rings: Callable[..., Rings], own_postgres: Callable[[], EmbeddedPostgres]
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn), drain_s=1.5) as running:
        rings.fill(10)
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
        server.stop()
        rings.fill(30)
        started = time.monotonic()
        assert running.stop() is True
        assert time.monotonic() - started < 3.0
    assert rings.counters.get("writer_lag_bytes") == 0

    server.start()
    drain(rings, server.dsn)
    assert stored(server.dsn) == (40, 40)


def test_it_beats_every_second_while_the_server_hangs(
    make_rings: Callable[..., Rings], own_postgres: Callable[[], EmbeddedPostgres]
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        rings.fill(10)
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
        sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'sise writer'"
        wait_until(lambda: len(query(server.dsn, sessions)) == 1)  # the recovery has nothing to do
        (backend,) = query(server.dsn, sessions)
        os.kill(backend[0], signal.SIGSTOP)
        hung_at = time.monotonic()
        rings.fill(10)
        wait_until(lambda: running.beats[-1] > hung_at + 3.0)
        os.kill(backend[0], signal.SIGCONT)
        wait_until(lambda: rings.counters.get("rows_committed") == 20)

    assert running.longest_pause_s(hung_at) < 1.1, "the idle pace is a second"


def test_a_server_that_is_away_at_the_start_is_waited_for(
    make_rings: Callable[..., Rings], own_postgres: Callable[[], EmbeddedPostgres]
) -> None:
    rings = make_rings()
    server = own_postgres()
    server.stop()
    rings.fill(10)

    with RunningWriter(rings, settings_for(server.dsn)) as running:
        assert running.is_ready.wait(10), "a database that is away is no reason not to boot"
        wait_until(lambda: rings.counters.get("commit_retries") >= 2)
        server.start()
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
        assert rings.counters.get("database_connected") == 1


@pytest.mark.requirement("SCH-01", "F51")
def test_a_row_that_the_table_refuses_is_kept_in_quarantine_and_the_others_are_stored(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        append(rings.producers[0], Trade(price=(0, 0)))  # no parser lets this through
        rings.fill(4)
        wait_until(lambda: stored(postgres_dsn)[0] == 4)
        assert running.stop() is True

    assert stored(postgres_dsn, "market_ticks", "quarantine") == (5, 5)
    assert rings.counters.get("batches_spilled") == 0


def test_the_writer_makes_the_tables_of_an_empty_database(
    make_rings: Callable[..., Rings], empty_postgres_dsn: str
) -> None:
    rings = make_rings()
    rings.fill(10)

    drain(rings, empty_postgres_dsn)

    assert stored(empty_postgres_dsn) == (10, 10)


def test_a_table_that_is_not_there_is_waited_for_until_the_operator_helps(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    with RunningWriter(rings, settings_for(postgres_dsn)):
        wait_until(lambda: rings.counters.get("database_connected"))
        execute(postgres_dsn, "ALTER TABLE market_ticks RENAME TO elsewhere")
        rings.fill(10)
        wait_until(lambda: rings.counters.get("commit_retries") >= 2)
        execute(postgres_dsn, "ALTER TABLE elsewhere RENAME TO market_ticks")
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
