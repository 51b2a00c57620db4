"""Raw records kept in memory are the ring's, byte for byte, and become the same rows."""

import itertools
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.errors import RingError
from native_pipeline.copy_encoder import COLUMNS, CopyBatch
from native_pipeline.record_block import RecordBlock
from native_pipeline.records import read_records
from native_pipeline.ring_creation import GATING, LOSSY, create_ring
from native_pipeline.ring_reader import GatingReader, LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import random_records
from tests.reference.packed_records import Event, Quarantine, Record, Trade, append
from tests.spec.ring_support import HEADER_BYTES, flip

RINGS = (3, 7)
UNKNOWN_KIND = 77
MANY = 1 << 30
NEWEST = 1 << 63  # behind every seq


class Pipe:
    """A ring with one producer and one consumer."""

    def __init__(self, path: Path, ring: int) -> None:
        create_ring(path, ring=ring, capacity_bytes=1 << 22, consumers=(("writer", GATING), ("publisher", LOSSY)))
        self.ring = ring
        self.writer = RingWriter(path)
        self.reader = GatingReader(path, "writer")

    def put(self, *records: Record) -> list[int]:
        """Append and publish *records*; return their seqs."""
        seqs = [append(self.writer, record) for record in records]
        self.writer.publish()
        return seqs

    def drain(self) -> None:
        """Leave the ring empty."""
        new_batch().append_from(self.reader, MANY)
        self.reader.commit()

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture(scope="module")
def module_pipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pipe]]:
    pipes = [Pipe(tmp_path_factory.mktemp("ring") / f"worker-{ring}.ring", ring) for ring in RINGS]
    yield pipes
    for pipe in pipes:
        pipe.close()


@pytest.fixture
def pipes(module_pipes: list[Pipe]) -> Iterator[list[Pipe]]:
    yield module_pipes
    for pipe in module_pipes:
        pipe.drain()


@pytest.fixture
def pipe(pipes: list[Pipe]) -> Pipe:
    return pipes[0]


def new_batch() -> CopyBatch:
    return CopyBatch(
        venues=("", "kis"), markets=("", "kr"), quarantine_reasons=("", "width"), gap_reasons=("", "connection lost")
    )


def streams(batch: CopyBatch) -> dict[str, bytes]:
    """The COPY stream of each table."""
    found = {}
    for table in COLUMNS:
        with batch.block(table) as view:
            found[table] = bytes(view)
    return found


def raw(block: RecordBlock) -> bytes:
    """All bytes of a block."""
    return b"".join(bytes(data) for *_, data in block.parts)


def seqs_of(block: RecordBlock) -> list[int]:
    return [block.describe(i)["seq"] for i in range(block.records)]


several = st.lists(st.tuples(st.sampled_from([0, 1]), random_records.records), max_size=20)


@pytest.mark.requirement("SCH-01", "DLP-01")
@given(records=several, cuts=st.lists(st.integers(0, 20), max_size=3))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_block_of_several_rings_becomes_the_rows_that_the_rings_would_have_become(
    module_pipes: list[Pipe], records: list[tuple[int, Record]], cuts: list[int]
) -> None:
    for pipe in module_pipes:
        pipe.drain()  # whatever the test before this one has left
    reached = [0, 0]
    for number, record in records:
        [reached[number]] = module_pipes[number].put(record)
    expected = new_batch()
    for pipe in module_pipes:
        expected.append_from(pipe.reader, MANY)
        pipe.reader.rewind()

    block = RecordBlock()
    for number, pipe in enumerate(module_pipes):
        block.append_from(pipe.reader, reached[number])
        pipe.reader.commit()
    bounds = sorted({0, *(min(cut, len(records)) for cut in cuts), len(records)})
    batch = new_batch()
    taken = [batch.append_block(block, begin, end) for begin, end in itertools.pairwise(bounds)]

    assert block.records == sum(taken) == batch.records == len(records)
    assert streams(batch) == streams(expected)
    assert batch.rows == expected.rows
    assert (batch.min_recv_ns, batch.max_recv_ns) == (expected.min_recv_ns, expected.max_recv_ns)


@given(records=st.lists(random_records.records, max_size=20))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_bytes_of_a_block_make_the_same_block_again(module_pipes: list[Pipe], records: list[Record]) -> None:
    pipe = module_pipes[0]
    pipe.drain()
    seqs = pipe.put(*records)
    block, again = RecordBlock(), RecordBlock()
    block.append_from(pipe.reader, seqs[-1] if seqs else 0)
    pipe.reader.commit()

    assert again.append_bytes(raw(block), ring=pipe.ring) == len(records)

    assert raw(again) == raw(block)
    assert seqs_of(again) == seqs
    assert [part[:3] for part in again.parts] == [part[:3] for part in block.parts]


def test_a_record_is_described_as_the_ring_reads_it(pipe: Pipe) -> None:
    pipe.put(Trade(), Event(text=b"0001^5^"), Quarantine(frame=b"0|X|001|a"))
    expected = read_records(pipe.reader, 3)
    pipe.reader.rewind()
    block = RecordBlock()
    block.append_from(pipe.reader, NEWEST)

    assert [block.describe(i) for i in range(3)] == expected
    with pytest.raises(IndexError):
        block.describe(3)


def test_a_block_ends_with_the_record_that_was_asked_for_and_the_next_one_stays_unread(pipe: Pipe) -> None:
    first, second, third = pipe.put(Trade(), Trade(), Trade())
    block = RecordBlock()

    assert block.append_from(pipe.reader, second) == 2
    assert seqs_of(block) == [first, second]
    assert block.append_from(pipe.reader, second) == 0
    assert block.append_from(pipe.reader, third) == 1
    assert pipe.reader.corrupt_records == 0
    pipe.reader.commit()
    assert pipe.reader.lag_bytes == 0


def test_records_of_the_same_ring_are_one_part_and_of_different_rings_are_not(pipes: list[Pipe]) -> None:
    block = RecordBlock()
    for pipe in (pipes[0], pipes[0], pipes[1], pipes[0]):
        [seq] = pipe.put(Trade())
        block.append_from(pipe.reader, seq)

    parts = block.parts

    assert [part[:3] for part in parts] == [(RINGS[0], 0, 2), (RINGS[1], 2, 1), (RINGS[0], 3, 1)]
    assert [len(part[3]) for part in parts] == [240, 120, 120]
    assert [block.ring_of(i) for i in range(4)] == [RINGS[0], RINGS[0], RINGS[1], RINGS[0]]
    assert block.bytes == 480


def test_a_damaged_record_of_the_ring_is_left_out_and_counted_by_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.ring"
    pipe = Pipe(path, 0)
    seqs = pipe.put(Trade(), Trade(), Trade())
    flip(path, HEADER_BYTES + 120 + 64)
    block = RecordBlock()

    assert block.append_from(pipe.reader, seqs[2]) == 2
    assert seqs_of(block) == [seqs[0], seqs[2]]
    assert pipe.reader.corrupt_records == 1
    pipe.close()


def test_a_last_record_that_became_unreadable_does_not_make_the_block_run_on(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.ring"
    pipe = Pipe(path, 0)
    seqs = pipe.put(Trade(), Trade(), Trade())
    flip(path, HEADER_BYTES + 120 + 64)
    block = RecordBlock()

    assert block.append_from(pipe.reader, seqs[1]) == 1
    assert read_records(pipe.reader, 2)[0]["seq"] == seqs[2]
    assert pipe.reader.corrupt_records == 1
    pipe.close()


def test_records_of_an_unknown_kind_are_passed_over_as_the_encoder_does(pipe: Pipe) -> None:
    pipe.put(Trade())
    pipe.writer.append(UNKNOWN_KIND, b"12345678")
    [last] = pipe.put(Trade())
    block = RecordBlock()

    assert block.append_from(pipe.reader, last) == 2


def test_a_lossy_reader_gives_the_same_block(pipe: Pipe) -> None:
    seqs = pipe.put(*[Trade(volume=(i, 0)) for i in range(5000)])
    block, other = RecordBlock(), RecordBlock()
    reader = LossyReader(pipe.writer.path, "publisher")
    reader.seek_after(seqs[0] - 1)

    block.append_from(pipe.reader, seqs[-1])
    other.append_from(reader, seqs[2000])
    other.append_from(reader, seqs[-1])

    assert raw(other) == raw(block)
    reader.close()


@pytest.fixture(scope="module")
def two_trades(module_pipes: list[Pipe]) -> bytes:
    """Two records of 120 bytes each."""
    block = RecordBlock()
    [*_, last] = module_pipes[1].put(Trade(), Trade())
    block.append_from(module_pipes[1].reader, last)
    return raw(block)


@pytest.mark.requirement("F42")
@pytest.mark.parametrize("offset", range(0, 240))
def test_a_changed_byte_is_never_a_record(two_trades: bytes, offset: int) -> None:
    block = RecordBlock()
    block.append_bytes(two_trades[:120], ring=0)
    damaged = bytearray(two_trades)
    damaged[offset] ^= 0x41

    with pytest.raises(RingError, match=f"offset {offset - offset % 120}"):
        block.append_bytes(damaged, ring=1)
    assert (block.records, block.bytes, len(block.parts)) == (1, 120, 1)


def of_kind(kind: int, trade: bytes) -> bytes:
    """The same record, said to be of another kind, with the right checksum for that."""
    record = bytearray(trade)
    record[24] = kind
    struct.pack_into("<I", record, 4, crc32c(record[8:]))
    return bytes(record)


def crc32c(data: Sequence[int]) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def test_a_record_of_an_unknown_kind_or_too_short_for_its_kind_is_refused(two_trades: bytes) -> None:
    trade = two_trades[:120]
    assert RecordBlock().append_bytes(of_kind(1, trade), ring=0) == 1

    for number in (0, UNKNOWN_KIND, 255):
        with pytest.raises(RingError, match="unknown kind"):
            RecordBlock().append_bytes(of_kind(number, trade), ring=0)
    with pytest.raises(RingError, match="too few"):
        RecordBlock().append_bytes(of_kind(2, trade), ring=0)


@pytest.mark.parametrize("size", [1, 31, 32, 119, 121, 239])
def test_a_cut_file_is_refused(two_trades: bytes, size: int) -> None:
    block = RecordBlock()
    with pytest.raises(RingError):
        block.append_bytes(two_trades[:size], ring=0)
    assert block.records == 0


def test_a_block_does_not_change_while_its_bytes_are_read(pipe: Pipe, two_trades: bytes) -> None:
    block = RecordBlock()
    block.append_bytes(two_trades, ring=0)
    [part] = block.parts

    for change in (
        block.clear,
        lambda: block.append_bytes(two_trades, ring=0),
        lambda: block.append_from(pipe.reader, 1),
    ):
        with pytest.raises(BufferError):
            change()
    part[3].release()
    block.clear()

    assert (block.records, block.bytes, block.parts) == (0, 0, [])
    assert block.append_bytes(two_trades, ring=4) == 2
    assert block.ring_of(1) == 4


def test_only_records_that_the_block_has_are_encoded(two_trades: bytes) -> None:
    block = RecordBlock()
    block.append_bytes(two_trades, ring=0)
    batch = new_batch()

    for begin, end in ((-1, 1), (0, 3), (2, 1), (3, None)):
        with pytest.raises(IndexError):
            batch.append_block(block, begin, end)
    assert batch.append_block(block, 2) == 0
    assert batch.append_block(block, 1) == 1
    assert batch.rows == {"market_ticks": 1}
