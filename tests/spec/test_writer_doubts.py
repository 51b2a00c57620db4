"""The writer's loop where it may be wrong about itself: after outages, lost answers, strangers and half a stop."""

from collections.abc import Mapping, Sequence

import psycopg
import pytest

from daemon.sinks.database import Advance, Batch, Claim, CursorAdvances, Fenced, Ring
from daemon.sinks.host import Host
from daemon.sinks.owner import OwnedByAnother
from daemon.sinks.segment import Range
from daemon.sinks.spill import SpillFile
from daemon.sinks.spiller import Taken
from tests.spec.test_writer_loop import Bench, away

RING = (0, 1)


def fail_batches(bench: Bench, *fails: bool) -> None:
    """Let only these attempts to store a batch fail, whatever is asked in between."""
    store, script = bench.database.store, list(fails)

    def store_or_fail(batch: Batch, claim: Claim, /, *, lock_timeout: str = "") -> None:
        if isinstance(claim, CursorAdvances) and script and script.pop(0):
            bench.database.attempts.append(bench.clock.now)
            raise away()
        store(batch, claim)

    bench.database.store = store_or_fail  # type: ignore[method-assign]


def say_cursors(bench: Bench, *answers: Mapping[Ring, int] | psycopg.Error) -> None:
    """Let the database say that its cursors are there, the last one for ever."""
    script = list(answers)

    def start_cursors(_first: Mapping[Ring, int], /) -> dict[Ring, int]:
        found = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(found, psycopg.Error):
            raise found
        return dict(found)

    bench.database.start_cursors = start_cursors  # type: ignore[method-assign]


@pytest.mark.requirement("DLP-01", "F46")
def test_the_gap_of_a_lapped_ring_that_could_not_be_noted_is_noted_before_anything_is_stored() -> None:
    bench = Bench(50)
    bench.readers[0].missing = 3
    note, failures = bench.database.add_lapped_gaps, [away(), away()]

    def note_or_fail(ring: Ring, /) -> None:
        if failures:
            raise failures.pop()
        assert bench.database.stored == []
        note(ring)

    bench.database.add_lapped_gaps = note_or_fail  # type: ignore[method-assign]
    bench.stop = lambda: bool(bench.database.stored)
    bench.writer.run()

    assert bench.database.lapped == [RING]
    assert bench.counters["writer_lapped"] == 3


@pytest.mark.requirement("DLP-03")
def test_a_cursor_that_another_moves_before_our_first_batch_is_stored_ends_the_writer() -> None:
    bench = Bench(50)
    fail_batches(bench, True, True, True, True)
    say_cursors(bench, {RING: 0}, {RING: 7})
    bench.stop = lambda: bool(bench.database.stored)

    with pytest.raises(Fenced):
        bench.writer.run()


@pytest.mark.requirement("DLP-02", "F49")
@pytest.mark.parametrize("cursor", [50, 80], ids=["not_stored", "answer_lost"])
def test_after_an_outage_the_cursor_is_where_the_last_answer_or_the_batch_without_one_left_it(cursor: int) -> None:
    bench = Bench(50)
    fail_batches(bench, False, True, True, True, True)
    say_cursors(bench, {RING: 0}, {RING: cursor})
    bench.stop = lambda: len(bench.database.stored) > 1
    sleep = bench._sleep

    def sleep_and_receive(seconds: float) -> None:
        sleep(seconds)
        if bench.database.stored:
            bench.readers[0].published = 80 if not bench.directory.spilled else 90

    bench.writer._host = bench.writer._errands._host = bench.writer._outage._host = Host(
        wait=sleep_and_receive, beat=lambda: None, stopping=bench.is_stopping, drain_s=1000.0
    )
    bench.writer.run()

    assert [(one.after_seq, one.through_seq) for one in bench.directory.spilled[0]] == [(50, 80)]
    assert bench.database.stored[:2] == [[Advance(RING, 0, 50)], [Advance(RING, cursor, 90)]]


@pytest.mark.requirement("DLP-02")
def test_every_segment_goes_on_where_the_one_before_it_ended() -> None:
    bench = Bench(50)
    fail_batches(bench, *[True] * 100)
    say_cursors(bench, {RING: 0}, away())
    append = bench.directory.append

    def append_and_receive(ranges: Sequence[Range], raw: bytes) -> SpillFile:
        bench.readers[0].published = 80
        return append(ranges, raw)

    bench.directory.append = append_and_receive  # type: ignore[method-assign]
    bench.writer.run()

    assert [(one.after_seq, one.through_seq) for (one,) in bench.directory.spilled] == [(0, 50), (50, 80)]


@pytest.mark.requirement("DLP-02", "F46")
def test_without_a_database_at_the_start_nothing_that_is_in_a_file_is_spilled_again() -> None:
    earlier, bench = Bench(30), Bench(50)
    for through, spiller in ((20, earlier), (30, earlier)):
        spiller.readers[0].published = through
        taken = spiller.writer._spilling.spiller.take({RING: 0})
        bench.directory.held.append(bench.directory.append(taken.ranges, taken.raw))
    bench.directory.spilled.clear()
    say_cursors(bench, away())
    seeks: list[int] = []
    seek = bench.readers[0].seek_after
    bench.readers[0].seek_after = lambda seq, /: seeks.append(seq) or seek(seq)  # type: ignore[method-assign, func-returns-value]

    bench.writer.run()

    assert [(one.after_seq, one.through_seq) for (one,) in bench.directory.spilled] == [(30, 50)]
    assert seeks == [30]


@pytest.mark.requirement("DLP-02", "F35")
def test_what_was_looked_at_for_a_stop_is_not_stored_twice_when_the_database_was_another_daemons_meanwhile() -> None:
    bench = Bench(50)
    bench.stop = lambda: True
    bench.database.strangers = [OwnedByAnother("it belongs to another")]
    bench.directory.refusals = 1_000_000

    assert bench.writer.run()

    assert bench.database.stored == [[Advance(RING, 0, 50)]]
    assert bench.counters["rows_committed"] == 50


@pytest.mark.requirement("DLP-02", "F35")
def test_what_was_looked_at_for_a_stop_and_then_spilled_moves_no_cursor_back() -> None:
    bench = Bench(50, 5)
    bench.stop = lambda: True
    bench.database.strangers = [OwnedByAnother("it belongs to another")]
    append, files = bench.directory.append, bench.directory.held

    def append_once(ranges: Sequence[Range], raw: bytes) -> SpillFile:
        files.append(append(ranges, raw))
        bench.readers[0].published = 80
        bench.directory.refusals = 1_000_000
        return files[-1]

    bench.directory.append = append_once  # type: ignore[method-assign]
    bench.directory.files = lambda: list(files)  # type: ignore[method-assign]
    spilled = {RING: 50, (1, 1): 5}
    say_cursors(bench, {RING: 0, (1, 1): 0}, spilled)

    assert bench.writer.run()

    assert [{one.ring: one.through_seq for one in ranges} for ranges in bench.directory.spilled] == [{0: 50, 1: 5}]
    assert bench.database.stored == [[Advance(RING, 50, 80)]]


@pytest.mark.requirement("DLP-01", "F46")
def test_what_is_damaged_throughout_is_told_and_given_back_although_there_is_nothing_to_spill() -> None:
    bench = Bench(50)
    say_cursors(bench, away())

    def take_nothing(cursors: Mapping[Ring, int]) -> Taken:
        assert bench.readers[0].last_seq == 0, "it is given back at once"
        bench.readers[0].last_seq = 50
        return Taken((), b"", {RING: 50})

    bench.writer._spilling.spiller.take = take_nothing  # type: ignore[method-assign]
    bench.writer.run()

    assert bench.readers[0].committed == 50
    assert bench.counters["corrupt_records"] == 50
    assert bench.directory.spilled == []


@pytest.mark.requirement("DLP-02")
def test_a_batch_claims_only_the_rings_that_are_in_it() -> None:
    bench = Bench(150, 5, batch_rows=100)

    bench.writer.run()

    assert [{one.ring[0] for one in advances} for advances in bench.database.stored] == [{0, 1}, {0}]


@pytest.mark.requirement("F46")
def test_a_batch_is_tried_again_only_if_the_database_has_taken_one_since_the_last_outage() -> None:
    bench = Bench(50)
    fail_batches(bench, True, True, True, True, True, False, True, False)
    bench.stop = lambda: len(bench.database.stored) > 1
    sleep = bench._sleep

    def sleep_and_receive(seconds: float) -> None:
        sleep(seconds)
        bench.readers[0].published += 10

    bench.writer._host = bench.writer._errands._host = bench.writer._outage._host = Host(
        wait=sleep_and_receive, beat=lambda: None, stopping=bench.is_stopping, drain_s=1000.0
    )
    bench.writer.run()

    assert bench.counters["commit_retries"] == 3 + 0 + 1


@pytest.mark.requirement("GS-01")
def test_a_full_batch_waits_for_no_interval_and_a_statement_ends_with_the_time_to_drain() -> None:
    bench = Bench(300, batch_rows=100)
    bench.writer.run()
    assert bench.database.attempts == [1000.0] * 3

    late = Bench(50, drain_s=10.0)
    late.stop = lambda: True
    late.database.failures = [away() for _ in range(100)]
    late.directory.refusals = 1_000
    cancelled: list[float] = []
    late.database.cancel = lambda: cancelled.append(late.clock.now)  # type: ignore[method-assign]
    assert late.writer.run() is False
    assert cancelled
