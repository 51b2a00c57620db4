"""Receive time minus exchange time: sampled from rings, by venue and market, over the last minute."""

import struct
from pathlib import Path

import msgspec
import pytest

from daemon.ingest.venues import MARKET_IDS, VENUE_IDS
from daemon.watching import exchange_delays, metrics
from daemon.watching.console import full_text
from daemon.watching.exchange_delays import MOST_RECORDS, DelayReading, ExchangeDelays
from daemon.watching.summary import summarize
from native_pipeline.records import read_records
from native_pipeline.ring_creation import create_ring
from native_pipeline.ring_reader import GatingReader, LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.spec.made_readings import reading

MS, S = 1_000_000, 1_000_000_000
NOW = 1_800_000_000 * S
TRADE_BODY, BOOK_BODY = 120 - 32, 424 - 32
KIS, UPBIT, KR, CRYPTO = VENUE_IDS["kis"], VENUE_IDS["upbit"], MARKET_IDS["kr"], MARKET_IDS["crypto"]


class Rings:
    """One ring, with trades that were received when told."""

    def __init__(self, directory: Path, capacity_mb: int = 1) -> None:
        self.path = directory / "worker-0.ring"
        create_ring(self.path, ring=0, capacity_bytes=capacity_mb << 20)
        self.writer = RingWriter(self.path)
        self.delays = ExchangeDelays()

    def put(self, *delays_ms: int, recv_ns: int = NOW, kind: int = 1, venue: int = KIS, market: int = KR) -> None:
        for delay_ms in delays_ms:
            size = TRADE_BODY if kind == 1 else BOOK_BODY
            body = struct.pack("<24sq", b"005930", recv_ns - delay_ms * MS).ljust(size, b"\0")
            self.writer.append(kind, body, venue=venue, market=market, recv_ns=recv_ns)
        self.writer.publish()

    def look(self, wall_ns: int = NOW) -> list[DelayReading]:
        return self.delays.look([self.path], wall_ns)


@pytest.fixture
def rings(tmp_path: Path) -> Rings:
    return Rings(tmp_path)


def test_the_offsets_are_those_of_a_record_that_the_native_reader_knows(rings: Rings) -> None:
    reader = LossyReader(rings.path, "probe")
    rings.put(250)
    (record,) = read_records(reader, 10)
    assert record["recv_ns"] - record["exchange_ns"] == 250 * MS
    (found,) = rings.look()
    assert (found.venue, found.market, found.smallest_s) == ("kis", "kr", 0.25)


@pytest.mark.requirement("F23")
def test_each_venue_and_market_has_its_own_and_a_venue_whose_clock_is_ahead_has_negative_ones(rings: Rings) -> None:
    rings.put(*range(0, 1000, 10))
    rings.put(-40, 5, kind=2, venue=UPBIT, market=CRYPTO)

    kis, upbit = rings.look()

    assert (kis.records, kis.smallest_s, kis.p50_s, kis.p99_s, kis.largest_s) == (100, 0.0, 0.49, 0.98, 0.99)
    assert (upbit.venue, upbit.market, upbit.records) == ("upbit", "crypto", 2)
    assert (upbit.smallest_s, upbit.largest_s) == (-0.04, 0.005)


def test_a_look_takes_what_is_new_and_a_minute_later_it_is_forgotten(rings: Rings) -> None:
    rings.put(100)
    assert [one.records for one in rings.look()] == [1]
    rings.put(900)
    assert [(one.records, one.largest_s) for one in rings.look(NOW + 30 * S)] == [(2, 0.9)]
    assert [(one.records, one.smallest_s) for one in rings.look(NOW + 60 * S)] == [(1, 0.9)]
    assert rings.look(NOW + 90 * S) == []
    assert rings.look(NOW - 3600 * S) == []  # the clock has gone back


def test_records_without_a_time_of_the_exchanges_are_left_out_and_old_ones_too(rings: Rings) -> None:
    rings.writer.append(4, bytes(56), recv_ns=NOW)
    rings.put(100)
    rings.put(100, recv_ns=NOW - 61 * S)
    assert [one.records for one in rings.look()] == [1]


def test_a_look_is_bounded_and_the_next_one_goes_on_behind_it(rings: Rings) -> None:
    rings.put(*[10] * 2000)
    assert [one.records for one in rings.look()] == [MOST_RECORDS]
    rings.put(20)
    assert [(one.records, one.largest_s) for one in rings.look()] == [(MOST_RECORDS + 1, 0.02)]


def test_a_ring_that_goes_round_between_two_looks_gives_whole_records_only(tmp_path: Path) -> None:
    rings = Rings(tmp_path)
    gate = GatingReader(rings.path, "writer")
    for _ in range(40):
        rings.put(*[70] * 1500)
        while gate.fetch_bytes():
            while gate.next_bytes() is not None:
                pass
        gate.commit()
        (found,) = rings.look()
        assert (found.smallest_s, found.largest_s) == (0.07, 0.07)
    assert rings.writer.head > 4 << 20


@pytest.mark.parametrize("content", [b"", b"SISERING", b"garbage!" + bytes(9000)])
def test_what_is_no_ring_has_no_delays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "worker-0.ring"
    path.write_bytes(content)
    assert ExchangeDelays().look([path, tmp_path / "worker-1.ring"], NOW) == []


def test_a_new_ring_in_place_of_the_old_one_is_read_from_its_start(rings: Rings, tmp_path: Path) -> None:
    rings.put(*[10] * 50)
    rings.look()
    rings.path.unlink()
    create_ring(rings.path, ring=0, capacity_bytes=1 << 20)
    rings.writer = RingWriter(rings.path)
    rings.put(30)
    assert [(one.records, one.largest_s) for one in rings.look()] == [(51, 0.03)]


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (99, 99), (104, 100), (105, 110), (-104, -100), (12_345, 12_000), (-7, -7)]
)
def test_delays_keep_two_digits(value: int, expected: int) -> None:
    assert exchange_delays._two_digits(value) == expected


@pytest.mark.requirement("F23")
def test_they_are_shown_as_metric_as_json_and_as_text() -> None:
    one = DelayReading(venue="kis", market="kr", records=5, smallest_s=-0.25, p50_s=0.5, p99_s=1.0, largest_s=1.1)
    now = msgspec.structs.replace(reading(), delays=[one])

    text = metrics.exposition(now, is_ready=True, recent_ages_us={}).decode()
    summary = summarize([now], silence_limit_s=10.0)

    assert 'sise_exchange_delay_seconds{market="kr",quantile="0",venue="kis"} -0.25' in text
    assert 'sise_exchange_delay_seconds{market="kr",quantile="0.99",venue="kis"} 1.0' in text
    assert summary["exchange_delays"][0]["p50_s"] == 0.5
    assert "kis kr: -0.250 s at least, median 0.50, p99 1.00, 1.10 at most" in full_text(summary)
