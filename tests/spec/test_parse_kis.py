"""The KIS parser: every record of every frame is stored exactly or quarantined with a reason; none is lost."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from native_pipeline.records import QUARANTINE_REASONS, read_records
from tests.reference import kis as twin
from tests.reference.kis import Reason
from tests.reference.native_kis import (
    BOOK_FIELDS,
    CONNECTION,
    FRAMES,
    KST,
    MARKET,
    NOON,
    NS_PER_S,
    TRADE_FIELDS,
    VENUE,
    Native,
    kst_ns,
    named,
    sample,
)

pytestmark = pytest.mark.requirement("SCH-01")

PARSED_TRS = tuple(twin.LAYOUTS)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return Native(tmp_path_factory.mktemp("kis") / "test.ring")


@pytest.fixture
def small(tmp_path: Path) -> Native:
    return Native(tmp_path / "small.ring", capacity_bytes=1 << 20)


# ---- the samples -----------------------------------------------------------------------------------------------------


def number(text: str, *, zero_is_absent: bool = False) -> Decimal | None:
    return None if text == "" or (zero_is_absent and text == "0") else Decimal(text)


@pytest.mark.parametrize("entry", [p for p in named("data") if p.values[0]["tr"] in PARSED_TRS])
def test_every_record_of_a_data_sample_has_the_values_that_its_manifest_gives(
    native: Native, entry: dict[str, Any]
) -> None:
    records = native.parse(sample(entry["file"]))

    assert records is not None
    assert len(records) == entry["records"] == len(entry["expect"])
    for record, expected in zip(records, entry["expect"], strict=True):
        date = expected.get("date", "20261120")
        local = datetime.datetime.strptime(date + expected["time"], "%Y%m%d%H%M%S").replace(tzinfo=KST)
        assert record["symbol"] == expected["symbol"]
        assert record["exchange_ns"] == local.timestamp() * NS_PER_S
        assert record["utc_offset_min"] == 540
        assert (record["venue"], record["market"], record["connection"]) == (VENUE, MARKET, CONNECTION)
        assert record["recv_ns"] == NOON
        if record["kind"] == "trade":
            assert record["price"] == number(expected["price"])
            assert record["volume"] == number(expected["size"])
            assert record["cum_volume"] == number(expected["cum_volume"])
            assert record["change_rate"] == number(expected["change_rate"])
            assert record["ask"] == number(expected["best_ask"], zero_is_absent=True)
            assert record["bid"] == number(expected["best_bid"], zero_is_absent=True)
            assert record["side"] == {"1": "buy", "5": "sell"}.get(expected["side"])
            assert record["flags"] == 0
        else:
            for side in ("ask", "bid"):
                pairs = zip(expected[f"{side}_price"], expected[f"{side}_size"], strict=True)
                assert record[f"{side}s"] == [(Decimal(price), Decimal(size)) for price, size in pairs]
            assert record["flags"] == (twin.AUCTION if expected["session"] in ("A", "B", "C", "D") else 0)


@pytest.mark.parametrize("entry", [p for p in named("data") if p.values[0]["tr"] not in PARSED_TRS])
def test_a_tr_without_a_layout_is_quarantined_whole(native: Native, entry: dict[str, Any]) -> None:
    frame = sample(entry["file"])

    (record,) = native.parse(frame) or []

    assert (record["reason"], record["frame"]) == (Reason.UNKNOWN_TR, frame)


@pytest.mark.parametrize("entry", named("control"))
def test_a_control_frame_is_left_to_python(native: Native, entry: dict[str, Any]) -> None:
    assert native.parse(sample(entry["file"])) is None


EXPECTED_REASONS = {
    "HDFSCNT0_without_RSYM_25.txt": Reason.UNKNOWN_TR,
    "bad_date.txt": Reason.BAD_DATE,
    "bad_time.txt": Reason.BAD_TIME,
    "book_9_level_54.txt": Reason.BAD_WIDTH,
    "count_negative.txt": Reason.BAD_COUNT,
    "count_not_numeric.txt": Reason.BAD_COUNT,
    "count_says_1_has_2.txt": Reason.BAD_WIDTH,
    "count_says_2_has_1.txt": Reason.BAD_WIDTH,
    "count_says_2_has_3.txt": Reason.BAD_WIDTH,
    "count_zero.txt": Reason.BAD_COUNT,
    "cp949_halt_reason.txt": Reason.UNKNOWN_TR,
    "empty_payload.txt": Reason.BAD_WIDTH,
    "empty_price.txt": Reason.BAD_PRICE,
    "empty_symbol.txt": Reason.BAD_SYMBOL,
    "empty_text.txt": Reason.EMPTY_FRAME,
    "flag1_bad_base64.txt": Reason.ENCRYPTED,
    "flag1_without_key.txt": Reason.ENCRYPTED,
    "huge_size.txt": Reason.BAD_SIZE,
    "multi_second_record_short.txt": Reason.BAD_WIDTH,
    "nan_price.txt": Reason.BAD_PRICE,
    "negative_size.txt": Reason.BAD_SIZE,
    "non_numeric_price.txt": Reason.BAD_PRICE,
    "null_price.txt": Reason.BAD_PRICE,
    "only_two_pipes.txt": Reason.MALFORMED_HEADER,
    "quote_negative_qty.txt": Reason.BAD_SIZE,
    "short_record_30_fields.txt": Reason.BAD_WIDTH,
    "truncated_data_frame.txt": Reason.BAD_WIDTH,
    "unknown_flag.txt": Reason.UNKNOWN_FRAME,
    "unknown_tr.txt": Reason.UNKNOWN_TR,
    "zero_price.txt": Reason.BAD_PRICE,
}
# Malformed, yet not one quarantine record: each has a test of its own below, JSON is decode's.
OTHERWISE = {
    "multi_one_bad_record.txt",
    "invalid_utf8.txt",
    "crossed_book.txt",
    "truncated_json.json",
    "json_array.json",
}


def test_every_malformed_sample_has_an_expectation() -> None:
    assert set(EXPECTED_REASONS) | OTHERWISE == {path.name for path in (FRAMES / "malformed").iterdir()}


@pytest.mark.parametrize("name", EXPECTED_REASONS)
def test_a_malformed_sample_is_quarantined_with_its_reason_and_its_bytes(native: Native, name: str) -> None:
    frame = sample(f"malformed/{name}")

    (record,) = native.parse(frame) or []

    assert record["kind"] == "quarantine"
    assert record["reason"] == EXPECTED_REASONS[name]
    assert QUARANTINE_REASONS[record["reason"]]
    assert record["frame"] == frame
    assert record["original_bytes"] == len(frame)


def test_one_bad_record_of_three_is_quarantined_alone_and_can_be_replayed(native: Native) -> None:
    frame = sample("malformed/multi_one_bad_record.txt")

    first, second, third = native.parse(frame) or []

    assert [first["kind"], second["kind"], third["kind"]] == ["trade", "quarantine", "trade"]
    assert (second["reason"], second["detail"]) == (Reason.BAD_PRICE, 2)
    assert second["frame"] == b"0|H0STCNT0|001|" + b"^".join(frame.split(b"|")[3].split(b"^")[47:94])
    repaired = second["frame"].replace(b"^x^", b"^71100^")
    assert [record["price"] for record in native.parse(repaired) or []] == [Decimal(71100)]


def test_bytes_that_are_not_utf8_in_a_field_nobody_reads_cost_nothing(native: Native) -> None:
    (record,) = native.parse(sample("malformed/invalid_utf8.txt")) or []

    assert (record["kind"], record["price"]) == ("trade", Decimal(71200))


def test_a_crossed_book_is_stored_and_flagged(native: Native) -> None:
    (record,) = native.parse(sample("malformed/crossed_book.txt")) or []

    assert (record["kind"], record["flags"]) == ("orderbook", twin.CROSSED)


# ---- trades and books ------------------------------------------------------------------------------------------------


def trade_with(**values: str) -> bytes:
    fields = list(TRADE_FIELDS)
    for role, value in values.items():
        fields[twin.LAYOUTS["H0STCNT0"][role]] = value
    return b"0|H0STCNT0|001|" + "^".join(fields).encode()


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


# ---- the ring --------------------------------------------------------------------------------------------------------


def test_a_frame_that_does_not_fit_leaves_nothing_behind(small: Native) -> None:
    line = "^".join(TRADE_FIELDS)
    bad = line.replace("^71200^2^", "^x^2^")
    many = ("0|H0STCNT0|006|" + "^".join([line, bad, line, bad, line, line])).encode()
    single = ("0|H0STCNT0|001|" + line).encode()
    damaged = ("0|H0STCNT0|001|" + bad).encode()
    book = sample("data/H0STASP0_single.txt")
    refused = dict.fromkeys((many, single, damaged, book), 0)
    appended: list[bytes] = []

    for round_ in range(40_000):
        frame = (many, single, damaged, book)[round_ % 4]
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
    assert small.parser.records + small.parser.quarantined == sum(6 if frame is many else 1 for frame in appended)


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
