"""What one ring promises: sizes, laps, places to continue from, wake-ups, and who may hold it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemon.errors import RingError
from native_pipeline.ring_creation import GATING, LOSSY, create_ring
from native_pipeline.ring_reader import GatingReader, LossyReader
from native_pipeline.ring_writer import RingWriter
from native_pipeline.stream_receipts import append_gap
from tests.spec.ring_support import MIB, QUARANTINE, drain, new_ring, padded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_ring(tmp_path)


def fill(writer: RingWriter, size: int = 100, *, limit: int = 10**9) -> int:
    """Append and publish until the ring is full or *limit* records are in it; return how many."""
    count = 0
    while count < limit:
        try:
            writer.append(QUARANTINE, bytes(size))
        except RingError:
            break
        count += 1
        writer.publish()
    return count


def bodies(reader: GatingReader | LossyReader) -> list[bytes]:
    return [seen.body for seen in drain(reader)]


def test_the_file_is_private_preallocated_and_never_overwritten(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_blocks * 512 >= MIB
    with pytest.raises(RingError, match="exists already"):
        new_ring(path.parent)


def test_a_leftover_of_an_interrupted_creation_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "worker-0.ring.new").write_bytes(b"half")

    path = new_ring(tmp_path)

    assert RingWriter(path).capacity_bytes == MIB
    assert [path] == list(tmp_path.iterdir())


def test_a_capacity_is_rounded_up_to_a_power_of_two_and_an_absurd_one_refused(tmp_path: Path) -> None:
    create_ring(tmp_path / "a", ring=7, capacity_bytes=MIB + 1)
    assert ((writer := RingWriter(tmp_path / "a")).capacity_bytes, writer.ring) == (2 * MIB, 7)
    with pytest.raises(ValueError, match="at most"):
        create_ring(tmp_path / "b", ring=0, capacity_bytes=2**63 + 1)


def test_refused_arguments_close_nobody_elses_file_descriptor() -> None:
    with pytest.raises(TypeError):
        RingWriter()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        GatingReader()  # type: ignore[call-arg]
    os.fstat(0)


def test_a_refused_open_leaks_no_file_descriptor(path: Path) -> None:
    writer = RingWriter(path)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        with pytest.raises(RingError):
            RingWriter(path)
        with pytest.raises(RingError, match="other kind"):
            GatingReader(path, "publisher")
        with pytest.raises(ValueError, match="consumer name"):
            GatingReader(path, "a name that is too long")
    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    writer.close()


@pytest.mark.parametrize("tail", [0, 8, 16, 24, 32, 40, 64])
def test_records_meet_the_end_of_the_data_area_at_every_distance(path: Path, tail: int) -> None:
    """tail 0: a record ends exactly there; 8 to 24: no room for a pad's header; 32: a pad that is only a header."""
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    long = MIB // 8
    sizes = [long] * 7 + [long - 4096, 4096 - tail, 4096, 48]

    for lap in range(3):
        for size in sizes:
            assert writer.append(QUARANTINE, bytes([lap]) * (size - 32))
            writer.publish()
            assert [bytes([lap]) * (size - 32)] == bodies(reader)
            reader.commit()
        writer.append(QUARANTINE, bytes(MIB // 8 - 32 - 4096 - 48))  # back to an even lap
        writer.publish()
        drain(reader)
        reader.commit()
    assert reader.corrupt_records == 0


@pytest.mark.requirement("DLP-01", "BP-01")
def test_a_full_ring_refuses_and_overwrites_nothing_until_the_gating_reader_commits(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    count = fill(writer)
    assert count == MIB // 136
    assert writer.full_count == 1

    assert count == len(drain(reader))
    with pytest.raises(RingError, match="full"):
        writer.append(QUARANTINE, bytes(100))

    reader.commit()
    assert count == fill(writer)


def test_a_record_longer_than_an_eighth_of_the_ring_is_refused(path: Path) -> None:
    with pytest.raises(RingError, match="eighth"):
        RingWriter(path).append(QUARANTINE, bytes(MIB // 8 - 31))


def test_a_closed_writer_changes_nothing_any_more(path: Path) -> None:
    writer = RingWriter(path)
    writer.append(QUARANTINE, b"one")
    writer.close()
    successor = RingWriter(path)
    successor.append(QUARANTINE, b"two")
    successor.publish()
    head = successor.head

    writer.publish()
    writer.close()

    assert head == successor.head
    with pytest.raises(RingError, match="closed"):
        writer.append(QUARANTINE, b"three")
    with pytest.raises(RingError, match="closed"):
        append_gap(writer, ("005930", 1, ""), 0, 0, 0, venue=1, market=1)


def test_a_closed_reader_moves_the_position_of_its_successor_no_more(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    fill(writer, limit=3)
    reader.close()
    successor = GatingReader(path, "writer")

    drain(reader)
    reader.commit()
    reader.close()

    assert len(drain(successor)) == 3
    assert successor.consumers()["writer"]["position"] == 0
    assert successor.consumers()["writer"]["pid"] == os.getpid()


# ---- who may hold it -------------------------------------------------------------------------------------------------

HOLDER = """
import sys
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
kind, path = sys.argv[1:]
held = RingWriter(path) if kind == "producer" else GatingReader(path, "writer")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.requirement("CH-PROC-01")
@pytest.mark.parametrize("kind", ["producer", "consumer"])
def test_a_second_holder_is_refused_until_the_first_is_killed(path: Path, kind: str) -> None:
    def take() -> object:
        return RingWriter(path) if kind == "producer" else GatingReader(path, "writer")

    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RingError, match=f"{path}.*pid {process.pid}"):
            take()
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert take()


def test_a_new_consumer_starts_at_the_head_and_holds_the_producer_back(path: Path) -> None:
    writer = RingWriter(path)
    GatingReader(path, "writer").close()
    fill(writer, limit=10)

    late = GatingReader(path, "recorder")

    assert drain(late) == []
    count = fill(writer)
    assert count == len(drain(late))


def test_a_ring_has_eight_consumer_slots(path: Path) -> None:
    readers = [LossyReader(path, f"reader-{number}") for number in range(6)]
    with pytest.raises(RingError, match="all 8 consumer slots"):
        LossyReader(path, "reader-7")
    assert len(readers[0].consumers()) == 8


# ---- lossy readers -----------------------------------------------------------------------------------------------


def test_a_lapped_reader_goes_on_and_counts_exactly_what_it_missed(tmp_path: Path) -> None:
    path = tmp_path / "only-lossy.ring"
    create_ring(path, ring=0, capacity_bytes=MIB, consumers=(("publisher", LOSSY),))
    writer, reader = RingWriter(path), LossyReader(path, "publisher")

    assert fill(writer, limit=50_000) == 50_000
    seen = drain(reader)

    assert reader.lapped_records + len(seen) == 50_000
    assert 50_000 - len(seen) + writer.first_seq == seen[0].seq
    assert list(range(seen[0].seq, seen[0].seq + len(seen))) == [record.seq for record in seen]
    assert len(seen) * 136 > MIB // 2, "most of the ring was still there"


def test_a_lossy_reader_copies_a_record_longer_than_its_buffer(tmp_path: Path) -> None:
    path = new_ring(tmp_path, capacity=4 * MIB)
    writer, reader = RingWriter(path), LossyReader(path, "publisher")
    long = os.urandom(4 * MIB // 8 - 32)
    writer.append(QUARANTINE, b"short")
    writer.append(QUARANTINE, long)
    writer.publish()

    assert [padded(b"short"), long] == [seen.body for seen in drain(reader, max_bytes=1)]


# ---- seek_after ------------------------------------------------------------------------------------------------------


def seqs(reader: GatingReader) -> list[int]:
    return [seen.seq for seen in drain(reader)]


@pytest.mark.requirement("DLP-01")
def test_a_cursor_anywhere_in_the_ring_continues_with_its_successor(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    first = writer.first_seq
    fill(writer, limit=1000)
    for done in (0, 1, 2, 499, 998, 999, 1000):
        assert reader.seek_after(first + done - 1) == 0
        assert list(range(first + done, first + 1000)) == seqs(reader)


@pytest.mark.requirement("DLP-01")
def test_a_cursor_that_the_database_does_not_have_yet_continues_at_the_committed_position(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    assert reader.seek_after(0) == 0
    assert seqs(reader) == []

    fill(writer, limit=3)
    assert reader.seek_after(0) == 0
    assert len(seqs(reader)) == 3


def test_a_cursor_newer_than_the_ring_waits_for_what_comes(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    fill(writer, limit=3)
    assert reader.seek_after(2**62) == 0
    assert seqs(reader) == []
    fill(writer, limit=1)
    assert [writer.last_seq] == seqs(reader)


def test_a_cursor_behind_the_committed_position_reports_what_is_missing(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    first = writer.first_seq
    fill(writer, limit=100)
    drain(reader)
    reader.commit()

    assert reader.seek_after(first + 9) == 90, "everything behind the cursor was given up"
    fill(writer, limit=1)
    assert reader.seek_after(first + 9) == 90
    assert [first + 100] == seqs(reader)


def test_rewind_returns_to_the_committed_position(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    fill(writer, limit=10)
    drain(reader)
    reader.rewind()
    assert len(drain(reader)) == 10
    assert reader.lag_bytes == 10 * 136


# ---- wake-up ---------------------------------------------------------------------------------------------------------


def wait_readable(fd: int, timeout_s: float) -> bool:
    return bool(select.select([fd], [], [], timeout_s)[0])


def test_a_sleeping_consumer_is_woken_every_time(path: Path) -> None:
    """10,000 rounds between two threads: a single lost wake-up is a timeout."""
    rounds, received = 10_000, 0
    wake, consumed = os.eventfd(0), os.eventfd(0)
    writer = RingWriter(path, wake_fds={"writer": wake})
    reader = GatingReader(path, "writer")
    stop = threading.Event()

    def produce() -> None:
        for _ in range(rounds):
            if not wait_readable(consumed, 20) or stop.is_set():
                return
            os.eventfd_read(consumed)
            writer.append(QUARANTINE, b"tick")
            writer.publish()

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        os.eventfd_write(consumed, 1)
        while received < rounds:
            new = len(drain(reader))
            reader.commit()
            if new:
                received += new
                os.eventfd_write(consumed, new)
            elif reader.prepare_sleep():
                assert wait_readable(wake, 10), f"not woken after {received} records"
                os.eventfd_read(wake)
    finally:
        stop.set()
        os.eventfd_write(consumed, 1)
        producer.join()
    assert rounds == received


def test_a_consumer_that_does_not_sleep_costs_no_wake_up(path: Path) -> None:
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    writer, reader = RingWriter(path, wake_fds={"writer": wake}), GatingReader(path, "writer")
    os.eventfd_read(wake)  # the one at start
    fill(writer, limit=100)
    assert not wait_readable(wake, 0)
    assert not reader.prepare_sleep(), "there is something to read"
    drain(reader)
    assert reader.prepare_sleep()
    reader.cancel_sleep()
    fill(writer, limit=1)
    assert not wait_readable(wake, 0)


@pytest.mark.requirement("CH-PROC-01")
def test_a_new_producer_wakes_consumers_that_the_old_one_died_without_waking(path: Path) -> None:
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    writer, reader = RingWriter(path), GatingReader(path, "writer")  # no wake_fds: as if killed before the wake-up
    assert reader.prepare_sleep()
    fill(writer, limit=1)
    del writer

    successor = RingWriter(path, wake_fds={"writer": wake})

    assert wait_readable(wake, 0)
    assert len(drain(reader)) == 1
    successor.close()


def test_a_wake_up_for_an_unknown_consumer_is_refused(path: Path) -> None:
    with pytest.raises(RingError, match="no consumer called 'nobody'"):
        RingWriter(path, wake_fds={"nobody": 0})


# ---- the rest --------------------------------------------------------------------------------------------------------


def test_sync_moves_the_watermark_to_the_head(path: Path) -> None:
    writer = RingWriter(path)
    fill(writer, limit=5)
    assert (0, writer.head) == (writer.synced, writer.sync())
    assert writer.synced == writer.head


def test_a_quarantined_frame_keeps_its_bytes_and_a_long_one_is_cut_and_marked(path: Path) -> None:
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    writer.append_quarantine_frame(3, b"broken", venue=1, recv_ns=5, detail=9)
    writer.append_quarantine_frame(3, b"x" * MIB, venue=1, recv_ns=5)
    writer.publish()
    short, long = drain(reader)
    assert padded(b"broken") == short.body[16:]
    assert (short.flags, long.flags) == (0, 2)
    assert int.from_bytes(long.body[4:8], "little") == MIB
    assert MIB // 8 - 32 >= len(long.body) >= MIB // 8 - 64


def test_modes_are_named(path: Path) -> None:
    assert {name: consumer["mode"] for name, consumer in RingWriter(path).consumers().items()} == {
        "writer": "gating",
        "publisher": "lossy",
    }
    assert (GATING, LOSSY) == (1, 2)
