"""What the database says of spilled batches, question by question: nothing is registered, stored or lost twice."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from daemon.config import Database as DatabaseSettings
from daemon.sinks import spill_ledger
from daemon.sinks.database import Database
from daemon.sinks.segment import Header, Range
from daemon.sinks.spill_ledger import (
    Cursors,
    KnownBatches,
    LostBatches,
    RegisterClaim,
    RegisterPassed,
    SegmentClaim,
    WaitingBatches,
)
from daemon.sinks.stream_gaps import StreamGaps

BEGAN = datetime(2026, 11, 20, 1, tzinfo=UTC)
BEGAN_NS = int(BEGAN.timestamp()) * 10**9
SECOND_NS = 10**9
EPOCHS = {0: 1_000, 1: 5_000}  # of the rings; seqs count up from them


def range_of(ring: int, after: int, through: int, *, first_s: int = 1, last_s: int = 2) -> Range:
    """Records of *ring*: those behind *after*, through *through*, counted from the ring's start; received at *_s."""
    start = EPOCHS[ring]
    count = through - after
    times = (BEGAN_NS + first_s * SECOND_NS, BEGAN_NS + last_s * SECOND_NS)
    return Range(ring, start, start + after, start + through, count, count * 64, *times)


def header_of(*ranges: Range) -> Header:
    return Header(uuid.uuid4(), BEGAN_NS, 100, sum(one.raw_bytes for one in ranges), bytes(32), ranges)


@pytest.fixture
def connection(postgres_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_dsn, autocommit=True) as found:
        for ring, start in EPOCHS.items():
            found.execute("INSERT INTO ingest_cursor (ring, epoch, seq) VALUES (%s, %s, %s)", [ring, start, start])
        yield found


def cursors(connection: psycopg.Connection[Any]) -> dict[int, int]:
    """How far each ring's cursor is from its start."""
    rows = connection.execute("SELECT ring, epoch, seq FROM ingest_cursor").fetchall()
    return {ring: seq - epoch for ring, epoch, seq in rows if EPOCHS.get(ring) == epoch}


def register(connection: psycopg.Connection[Any], *headers: Header) -> RegisterClaim:
    claim = RegisterClaim(headers, StreamGaps())
    assert not claim.is_taken(connection)
    with connection.transaction():
        assert claim.take(connection)
    assert claim.is_taken(connection)
    return claim


def waiting(connection: psycopg.Connection[Any]) -> list[uuid.UUID]:
    question = WaitingBatches()
    assert question.take(connection)
    return question.found


def facts(connection: psycopg.Connection[Any], *columns: str) -> list[tuple[Any, ...]]:
    query = f"SELECT {', '.join(columns)} FROM spilled_batches ORDER BY registered_at"
    return connection.execute(query.encode()).fetchall()


@pytest.mark.requirement("DLP-03")
def test_a_batch_that_another_process_registers_just_now_is_registered_once(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    header = header_of(range_of(0, 0, 10))
    register(connection, header)
    monkeypatch.setattr(spill_ledger, "BATCH_IS_KNOWN", "SELECT true WHERE %s::uuid IS NULL")  # asked before

    with connection.transaction():
        assert RegisterClaim([header], StreamGaps()).take(connection)

    assert connection.execute("SELECT after_seqs FROM spilled_batches").fetchall() == [([EPOCHS[0]],)]
    assert cursors(connection)[0] == 10


@pytest.mark.requirement("DLP-02", "DLP-03")
def test_a_registered_batch_has_moved_the_cursors_of_its_rings_and_says_what_it_holds(
    connection: psycopg.Connection[Any],
) -> None:
    other = 9_000  # an epoch of ring 0 that came after: none of this batch's business
    connection.execute("INSERT INTO ingest_cursor (ring, epoch, seq) VALUES (0, %s, %s)", [other, other])
    header = header_of(range_of(0, 0, 10, first_s=5, last_s=9), range_of(1, 0, 4, first_s=3, last_s=7))

    claim = register(connection, header)

    assert cursors(connection) == {0: 10, 1: 4}
    question = Cursors()
    assert question.take(connection)
    assert question.found == {(0, 1_000): 1_010, (1, 5_000): 5_004, (0, other): other}
    said = facts(connection, "batch", "rings", "epochs", "after_seqs", "through_seqs", "records")
    assert said == [(header.batch, [0, 1], [1_000, 5_000], [1_000, 5_000], [1_010, 5_004], 14)]
    first, last = BEGAN + timedelta(seconds=3), BEGAN + timedelta(seconds=9)
    assert facts(connection, "first_recv", "last_recv") == [(first, last)]
    assert claim.missing == 0


@pytest.mark.requirement("DLP-03")
def test_registering_twice_changes_nothing(connection: psycopg.Connection[Any]) -> None:
    one, two = header_of(range_of(0, 0, 10)), header_of(range_of(0, 10, 20))
    register(connection, one)
    before = facts(connection, "*")

    with connection.transaction():
        assert RegisterClaim([one], StreamGaps()).take(connection)
    assert (facts(connection, "*"), cursors(connection)) == (before, {0: 10, 1: 0})

    claim = RegisterClaim([one, two], StreamGaps())
    with connection.transaction():
        assert claim.take(connection)
    assert (cursors(connection)[0], len(facts(connection, "batch")), claim.missing) == (20, 2, 0)


@pytest.mark.requirement("DLP-01", "F43")
def test_records_between_the_cursor_and_a_batch_are_counted_as_often_as_they_are_missing(
    connection: psycopg.Connection[Any],
) -> None:
    """Files between are gone. A transaction that is tried again counts anew, not on top."""
    claim = RegisterClaim(
        [header_of(range_of(0, 3, 10), range_of(1, 5, 6)), header_of(range_of(0, 12, 13))], StreamGaps()
    )
    for _ in range(2):
        with connection.transaction(force_rollback=True):
            assert claim.take(connection)
        assert claim.missing == 3 + 5 + 2
    with connection.transaction():
        assert claim.take(connection)
    assert claim.missing == 3 + 5 + 2
    assert cursors(connection) == {0: 13, 1: 6}


@pytest.mark.requirement("DLP-01", "DLP-03", "F49")
@pytest.mark.parametrize(("cursor", "is_doubtful"), [(4, False), (5, True), (9, True), (10, True), (15, True)])
def test_a_batch_that_the_cursor_is_in_or_beyond_is_doubtful_and_moves_no_cursor_back(
    connection: psycopg.Connection[Any], cursor: int, is_doubtful: bool
) -> None:
    connection.execute("UPDATE ingest_cursor SET seq = epoch + %s WHERE ring = 0", [cursor])
    header = header_of(range_of(1, 0, 3), range_of(0, 4, 10))

    register(connection, header)

    assert cursors(connection) == {0: max(10, cursor), 1: 3}
    question = KnownBatches([header.batch, uuid.uuid4()])
    assert question.take(connection)
    assert question.found.keys() == {header.batch}
    known = question.found[header.batch]
    assert (known.is_stored, known.is_doubtful(header)) == (False, is_doubtful)
    assert known.after_seqs == {(0, 1_000): 1_000 + cursor, (1, 5_000): 5_000}


@pytest.mark.requirement("DLP-03")
def test_one_transaction_stores_a_batch_and_no_other_can(connection: psycopg.Connection[Any]) -> None:
    one, two = header_of(range_of(0, 0, 10)), header_of(range_of(0, 10, 20))
    claim = SegmentClaim(one.batch)
    assert not claim.take(connection), "it is not registered"
    register(connection, one, two)
    assert not claim.is_taken(connection)

    with connection.transaction(force_rollback=True):
        assert claim.take(connection)
    assert not claim.is_taken(connection), "its transaction failed"
    assert claim.take(connection)

    assert claim.is_taken(connection)
    assert not SegmentClaim(one.batch).take(connection)
    assert not SegmentClaim(two.batch).is_taken(connection)
    assert waiting(connection) == [two.batch]
    question = KnownBatches([one.batch, two.batch])
    question.take(connection)
    assert {batch: known.is_stored for batch, known in question.found.items()} == {one.batch: True, two.batch: False}


@pytest.mark.requirement("DLP-01", "F43")
def test_a_batch_without_a_file_is_lost_once_and_a_stored_one_never(connection: psycopg.Connection[Any]) -> None:
    stored, gone, there = (header_of(range_of(0, 10 * i, 10 * i + 10)) for i in range(3))
    register(connection, stored, gone, there)
    asked = waiting(connection)
    assert asked == [stored.batch, gone.batch, there.batch]
    SegmentClaim(stored.batch).take(connection)  # between the question and the claim: by another process

    claim = LostBatches({there.batch}, asked, StreamGaps())
    with connection.transaction(force_rollback=True):
        assert claim.take(connection)
    with connection.transaction():
        assert claim.take(connection)

    assert claim.lost == [(gone.batch, 10)]
    assert waiting(connection) == [there.batch]
    again = LostBatches(set(), [gone.batch, stored.batch], StreamGaps())
    assert again.take(connection)
    assert again.lost == []


@pytest.mark.requirement("DLP-01", "F43")
def test_a_lost_batch_is_stored_after_all_when_its_file_is_found(connection: psycopg.Connection[Any]) -> None:
    header = header_of(range_of(0, 0, 10))
    register(connection, header)
    LostBatches(set(), [header.batch], StreamGaps()).take(connection)

    assert SegmentClaim(header.batch).take(connection)
    assert SegmentClaim(header.batch).is_taken(connection)


@pytest.mark.requirement("DLP-01", "F43")
def test_a_lost_batch_is_a_gap_of_the_streams_of_its_rings_in_its_time(connection: psycopg.Connection[Any]) -> None:
    ledger = """
    INSERT INTO ingest_ledger (minute, market, venue, symbol, kind, received, through_seq, source, seq)
    VALUES (%s, 'kr', 'kis', %s, 'trade', 1, %s, %s, %s)"""
    for number, (symbol, source, minute) in enumerate(
        [("of ring", 0, BEGAN), ("of another", 1, BEGAN), ("old", 0, BEGAN - timedelta(days=4))], 1
    ):
        connection.execute(ledger, [minute, symbol, number, source, number])
    header = header_of(range_of(0, 0, 5, first_s=10, last_s=20))
    late = replace(header_of(range_of(1, 0, 5)), batch=uuid.uuid4())
    register(connection, header, late)
    connection.execute("DELETE FROM feed_gaps")
    gaps = StreamGaps({0: [("kis", "kr", "planned", "event")], 1: [("kis", "kr", "of another", "event")]}.__getitem__)

    LostBatches({late.batch}, [header.batch, late.batch], gaps).take(connection)

    said = connection.execute("SELECT symbol, kind, started, ended, source FROM feed_gaps ORDER BY 1").fetchall()
    lost = BEGAN + timedelta(seconds=10), BEGAN + timedelta(seconds=20), 0
    assert said == [("of ring", "trade", *lost), ("planned", "event", *lost)]


@pytest.mark.requirement("DLP-03")
@pytest.mark.parametrize(
    "question", [KnownBatches([]), WaitingBatches(), Cursors(), LostBatches(set(), [], StreamGaps())]
)
def test_a_question_whose_transaction_failed_is_asked_again(connection: psycopg.Connection[Any], question: Any) -> None:
    assert question.take(connection)
    assert not question.is_taken(connection), "what the first attempt found may be wrong by now"


@pytest.mark.requirement("DLP-01", "DLP-03", "F43")
@pytest.mark.parametrize(
    ("reached", "is_passed"),
    [((10, 3), True), ((15, 9), True), ((9, 3), False), ((10, 2), False), ((4, 0), False), ((10, None), False)],
)
def test_without_the_writer_only_a_batch_that_all_its_cursors_are_beyond_is_registered_and_it_is_doubtful(
    connection: psycopg.Connection[Any], reached: tuple[int, int | None], is_passed: bool
) -> None:
    connection.execute("DELETE FROM ingest_cursor")
    for ring, seq in enumerate(reached):
        if seq is not None:  # None: a ring that the database has never heard of
            values = [ring, EPOCHS[ring], EPOCHS[ring] + seq]
            connection.execute("INSERT INTO ingest_cursor (ring, epoch, seq) VALUES (%s, %s, %s)", values)
    before = cursors(connection)
    header = header_of(range_of(0, 4, 10), range_of(1, 0, 3))

    claim = RegisterPassed([header])
    assert claim.take(connection)

    assert not claim.is_taken(connection)
    assert claim.registered == ({header.batch} if is_passed else set())
    assert waiting(connection) == ([header.batch] if is_passed else [])
    assert cursors(connection) == before
    if is_passed:
        question = KnownBatches([header.batch])
        assert question.take(connection)
        assert question.found[header.batch].after_seqs == {
            (0, 1_000): 1_000 + reached[0],
            (1, 5_000): before[1] + 5_000,
        }
        assert question.found[header.batch].is_doubtful(header)


@pytest.mark.requirement("DLP-03", "F43")
def test_what_the_writer_has_registered_or_stored_stays_so_when_its_file_is_found_again(
    connection: psycopg.Connection[Any],
) -> None:
    stored, waits, new = header_of(range_of(0, 0, 10)), header_of(range_of(0, 10, 20)), header_of(range_of(0, 5, 8))
    register(connection, stored, waits)
    SegmentClaim(stored.batch).take(connection)
    before = facts(connection, "*")

    claim = RegisterPassed([stored, waits, new])
    with connection.transaction(force_rollback=True):
        assert claim.take(connection)
    assert claim.registered == {new.batch}
    assert RegisterPassed([new]).take(connection)  # by another process, before it is tried again
    assert claim.take(connection)

    assert claim.registered == set()
    assert facts(connection, "*")[:2] == before
    assert waiting(connection) == [waits.batch, new.batch]


ADD_TICK = """
INSERT INTO market_ticks (time, symbol, price, volume, market, venue, recv_time, flags, source, seq)
VALUES (%(at)s, 'A', 1, 1, 'kr', 'kis', %(at)s, 0, 0, 1)"""


@pytest.fixture(params=[0.5, 8.0], ids=["half an hour", "8 hours"])
def newest(connection: psycopg.Connection[Any], request: pytest.FixtureRequest) -> datetime:
    """When the newest row of ring 0 that is stored was received, and its cursor moved."""
    found = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=request.param)
    connection.execute("UPDATE ingest_cursor SET updated_at = %s WHERE ring = 0", [found])
    connection.execute(ADD_TICK, {"at": found})
    return found


def spilled(newest: datetime, after: int, through: int, *seconds: int) -> Header:
    """Records of ring 0, received between two times after *newest*; without any: a batch of damaged records only."""
    times = [int(newest.timestamp() + each) * SECOND_NS for each in seconds] or [0, 0]
    found = replace(range_of(0, after, through), first_recv_ns=times[0], last_recv_ns=times[1])
    return header_of(found)


def gaps(connection: psycopg.Connection[Any], since: datetime) -> list[tuple[float, float]]:
    """Those of the one stream, in seconds since *since*."""
    query = "SELECT started, ended FROM feed_gaps WHERE symbol = 'A' AND kind = 'trade' AND source = 0 ORDER BY started"
    return [tuple((at - since).total_seconds() for at in row) for row in connection.execute(query)]


@pytest.mark.requirement("DLP-01", "F43")
def test_records_that_no_file_has_are_a_gap_from_the_newest_record_before_to_the_first_behind_them(
    connection: psycopg.Connection[Any], newest: datetime
) -> None:
    files = [
        spilled(newest, 3, 10, 10, 20),  # 3 are missing before it
        spilled(newest, 10, 12),
        spilled(newest, 12, 13, 21, 22),
        spilled(newest, 15, 16, 30, 31),  # and 2 before this one
    ]

    claim = RegisterClaim(files, StreamGaps())
    with connection.transaction(force_rollback=True):
        assert claim.take(connection)
    with connection.transaction():  # tried again
        assert claim.take(connection)

    assert claim.missing == 3 + 2
    assert gaps(connection, newest) == [(0, 10), (22, 30)]
    connection.execute("DELETE FROM feed_gaps")
    later = RegisterClaim([spilled(newest, 20, 21, 40, 41)], StreamGaps(), claim.reached)
    assert later.take(connection)
    assert gaps(connection, newest) == [(31, 40)]


@pytest.mark.requirement("DLP-01", "F43")
def test_a_batch_of_damaged_records_does_not_make_a_gap_begin_earlier(
    connection: psycopg.Connection[Any], newest: datetime
) -> None:
    register(
        connection,
        spilled(newest, 0, 10, 10, 20),
        spilled(newest, 10, 12),
        spilled(newest, 15, 16, 30, 31),
    )

    assert gaps(connection, newest) == [(20, 30)]


@pytest.mark.requirement("DLP-01", "F43")
def test_what_is_missing_before_two_files_that_are_registered_apart_is_a_gap_each(
    connection: psycopg.Connection[Any], newest: datetime
) -> None:
    register(connection, spilled(newest, 3, 10, 10, 20))
    register(connection, spilled(newest, 12, 13, 30, 31))

    assert gaps(connection, newest) == [(0, 10), (10, 30)]  # the cursor is where the first file ends


@pytest.mark.requirement("DLP-01", "F43")
@pytest.mark.parametrize("seconds", [(-100, -90), ()], ids=["clock_went_back", "damaged_records_only"])
def test_a_gap_whose_end_no_record_tells_lasts_until_now(
    connection: psycopg.Connection[Any], newest: datetime, seconds: tuple[int, ...]
) -> None:
    register(connection, spilled(newest, 3, 10, *seconds))

    ((started, ended),) = gaps(connection, newest)
    assert started == 0
    assert ended > timedelta(minutes=29).total_seconds()


@pytest.mark.requirement("DLP-01", "F43")
@pytest.mark.parametrize("new_epoch", [EPOCHS[0], EPOCHS[0] + 1], ids=["the ring goes on", "the ring is lost too"])
def test_what_is_lost_behind_files_that_were_registered_late_is_a_gap_since_the_last_of_them(
    connection: psycopg.Connection[Any], newest: datetime, postgres_dsn: str, new_epoch: int
) -> None:
    """Not since the registration, which may be hours after what is lost: that would be no gap at all."""
    connection.execute("DELETE FROM ingest_cursor WHERE ring = 1")
    register(connection, spilled(newest, 0, 10, 10, 20), spilled(newest, 10, 20, 21, 30))
    with closing(Database(DatabaseSettings(dsn=postgres_dsn, retention_days=0))) as database:
        database.start_cursors({(0, new_epoch): EPOCHS[0]})
        if new_epoch == EPOCHS[0]:
            database.add_lapped_gaps((0, new_epoch))

    ((started, ended),) = gaps(connection, newest)
    assert started == 21
    assert ended > timedelta(minutes=29).total_seconds()


@pytest.mark.requirement("DLP-01", "F43")
def test_a_file_one_of_whose_rings_had_no_whole_record_is_lost_in_the_time_of_the_others(
    connection: psycopg.Connection[Any], newest: datetime
) -> None:
    two = (*spilled(newest, 0, 10, 10, 20).ranges, replace(range_of(1, 0, 5), first_recv_ns=0, last_recv_ns=0))
    header = header_of(*two)
    register(connection, header)
    LostBatches(set(), [header.batch], StreamGaps()).take(connection)

    assert gaps(connection, newest) == [(10, 20)]


@pytest.mark.requirement("DLP-01", "F43")
def test_a_file_that_is_found_again_makes_no_later_gap_begin_with_it(
    connection: psycopg.Connection[Any], newest: datetime
) -> None:
    connection.execute("UPDATE ingest_cursor SET seq = seq + 50 WHERE ring = 0")
    found_again = spilled(newest - timedelta(hours=8), 0, 10, 10, 20)

    register(connection, found_again, spilled(newest, 55, 60, 30, 31))

    assert gaps(connection, newest) == [(0, 30)]


@pytest.mark.requirement("DLP-01", "F43")
def test_the_gap_of_a_lost_ring_does_not_begin_with_what_another_ring_had_left_in_the_same_file(
    connection: psycopg.Connection[Any], newest: datetime, postgres_dsn: str
) -> None:
    left_over = spilled(newest - timedelta(hours=6), 0, 10, 0, 1).ranges[0]
    both = header_of(*spilled(newest, 0, 10, 10, 20).ranges, replace(left_over, ring=1, epoch=EPOCHS[1]))
    register(connection, both)
    with closing(Database(DatabaseSettings(dsn=postgres_dsn, retention_days=0))) as database:
        database.start_cursors({(0, EPOCHS[0] + 1): EPOCHS[0]})

    ((started, _),) = gaps(connection, newest)
    assert started == 0


@pytest.mark.requirement("DLP-01", "DLP-03", "F43")
@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_file_of_a_ring_that_the_database_does_not_know_tells_what_is_missing_before_it(
    connection: psycopg.Connection[Any], newest: datetime, *, is_replaced: bool
) -> None:
    """`sise recover` may be the first to tell the database of a ring, before the daemon does."""
    if not is_replaced:
        connection.execute("DELETE FROM ingest_cursor WHERE ring = 0")
    epoch = int((newest.timestamp() + 5) * 1e6)
    first = replace(spilled(newest, 0, 5, 20, 30).ranges[0], epoch=epoch, after_seq=epoch + 2, through_seq=epoch + 7)

    claim = register(connection, header_of(first))

    assert claim.missing == 3  # the first one has the number of the epoch
    lost = [(0, "ring lost")] if is_replaced else []
    query = "SELECT started, reason FROM feed_gaps WHERE kind = 'trade' ORDER BY reason DESC"
    told = [((at - newest).total_seconds(), reason) for at, reason in connection.execute(query)]
    assert told == [*lost, (0, "missing before spill file")]


@pytest.mark.requirement("F43", "F58")
def test_a_ring_that_was_made_while_the_clock_stood_in_1970_is_no_gap_of_56_years(
    connection: psycopg.Connection[Any], postgres_dsn: str
) -> None:
    connection.execute("DELETE FROM ingest_cursor")
    gaps = StreamGaps(lambda ring: [("kis", "kr", "A", "trade")])
    with closing(Database(DatabaseSettings(dsn=postgres_dsn, retention_days=0), gaps=gaps)) as database:
        database.start_cursors({(0, 60_000_000): 60_000_000})
        database.add_lapped_gaps((0, 60_000_000))

    ((age,),) = connection.execute("SELECT now() - started FROM feed_gaps").fetchall()
    assert age < timedelta(days=3, minutes=1)


@pytest.mark.requirement("DLP-01", "F43", "F58")
def test_a_ring_that_is_lost_while_the_clock_went_back_is_a_gap_all_the_same(
    connection: psycopg.Connection[Any], postgres_dsn: str
) -> None:
    connection.execute(ADD_TICK, {"at": datetime.now(UTC) + timedelta(hours=1)})
    gaps = StreamGaps(lambda ring: [("kis", "kr", "A", "trade")])
    with closing(Database(DatabaseSettings(dsn=postgres_dsn, retention_days=0), gaps=gaps)) as database:
        database.start_cursors({(0, EPOCHS[0] + 1): EPOCHS[0]})

    assert connection.execute("SELECT reason FROM feed_gaps").fetchall() == [("ring lost",)]


@pytest.mark.requirement("DLP-01", "F43")
def test_lost_files_that_follow_each_other_are_one_gap_and_those_apart_are_two(
    connection: psycopg.Connection[Any], newest: datetime
) -> None:
    files = [spilled(newest, 0, 10, 0, 5), spilled(newest, 10, 20, 6, 9), spilled(newest, 20, 30, 60, 70)]
    register(connection, *files)
    claim = LostBatches(set(), [file.batch for file in files], StreamGaps())
    assert claim.take(connection)

    assert len(claim.lost) == 3
    assert gaps(connection, newest) == [(0, 9), (60, 70)]
