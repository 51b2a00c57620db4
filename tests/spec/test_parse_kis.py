"""The KIS parser: every record of every frame is stored exactly or quarantined with a reason; none is lost."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from native_pipeline.parse_kis import KisParser
from native_pipeline.records import QUARANTINE_REASONS, read_records
from tests.reference import kis as twin
from tests.reference.kis import Reason
from tests.reference.native_kis import (
    BOOK_FIELDS,
    CONNECTION,
    FIELDS,
    FRAMES,
    NOON,
    NS_PER_S,
    TRADE_FIELDS,
    VENUE,
    Native,
    frame_of,
    kst_ns,
    named,
    sample,
)

pytestmark = pytest.mark.requirement("SCH-01")

KR, US = 1, 2
EVENT_KINDS = ("expected", "index", "nav", "status", "program")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return Native(tmp_path_factory.mktemp("kis") / "test.ring")


@pytest.fixture
def small(tmp_path: Path) -> Native:
    return Native(tmp_path / "small.ring", capacity_bytes=1 << 20)


# ---- the samples -----------------------------------------------------------------------------------------------------


def number(text: str, *, zero_is_absent: bool = False) -> Decimal | None:
    return None if text == "" or (zero_is_absent and text == "0") else Decimal(text)


def time_of(record: dict[str, str]) -> tuple[int, int]:
    """Return exchange_ns and utc_offset_min of one record of the manifest; a record without time is dated NOON."""
    if "time" not in record:
        return NOON, 540
    offset_min = 540
    local = datetime.datetime.strptime(record.get("date", "20261120") + record["time"], "%Y%m%d%H%M%S")
    if "kst_time" in record:
        kst = datetime.datetime.strptime(record["kst_date"] + record["kst_time"], "%Y%m%d%H%M%S")
        offset_min += round((local - kst).total_seconds()) // 60
    zone = datetime.timezone(datetime.timedelta(minutes=offset_min))
    ns = int(local.replace(tzinfo=zone).timestamp()) * NS_PER_S + int(record.get("subsecond", 0)) * 100_000
    return ns, offset_min


def sides_of(tr: str) -> dict[str, str]:
    return {"2": "buy", "5": "sell"} if tr == "HDFFF020" else {"1": "buy", "5": "sell"}


def exchange_flags(tr: str) -> int:
    return {"H0NX": 16, "H0UN": 32}.get(tr[:4], 0)


def assert_trade(tr: str, record: twin.Record, expected: dict[str, str]) -> None:
    assert record["price"] == number(expected["price"])
    assert record["volume"] == number(expected["size"])
    assert record["cum_volume"] == number(expected["cum_volume"])
    assert record["change_rate"] == number(expected["change_rate"])
    assert record["ask"] == number(expected.get("best_ask", ""), zero_is_absent=True)
    assert record["bid"] == number(expected.get("best_bid", ""), zero_is_absent=True)
    assert record["side"] == sides_of(tr).get(expected.get("side", ""))
    assert record["flags"] == exchange_flags(tr)


def assert_book(tr: str, record: twin.Record, expected: dict[str, Any]) -> None:
    for side in ("ask", "bid"):
        pairs = list(zip(expected[f"{side}_price"], expected[f"{side}_size"], strict=True))
        assert record[f"{side}s"][: len(pairs)] == [(number(price), number(size)) for price, size in pairs]
        assert set(record[f"{side}s"][len(pairs) :]) <= {(Decimal(0), Decimal(0))}
    auction = twin.AUCTION if expected.get("session", "") in ("A", "B", "C", "D") else 0
    assert record["flags"] == exchange_flags(tr) | auction


def assert_event(tr: str, record: twin.Record, expected: dict[str, str], text: bytes) -> None:
    assert record["type"] == twin.LAYOUTS[tr]["kind"]
    for name, role in (("price", "price"), ("volume", "size"), ("cum_volume", "cum_volume")):
        assert record[name] == number(expected.get(role, ""))
    assert record["change_rate"] == number(expected.get("change_rate", ""))
    assert (record["text"], record["text_is_cut"]) == (text, False)
    assert record["flags"] == exchange_flags(tr)


@pytest.mark.parametrize("entry", [entry for entry in named("data") if "expect" in entry.values[0]])
def test_every_record_of_a_data_sample_has_the_values_that_its_manifest_gives(
    native: Native, entry: dict[str, Any]
) -> None:
    frame, tr, width = sample(entry["file"]), entry["tr"], entry["width"]
    fields = frame.split(b"|", 3)[3].split(b"^")

    records = native.parse(frame)

    assert records is not None
    assert len(records) == entry["records"] == len(entry["expect"])
    kind = twin.LAYOUTS[tr]["kind"]
    for number_, (record, expected) in enumerate(zip(records, entry["expect"], strict=True)):
        assert record["kind"] == ("event" if kind in EVENT_KINDS else kind)
        assert record["symbol"] == expected["symbol"]
        assert (record["exchange_ns"], record["utc_offset_min"]) == time_of(expected)
        assert (record["venue"], record["connection"], record["recv_ns"]) == (VENUE, CONNECTION, NOON)
        assert record["market"] == (US if tr.startswith("HDF") else KR)
        if kind == "trade":
            assert_trade(tr, record, expected)
        elif kind == "orderbook":
            assert_book(tr, record, expected)
        else:
            assert_event(tr, record, expected, b"^".join(fields[width * number_ : width * (number_ + 1)]))


def test_a_us_book_of_17_fields_has_one_level(native: Native) -> None:
    (record,) = native.parse(sample("data/HDFSASP0_17_one_level.txt")) or []

    assert record["asks"] == [(Decimal("269.3600"), Decimal(146)), *[(Decimal(0), Decimal(0))] * 9]
    assert record["bids"] == [(Decimal("269.3400"), Decimal(61)), *[(Decimal(0), Decimal(0))] * 9]


def test_a_us_book_has_as_many_levels_as_its_width_says(native: Native) -> None:
    (whole,) = native.parse(frame_of("HDFSASP0", FIELDS["HDFSASP0"])) or []
    for width in range(17, 71):
        (record,) = native.parse(frame_of("HDFSASP0", FIELDS["HDFSASP0"][:width])) or []

        count, rest = divmod(width - 11, 6)
        if rest:
            assert (record["reason"], record["detail"]) == (Reason.BAD_WIDTH, width)
        else:
            assert record["asks"] == whole["asks"][:count] + [(Decimal(0), Decimal(0))] * (10 - count)
            assert record["bids"] == whole["bids"][:count] + [(Decimal(0), Decimal(0))] * (10 - count)


def test_a_status_with_the_exchange_behind_it_is_a_status(native: Native) -> None:
    (record,) = native.parse(sample("data/H0STMKO0_11_with_exch.txt")) or []

    assert (record["symbol"], record["type"], record["text"][-2:]) == ("417450", "status", b"^1")


def test_there_is_a_sample_of_every_tr() -> None:
    assert set(FIELDS) == set(twin.LAYOUTS)
    without_values = {p.values[0]["file"] for p in named("data") if "expect" not in p.values[0]}
    assert without_values == {"data/HDFSASP0_17_one_level.txt", "data/H0STMKO0_11_with_exch.txt"}


@pytest.mark.parametrize("entry", named("control"))
def test_a_control_frame_is_left_to_python(native: Native, entry: dict[str, Any]) -> None:
    assert native.parse(sample(entry["file"])) is None


EXPECTED_REASONS = {
    "HDFSCNT0_without_RSYM_25.txt": Reason.BAD_WIDTH,
    "bad_date.txt": Reason.BAD_DATE,
    "bad_time.txt": Reason.BAD_TIME,
    "book_9_level_54.txt": Reason.BAD_WIDTH,
    "count_negative.txt": Reason.BAD_COUNT,
    "count_not_numeric.txt": Reason.BAD_COUNT,
    "count_says_1_has_2.txt": Reason.BAD_WIDTH,
    "count_says_2_has_1.txt": Reason.BAD_WIDTH,
    "count_says_2_has_3.txt": Reason.BAD_WIDTH,
    "count_zero.txt": Reason.BAD_COUNT,
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
    "cp949_halt_reason.txt",
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


def test_a_status_whose_text_is_not_utf8_is_kept_byte_for_byte(native: Native) -> None:
    frame = sample("malformed/cp949_halt_reason.txt")

    (record,) = native.parse(frame) or []

    assert (record["kind"], record["type"], record["symbol"]) == ("event", "status", "417450")
    assert record["text"] == frame.split(b"|", 3)[3]


def test_a_crossed_book_is_stored_and_flagged(native: Native) -> None:
    (record,) = native.parse(sample("malformed/crossed_book.txt")) or []

    assert (record["kind"], record["flags"]) == ("orderbook", twin.CROSSED)


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


def test_a_record_of_one_field_more_or_less_than_allowed_is_quarantined(native: Native) -> None:
    for tr, row in twin.LAYOUTS.items():
        smallest = row.get("narrow", row)["min_width"]
        for width in (smallest - 1, row["max_width"] + 1):
            (record,) = native.parse(frame_of(tr, (FIELDS[tr] + ["9"] * 127)[:width])) or []

            assert (record["reason"], record["detail"]) == (Reason.BAD_WIDTH, width)


@pytest.mark.requirement("F14")
def test_two_records_with_a_count_of_one_never_pass_as_one(native: Native) -> None:
    for tr, row in twin.LAYOUTS.items():
        narrow = row.get("narrow", row)
        for width in {row["min_width"], row["max_width"], narrow["min_width"], narrow["max_width"]}:
            two = (FIELDS[tr] + ["9"] * 127)[:width] * 2
            (record,) = native.parse(frame_of(tr, two)) or []

            assert record["reason"] == Reason.BAD_WIDTH, tr


def test_stock_futures_books_of_38_fields_have_the_five_levels_of_index_futures(native: Native) -> None:
    (expected,) = native.parse(frame_of("H0IFASP0", FIELDS["H0IFASP0"])) or []

    (record,) = native.parse(frame_of("H0ZFASP0", FIELDS["H0IFASP0"])) or []

    assert record == expected


def test_stock_option_books_of_38_fields_have_the_first_five_levels(native: Native) -> None:
    (whole,) = native.parse(frame_of("H0ZOASP0", FIELDS["H0ZOASP0"])) or []

    (record,) = native.parse(frame_of("H0ZOASP0", FIELDS["H0ZOASP0"][:38])) or []

    for side in ("asks", "bids"):
        assert record[side] == whole[side][:5] + [(Decimal(0), Decimal(0))] * 5


def test_an_alternative_layout_is_used_when_it_is_chosen(native: Native, tmp_path: Path) -> None:
    other = Native(tmp_path / "other.ring", layouts=["H0ZFASP0:appended", "HDFFF020:utc"])
    (expected,) = native.parse(frame_of("H0ZOASP0", FIELDS["H0ZOASP0"])) or []
    (kst,) = native.parse(frame_of("HDFFF020", FIELDS["HDFFF020"])) or []

    (book,) = other.parse(frame_of("H0ZFASP0", FIELDS["H0ZOASP0"])) or []
    (trade,) = other.parse(frame_of("HDFFF020", FIELDS["HDFFF020"])) or []

    assert book == expected
    assert (trade["exchange_ns"] - kst["exchange_ns"], trade["utc_offset_min"]) == (9 * 3600 * NS_PER_S, 0)


def test_an_alternative_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'H0ZFASP0:other' is not known; known alternatives: .*H0ZFASP0:appended"):
        KisParser(venue=VENUE, layouts=["H0ZFASP0:other"])


def test_a_market_that_is_given_is_stamped_on_every_record(native: Native) -> None:
    parser = KisParser(venue=VENUE, market=3)
    for frame in (sample("data/HDFSCNT0_single.txt"), b"", sample("malformed/zero_price.txt")):
        parser.parse(native.ring, frame, NOON)

    assert [record["market"] for record in native.read()] == [3, 3, 3]


def test_quarantine_has_the_market_of_its_tr_and_none_where_the_tr_is_unknown(native: Native) -> None:
    frames = {b"0|HDFSCNT0|001|x": US, b"0|H0STCNT0|000|x": KR, b"0|H0XXXXX0|001|x": 0, b"x": 0}
    for frame, market in frames.items():
        (record,) = native.parse(frame) or []

        assert record["market"] == market


def test_encrypted_frames_are_quarantined_or_handed_over(native: Native) -> None:
    frame = sample("data/H0STCNI0_encrypted.txt")
    taking = KisParser(venue=VENUE, hands_over_encrypted=True)

    assert [record["reason"] for record in native.parse(frame) or []] == [Reason.ENCRYPTED]
    assert taking.parse(native.ring, frame, NOON) == -1
    assert taking.parse(native.ring, b"1|H0STCNI0", NOON) == 1
    assert [record["reason"] for record in native.read()] == [Reason.MALFORMED_HEADER]


# ---- overseas: the offset comes with the record ----------------------------------------------------------------------


def overseas(local: str, kst: str) -> bytes:
    day, clock = local.split()
    kst_day, kst_clock = kst.split()
    return frame_of("HDFSCNT0", FIELDS["HDFSCNT0"], date=day, time=clock, kst_date=kst_day, kst_time=kst_clock)


@pytest.mark.requirement("EDGE-01")
@pytest.mark.parametrize(
    ("local", "kst", "utc", "offset_min"),
    [
        ("20261119 103015", "20261120 003015", "2026-11-19T15:30:15", -300),  # New York in winter
        ("20260710 103015", "20260710 233015", "2026-07-10T14:30:15", -240),  # in summer
        ("20260307 155959", "20260308 055959", "2026-03-07T20:59:59", -300),  # last day of winter time
        ("20260308 180000", "20260309 070000", "2026-03-08T22:00:00", -240),  # first day of summer time
        ("20261101 013000", "20261101 143000", "2026-11-01T05:30:00", -240),  # the hour that comes twice, first
        ("20261101 013000", "20261101 153000", "2026-11-01T06:30:00", -300),  # and second
        ("20261231 200000", "20270101 100000", "2027-01-01T01:00:00", -300),  # day session: another year in Korea
        ("20261119 235959", "20261120 135959", "2026-11-20T04:59:59", -300),
        ("20261120 000000", "20261120 140000", "2026-11-20T05:00:00", -300),
        ("20261120 103015", "20261120 113013", "2026-11-20T02:30:15", 480),  # Hong Kong, two seconds apart
        ("20261120 103015", "20261120 113722", "2026-11-20T02:30:15", 480),
        ("20261120 103015", "20261120 103015", "2026-11-20T01:30:15", 540),  # Tokyo
        ("20261120 080000", "20261120 103000", "2026-11-20T01:30:00", 390),
        ("20261120 150000", "20261120 100000", "2026-11-20T01:00:00", 840),
        ("20261119 110000", "20261120 100000", "2026-11-20T01:00:00", -840),
    ],
)
def test_an_overseas_time_has_the_offset_that_its_korean_time_tells(
    native: Native, local: str, kst: str, utc: str, offset_min: int
) -> None:
    (record,) = native.parse(overseas(local, kst)) or []

    assert record["utc_offset_min"] == offset_min
    assert record["exchange_ns"] == kst_ns(utc) + 9 * 3600 * NS_PER_S


@pytest.mark.requirement("EDGE-01")
@pytest.mark.parametrize(
    ("local", "kst", "reason", "role"),
    [
        ("20261119 103015", "20261121 003015", Reason.BAD_DATE, "kst_date"),
        ("20261120 153000", "20261120 100000", Reason.BAD_DATE, "kst_date"),
        ("20261119 103000", "20261120 100000", Reason.BAD_DATE, "kst_date"),
        ("19700101 103000", "22611231 100000", Reason.BAD_DATE, "kst_date"),
        ("20261119 103015", "20261131 003015", Reason.BAD_DATE, "kst_date"),
        ("20261119 103015", "20261120 240000", Reason.BAD_TIME, "kst_time"),
        ("20261119 246015", "20261120 003015", Reason.BAD_TIME, "time"),
        ("20260230 103015", "20261120 003015", Reason.BAD_DATE, "date"),
    ],
)
def test_an_overseas_time_that_fits_no_place_on_earth_is_quarantined(
    native: Native, local: str, kst: str, reason: Reason, role: str
) -> None:
    (record,) = native.parse(overseas(local, kst)) or []

    assert (record["reason"], record["detail"]) == (reason, twin.LAYOUTS["HDFSCNT0"][role])


@pytest.mark.parametrize("key", ["AAPL", "XNASAAPL", "DNASMSFT", "DNASAAPLX", "DNASAAP", ""])
@pytest.mark.parametrize("tr", ["HDFSCNT0", "HDFSASP0"])
def test_an_overseas_record_without_its_realtime_key_is_shifted_and_refused(native: Native, tr: str, key: str) -> None:
    (record,) = native.parse(frame_of(tr, FIELDS[tr], realtime_key=key)) or []

    assert (record["reason"], record["detail"]) == (Reason.BAD_SYMBOL, 0)


@pytest.mark.parametrize(("code", "side"), [("2", "buy"), ("5", "sell"), ("1", None), ("", None)])
def test_overseas_futures_have_their_own_codes_for_the_aggressor(native: Native, code: str, side: str | None) -> None:
    (record,) = native.parse(frame_of("HDFFF020", FIELDS["HDFFF020"], side=code)) or []

    assert record["side"] == side


@pytest.mark.parametrize(
    ("text", "nanoseconds"), [("4312", 431_200_000), ("0001", 100_000), ("", 0), ("12", 0), ("x312", 0)]
)
def test_a_fraction_of_a_second_is_added_if_it_is_one(native: Native, text: str, nanoseconds: int) -> None:
    (record,) = native.parse(frame_of("HDFFF020", FIELDS["HDFFF020"], subsecond=text)) or []

    assert record["exchange_ns"] == kst_ns("2026-11-20T10:30:20") + nanoseconds


# ---- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "(null)", "0", "0.00"])
def test_an_event_without_a_price_is_an_event(native: Native, text: str) -> None:
    for tr in ("H0STANC0", "H0UPCNT0", "H0STNAV0"):
        (record,) = native.parse(frame_of(tr, FIELDS[tr], price=text)) or []

        assert (record["kind"], record["price"]) == ("event", None)


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
