"""Storing spill files: each with its own rows and once, gone only after its commit, and none passed over in silence."""

import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daemon.alerts import RecordingAlerts
from daemon.sinks.database import Isolated
from daemon.sinks.isolation import new_batch
from daemon.sinks.recovery import Pass, Replayer
from daemon.sinks.segment import Range
from daemon.sinks.spill import SpillDirectory, SpillFile
from daemon.sinks.spill_ledger import (
    Known,
    KnownBatches,
    LostBatches,
    RegisterPassed,
    SegmentClaim,
    WaitingBatches,
)
from native_pipeline.record_block import RecordBlock
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import Trade, append

RECORDS = 5  # of each file


class Server:
    """A database that knows batches, and what each transaction brought."""

    def __init__(self) -> None:
        self.known: dict[uuid.UUID, Known] = {}
        self.waiting: list[uuid.UUID] = []
        self.did: list[tuple[str, uuid.UUID, int]] = []  # how, batch, rows
        self.lost: list[uuid.UUID] = []
        self.passed: dict[uuid.UUID, Known] = {}  # batches that the cursors are beyond, and what is said of them then
        self.fails: dict[uuid.UUID, psycopg.Error] = {}
        self.on_store: Callable[[uuid.UUID], object] = lambda _: None

    def store(self, batch: Any, claim: Any, /) -> None:
        if isinstance(claim, KnownBatches):
            claim.found = {one: self.known[one] for one in claim._batches if one in self.known}
        elif isinstance(claim, RegisterPassed):
            claim.registered = {header.batch for header in claim._headers if header.batch in self.passed}
            self.known |= {batch: self.passed[batch] for batch in claim.registered}
        elif isinstance(claim, WaitingBatches):
            claim.found = list(self.waiting)
        elif isinstance(claim, LostBatches):
            stored = {one for one, known in self.known.items() if known.is_stored} | {batch for _, batch, _ in self.did}
            gone = [one for one in claim._gone if one not in stored]
            self.lost += gone
            claim.lost = [(one, RECORDS) for one in gone]
        elif isinstance(claim, SegmentClaim):
            if claim.batch in self.fails:
                raise self.fails[claim.batch]
            self._note("rows", claim, sum(batch.rows.values()))

    def store_isolated(self, block: RecordBlock, claim: Any, /) -> Isolated:
        self._note("isolated", claim, block.records)
        return Isolated(refused=1, reasons=("market_ticks: 23514 no (1 rows)",))

    def store_missing(self, block: RecordBlock, claim: Any, /) -> Isolated:
        self._note("missing", claim, block.records)
        return Isolated(already_stored=2)

    def _note(self, how: str, claim: SegmentClaim, rows: int) -> None:
        self.on_store(claim.batch)
        self.did.append((how, claim.batch, rows))


class Counts:
    def __init__(self) -> None:
        self.values: Counter[str] = Counter()

    def increment(self, name: str, n: int = 1, /) -> None:
        self.values[name] += n

    def set(self, name: str, value: int, /) -> None:
        self.values[name] = value


class Bench:
    """A directory with files of RECORDS trades each, and who stores them."""

    def __init__(self, path: Path, files: int) -> None:
        self.server, self.counts, self.alerts = Server(), Counts(), RecordingAlerts()
        create_ring(path / "worker-0.ring", ring=0, capacity_bytes=1 << 20, consumers=(("writer", GATING),))
        producer = RingWriter(path / "worker-0.ring")
        reader = GatingReader(path / "worker-0.ring", "writer")
        self.directory = SpillDirectory(path / "spill", quota_bytes=0, min_free_bytes=0)
        self.directory.open()
        self.files: list[SpillFile] = []
        after = reader.first_seq - 1
        for _ in range(files):
            for _ in range(RECORDS):
                append(producer, Trade())
            producer.publish()
            block = RecordBlock()
            assert block.append_from(reader, producer.last_seq) == RECORDS
            said = Range(0, reader.epoch, after, producer.last_seq, RECORDS, block.bytes, 1, 2)
            self.files.append(self.directory.append([said], b"".join(bytes(part[3]) for part in block.parts)))
            after = producer.last_seq
        self.batches = [file.header.batch for file in self.files]
        self.after = {(0, reader.epoch): self.files[0].header.ranges[0].after_seq}
        reader.close()
        producer.close()
        for batch in self.batches:
            self.server.known[batch] = Known(False, {})
        self.server.waiting = list(self.batches)
        database: Any = self.server
        self.subject = Replayer(
            directory=self.directory, database=database, batch=new_batch(), counters=self.counts, alerts=self.alerts
        )

    def left(self) -> list[uuid.UUID]:
        return [file.header.batch for file in self.directory.files()]


@pytest.mark.requirement("DLP-03")
def test_each_file_is_stored_with_its_own_rows_in_order_and_removed_behind_its_commit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    there: list[list[uuid.UUID]] = []
    bench.server.on_store = lambda _: there.append(bench.left())

    done = bench.subject.replay()

    assert bench.server.did == [("rows", batch, RECORDS) for batch in bench.batches]
    assert there == [bench.batches, bench.batches[1:], bench.batches[2:]], "until it is stored, the file is there"
    assert bench.left() == []
    assert done == Pass(stored=3, records=3 * RECORDS)
    assert bench.subject.records == 3 * RECORDS
    assert bench.counts.values == {
        "batches_recovered": 3, "records_recovered": 15, "rows_committed": 15, "spill_files": 0, "spill_bytes": 0,
    }  # fmt: skip


@pytest.mark.requirement("DLP-03")
def test_what_is_stored_is_only_removed_and_what_nobody_registered_waits(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    stored, unknown, waits = bench.batches
    bench.server.known[stored] = Known(True, {})
    bench.server.waiting = [waits]
    del bench.server.known[unknown]

    done = bench.subject.replay()

    assert bench.server.did == [("rows", waits, RECORDS)]
    assert bench.left() == [unknown]
    assert (done.stored, done.unregistered, done.lost, done.is_complete) == (1, 1, 0, True)


@pytest.mark.requirement("DLP-03", "F43")
def test_of_what_nobody_registered_a_file_that_was_away_is_compared_with_what_is_there_and_the_others_wait(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, 3)
    first, away, last = bench.batches
    ((ring, after),) = bench.after.items()
    bench.server.known = {}
    bench.server.passed = {away: Known(False, {ring: after + 100})}
    bench.server.waiting = []

    done = bench.subject.replay()

    assert bench.server.did == [("missing", away, RECORDS)]
    assert bench.left() == [first, last]
    assert (done.stored, done.unregistered, done.lost) == (1, 2, 0)


@pytest.mark.requirement("DLP-03", "F49")
def test_only_a_doubtful_file_is_compared_with_what_is_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2)
    ((ring, after),) = bench.after.items()
    bench.server.known[bench.batches[0]] = Known(False, {ring: after + 1})

    bench.subject.replay()

    assert [(how, rows) for how, _, rows in bench.server.did] == [("missing", RECORDS), ("rows", RECORDS)]
    assert bench.counts.values["rows_committed"] == 2 * RECORDS - 2
    assert bench.counts.values["rows_already_stored"] == 2


@pytest.mark.requirement("F51", "DLP-03")
def test_a_file_that_the_server_refuses_for_a_value_is_taken_apart_and_others_are_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2)
    bench.server.fails[bench.batches[0]] = psycopg.errors.CheckViolation("no")

    bench.subject.replay()

    assert [(how, rows) for how, _, rows in bench.server.did] == [("isolated", RECORDS), ("rows", RECORDS)]
    assert bench.counts.values["rows_refused"] == 1
    assert bench.alerts.codes() == ["rows_refused"]
    assert bench.left() == []


@pytest.mark.requirement("DLP-03", "F46")
def test_a_database_that_goes_away_leaves_the_file_and_those_behind_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    bench.server.fails[bench.batches[1]] = psycopg.OperationalError("gone")

    with pytest.raises(psycopg.OperationalError):
        bench.subject.replay()

    assert bench.left() == bench.batches[1:]
    del bench.server.fails[bench.batches[1]]
    bench.server.known[bench.batches[0]] = Known(True, {})
    bench.subject.replay()
    assert Counter(batch for _, batch, _ in bench.server.did) == dict.fromkeys(bench.batches, 1)
    assert bench.server.lost == []


@pytest.mark.requirement("DLP-01", "F43")
def test_a_batch_that_waits_without_a_file_is_lost_and_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2)
    bench.files[0].path.unlink()

    done = bench.subject.replay()

    assert bench.server.lost == [bench.batches[0]]
    assert (done.lost, done.stored) == (1, 1)


@pytest.mark.requirement("DLP-01", "DLP-03")
def test_a_file_that_comes_after_the_question_what_waits_is_not_lost(tmp_path: Path) -> None:
    """Registered and stored by others between the question and the look at the directory."""
    bench = Bench(tmp_path, 2)
    bench.server.waiting = bench.batches[:1]  # the second was registered after the question

    done = bench.subject.replay()

    assert (done.lost, bench.server.lost) == (0, [])


@pytest.mark.requirement("DLP-01", "F42")
def test_a_damaged_file_is_moved_aside_lost_once_and_the_next_is_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2)
    assert bench.left() == bench.batches  # the header is known; what is damaged is the body
    data = bytearray(bench.files[0].path.read_bytes())
    data[-1] ^= 1
    bench.files[0].path.write_bytes(data)

    done = bench.subject.replay()

    assert bench.server.did == [("rows", bench.batches[1], RECORDS)]
    assert bench.server.lost == [bench.batches[0]]
    assert (done.stored, done.lost) == (1, 1)
    assert [path.name for path in bench.directory.path.iterdir()] == [
        path.name for path in bench.directory.path.glob(f"{bench.files[0].path.name}.damaged-*")
    ]


@pytest.mark.requirement("DLP-01", "F42")
def test_a_file_that_holds_what_is_no_record_is_moved_aside_and_the_next_is_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 1)
    said = bench.files[0].header.ranges[0]
    strange = bench.directory.append(
        [Range(0, said.epoch, said.through_seq, said.through_seq + 1, 1, 8, 1, 2)], bytes(8)
    )
    bench.server.known = {strange.header.batch: Known(False, {}), **bench.server.known}
    bench.server.waiting.append(strange.header.batch)

    done = bench.subject.replay()

    assert bench.server.did == [("rows", bench.batches[0], RECORDS)]
    assert bench.server.lost == [strange.header.batch]
    assert (done.stored, done.lost, bench.left()) == (1, 1, [])


@pytest.mark.requirement("DLP-03", "F40")
def test_a_file_that_cannot_be_read_now_is_told_once_waits_and_is_not_lost(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2)
    path = bench.files[0].path
    data = path.read_bytes()
    path.unlink()
    path.mkdir()  # what is there, and cannot be read

    for _ in range(2):
        done = bench.subject.replay()
        assert (done.unreadable, done.lost) == (1, 0)
        bench.server.waiting = bench.batches[:1]

    assert bench.server.did == [("rows", bench.batches[1], RECORDS)]
    assert bench.alerts.codes() == ["spill_file_unreadable"]

    path.rmdir()
    path.write_bytes(data)
    assert bench.subject.replay() == Pass(stored=1, records=RECORDS)
    assert bench.server.lost == []
    assert bench.left() == []


@pytest.mark.requirement("GS-01")
def test_a_stop_is_noticed_between_two_files(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    seen: list[SpillFile] = []

    done = bench.subject.replay(is_stopping=lambda: bool(seen), after_each=seen.append)

    assert done == Pass(stored=1, records=RECORDS, is_complete=False)
    assert bench.left() == bench.batches[1:]
