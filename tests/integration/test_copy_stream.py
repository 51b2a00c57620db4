"""A real PostgreSQL reads the binary COPY streams, and gives back the values that the records had."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import dict_row

from native_pipeline.copy_encoder import COLUMNS, CopyBatch
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import copy_rows, random_records
from tests.reference.packed_records import (
    ABSENT,
    EVENT,
    Book,
    Decimal64,
    Event,
    Gap,
    Ledger,
    Quarantine,
    Record,
    Trade,
    append,
)

VENUES = ("", "kis", "kiwoom")
MARKETS = ("", "kr", "us")
REASONS = ("", "width", "no_such_layout")
GAPS = ("", "connection_lost", "cum_volume")
RING = 3
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encode(directory: Path, records: list[Record]) -> tuple[CopyBatch, list[int]]:
    path = directory / "worker-3.ring"
    create_ring(path, ring=RING, capacity_bytes=1 << 22, consumers=(("writer", GATING),))
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    seqs = [append(writer, record) for record in records]
    writer.publish()
    batch = CopyBatch(venues=VENUES, markets=MARKETS, quarantine_reasons=REASONS, gap_reasons=GAPS)
    assert batch.append_from(reader, 1 << 20) == len(records)
    reader.close()
    writer.close()
    path.unlink()
    return batch, seqs


def load(dsn: str, batch: CopyBatch, table: str) -> list[dict[str, Any]]:
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table]))
    copy_from = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table), columns)
    select = sql.SQL("SELECT {} FROM {} ORDER BY seq").format(columns, sql.Identifier(table))
    with psycopg.connect(dsn, row_factory=dict_row) as connection, connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(table)))
        with batch.block(table) as block, cursor.copy(copy_from) as copy:
            copy.write(block)
        return cursor.execute(select).fetchall()


def value(number: Decimal64) -> float | None:
    mantissa, scale = number
    return None if mantissa == ABSENT else float(Decimal(mantissa).scaleb(-scale))


def moment(unix_ns: int) -> datetime:
    return EPOCH + timedelta(microseconds=unix_ns // 1000)


def trade_row(trade: Trade, seq: int) -> dict[str, Any]:
    return {
        "time": moment(trade.exchange_ns), "symbol": trade.symbol.decode(), "price": value(trade.price),
        "volume": value(trade.volume), "change": value(trade.change_rate), "market": MARKETS[trade.market],
        "venue": VENUES[trade.venue], "side": {1: "buy", 2: "sell"}.get(trade.side), "ask": value(trade.ask),
        "bid": value(trade.bid), "cum_volume": value(trade.cum_volume), "recv_time": moment(trade.recv_ns),
        "flags": trade.flags, "source": RING, "seq": seq, "exchange": None,
    }  # fmt: skip


good_numbers = st.tuples(st.integers(1, 10**18), st.integers(0, 18))
this_year = st.integers(1_760_000_000_000_000_000, 1_790_000_000_000_000_000)
good_trades = st.builds(
    Trade, symbol=random_records.symbols.filter(bool), exchange_ns=this_year, recv_ns=this_year, price=good_numbers,
    volume=good_numbers, ask=good_numbers, side=st.integers(0, 2), venue=st.just(1), market=st.integers(1, 2),
)  # fmt: skip


@pytest.mark.requirement("SCH-01")
@given(trades=st.lists(good_trades, min_size=1, max_size=20))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_trades_arrive_in_the_database_value_for_value(tmp_path: Path, postgres_dsn: str, trades: list[Trade]) -> None:
    batch, seqs = encode(tmp_path, list(trades))

    rows = load(postgres_dsn, batch, "market_ticks")

    assert rows == [trade_row(trade, seq) for trade, seq in zip(trades, seqs, strict=True)]


def test_an_order_book_arrives_with_its_levels_in_their_columns(tmp_path: Path, postgres_dsn: str) -> None:
    book = Book(
        asks=[((71300 + 100 * n, 0), (n, 0)) for n in range(10)], bids=[((712005, 1), (25, 1)), ((0, 0), (7, 0))]
    )
    batch, [seq] = encode(tmp_path, [book])

    [row] = load(postgres_dsn, batch, "market_orderbook")

    assert [row[f"ask_price{n}"] for n in range(1, 11)] == [71300 + 100 * n for n in range(10)]
    assert [row[f"ask_vol{n}"] for n in range(1, 11)] == list(range(10))
    assert (row["bid_price1"], row["bid_vol1"]) == (71200.5, 2.5)
    assert (row["bid_price2"], row["bid_vol2"]) == (None, 7)
    assert all(row[f"bid_{what}{n}"] is None for what in ("price", "vol") for n in range(3, 11))
    assert (row["source"], row["seq"], row["market"], row["venue"]) == (RING, seq, "kr", "kis")
    assert row["time"] == moment(book.exchange_ns)


good_events = st.builds(
    Event, symbol=random_records.symbols, exchange_ns=this_year, recv_ns=this_year,
    price=random_records.optional_numbers, volume=random_records.optional_numbers,
    cum_volume=random_records.optional_numbers, change_rate=random_records.optional_numbers,
    type=st.integers(1, 6), text=random_records.venue_texts, text_is_cut=st.booleans(),
    flags=st.sampled_from([0, 16, 32]), venue=st.just(1), market=st.integers(1, 2),
)  # fmt: skip
EVENT_TYPES = ("", "expected", "index", "nav", "status", "program", "quote")


@pytest.mark.requirement("SCH-01", "EDGE-01")
@given(events=st.lists(good_events, min_size=1, max_size=20))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_events_arrive_in_the_database_whatever_their_text_is(
    tmp_path: Path, postgres_dsn: str, events: list[Event]
) -> None:
    batch, seqs = encode(tmp_path, list(events))

    rows = load(postgres_dsn, batch, "market_events")

    assert rows == [
        {
            "time": moment(event.exchange_ns), "symbol": event.symbol.decode(), "type": EVENT_TYPES[event.type],
            "price": value(event.price), "volume": value(event.volume), "cum_volume": value(event.cum_volume),
            "change": value(event.change_rate), "market": MARKETS[event.market], "venue": "kis",
            "exchange": {16: "nxt", 32: "sor"}.get(event.flags), "detail": copy_rows.venue_text(event.text),
            "recv_time": moment(event.recv_ns), "flags": event.flags + 2 * event.text_is_cut, "source": RING,
            "seq": seq,
        }
        for event, seq in zip(events, seqs, strict=True)
    ]  # fmt: skip


def test_the_longest_texts_arrive_whole(tmp_path: Path, postgres_dsn: str) -> None:
    texts = [b"\0" * 65535, b"\xff" * 65535, ("\uac00" * 21845).encode(), bytes(range(256)) * 255]
    batch, _ = encode(tmp_path, [Event(text=text) for text in texts])

    rows = load(postgres_dsn, batch, "market_events")

    assert [row["detail"] for row in rows] == [copy_rows.venue_text(text) for text in texts]


def test_quarantine_gaps_and_ledger_arrive_too(tmp_path: Path, postgres_dsn: str) -> None:
    frame = bytes(range(256)) * 3
    ns = 1_763_596_801_123_456_789
    batch, seqs = encode(
        tmp_path,
        [
            Quarantine(frame=frame, original_bytes=5000, reason=2, detail=17, recv_ns=ns),
            Gap(symbol=b"005930", started_ns=ns, ended_ns=ns + 5000, missing=120, data_kind=2, reason=1, flags=16),
            Gap(symbol=b"000660", started_ns=ns, ended_ns=ns + 5000, data_kind=1, reason=2),
            Ledger(
                symbol=b"005930",
                minute_ns=ns // 60_000_000_000 * 60_000_000_000,
                through_seq=9,
                count=4,
                data_kind=EVENT,
            ),
        ],
    )

    [quarantine] = load(postgres_dsn, batch, "quarantine")
    first_gap, second_gap = load(postgres_dsn, batch, "feed_gaps")
    [ledger] = load(postgres_dsn, batch, "ingest_ledger")

    assert bytes(quarantine.pop("frame")) == frame
    assert quarantine == {
        "recv_time": moment(ns), "venue": "kis", "reason": "no_such_layout", "detail": 17, "original_bytes": 5000,
        "source": RING, "seq": seqs[0],
    }  # fmt: skip
    assert first_gap == {
        "venue": "kis", "market": "kr", "symbol": "005930", "kind": "orderbook", "started": moment(ns),
        "ended": moment(ns + 5000), "reason": "connection_lost", "missing": 120.0, "source": RING, "seq": seqs[1],
        "exchange": "nxt",
    }  # fmt: skip
    assert (second_gap["missing"], second_gap["kind"], second_gap["exchange"]) == (None, "trade", None)
    assert ledger == {
        "minute": moment(ns // 60_000_000_000 * 60_000_000_000), "market": "kr", "venue": "kis", "symbol": "005930",
        "kind": "event", "received": 4, "through_seq": 9, "source": RING, "seq": seqs[3],
    }  # fmt: skip
