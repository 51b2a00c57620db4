"""The KIS parser: every record of every frame is stored exactly or quarantined with a reason; none is lost."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from native_pipeline.records import QUARANTINE_REASONS, read_records
from tests.reference import kis as twin
from tests.reference.kis import Reason
from tests.reference.native_kis import (
    BOOK_FIELDS,
    FIELDS,
    NOON,
    TRADE_FIELDS,
    Native,
    frame_of,
    kst_ns,
    sample,
)

pytestmark = pytest.mark.requirement("SCH-01")

KR, US = 1, 2


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return Native(tmp_path_factory.mktemp("kis") / "test.ring")


@pytest.fixture
def small(tmp_path: Path) -> Native:
    return Native(tmp_path / "small.ring", capacity_bytes=1 << 20)


# ---- trades and books ------------------------------------------------------------------------------------------------


def trade_with(**values: str) -> bytes:
    return frame_of("H0STCNT0", TRADE_FIELDS, **values)


def book_with(values: dict[int, str]) -> bytes:
    fields = list(BOOK_FIELDS)
    for position, value in values.items():
        fields[position] = value
    return b"0|H0STASP0|001|" + "^".join(fields).encode()


@pytest.mark.parametrize("text", ["", "(null)", "x", "1e3", "9" * 20])
@pytest.mark.parametrize("role", ["cum_volume", "best_ask", "best_bid", "change_rate"])
def test_an_optional_number_that_cannot_be_read_is_absent(native: Native, role: str, text: str) -> None:
    (record,) = native.parse(trade_with(**{role: text})) or []

    assert record["kind"] == "trade"
    assert record[role.removeprefix("best_")] is None


def test_the_price_of_an_empty_side_is_absent_not_zero(native: Native) -> None:
    (record,) = native.parse(trade_with(best_ask="0", best_bid="0")) or []

    assert (record["ask"], record["bid"]) == (None, None)


def test_a_negative_cumulative_volume_quarantines_the_trade(native: Native) -> None:
    (record,) = native.parse(trade_with(cum_volume="-1")) or []

    assert (record["reason"], record["detail"]) == (Reason.BAD_NUMBER, 13)


@pytest.mark.parametrize(("code", "side"), [("1", "buy"), ("5", "sell"), ("3", None), ("", None), ("11", None)])
def test_the_aggressor_is_what_the_venue_says_or_nobody(native: Native, code: str, side: str | None) -> None:
    (record,) = native.parse(trade_with(side=code)) or []

    assert record["side"] == side


def test_a_trade_of_size_zero_is_a_trade(native: Native) -> None:
    (record,) = native.parse(trade_with(size="0")) or []

    assert (record["kind"], record["volume"]) == ("trade", Decimal(0))


@pytest.mark.requirement("EDGE-01")
@pytest.mark.parametrize(
    ("received", "clock", "expected"),
    [
        ("2026-11-20T10:30:15", "103015", "2026-11-20T10:30:15"),
        ("2026-11-21T00:00:01", "235959", "2026-11-20T23:59:59"),
        ("2026-11-20T23:59:59", "000001", "2026-11-21T00:00:01"),
        ("2026-12-31T23:59:59", "000000", "2027-01-01T00:00:00"),
        ("2028-03-01T00:00:00", "235959", "2028-02-29T23:59:59"),
        ("2026-11-20T12:00:00", "000000", "2026-11-20T00:00:00"),
        ("2026-11-20T12:00:01", "000000", "2026-11-21T00:00:00"),
        ("2026-11-20T00:00:00", "120000", "2026-11-20T12:00:00"),
        ("2026-11-20T00:00:00", "120001", "2026-11-19T12:00:01"),
    ],
)
def test_a_book_is_dated_by_its_receipt_to_the_nearest_day(
    native: Native, received: str, clock: str, expected: str
) -> None:
    (record,) = native.parse(book_with({1: clock}), kst_ns(received)) or []

    assert record["exchange_ns"] == kst_ns(expected)


def test_a_trade_is_dated_by_the_venue_whenever_it_is_received(native: Native) -> None:
    (record,) = native.parse(trade_with(date="20240229", time="235959"), NOON) or []

    assert record["exchange_ns"] == kst_ns("2024-02-29T23:59:59")


def test_a_far_level_that_is_left_out_is_an_absent_level(native: Native) -> None:
    (record,) = native.parse(book_with({12: "", 32: "(null)"})) or []

    assert record["asks"][8:] == [(Decimal(72000), Decimal(9009)), (Decimal(0), Decimal(0))]


@pytest.mark.parametrize(
    ("values", "reason", "position"),
    [
        ({3: "", 23: ""}, Reason.BAD_PRICE, 3),
        ({12: ""}, Reason.BAD_PRICE, 12),
        ({32: ""}, Reason.BAD_SIZE, 32),
        ({13: "-1"}, Reason.BAD_PRICE, 13),
        ({42: "-1"}, Reason.BAD_SIZE, 42),
        ({22: "x"}, Reason.BAD_PRICE, 22),
    ],
)
def test_a_level_that_cannot_be_read_quarantines_the_book(
    native: Native, values: dict[int, str], reason: Reason, position: int
) -> None:
    (record,) = native.parse(book_with(values)) or []

    assert (record["reason"], record["detail"]) == (reason, position)


@pytest.mark.parametrize("text", ["-1", "-1.5", "x", "1.2.3", "9" * 20])
@pytest.mark.parametrize("tr", ["H0STASP0", "HDFSASP0", "HDFSASP1", "H0IFASP0", "H0ZOASP0", "HDFFF010"])
def test_no_number_of_a_book_is_taken_for_another(native: Native, tr: str, text: str) -> None:
    for role in ("ask_price", "ask_size", "bid_price", "bid_size"):
        for position in twin.LAYOUTS[tr][role]:
            fields = list(FIELDS[tr])
            fields[position] = text
            (record,) = native.parse(frame_of(tr, fields)) or []

            reason = Reason.BAD_PRICE if "price" in role else Reason.BAD_SIZE
            assert (record["reason"], record["detail"]) == (reason, position)


def test_a_date_with_something_behind_it_is_no_date(native: Native) -> None:
    native.parse(trade_with())
    (record,) = native.parse(trade_with(date="202611201")) or []

    assert (record["reason"], record["detail"]) == (Reason.BAD_DATE, 33)


@pytest.mark.parametrize(
    ("ask", "bid", "flags"),
    [
        ("71200", "71200", 0),
        ("71200", "71201", 1),
        ("71200.5", "71200.6", 1),
        ("71200.5", "71200.50", 0),
        ("9", "10.0", 1),
        ("0", "71100", 0),
        ("0.000000000000000001", "9223372036854775807", 1),
        ("9223372036854775807", "0.000000000000000001", 0),
    ],
)
def test_a_book_is_crossed_when_the_best_bid_is_above_the_best_ask(
    native: Native, ask: str, bid: str, flags: int
) -> None:
    (record,) = native.parse(book_with({3: ask, 13: bid})) or []

    assert record["flags"] == flags


@pytest.mark.parametrize(
    ("code", "flags"), [("0", 0), ("A", 4), ("B", 4), ("C", 4), ("D", 4), ("@", 0), ("E", 0), ("", 0), ("AA", 0)]
)
def test_a_book_of_an_auction_phase_is_flagged(native: Native, code: str, flags: int) -> None:
    (record,) = native.parse(book_with({2: code})) or []

    assert record["flags"] == flags


# ---- layouts by width, alternatives, markets -------------------------------------------------------------------------


def test_a_record_of_more_fields_than_known_is_read_all_the_same(native: Native) -> None:
    for tr, row in twin.LAYOUTS.items():
        widest = (FIELDS[tr] + ["9"] * 127)[: row["max_width"]]
        (expected,) = native.parse(frame_of(tr, FIELDS[tr])) or []
        (record,) = native.parse(frame_of(tr, widest)) or []

        if record["kind"] == "event":
            assert record.pop("text") == "^".join(widest).encode()
            del expected["text"]
        assert record == expected


@pytest.mark.parametrize(
    ("role", "text", "reason"),
    [
        ("price", "x", Reason.BAD_PRICE),
        ("price", "-1", Reason.BAD_PRICE),
        ("price", "NaN", Reason.BAD_PRICE),
        ("size", "-1", Reason.BAD_SIZE),
        ("size", "x", Reason.BAD_SIZE),
        ("cum_volume", "-1", Reason.BAD_NUMBER),
        ("symbol", "", Reason.BAD_SYMBOL),
        ("time", "246000", Reason.BAD_TIME),
    ],
)
def test_an_event_that_makes_no_sense_is_quarantined(native: Native, role: str, text: str, reason: Reason) -> None:
    for tr in ("H0STANC0", "H0UPCNT0"):
        (record,) = native.parse(frame_of(tr, FIELDS[tr], **{role: text})) or []

        assert (record["reason"], record["detail"]) == (reason, twin.LAYOUTS[tr][role])


@pytest.mark.requirement("EDGE-01")
def test_a_record_that_carries_no_time_is_dated_by_its_receipt(native: Native) -> None:
    for tr in ("H0STMKO0", "H0NXMKO0", "H0UNMKO0", "H0STNAV0"):
        (record,) = native.parse(frame_of(tr, FIELDS[tr]), NOON + 123_456_789) or []

        assert (record["exchange_ns"], record["utc_offset_min"]) == (NOON + 123_456_789, 540)


@pytest.mark.parametrize("size", [65_535, 65_536, 200_000])
def test_a_text_that_does_not_fit_is_cut_and_says_so(native: Native, size: int) -> None:
    fields = list(FIELDS["H0STMKO0"])
    fields[2] = "x" * (size - len("^".join(fields)) + len(fields[2]))

    (record,) = native.parse(frame_of("H0STMKO0", fields)) or []

    assert record["text"] == "^".join(fields).encode()[:65_535]
    assert record["text_is_cut"] == (size > 65_535)


# ---- the ring --------------------------------------------------------------------------------------------------------


def test_a_frame_that_does_not_fit_leaves_nothing_behind(small: Native) -> None:
    line = "^".join(TRADE_FIELDS)
    bad = line.replace("^71200^2^", "^x^2^")
    many = ("0|H0STCNT0|006|" + "^".join([line, bad, line, bad, line, line])).encode()
    single = ("0|H0STCNT0|001|" + line).encode()
    damaged = ("0|H0STCNT0|001|" + bad).encode()
    book = sample("data/H0STASP0_single.txt")
    events = sample("data/H0STANC0_multi2.txt")
    frames = (many, single, damaged, book, events)
    refused = dict.fromkeys(frames, 0)
    appended: list[bytes] = []

    for round_ in range(40_000):
        frame = frames[round_ % len(frames)]
        before = small.ring.last_seq
        result = small.parser.parse(small.ring, frame, NOON)
        if result < 0:
            assert (result, small.ring.last_seq) == (-2, before)
            refused[frame] += 1
            if min(refused.values()) > 20:
                break
            if refused[frame] % 3 == 0:  # make room for a few records at a time
                read_records(small.reader, 3)
                small.reader.commit()
        else:
            assert small.ring.last_seq == before + result
            appended.append(frame)

    assert min(refused.values()) > 20
    assert small.parser.records + small.parser.quarantined == sum(
        {many: 6, events: 2}.get(frame, 1) for frame in appended
    )


def test_a_frame_of_many_records_that_no_ring_of_this_size_can_hold_is_quarantined(small: Native) -> None:
    frame = b"0|H0STCNT0|3000|" + b"^".join(["^".join(TRADE_FIELDS).encode()] * 3000)

    (record,) = small.parse(frame) or []

    assert QUARANTINE_REASONS[record["reason"]] == "message is longer than the limit"
    assert record["original_bytes"] == len(frame)


def test_the_parser_counts_what_it_stored_and_what_it_quarantined(small: Native) -> None:
    small.parse(sample("malformed/multi_one_bad_record.txt"))
    small.parse(b"")

    assert (small.parser.records, small.parser.quarantined) == (2, 2)


def test_frames_received_together_are_parsed_until_the_ring_is_full(small: Native) -> None:
    frames = [sample("data/H0STCNT0_single.txt"), sample("control/pingpong.json"), sample("data/H0STASP0_single.txt")]
    assert small.parser.parse_many(small.ring, frames, NOON) == 3
    assert [record["kind"] for record in small.read()] == ["trade", "orderbook"]

    done = small.parser.parse_many(small.ring, frames[:1] * 20_000, NOON)

    assert 0 < done < 20_000
    assert len(small.read()) == done
