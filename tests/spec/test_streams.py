"""Completeness and de-duplication: what a stream's cumulative volume says about what is missing and what is new."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native_pipeline.parse_kis import KisParser
from native_pipeline.records import GAP_REASONS, flag_names, read_records
from native_pipeline.ring_accounts import flush_gaps, flush_ledger
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from native_pipeline.stream_receipts import newest_receipts
from tests.spec.ring_support import MIB, new_ring

SAMPLE = Path(__file__).parents[1] / "frames" / "kis" / "data" / "H0STCNT0_single.txt"
BOOK_SAMPLE = SAMPLE.with_name("H0STASP0_single.txt")
NOON = 1_795_143_600 * 10**9  # 2026-11-20 12:00 KST
SECOND = 10**9
VOLUME_GAP = "cumulative volume does not add up"


class Bench:
    """A ring with a parser; `frame` is one trade."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ring = RingWriter(path)
        self.reader = GatingReader(path, "writer")
        self.parser = KisParser(venue=1, market=1)
        self.other = KisParser(venue=1, market=1, connection=1)
        self.now = NOON

    def pair(self) -> None:
        """Two sessions bring the same streams from now on."""
        self.parser.is_redundant = self.other.is_redundant = True

    def book(self, ask_size: int, *, clock: str = "120000", to: KisParser | None = None) -> None:
        fields = BOOK_SAMPLE.read_text().split("|")[3].split("^")
        fields[1], fields[23] = clock, str(ask_size)
        self.now += SECOND // 1000
        assert (to or self.parser).parse(self.ring, f"0|H0STASP0|001|{'^'.join(fields)}".encode(), self.now) == 1

    def ask_sizes(self) -> list[int]:
        return [int(r["asks"][0][1]) for r in self.records() if r["kind"] == "orderbook"]  # type: ignore[index]

    def send(self, cum: int, volume: int, *, clock: str = "120000", date: str = "20261120", symbol: str = "005930",
             price: int = 71200, to: KisParser | None = None) -> None:  # fmt: skip
        fields = SAMPLE.read_text().split("|")[3].split("^")
        fields[0], fields[1], fields[2], fields[12], fields[13], fields[33] = (
            symbol, clock, str(price), str(volume), str(cum), date,
        )  # fmt: skip
        self.now += SECOND // 1000
        frame = f"0|H0STCNT0|001|{'^'.join(fields)}".encode()
        assert (to or self.parser).parse(self.ring, frame, self.now) == 1

    def records(self) -> list[dict[str, object]]:
        found = read_records(self.reader, 100_000)
        self.reader.commit()
        return found

    def cums(self) -> list[int]:
        return [int(str(r["cum_volume"])) for r in self.records() if r["kind"] == "trade"]

    def gaps(self, *, after: int = 3 * SECOND) -> list[dict[str, object]]:
        flush_gaps(self.ring, self.now + after)
        return [r for r in self.records() if r["kind"] == "gap"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(new_ring(tmp_path, capacity=4 * MIB))


@pytest.mark.requirement("F21")
def test_a_trade_that_the_venue_left_out_is_one_gap_with_its_bounds_and_shares(bench: Bench) -> None:
    bench.send(100, 10)
    before = bench.now
    bench.send(150, 20)
    after = bench.now
    bench.send(160, 10)

    assert bench.cums() == [100, 150, 160]
    (gap,) = bench.gaps()
    assert (gap["symbol"], gap["data_kind"], gap["missing"]) == ("005930", "trade", 30)
    assert (gap["started_ns"], gap["ended_ns"]) == (before, after)
    assert GAP_REASONS[int(str(gap["reason"]))] == VOLUME_GAP
    assert bench.gaps() == [], "once"
    assert bench.ring.volume_gaps == 1


def test_no_gap_within_the_grace(bench: Bench) -> None:
    bench.send(100, 10)
    bench.send(150, 20)
    assert bench.gaps(after=SECOND) == []
    assert len(bench.gaps(after=3 * SECOND)) == 1


@pytest.mark.requirement("F20")
def test_trades_out_of_order_are_all_kept_marked_late_and_no_gap_is_invented(bench: Bench) -> None:
    for cum, volume in ((100, 10), (130, 10), (110, 10), (120, 10), (150, 20)):
        bench.send(cum, volume)
    records = bench.records()
    assert [int(str(r["cum_volume"])) for r in records] == [100, 130, 110, 120, 150]
    assert [flag_names(int(str(r["flags"]))) for r in records] == [[], [], ["late"], ["late"], []]
    assert bench.gaps() == []
    assert bench.ring.late_trades == 2


def test_a_hole_that_is_filled_in_part_leaves_what_is_missing_on_both_sides(bench: Bench) -> None:
    bench.send(100, 10)
    bench.send(200, 10)
    bench.send(150, 10)
    assert sorted(int(str(gap["missing"])) for gap in bench.gaps()) == [40, 40]


@pytest.mark.requirement("F19")
def test_what_the_venue_repeats_is_dropped_and_counted_exactly(bench: Bench) -> None:
    for cum in range(10, 3010, 10):
        bench.send(cum, 10)
    for cum in range(1010, 3010, 10):  # the last two hundred again
        bench.send(cum, 10)
    bench.send(3010, 10)
    assert bench.cums() == list(range(10, 3020, 10))
    assert bench.parser.duplicates == 200
    assert bench.gaps() == []


def test_the_same_numbers_of_another_symbol_time_or_price_are_another_trade(bench: Bench) -> None:
    bench.send(100, 10)
    bench.send(100, 10, symbol="000660")
    bench.send(100, 10, clock="120001")
    bench.send(100, 10, price=71300)
    assert len(bench.cums()) == 4
    assert bench.parser.duplicates == 0


@pytest.mark.requirement("F20")
def test_a_cumulative_volume_that_goes_down_is_no_gap_and_the_stream_goes_on_from_there(bench: Bench) -> None:
    for cum, volume, clock in ((100, 10, "120000"), (60, 10, "120001"), (70, 10, "120002"), (90, 10, "120003")):
        bench.send(cum, volume, clock=clock)
    assert bench.cums() == [100, 60, 70, 90]
    (gap,) = bench.gaps()
    assert gap["missing"] == 10, "only the hole behind the correction"


@pytest.mark.requirement("F20")
def test_a_correction_that_ends_above_what_was_reached_counts_from_there(bench: Bench) -> None:
    for cum, volume in ((1000, 10), (1009, 20), (1019, 10), (1029, 10)):
        bench.send(cum, volume)
    assert bench.cums() == [1000, 1009, 1019, 1029]
    assert bench.gaps() == []


@pytest.mark.requirement("EDGE-01", "F20")
def test_another_date_is_another_session_whatever_its_volume(bench: Bench) -> None:
    bench.send(100, 10)
    bench.send(500, 10, date="20261123")
    bench.send(510, 10, date="20261123")
    assert bench.gaps() == []


@pytest.mark.requirement("CH-PROC-01", "F19")
def test_a_producer_that_takes_over_knows_what_was_there(tmp_path: Path) -> None:
    path = new_ring(tmp_path, capacity=4 * MIB)
    bench = Bench(path)
    bench.send(100, 10)
    bench.send(130, 10)  # a hole that was written
    assert len(bench.gaps()) == 1
    bench.send(160, 10)  # and one that was not
    bench.ring.publish()
    bench.ring.close(clean=False)
    bench.reader.close()

    again = Bench(path)
    again.now = bench.now
    again.send(160, 10)  # repeated
    again.send(190, 10)  # one more hole, over the restart
    assert again.cums() == [160, 190]
    assert again.parser.duplicates == 1
    assert [int(str(gap["missing"])) for gap in again.gaps()] == [20, 20]


def test_a_gap_that_finds_no_room_waits(tmp_path: Path) -> None:
    bench = Bench(new_ring(tmp_path, capacity=MIB))
    bench.send(100, 10)
    bench.send(150, 10)
    while bench.ring.room_bytes >= 88:
        bench.ring.append(3, bytes(min(16 + bench.ring.room_bytes % 8, 100_000, bench.ring.room_bytes - 40)))
    bench.ring.publish()
    assert flush_gaps(bench.ring, bench.now + 3 * SECOND) == 0
    bench.records()
    assert [gap["missing"] for gap in bench.gaps()] == [40]


@pytest.mark.requirement("F22")
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    lag=st.integers(0, 60),
    loss=st.sampled_from([0.0, 0.02, 0.2]),
    trades_a_second=st.sampled_from([1, 7, 100]),
)
def test_two_sessions_give_one_stream_without_doubles_and_with_only_the_holes_that_both_have(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lag: int, loss: float, trades_a_second: int
) -> None:
    bench = Bench(new_ring(tmp_path_factory.mktemp("ab"), capacity=4 * MIB))
    bench.pair()
    rng = random.Random(seed)
    trades, cum = [], 0
    for number in range(300):
        volume = rng.randrange(1, 50)
        cum += volume
        second = number // trades_a_second
        trades.append((cum, volume, f"12{second // 60:02}{second % 60:02}"))
    kept_a = [t for t in trades if rng.random() >= loss]
    kept_b = [t for t in trades if rng.random() >= loss]
    arrivals = sorted(
        [(trades.index(t), 0, t) for t in kept_a] + [(trades.index(t) + lag, 1, t) for t in kept_b]
    )  # fmt: skip
    for _, side, (reach, volume, clock) in arrivals:
        bench.send(reach, volume, clock=clock, to=bench.other if side else bench.parser)

    union = {t[0]: t for t in kept_a + kept_b}
    stored = bench.cums()
    assert len(stored) == len(set(stored))
    assert set(stored) == set(union)
    first = arrivals[0][2][0] if arrivals else 0
    reached = max(stored, default=0)
    missing = sum(t[1] for t in trades if t[0] not in union and first < t[0] < reached)
    assert sum(int(str(gap["missing"])) for gap in bench.gaps()) == missing


@pytest.mark.requirement("F04")
def test_the_newest_receipt_of_every_stream_is_known(bench: Bench) -> None:
    bench.send(100, 10)
    first = bench.now
    bench.send(100, 10, symbol="000660")
    newest = {place: recv_ns for place, (recv_ns, _) in newest_receipts(bench.ring).items()}
    assert newest == {("005930", 1, ""): first, ("000660", 1, ""): bench.now}


@pytest.mark.requirement("F19", "SCH-01")
def test_a_venue_whose_cumulative_volume_stands_still_loses_no_trade(bench: Bench) -> None:
    for volume in (5, 7, 9, 9):
        bench.send(0, volume)
    bench.send(100, 5)
    bench.send(100, 7)
    bench.send(90, 5)
    assert bench.cums() == [0, 0, 0, 0, 100, 100, 90]
    assert bench.gaps() == []


@pytest.mark.requirement("F22")
def test_a_session_may_lag_thousands_of_trades_behind_the_other(bench: Bench) -> None:
    bench.pair()
    for number in range(1, 3001):
        bench.send(10 * number, 10)
        if number > 2000:
            bench.send(10 * (number - 2000), 10, to=bench.other)
    assert bench.cums() == list(range(10, 30_010, 10))
    assert bench.other.duplicates == 1000


@pytest.mark.requirement("F22")
@pytest.mark.parametrize("lag", [0, 1, 5, 40])
def test_books_of_a_pair_that_return_to_an_earlier_state_are_kept_in_order(bench: Bench, lag: int) -> None:
    bench.pair()
    rng = random.Random(lag)
    sizes = [rng.choice((100, 500, 900)) for _ in range(400)]
    for number in range(len(sizes) + lag):
        if number < len(sizes):
            bench.book(sizes[number])
        if number >= lag:
            bench.book(sizes[number - lag], to=bench.other)
    assert bench.ask_sizes() == sizes


@pytest.mark.requirement("DUAL-ISO-01")
def test_a_stream_that_only_one_session_of_a_pair_brings_loses_nothing_it_repeats(bench: Bench) -> None:
    bench.pair()
    for _ in range(3):
        bench.book(100)
        bench.send(0, 0)
    assert bench.ask_sizes() == [100, 100, 100]


@pytest.mark.requirement("F22")
def test_trades_of_a_pair_without_cumulative_volume_are_stored_once(bench: Bench) -> None:
    bench.pair()
    for parser in (bench.parser, bench.other):
        bench.send(0, 5, to=parser)
        bench.send(0, 5, to=parser)
    assert bench.cums() == [0, 0]


@pytest.mark.requirement("F20")
def test_an_old_trade_behind_a_new_session_does_not_move_it(bench: Bench) -> None:
    for cum, volume, clock in (
        (500, 10, "120000"), (30, 10, "120001"), (490, 10, "115959"),
        (40, 10, "120001"), (50, 10, "120002"), (60, 10, "120003"),
    ):  # fmt: skip
        bench.send(cum, volume, clock=clock)
    late = [int(str(r["cum_volume"])) for r in bench.records() if r["kind"] == "trade" and r["flags"] != 0]
    assert late == [490]
    assert bench.gaps() == []


@pytest.mark.requirement("CH-PROC-01")
def test_a_ring_that_begins_with_a_late_trade_invents_no_gap(tmp_path: Path) -> None:
    path = new_ring(tmp_path, capacity=MIB)
    bench = Bench(path)
    for number in range(1, 20_000, 2):  # pairs swapped; the ring goes round
        bench.send(10 * (number + 1), 10)
        bench.send(10 * number, 10)
        if number % 101 == 0:
            bench.records()
    for _ in range(4):
        bench.ring.publish()
        bench.ring.close(clean=False)
        bench.reader.close()
        bench = Bench(path)
        assert [gap["missing"] for gap in bench.gaps()] == []
        bench.now += SECOND


# ---- the counts that travel through the ring -------------------------------------------------------------------------


def counted(bench: Bench, *, at_ns: int) -> dict[tuple[object, object], int]:
    """(symbol, kind) -> what the ledger records of a flush add up to."""
    flush_ledger(bench.ring, at_ns, force=True)
    totals: dict[tuple[object, object], int] = {}
    for record in bench.records():
        if record["kind"] == "ledger":
            key = (record["symbol"], record["data_kind"])
            totals[key] = totals.get(key, 0) + int(str(record["count"]))
    return totals


def frames_of(trades: range, *, tr: str = "H0STCNT0") -> list[bytes]:
    fields = SAMPLE.read_text().split("|")[3].split("^")
    fields[0], fields[1], fields[12], fields[33] = "005930", "120000", "1", "20261120"
    frames = []
    for cum in trades:
        fields[13] = str(cum)
        frames.append(f"0|{tr}|001|{'^'.join(fields)}".encode())
    return frames


@pytest.mark.requirement("E2E-OBS-01")
def test_a_minute_of_a_stream_may_count_more_than_its_small_counter_holds(tmp_path: Path) -> None:
    bench = Bench(new_ring(tmp_path, capacity=16 * MIB))
    frames = frames_of(range(1, 70_001))
    assert bench.parser.parse_many(bench.ring, frames, NOON) == len(frames)
    assert counted(bench, at_ns=NOON) == {("005930", "trade"): len(frames)}


@pytest.mark.requirement("E2E-OBS-01")
def test_the_exchanges_of_a_symbol_are_counted_together(bench: Bench) -> None:
    frames = [*frames_of(range(1, 6)), *frames_of(range(1, 4), tr="H0NXCNT0")]
    assert bench.parser.parse_many(bench.ring, frames, NOON) == len(frames)
    assert counted(bench, at_ns=NOON) == {("005930", "trade"): 8}


@pytest.mark.requirement("E2E-OBS-01")
def test_each_minute_is_counted_apart_and_flushed_when_it_is_over(bench: Bench) -> None:
    for minute in range(3):
        assert flush_ledger(bench.ring, NOON + minute * 60 * SECOND) == min(minute, 1)
        bench.parser.parse_many(bench.ring, frames_of(range(10 * minute + 1, 10 * minute + 2 + minute)),
                                NOON + minute * 60 * SECOND)  # fmt: skip
    assert flush_ledger(bench.ring, NOON + 2 * 60 * SECOND) == 0
    assert flush_ledger(bench.ring, NOON + 3 * 60 * SECOND) == 1
    counts = [int(str(record["count"])) for record in bench.records() if record["kind"] == "ledger"]
    assert counts == [1, 2, 3]


def test_streams_beyond_the_first_table_are_remembered_and_counted(tmp_path: Path) -> None:
    bench = Bench(new_ring(tmp_path, capacity=16 * MIB))
    symbols = [f"{number:06d}" for number in range(5000)]  # the table grows twice
    for turn in (1, 1, 2):  # the second time all are repetitions
        for symbol in symbols:
            bench.send(10 * turn, 10, symbol=symbol)
    assert bench.parser.duplicates == len(symbols)
    assert counted(bench, at_ns=bench.now) == {(symbol, "trade"): 2 for symbol in symbols}
    assert bench.gaps() == []
