"""A damaged ring file: a clear error or a counted cut; never a crash, an endless loop, an old record as a new one."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from daemon.errors import RingError
from native_pipeline.ring_reader import GatingReader, LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.spec.ring_support import (
    CAPACITY,
    CLAIMED,
    CONSUMERS,
    HEAD,
    HEADER_BYTES,
    HEADER_SIZE,
    INDEX,
    MAGIC,
    MIB,
    QUARANTINE,
    RESUMED,
    VERSION,
    drain,
    flip,
    lose_power,
    new_ring,
    patch,
    read_u64,
)

RECORD = 136  # bytes of each record below


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_ring(tmp_path)


def written(path: Path, count: int, *, clean: bool = False) -> int:
    """Append and publish *count* records of 136 bytes; return the seq of the first."""
    writer = RingWriter(path)
    first = writer.last_seq + 1
    for number in range(count):
        writer.append(QUARANTINE, number.to_bytes(4, "little") + bytes(100))
    writer.publish()
    if clean:
        writer.close()
    return first


def at(number: int) -> int:
    """Offset in the file of record *number* of the first lap."""
    return HEADER_BYTES + number * RECORD


# ---- files that are no rings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "data", "problem"),
    [
        (MAGIC, b"NOTARING", "is not a ring: magic"),
        (VERSION, struct.pack("<I", 9), "layout version 9"),
        (HEADER_SIZE, struct.pack("<I", 4096), "header of 4096 bytes"),
        (CAPACITY, struct.pack("<Q", MIB + 8), "not a power of two"),
        (CAPACITY, struct.pack("<Q", 1 << 63), "not a power of two from 1 MiB"),
        (CAPACITY, struct.pack("<Q", 0), "not a power of two"),
        (CAPACITY, struct.pack("<Q", 2 * MIB), "its header says"),
    ],
)
@pytest.mark.parametrize(
    "attach", [RingWriter, lambda path: GatingReader(path, "writer")], ids=["producer", "consumer"]
)
def test_a_wrong_header_is_refused_with_file_and_problem(
    path: Path, offset: int, data: bytes, problem: str, attach: type[RingWriter]
) -> None:
    patch(path, offset, data)
    with pytest.raises(RingError, match=f"{path}.*{problem}"):
        attach(path)


@pytest.mark.parametrize("size", [0, 1, 4096, HEADER_BYTES - 1])
def test_a_file_shorter_than_a_header_is_refused(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(RingError, match=f"{path}: is {size} bytes long"):
        RingWriter(path)


def test_a_truncated_or_missing_file_or_a_directory_is_refused(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(HEADER_BYTES + MIB - 1)
    with pytest.raises(RingError, match="its header says"):
        RingWriter(path)
    with pytest.raises(RingError, match="cannot be opened: No such file"):
        RingWriter(path.with_name("absent"))
    with pytest.raises(RingError, match="cannot be opened: Is a directory"):
        RingWriter(path.parent)


# ---- damaged records: counted, the rest delivered --------------------------------------------------------------------


@pytest.mark.requirement("DLP-01")
@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 8, 15, 16, 24, 26, 40, 135])
@pytest.mark.parametrize("number", [0, 1, 50, 98])
@pytest.mark.parametrize("kind", ["gating", "lossy"])
def test_one_damaged_record_is_counted_and_every_other_one_delivered(
    path: Path, kind: str, number: int, offset: int
) -> None:
    first = written(path, 100)
    flip(path, at(number) + offset)

    reader = GatingReader(path, "writer") if kind == "gating" else LossyReader(path, "publisher")

    assert [first + n for n in range(100) if n != number] == [seen.seq for seen in drain(reader)]
    assert (reader.corrupt_records, reader.lapped_records) == (1, 0)


@pytest.mark.requirement("DLP-01")
@pytest.mark.parametrize("kind", ["gating", "lossy"])
def test_zeroed_pages_are_counted_exactly_and_every_other_record_delivered(path: Path, kind: str) -> None:
    first = written(path, 1000)
    patch(path, HEADER_BYTES + 40_960, bytes(8192))
    gone = {n for n in range(1000) if n * RECORD < 40_960 + 8192 and (n + 1) * RECORD > 40_960}

    reader = GatingReader(path, "writer") if kind == "gating" else LossyReader(path, "publisher")

    assert [first + n for n in range(1000) if n not in gone] == [seen.seq for seen in drain(reader)]
    assert len(gone) == reader.corrupt_records


@pytest.mark.parametrize(
    "length", [0, 8, 31, 33, RECORD + 8, 4096, MIB // 8, MIB // 8 + 8, 2**31, 2**32 - 8, 2**32 - 1]
)
@pytest.mark.parametrize("number", [3, 99])
def test_any_length_in_a_record_is_survived(path: Path, number: int, length: int) -> None:
    written(path, 100)
    patch(path, at(number), struct.pack("<I", length))
    for reader in (GatingReader(path, "writer"), LossyReader(path, "publisher")):
        assert len(drain(reader)) == 99
        assert reader.corrupt_records == 1
    assert RingWriter(path).recovered_bytes == (RECORD if number == 99 else 0)


def test_a_damaged_length_at_the_wrap_is_survived(path: Path) -> None:
    """The length fits an eighth of the ring and the published bytes, but not the room before the end of the data."""
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    for _ in range(MIB // RECORD - 1):
        writer.append(QUARANTINE, bytes(100))
    writer.publish()
    drain(reader)
    reader.commit()
    lossy = LossyReader(path, "publisher")
    drain(lossy)
    for _ in range(1500):
        writer.append(QUARANTINE, bytes(100))
    writer.publish()
    patch(path, at(MIB // RECORD - 1), struct.pack("<I", 100_000))

    for each in (reader, lossy):
        assert len(drain(each)) == 1499
        assert each.corrupt_records == 1


@pytest.mark.requirement("DLP-01")
def test_a_damaged_record_does_not_bring_back_what_the_database_has(path: Path) -> None:
    first = written(path, 100)
    flip(path, at(20) + 40)
    reader = GatingReader(path, "writer")
    for done, corrupt in ((50, 0), (21, 0), (20, 1), (10, 1)):
        before = reader.corrupt_records
        assert reader.seek_after(first + done - 1) == 0
        expected = [first + n for n in range(done, 100) if n != 20]
        assert expected == [seen.seq for seen in drain(reader)]
        assert corrupt == reader.corrupt_records - before


def test_a_wrong_index_entry_does_not_lead_past_records(path: Path) -> None:
    first = written(path, 1000)
    patch(path, INDEX + 16 * 3, struct.pack("<QQ", 900 * RECORD + 8, first + 10))
    patch(path, INDEX + 16 * 4, struct.pack("<QQ", 900 * RECORD, first + 11))
    reader = GatingReader(path, "writer")
    assert reader.seek_after(first + 20) == 0
    assert list(range(first + 21, first + 1000)) == [seen.seq for seen in drain(reader)]


# ---- the next producer -----------------------------------------------------------------------------------------------


@pytest.mark.requirement("DLP-01")
def test_a_torn_tail_is_cut_and_the_sequence_jumps_where_no_number_was_used(path: Path) -> None:
    first = written(path, 100)
    flip(path, at(99) + 60)
    flip(path, at(98) + 60)

    writer = RingWriter(path)
    assert writer.recovered_bytes == 2 * RECORD
    seq = writer.append(QUARANTINE, b"after")
    writer.publish()

    assert seq > first + 100
    seen = drain(GatingReader(path, "writer"))
    assert [*range(first, first + 98), seq] == [record.seq for record in seen]
    assert seen[-1].flags == RESUMED


@pytest.mark.requirement("DLP-01")
def test_damage_in_the_middle_is_left_to_the_readers_and_cuts_nothing(path: Path) -> None:
    first = written(path, 1000)
    for number in (0, 500, 998):
        flip(path, at(number) + 60)

    writer = RingWriter(path)

    assert (0, first + 999) == (writer.recovered_bytes, writer.last_seq)
    reader = GatingReader(path, "writer")
    assert len(drain(reader)) == 997
    assert reader.corrupt_records == 3


@pytest.mark.requirement("DLP-01")
def test_the_jump_is_remembered_until_a_record_carries_it(path: Path) -> None:
    """After a power loss the database may know numbers that the file does not: none of them may be used again."""
    first = written(path, 100)
    lose_power(path)
    jumped = RingWriter(path)
    lowest = jumped.last_seq + 1
    assert lowest > first + 1000
    jumped.close()

    writer = RingWriter(path)
    assert writer.append(QUARANTINE, b"after") == lowest
    writer.publish()
    del writer
    assert RingWriter(path).append(QUARANTINE, b"again") == lowest + 1


@pytest.mark.requirement("DLP-01")
def test_a_ring_without_one_whole_record_never_starts_over(path: Path) -> None:
    first = written(path, 100)
    patch(path, HEADER_BYTES, bytes(100 * RECORD))
    for _ in range(3):
        writer = RingWriter(path)
        assert writer.last_seq > first + 1000
        writer.close()


@pytest.mark.requirement("CH-PROC-01", "DLP-01")
def test_an_unpublished_lap_over_everything_that_was_published_is_taken_over(path: Path) -> None:
    """All records were consumed, then a whole ring of unpublished ones was left behind by their producer."""
    first = written(path, 1)
    reader = GatingReader(path, "writer")
    drain(reader)
    reader.commit()
    writer = RingWriter(path)
    for _ in range(8):
        with contextlib.suppress(RingError):
            writer.append(QUARANTINE, bytes(MIB // 8 - 32))
    while True:
        try:
            writer.append(QUARANTINE, bytes(100))
        except RingError:
            break
    newest = writer.last_seq
    del writer

    writer = RingWriter(path)
    assert newest - first == writer.adopted_records
    assert reader.seek_after(first) == 0
    assert list(range(first + 1, newest + 1)) == [seen.seq for seen in drain(reader)]
    reader.commit()
    assert newest + 1 == writer.append(QUARANTINE, b"after")
    assert (reader.corrupt_records, writer.recovered_bytes) == (0, 0)


def test_a_power_loss_on_an_empty_ring_is_harmless(path: Path) -> None:
    RingWriter(path)
    lose_power(path)
    reader = GatingReader(path, "writer")
    writer = RingWriter(path)
    seq = writer.append(QUARANTINE, b"one")
    writer.publish()
    assert reader.seek_after(0) == 0
    assert [seq] == [seen.seq for seen in drain(reader)]
    assert reader.corrupt_records == 0


@pytest.mark.requirement("DLP-01")
def test_pages_of_an_earlier_lap_are_not_taken_for_new_records(path: Path) -> None:
    """Power loss: the header reached the disk, some data pages did not and hold whole, but old records."""
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    per_lap = 2 * MIB // 8192  # records of 4096 bytes: every lap has the same boundaries
    for _ in range(per_lap):
        writer.append(QUARANTINE, bytes(4096 - 32))
    writer.publish()
    drain(reader)
    reader.commit()
    old = path.read_bytes()[HEADER_BYTES:]
    seqs = [writer.append(QUARANTINE, bytes(4096 - 32)) for _ in range(100)]
    writer.publish()
    patch(path, HEADER_BYTES + 4096 * 10, old[4096 * 10 : 4096 * 13])  # three in the middle
    patch(path, HEADER_BYTES + 4096 * 95, old[4096 * 95 : 4096 * 100])  # and the tail
    del writer
    lose_power(path)

    assert [*seqs[:10], *seqs[13:95]] == [seen.seq for seen in drain(reader)]
    reader.close()
    successor = RingWriter(path)

    assert successor.recovered_bytes == 5 * 4096
    again = GatingReader(path, "writer")
    assert [*seqs[:10], *seqs[13:95]] == [seen.seq for seen in drain(again)]
    assert again.corrupt_records == 3


def test_a_live_reader_behind_a_cut_goes_on_with_what_comes(path: Path) -> None:
    written(path, 100)
    reader = GatingReader(path, "writer")
    assert len(drain(reader)) == 100
    flip(path, at(99) + 60)

    writer = RingWriter(path)
    assert reader.fetch_bytes() == 0
    assert reader.prepare_sleep()
    seq = writer.append(QUARANTINE, b"x")
    writer.publish()

    assert [seq] == [seen.seq for seen in drain(reader)]


# ---- absurd numbers in the header ------------------------------------------------------------------------------------

ABSURD = [0, 1, 7, 8, 100, 1 << 20, (1 << 20) + 8, 1 << 40, 1 << 63, 2**64 - 8, 2**64 - 1]


@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("offset", [CONSUMERS + 16, CONSUMERS + 64 + 16], ids=["gating", "lossy"])
def test_an_absurd_consumer_position_neither_stops_the_producer_nor_the_consumer(
    path: Path, offset: int, value: int
) -> None:
    written(path, 1000)
    patch(path, offset, struct.pack("<Q", value))
    writer = RingWriter(path)
    for reader in (GatingReader(path, "writer"), LossyReader(path, "publisher")):
        drain(reader)
        reader.commit()
    seq = writer.append(QUARANTINE, b"new")
    writer.publish()
    assert writer.room_bytes > MIB // 2
    for reader_class, name in ((GatingReader, "writer"), (LossyReader, "publisher")):
        del reader
        reader = reader_class(path, name)
        assert [seq] == [seen.seq for seen in drain(reader)]


@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("offset", [HEAD, CLAIMED], ids=["head", "claimed"])
def test_an_absurd_head_is_cut_counted_and_gone_on_from(path: Path, offset: int, value: int) -> None:
    written(path, 1000)
    head = read_u64(path, HEAD)
    patch(path, offset, struct.pack("<Q", value))
    for attach in (lambda: GatingReader(path, "writer"), lambda: LossyReader(path, "publisher")):
        try:
            drain(attach())
        except RingError as exc:
            assert "the next producer repairs it" in str(exc)  # noqa: PT017
    writer = RingWriter(path)
    if offset == CLAIMED:
        assert (0, head) == (writer.recovered_bytes, writer.head)
    elif value > head:
        assert head == writer.head, "the end was found again"
    reader = GatingReader(path, "writer")
    lossy = LossyReader(path, "publisher")
    drain(reader)
    drain(lossy)
    reader.commit()
    seq = writer.append(QUARANTINE, b"new")
    writer.publish()
    assert [seq] == [seen.seq for seen in drain(reader)]
    assert [seq] == [seen.seq for seen in drain(lossy)]


FLIPPER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from daemon.errors import RingError
    from native_pipeline.ring_reader import GatingReader, LossyReader
    from native_pipeline.ring_writer import RingWriter
    from tests.spec.ring_support import drain, flip, patch, QUARANTINE

    path, begin, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    step = int(sys.argv[4])
    whole = path.read_bytes()
    opened = 0
    for offset in range(begin, end, step):
        for mask in (0x01, 0x80):
            patch(path, 0, whole)
            flip(path, offset, mask)
            print(offset, mask, flush=True)
            try:
                for reader in (GatingReader(path, "writer"), LossyReader(path, "publisher")):
                    drain(reader)
                    reader.close()
            except RingError as exc:
                assert str(path) in str(exc)
            try:
                writer = RingWriter(path)
                writer.append(QUARANTINE, b"more")
                writer.publish()
                reader = GatingReader(path, "writer")
                reader.seek_after(writer.first_seq)
                drain(reader)
                opened += 1
            except RingError as exc:
                assert str(path) in str(exc)
            reader = writer = None
    print("done", opened)
""")


@pytest.mark.parametrize(
    ("begin", "end", "step"),
    [
        (0, 512, 1),
        (4096, 4096 + 96, 1),
        (HEADER_BYTES, HEADER_BYTES + RECORD * 2, 1),
        (HEADER_BYTES + 98 * RECORD, HEADER_BYTES + 100 * RECORD, 1),
    ],
    ids=["header", "index", "first records", "last records"],
)
def test_any_flipped_bit_is_an_error_or_a_count_and_never_a_crash(
    tmp_path: Path, begin: int, end: int, step: int
) -> None:
    path = new_ring(tmp_path)
    written(path, 100)
    root = Path(__file__).parents[2]

    process = subprocess.run(
        [sys.executable, "-c", FLIPPER, str(path), str(begin), str(end), str(step)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    last = process.stdout.splitlines()[-1:]
    assert process.returncode == 0, f"at offset and mask {last}: {process.stderr[-2000:]}"
    assert int(last[0].split()[1]) > (end - begin) // 2, "most flips leave a ring that opens"
