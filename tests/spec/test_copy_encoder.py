"""Ring records become the rows that PostgreSQL's binary COPY expects, number for number."""

import itertools
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from native_pipeline.copy_encoder import COLUMNS, CopyBatch
from native_pipeline.counters import CountersBlock, create_counters_file, percentile_us
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader, LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import copy_rows, random_records
from tests.reference.packed_records import ABSENT, Book, Event, Gap, Ledger, Quarantine, Record, Trade, append

NAMES = copy_rows.Names(
    venues=("", "kis", "kiwoom"),
    markets=("", "kr", "us"),
    quarantine_reasons=("", "width", "no_such_layout"),
    gap_reasons=("", "connection_lost", "cum_volume"),
)
RING = 7
TRADE_PRICE_FIELD = COLUMNS["market_ticks"].index("price")


class Pipe:
    """A ring with one producer and one consumer."""

    def __init__(self, path: Path) -> None:
        create_ring(path, ring=RING, capacity_bytes=1 << 22, consumers=(("writer", GATING),))
        self.writer = RingWriter(path)
        self.reader = GatingReader(path, "writer")

    def put(self, *records: Record) -> list[int]:
        """Append and publish *records*; return their seqs."""
        seqs = [append(self.writer, record) for record in records]
        self.writer.publish()
        return seqs


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path_factory.mktemp("ring") / "worker-0.ring")
    yield pipe
    pipe.reader.close()
    pipe.writer.close()


@pytest.fixture(autouse=True)
def _leave_the_ring_empty(pipe: Pipe) -> Iterator[None]:
    yield
    new_batch().append_from(pipe.reader, 1 << 30)
    pipe.reader.commit()


def new_batch() -> CopyBatch:
    return CopyBatch(
        venues=NAMES.venues,
        markets=NAMES.markets,
        quarantine_reasons=NAMES.quarantine_reasons,
        gap_reasons=NAMES.gap_reasons,
    )


def block(batch: CopyBatch, table: str) -> bytes:
    with batch.block(table) as view:
        return bytes(view)


def fields(stream: bytes) -> list[list[bytes | None]]:
    """Read a COPY stream back: the fields of each row."""
    at = len(copy_rows.HEADER)
    rows = []
    while (columns := struct.unpack_from(">h", stream, at)[0]) != -1:
        at += 2
        row: list[bytes | None] = []
        for _ in range(columns):
            size = struct.unpack_from(">i", stream, at)[0]
            at += 4
            row.append(None if size < 0 else stream[at : at + size])
            at += max(size, 0)
        rows.append(row)
    assert at + 2 == len(stream)
    return rows


@pytest.mark.requirement("SCH-01")
@given(records=st.lists(random_records.records, max_size=30))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_every_record_is_encoded_as_the_reference_encodes_it(pipe: Pipe, records: list[Record]) -> None:
    batch = new_batch()
    seqs = pipe.put(*records)

    assert batch.append_from(pipe.reader, 1000) == len(records)
    pipe.reader.commit()

    expected: dict[str, list[list[bytes | None]]] = {table: [] for table in COLUMNS}
    for record, seq in zip(records, seqs, strict=True):
        table, row = copy_rows.row(record, source=RING, seq=seq, names=NAMES)
        expected[table].append(row)
    for table, rows in expected.items():
        assert block(batch, table) == copy_rows.stream(rows)
    assert batch.rows == {table: len(rows) for table, rows in expected.items() if rows}


@pytest.mark.parametrize("record", [Trade(), Book(), Event(), Quarantine(), Gap(), Ledger()])
def test_each_row_has_one_field_for_each_named_column(pipe: Pipe, record: Record) -> None:
    batch = new_batch()
    pipe.put(record)

    batch.append_from(pipe.reader, 1)

    [(table, rows)] = batch.rows.items()
    assert rows == 1
    [row] = fields(block(batch, table))
    assert len(row) == len(COLUMNS[table])


@given(mantissa=st.integers(ABSENT + 1, 2**63 - 1), scale=st.integers(0, 255))
@example(mantissa=2**53, scale=22)
@example(mantissa=2**53 - 1, scale=22)
@example(mantissa=2**53 + 1, scale=0)
@example(mantissa=1, scale=23)
@example(mantissa=9007199254740993, scale=18)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_number_is_the_double_nearest_to_the_exact_decimal(pipe: Pipe, mantissa: int, scale: int) -> None:
    batch = new_batch()
    pipe.put(Trade(price=(mantissa, scale)))

    batch.append_from(pipe.reader, 1)
    pipe.reader.commit()

    price = fields(block(batch, "market_ticks"))[0][TRADE_PRICE_FIELD]
    assert price is not None
    assert struct.unpack(">d", price)[0] == float(Fraction(mantissa, 10**scale))


@pytest.mark.requirement("EDGE-01")
def test_absent_levels_and_values_are_null(pipe: Pipe) -> None:
    batch = new_batch()
    pipe.put(Book(asks=[((71300, 0), (5, 0)), ((0, 0), (0, 0)), ((0, 0), (9, 0))]), Trade())

    batch.append_from(pipe.reader, 2)

    [book] = fields(block(batch, "market_orderbook"))
    levels = dict(zip(COLUMNS["market_orderbook"], book, strict=True))
    assert levels["ask_price1"] == struct.pack(">d", 71300)
    assert levels["ask_price2"] is None
    assert levels["ask_vol2"] is None
    assert levels["ask_price3"] is None
    assert levels["ask_vol3"] == struct.pack(">d", 9)
    assert levels["bid_price1"] is None
    [trade] = fields(block(batch, "market_ticks"))
    values = dict(zip(COLUMNS["market_ticks"], trade, strict=True))
    assert [name for name, value in values.items() if value is None] == [
        "change", "side", "ask", "bid", "cum_volume", "exchange",
    ]  # fmt: skip


@pytest.mark.requirement("EDGE-01")
@pytest.mark.parametrize("unix_ns", [0, -1, 999, -1001, 946_684_800_000_000_000, 1_763_596_801_123_456_789])
def test_a_time_is_rounded_down_to_the_microsecond_also_before_1970(pipe: Pipe, unix_ns: int) -> None:
    batch = new_batch()
    pipe.put(Trade(exchange_ns=unix_ns))

    batch.append_from(pipe.reader, 1)

    [row] = fields(block(batch, "market_ticks"))
    assert row[0] == copy_rows.timestamptz(unix_ns)


@pytest.mark.requirement("SCH-01")
@pytest.mark.parametrize("kind", [Trade, Book, Event])
@pytest.mark.parametrize(("flags", "expected"), [(0, None), (15, None), (16, b"nxt"), (32, b"sor"), (24, b"nxt")])
def test_the_exchange_is_null_for_the_main_one_of_a_market(
    pipe: Pipe, kind: type[Trade | Book | Event], flags: int, expected: bytes | None
) -> None:
    batch = new_batch()
    pipe.put(kind(flags=flags))

    batch.append_from(pipe.reader, 1)

    [(table, _)] = batch.rows.items()
    [row] = fields(block(batch, table))
    assert dict(zip(COLUMNS[table], row, strict=True))["exchange"] == expected


def detail_of(pipe: Pipe, raw: bytes) -> str:
    """The detail of the row of an event with the text *raw*, and of no other row."""
    batch = new_batch()
    pipe.put(Event(text=raw), Event(text=b"after"))
    batch.append_from(pipe.reader, 2)
    pipe.reader.commit()
    details = [row[COLUMNS["market_events"].index("detail")] for row in fields(block(batch, "market_events"))]
    assert details[1] == b"after"
    assert details[0] is not None
    return details[0].decode()


@pytest.mark.requirement("EDGE-01")
@given(raw=random_records.venue_texts)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_of_a_venue_can_make_a_row_that_the_database_refuses(pipe: Pipe, raw: bytes) -> None:
    detail = detail_of(pipe, raw)

    assert "\0" not in detail
    assert detail == raw.decode(errors="replace").replace("\0", "\ufffd")


@pytest.mark.parametrize("unit", [b"\0", b"\xff", b"A", "\uac00".encode()])
def test_the_longest_text_fits_whatever_it_holds(pipe: Pipe, unit: bytes) -> None:
    raw = (unit * 65535)[:65535]

    assert detail_of(pipe, raw) == copy_rows.venue_text(raw)


def test_every_two_bytes_are_decoded_as_python_does_it(pipe: Pipe) -> None:
    raw = b"".join(bytes((first, second)) + b"|" for first in range(128, 256) for second in range(0, 256, 3))

    assert detail_of(pipe, raw[:65535]) == copy_rows.venue_text(raw[:65535])


@pytest.mark.requirement("BP-01")
def test_a_batch_of_the_longest_texts_is_full_before_it_takes_all_memory(pipe: Pipe) -> None:
    batch = new_batch()
    taken, put = 0, 30
    while taken % put == 0:
        pipe.put(*[Event(text=b"\0" * 65535)] * put)
        taken += batch.append_from(pipe.reader, put)
        pipe.reader.commit()

    assert batch.append_from(pipe.reader, put) == 0
    assert 1 << 27 <= batch.bytes + 100 < (1 << 27) + 200_000
    assert batch.rows == {"market_events": taken}
    batch.clear()
    assert batch.append_from(pipe.reader, put) == -taken % put


@pytest.mark.parametrize(("is_cut", "flags"), [(False, 16), (True, 18)])
def test_a_text_that_was_cut_is_flagged_as_truncated(pipe: Pipe, is_cut: bool, flags: int) -> None:
    batch = new_batch()
    pipe.put(Event(text=b"1^2", text_is_cut=is_cut, flags=16))

    batch.append_from(pipe.reader, 1)

    [row] = fields(block(batch, "market_events"))
    assert dict(zip(COLUMNS["market_events"], row, strict=True))["flags"] == copy_rows.int2(flags)


def test_an_id_without_a_name_is_stored_as_unknown_and_not_dropped(pipe: Pipe) -> None:
    batch = new_batch()
    pipe.put(Trade(venue=200, market=99))

    batch.append_from(pipe.reader, 1)

    [row] = fields(block(batch, "market_ticks"))
    named = dict(zip(COLUMNS["market_ticks"], row, strict=True))
    assert named["venue"] == named["market"] == b"unknown"


def test_a_batch_takes_no_more_than_it_was_asked_for_and_goes_on_there(pipe: Pipe) -> None:
    batch = new_batch()
    seqs = pipe.put(*[Trade(price=(n + 1, 0)) for n in range(10)])

    assert batch.append_from(pipe.reader, 4) == 4
    assert pipe.reader.last_seq == seqs[3]
    assert batch.append_from(pipe.reader, 100) == 6
    assert batch.append_from(pipe.reader, 100) == 0

    assert batch.records == 10
    prices = [struct.unpack(">d", row[TRADE_PRICE_FIELD] or b"")[0] for row in fields(block(batch, "market_ticks"))]
    assert prices == list(range(1, 11))


def test_buffers_grow_to_the_batch_and_are_reused_after_clear(pipe: Pipe) -> None:
    batch = new_batch()
    big = [Quarantine(frame=bytes([n]) * 100_000, reason=1) for n in range(20)]
    for round_number in range(3):
        seqs = pipe.put(*big)

        assert batch.append_from(pipe.reader, 1000) == len(big)
        pipe.reader.commit()

        pairs = zip(big, seqs, strict=True)
        rows = [copy_rows.row(record, source=RING, seq=seq, names=NAMES)[1] for record, seq in pairs]
        assert block(batch, "quarantine") == copy_rows.stream(rows), round_number
        batch.clear()
        assert batch.rows == {}
        assert batch.bytes == 0
        assert block(batch, "quarantine") == copy_rows.stream([])


def test_a_batch_holds_records_of_several_rings(pipe: Pipe, tmp_path: Path) -> None:
    other_path = tmp_path / "worker-1.ring"
    create_ring(other_path, ring=8, capacity_bytes=1 << 20)
    other_writer, other_reader = RingWriter(other_path), LossyReader(other_path, "publisher")
    batch = new_batch()
    pipe.put(Trade())
    append(other_writer, Trade())
    other_writer.publish()

    batch.append_from(pipe.reader, 10)
    batch.append_from(other_reader, 10)

    source = COLUMNS["market_ticks"].index("source")
    assert [row[source] for row in fields(block(batch, "market_ticks"))] == [b"\0\x07", b"\0\x08"]


def test_a_block_that_is_being_read_holds_the_batch_still(pipe: Pipe) -> None:
    batch = new_batch()
    pipe.put(Trade())
    view = batch.block("market_ticks")

    with pytest.raises(BufferError):
        batch.append_from(pipe.reader, 1)
    with pytest.raises(BufferError):
        batch.clear()

    view.release()
    assert batch.append_from(pipe.reader, 1) == 1


def test_a_block_outlives_its_batch(pipe: Pipe) -> None:
    batch = new_batch()
    pipe.put(Trade())
    batch.append_from(pipe.reader, 1)
    view = batch.block("market_ticks")
    expected = bytes(view)

    del batch

    assert bytes(view) == expected


def test_a_table_that_does_not_exist_is_refused() -> None:
    with pytest.raises(KeyError):
        new_batch().block("market_tick")


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="60 bytes"):
        CopyBatch(venues=("x" * 61,), markets=(), quarantine_reasons=(), gap_reasons=())


def test_the_age_of_every_received_record_is_counted(pipe: Pipe, tmp_path: Path) -> None:
    create_counters_file(tmp_path / "counters", 1)
    counters = CountersBlock(tmp_path / "counters", 0)
    counters.take("writer")
    now_ns = 1_763_596_802_000_000_000
    ages_us = [5, 5, 5, 1000, 7, 7, 7]
    batch = new_batch()
    kinds = itertools.cycle([Trade, Book, Quarantine, Event])
    pipe.put(*[kind(recv_ns=now_ns - 1000 * age) for kind, age in zip(kinds, ages_us, strict=False)], Gap(), Ledger())
    batch.append_from(pipe.reader, 100)

    batch.observe_ages(counters, 0, now_ns)

    snapshot = counters.snapshot()
    assert snapshot is not None
    histogram = snapshot["histograms"][0]
    assert sum(histogram) == len(ages_us)
    assert histogram[5] == 3
    assert histogram[7] == 3
    assert percentile_us(histogram, 1.0) >= 1000
    assert batch.min_recv_ns == now_ns - 1_000_000
    assert batch.max_recv_ns == now_ns - 5_000
    with pytest.raises(ValueError, match="histogram"):
        batch.observe_ages(counters, 2, now_ns)
