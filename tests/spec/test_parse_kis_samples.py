"""Every KIS sample, sound or malformed, becomes the values of its manifest or a quarantine record with its reason."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest

from native_pipeline.records import QUARANTINE_REASONS
from tests.reference import kis as twin
from tests.reference.kis import Reason
from tests.reference.native_kis import (
    CONNECTION,
    FIELDS,
    FRAMES,
    NOON,
    NS_PER_S,
    VENUE,
    Native,
    frame_of,
    named,
    sample,
)

KR, US = 1, 2
EVENT_KINDS = ("expected", "index", "nav", "status", "program")
pytestmark = pytest.mark.requirement("SCH-01")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return Native(tmp_path_factory.mktemp("kis") / "test.ring")


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
