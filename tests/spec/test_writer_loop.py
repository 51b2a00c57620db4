"""The writer's loop with a fake database, rings and clock: pace of the retries, turns of the rings, end of a stop."""

import itertools
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import psycopg
import pytest

from daemon.alerts import RecordingAlerts
from daemon.config import Database, Spill
from daemon.sinks.database import Advance, Batch, Claim, CursorAdvances, FailureKind, Isolated, Ring, classify
from daemon.sinks.errands import BEAT_S
from daemon.sinks.host import Host
from daemon.sinks.outage import SpillParts
from daemon.sinks.owner import OwnedByAnother
from daemon.sinks.put_aside import Aside
from daemon.sinks.recovery import Registrar, Replayer
from daemon.sinks.recovery_thread import LiveLoad, RecoveryThread
from daemon.sinks.segment import Header, Range
from daemon.sinks.spill import CannotSpill, SpillDirectory, SpillFile
from daemon.sinks.spiller import Spiller, Taken
from daemon.sinks.writer import Writer


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


class FakeReader:
    """A ring with records 1, 2, 3 ..., of 100 bytes each."""

    epoch = 1
    first_seq = 1
    capacity_bytes = 1 << 20

    def __init__(self, ring: int, records: int) -> None:
        self.ring = ring
        self.published = records
        self.last_seq = 0
        self.committed = 0
        self.corrupt_records = 0
        self.missing = 0

    @property
    def lag_bytes(self) -> int:
        return (self.published - self.committed) * 100

    def take(self, count: int) -> int:
        taken = min(count, self.published - self.last_seq)
        self.last_seq += taken
        return taken

    def seek_after(self, seq: int, /) -> int:
        self.last_seq = self.committed = seq
        return self.missing

    def rewind(self) -> None:
        self.last_seq = self.committed

    def fetch_bytes(self) -> int:
        return self.lag_bytes

    def next_bytes(self) -> bytes | None:
        return None

    def commit(self) -> None:
        self.committed = self.last_seq

    def prepare_sleep(self) -> bool:
        return self.last_seq == self.published

    def cancel_sleep(self) -> None:
        pass

    def close(self) -> None:
        pass


class FakeBatch:
    def __init__(self) -> None:
        self.records = 0

    @property
    def rows(self) -> Mapping[str, int]:
        return {"market_ticks": self.records}

    def block(self, _table: str, /) -> memoryview:
        return memoryview(b"")

    def append_from(self, reader: FakeReader, max_records: int, /) -> int:
        taken = reader.take(max_records)
        self.records += taken
        return taken

    def append_block(self, block: object, begin: int = 0, end: int | None = None, /) -> int:
        raise NotImplementedError

    def observe_ages(self, _counters: object, _histogram: int, _now_ns: int, /) -> None:
        pass

    def clear(self) -> None:
        self.records = 0


class FakeDatabase:
    """Fails as often as told, then stores."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.failures: list[psycopg.Error] = []
        self.attempts: list[float] = []
        self.stored: list[list[Advance]] = []
        self.lapped: list[Ring] = []
        self.strangers: list[OwnedByAnother] = []
        self.is_closed = False

    def keep_owner(self) -> None:
        if self.strangers:
            raise self.strangers.pop()

    def give_up_owner(self) -> None:
        pass

    def start_cursors(self, first: Mapping[Ring, int], /) -> dict[Ring, int]:
        return dict(first)

    def add_lapped_gaps(self, ring: Ring, /) -> None:
        self.lapped.append(ring)

    def store_isolated(self, block: object, claim: Claim, /, *, puts_aside: bool = False) -> Isolated:
        raise NotImplementedError

    def store_put_aside(self) -> Aside:
        return Aside()

    def store_missing(self, block: object, claim: Claim, /) -> Isolated:
        raise NotImplementedError

    def store(self, _batch: Batch, claim: Claim, /, *, lock_timeout: str = "") -> None:
        if isinstance(claim, CursorAdvances):
            self.attempts.append(self._clock.now)
        if self.failures:
            raise self.failures.pop(0)
        if not isinstance(claim, CursorAdvances):
            return  # questions about spilled batches: there are none
        self.stored.append(list(claim.advances))

    def maintain(self, _today: date, /) -> None:
        pass

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


class FakeSpiller(Spiller):
    """Takes seqs only."""

    def __init__(self, readers: Sequence[FakeReader]) -> None:
        self._fakes = readers

    def is_full(self) -> bool:
        return False

    def take_exactly(self, cursors: Mapping[Ring, int], reached: Mapping[Ring, int]) -> Taken:
        return self._taken(cursors, reached)

    def take(self, cursors: Mapping[Ring, int]) -> Taken:
        return self._taken(cursors, {(one.ring, 1): one.published for one in self._fakes if one.lag_bytes})

    def _taken(self, cursors: Mapping[Ring, int], reached: Mapping[Ring, int]) -> Taken:
        for one in self._fakes:
            one.last_seq = reached.get((one.ring, 1), one.last_seq)
        ranges = [
            Range(ring, epoch, cursors.get((ring, epoch), 0), seq, seq - cursors.get((ring, epoch), 0), 0, 0, 0)
            for (ring, epoch), seq in reached.items()
        ]
        return Taken(tuple(ranges), b"", {})


class FakeDirectory(SpillDirectory):
    """Keeps ranges; refuses as often as told."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"), quota_bytes=0, min_free_bytes=0)
        self.held: list[SpillFile] = []  # at the start
        self.spilled: list[tuple[Range, ...]] = []
        self.refusals = 0

    def open(self) -> list[SpillFile]:
        return list(self.held)

    def append(self, ranges: Sequence[Range], raw: bytes) -> SpillFile:
        if self.refusals:
            self.refusals -= 1
            raise CannotSpill("no room")
        self.spilled.append(tuple(ranges))
        header = Header(uuid.uuid4(), 0, 0, 0, b"", tuple(ranges))
        return SpillFile(Path("file"), header)


class FakeCounters(dict[str, int]):
    def increment(self, name: str, n: int = 1, /) -> None:
        self[name] = self.get(name, 0) + n

    def set(self, name: str, value: int, /) -> None:
        self[name] = value


class Bench:
    """A writer whose sleeps move the clock; it is asked to stop as soon as it has nothing to do."""

    def __init__(self, *records: int, batch_rows: int = 100, drain_s: float = 1000.0) -> None:
        self.clock = FakeClock()
        self.database = FakeDatabase(self.clock)
        self.counters = FakeCounters()
        self.readers = [FakeReader(ring, count) for ring, count in enumerate(records)]
        self.stop: Callable[[], bool] = lambda: all(reader.lag_bytes == 0 for reader in self.readers)
        settings = Database(batch_rows=batch_rows)
        host = Host(wait=self._sleep, beat=lambda: None, stopping=self.is_stopping, drain_s=drain_s)
        self.directory = FakeDirectory()
        self.alerts = RecordingAlerts()
        first = {(reader.ring, 1): 0 for reader in self.readers}
        replayer = Replayer(
            directory=self.directory, database=FakeDatabase(self.clock), batch=FakeBatch(), counters=self.counters
        )
        spilling = SpillParts(
            settings=Spill(),
            directory=self.directory,
            spiller=FakeSpiller(self.readers),
            registrar=Registrar(directory=self.directory, database=self.database, counters=self.counters, first=first),
            recovery=RecoveryThread(replayer, FakeDatabase(self.clock), LiveLoad(), every_s=600.0, again_s=1.0),
            alerts=self.alerts,
        )
        self.writer = Writer(
            readers=self.readers, batch=FakeBatch(), database=self.database, settings=settings, spilling=spilling,
            load=LiveLoad(), counters=self.counters, host=host, clock=self.clock,
        )  # fmt: skip

    def is_stopping(self) -> bool:
        return self.stop()

    def _sleep(self, seconds: float) -> None:
        self.clock.now += seconds


def away() -> psycopg.Error:
    return psycopg.OperationalError("server closed the connection unexpectedly")


@pytest.mark.requirement("F35", "F36")
def test_records_for_a_database_that_another_daemon_has_are_spilled_from_the_first_one_on_and_people_are_told() -> None:
    bench = Bench(50, 3)
    bench.database.strangers = [OwnedByAnother("it belongs to the daemon of there:/data")]

    assert bench.writer.run()

    assert bench.database.stored == []
    (ranges,) = bench.directory.spilled
    assert {(one.ring, one.through_seq) for one in ranges} == {(0, 50), (1, 3)}
    assert bench.alerts.codes()[0] == "database_needs_operator"
    assert "there:/data" in str(bench.alerts.sent[0])


@pytest.mark.requirement("DLP-02")
def test_a_batch_is_tried_again_after_1_2_and_4_seconds_and_then_spilled() -> None:
    bench = Bench(50)
    bench.database.failures = [away() for _ in range(40)]

    assert bench.writer.run() is True

    attempts = bench.database.attempts
    pauses = [round(later - earlier, 6) for earlier, later in itertools.pairwise(attempts)]
    assert pauses[:3] == [1, 2, 4]
    assert bench.counters["commit_retries"] == 3
    assert [(one.after_seq, one.through_seq) for one in bench.directory.spilled[0]] == [(0, 50)]
    assert bench.readers[0].committed == 50
    assert bench.alerts.codes() == ["database_spilling"]


def test_the_same_batch_is_tried_until_it_is_stored_and_only_then_given_back() -> None:
    bench = Bench(50)
    bench.database.failures = [away(), away()]

    bench.writer.run()

    assert bench.database.stored == [[Advance((0, 1), 0, 50)]]
    assert bench.readers[0].committed == 50
    assert bench.directory.spilled == []


def test_rings_share_a_batch_evenly_and_what_one_does_not_need_goes_to_the_others() -> None:
    bench = Bench(1_000, 10, 1_000, batch_rows=300)

    bench.writer.run()

    first = {advance.ring[0]: advance.new for advance in bench.database.stored[0]}
    assert first[1] == 10
    assert sum(first.values()) == 300
    assert min(first[0], first[2]) > 100
    assert bench.counters["rows_committed"] == 2_010


def test_a_batch_waits_for_its_interval_and_takes_what_arrives_meanwhile() -> None:
    bench = Bench(1)
    late = iter([5, 9])
    sleep = bench._sleep

    def sleep_and_receive(seconds: float) -> None:
        sleep(seconds)
        bench.readers[0].published += next(late, 0)

    bench.writer._host = Host(
        wait=sleep_and_receive, beat=lambda: None, stopping=bench.is_stopping, drain_s=1.0
    )  # fmt: skip
    bench.writer.run()

    assert bench.database.stored == [[Advance((0, 1), 0, 15)]]
    assert bench.database.attempts[0] - 1000.0 == pytest.approx(0.2)


@pytest.mark.requirement("DLP-01")
def test_damage_is_reported_once_for_each_time_that_it_grows(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(100, 100, batch_rows=20)
    reader = bench.readers[1]
    take = reader.take

    def take_and_find_damage(count: int) -> int:
        taken = take(count)
        if reader.last_seq >= 30:
            reader.corrupt_records = 7
        if reader.last_seq >= 60:
            reader.corrupt_records = 9
        return taken

    reader.take = take_and_find_damage  # type: ignore[method-assign]
    bench.writer.run()

    lines = [line for line in "".join(capsys.readouterr()).splitlines() if "records_damaged" in line]
    assert len(lines) == 2
    assert bench.counters["corrupt_records"] == 9
    assert bench.counters["rows_committed"] == 200


@pytest.mark.requirement("DLP-01")
def test_a_ring_that_was_lapped_is_noted_as_a_gap_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(5, 5)
    bench.readers[1].missing = 3

    bench.writer.run()

    assert bench.database.lapped == [(1, 1)]
    assert "records_missing_in_ring" in "".join(capsys.readouterr())


@pytest.mark.requirement("DLP-01")
def test_the_gaps_of_a_lapped_ring_are_waited_for_although_the_ring_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is stored before they are noted: giving that up again and again, the writer would never go on."""
    bench = Bench(8_000, batch_rows=8_000)
    reader, database = bench.readers[0], bench.database
    reader.missing = 3
    cancelled = threading.Event()
    database.cancel = cancelled.set  # type: ignore[method-assign]

    def note_slowly(ring: Ring, /) -> None:
        bench.clock.now += 10.0
        if cancelled.wait(3 * BEAT_S):
            raise psycopg.errors.QueryCanceled("canceling statement due to user request")
        database.lapped.append(ring)

    database.add_lapped_gaps = note_slowly  # type: ignore[method-assign]
    bench.writer.run()

    assert database.lapped == [(0, 1)]
    assert "".join(capsys.readouterr()).count("records_missing_in_ring") == 1
    assert bench.counters["rows_committed"] == 8_000


@pytest.mark.requirement("GS-01")
def test_a_stop_gives_up_at_the_deadline_and_gives_nothing_back() -> None:
    bench = Bench(50, drain_s=10.0)
    bench.stop = lambda: True
    bench.database.failures = [away() for _ in range(100)]
    bench.directory.refusals = 1_000

    assert bench.writer.run() is False

    assert bench.clock.now - 1000.0 == pytest.approx(9.5, abs=1.0)
    assert bench.readers[0].committed == 0
    assert bench.database.is_closed


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (away(), FailureKind.AWAY),
        (psycopg.InterfaceError(), FailureKind.AWAY),
        (psycopg.errors.AdminShutdown(), FailureKind.AWAY),
        (psycopg.errors.CannotConnectNow(), FailureKind.AWAY),
        (psycopg.errors.QueryCanceled(), FailureKind.AWAY),
        (psycopg.errors.DeadlockDetected(), FailureKind.AWAY),
        (psycopg.errors.SerializationFailure(), FailureKind.AWAY),
        (psycopg.errors.DiskFull(), FailureKind.AWAY),
        (psycopg.errors.TooManyConnections(), FailureKind.AWAY),
        (psycopg.errors.LockNotAvailable(), FailureKind.AWAY),
        (psycopg.errors.ReadOnlySqlTransaction(), FailureKind.AWAY),
        (psycopg.errors.CheckViolation(), FailureKind.DATA),
        (psycopg.errors.NumericValueOutOfRange(), FailureKind.DATA),
        (psycopg.errors.BadCopyFileFormat(), FailureKind.SETUP),
        (psycopg.errors.UndefinedTable(), FailureKind.SETUP),
        (psycopg.errors.InsufficientPrivilege(), FailureKind.SETUP),
        (psycopg.errors.InvalidPassword(), FailureKind.SETUP),
    ],
)
def test_failures_are_told_apart_by_sqlstate(error: psycopg.Error, kind: FailureKind) -> None:
    assert classify(error) is kind


class MissingTable(psycopg.errors.UndefinedTable):
    """As the server would report it."""

    sqlstate = "42P01"


@pytest.mark.requirement("F53")
def test_a_database_that_needs_its_operator_is_one_alert_and_its_end_another() -> None:
    bench = Bench(50)
    bench.database.failures = [MissingTable("no such table"), away(), MissingTable("no such table")]

    bench.writer.run()

    assert bench.database.stored == [[Advance((0, 1), 0, 50)]]
    assert [sent[:2] for sent in bench.alerts.sent] == [
        ("CRITICAL", "database_needs_operator"),
        ("INFO", "database_needs_operator_ended"),
    ]
    assert "42P01" in bench.alerts.sent[0][2]
