"""What the Kiwoom parser makes of a push: trades, books, events, quarantine; all of it or none."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from native_pipeline.records import QUARANTINE_REASONS
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.kis import Record
from tests.reference.native_kis import NOON, kst_ns
from tests.reference.native_kiwoom import CONNECTION, MARKET, VENUE, Native, assert_same, named, sample

pytestmark = pytest.mark.requirement("SCH-01")

NXT, SOR, CROSSED = 16, 32, 1
TRADE = json.loads(sample("real_0B_sell.json"))["data"][0]
BOOK = json.loads(sample("real_0D_book.json"))["data"][0]
CONTROL, RING_FULL = -1, -2


@pytest.fixture
def native(tmp_path: Path) -> Native:
    return Native(tmp_path / "test.ring")


def push(*entries: Any) -> bytes:
    return json.dumps({"trnm": "REAL", "data": entries}, ensure_ascii=False, separators=(",", ":")).encode()


def changed(entry: dict[str, Any], values: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    """*entry* with other members and other values; None takes a value away."""
    merged = entry["values"] | (values or {})
    return entry | {"values": {fid: value for fid, value in merged.items() if value is not None}} | members


def one(native: Native, entry: Any, recv_ns: int = NOON) -> Record:
    frame = push(entry)
    assert_same(native, frame, recv_ns)
    records = native.parse(frame, recv_ns)
    assert records is not None
    (record,) = records
    return record


def reason(record: Record) -> tuple[str, int]:
    return QUARANTINE_REASONS[record["reason"]], record["detail"]


# ---- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [p for p in named("data") if "expect" in p.values[0]])
def test_a_data_sample_has_the_values_of_its_manifest(native: Native, entry: dict[str, Any]) -> None:
    records = native.parse(sample(entry["file"]))

    assert records is not None
    (record,) = records
    expected = entry["expect"]
    assert record["symbol"] == expected["symbol"]
    clock = expected["time"]
    assert record["exchange_ns"] == kst_ns(f"2026-11-20T{clock[:2]}:{clock[2:4]}:{clock[4:]}")
    if record["kind"] == "trade":
        assert (str(record["price"]), str(record["volume"])) == (expected["price"], expected["size"])
        assert (record["side"], str(record["cum_volume"])) == (expected["side"], expected["cum_volume"])
    else:
        best = {"ask": record["asks"][0], "bid": record["bids"][0]}
        for side, (price, size) in best.items():
            assert (str(price), str(size)) == (expected[f"best_{side}"], expected[f"best_{side}_size"])


@pytest.mark.parametrize(
    "entry", [p for p in named("malformed") if p.values[0]["expect"] == "dead_letter" and "trnm" not in p.id]
)
def test_a_malformed_sample_is_kept_whole_in_quarantine(native: Native, entry: dict[str, Any]) -> None:
    frame = sample(entry["file"])

    records = native.parse(frame)

    assert records is not None
    assert [(record["kind"], record["frame"]) for record in records] == [("quarantine", frame)]


@pytest.mark.parametrize("entry", named("control"))
def test_a_message_that_is_not_real_is_control(native: Native, entry: dict[str, Any]) -> None:
    assert native.parse(sample(entry["file"])) is None


def test_an_unknown_trnm_is_left_to_the_venues_file(native: Native) -> None:
    assert native.parse(sample("malformed/unknown_trnm.json")) is None


def test_values_in_a_list_of_one_are_values(native: Native) -> None:
    assert native.parse(sample("malformed/values_as_list.json")) == native.parse(sample("real_0B_sell.json"))


# ---- trades ----------------------------------------------------------------------------------------------------------


def test_a_record_carries_venue_market_and_connection(native: Native) -> None:
    record = one(native, TRADE)

    assert (record["venue"], record["market"], record["connection"]) == (VENUE, MARKET, CONNECTION)
    assert (record["recv_ns"], record["utc_offset_min"], record["flags"]) == (NOON, 540, 0)


@pytest.mark.parametrize("sign", ["", "+", "-"])
def test_the_sign_of_a_price_is_only_a_colour(native: Native, sign: str) -> None:
    record = one(native, changed(TRADE, {"10": sign + "71200", "27": sign + "71300", "28": sign + "71250.5"}))

    assert (record["price"], record["ask"], record["bid"]) == (71200, 71300, Decimal("71250.5"))


@pytest.mark.parametrize(("size", "side"), [("+5", "buy"), ("-5", "sell"), ("5", None)])
def test_the_side_is_the_sign_of_the_size(native: Native, size: str, side: str | None) -> None:
    record = one(native, changed(TRADE, {"15": size}))

    assert (record["volume"], record["side"]) == (5, side)


@pytest.mark.parametrize("rate", ["-0.42", "+29.97", "0.00"])
def test_the_sign_of_the_change_rate_counts(native: Native, rate: str) -> None:
    assert one(native, changed(TRADE, {"12": rate}))["change_rate"] == Decimal(rate)


def test_values_that_are_left_out_are_absent(native: Native) -> None:
    record = one(native, changed(TRADE, {"12": "", "13": None, "27": "0", "28": "-0"}))

    assert [record[key] for key in ("change_rate", "cum_volume", "ask", "bid")] == [None] * 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"20": "240000"}, ("invalid time of day", 20)),
        ({"20": None}, ("invalid time of day", 20)),
        ({"10": "0"}, ("price is missing, not a decimal, or not positive", 10)),
        ({"10": "+"}, ("price is missing, not a decimal, or not positive", 10)),
        ({"10": "--71200"}, ("price is missing, not a decimal, or not positive", 10)),
        ({"10": "9223372036854775808"}, ("price is missing, not a decimal, or not positive", 10)),
        ({"15": "+0"}, ("size is missing, not a decimal, or negative", 15)),
        ({"15": ""}, ("size is missing, not a decimal, or negative", 15)),
        ({"13": "-1"}, ("invalid number", 13)),
    ],
)
def test_a_trade_that_lacks_what_matters_is_refused(
    native: Native, values: dict[str, Any], expected: tuple[str, int]
) -> None:
    assert reason(one(native, changed(TRADE, values))) == expected


@pytest.mark.parametrize(
    ("time", "recv", "expected"),
    [
        ("235959", "2026-11-21T00:00:01", "2026-11-20T23:59:59"),
        ("000001", "2026-11-20T23:59:59", "2026-11-21T00:00:01"),
        ("103015", "2026-11-20T10:30:16", "2026-11-20T10:30:15"),
    ],
)
@pytest.mark.requirement("TS-CON-01")
@pytest.mark.requirement("F59")
def test_a_time_is_of_the_day_nearest_to_its_receipt(native: Native, time: str, recv: str, expected: str) -> None:
    record = one(native, changed(TRADE, {"20": time}), kst_ns(recv))

    assert record["exchange_ns"] == kst_ns(expected)


# ---- symbols ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "symbol", "flags"),
    [("005930", "005930", 0), ("005930_NX", "005930", NXT), ("000660_AL", "000660", SOR), ("A_XX", "A_XX", 0)],
)
def test_the_suffix_of_the_item_is_the_exchange(native: Native, item: str, symbol: str, flags: int) -> None:
    record = one(native, changed(TRADE, item=item))

    assert (record["symbol"], record["flags"]) == (symbol, flags)


@pytest.mark.parametrize("item", ["", "_NX", " 005930", "한국전력", "X" * 25, 5930, None, ["005930"]])
def test_an_item_that_is_no_symbol_is_refused(native: Native, item: Any) -> None:
    if item == "_NX":
        assert one(native, changed(TRADE, item=item))["symbol"] == "_NX"  # no symbol is left: not a suffix
    else:
        assert reason(one(native, changed(TRADE, item=item))) == ("missing or invalid symbol", 0)


# ---- books -----------------------------------------------------------------------------------------------------------


def test_a_book_has_ten_levels_a_side(native: Native) -> None:
    record = one(native, BOOK)

    assert record["asks"] == [(71300 + 100 * level, 1000 + level) for level in range(10)]
    assert record["bids"] == [(71200 - 100 * level, 2000 + level) for level in range(10)]


def test_levels_that_are_left_out_are_absent(native: Native) -> None:
    thin = {str(fid): None for first in (44, 54, 64, 74) for fid in range(first, first + 7)}
    assert one(native, changed(BOOK, thin))["asks"][2:5] == [(71500, 1002), (0, 0), (0, 0)]

    empty = dict.fromkeys(thin, "")
    assert one(native, changed(BOOK, empty))["bids"][2:5] == [(71000, 2002), (0, 0), (0, 0)]


def test_a_book_of_one_side_is_a_book(native: Native) -> None:
    """At the upper limit nobody sells."""
    record = one(native, changed(BOOK, {str(fid): "" for first in (41, 61) for fid in range(first, first + 10)}))

    assert record["asks"] == [(0, 0)] * 10
    assert record["bids"][0] == (71200, 2000)


def test_a_crossed_book_is_kept_and_marked(native: Native) -> None:
    assert one(native, changed(BOOK, {"51": "+71301"}))["flags"] == CROSSED


def test_both_flags_of_a_book_are_kept(native: Native) -> None:
    assert one(native, changed(BOOK, {"51": "+71301"}, item="005930_NX"))["flags"] == CROSSED | NXT


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"21": "1030"}, ("invalid time of day", 21)),
        ({str(fid): None for fid in range(41, 81)}, ("price is missing, not a decimal, or not positive", 41)),
        ({"43": "x"}, ("price is missing, not a decimal, or not positive", 43)),
        ({"43": ""}, ("price is missing, not a decimal, or not positive", 43)),
        ({"63": None}, ("size is missing, not a decimal, or negative", 63)),
        ({"80": "-1"}, ("size is missing, not a decimal, or negative", 80)),
    ],
)
def test_a_book_with_half_a_level_is_refused(native: Native, values: dict[str, Any], expected: tuple[str, int]) -> None:
    assert reason(one(native, changed(BOOK, values))) == expected


# ---- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [("0A", "quote"), ("0C", "quote"), ("0H", "expected"), ("0J", "index"), ("0U", "index"), ("0G", "nav"),
     ("0w", "program"), ("0s", "status"), ("1h", "status")],
)  # fmt: skip
def test_what_is_neither_trade_nor_book_is_an_event(native: Native, code: str, kind: str) -> None:
    record = one(native, changed(TRADE, type=code))

    assert (record["kind"], record["type"]) == ("event", kind)


def test_an_event_keeps_the_venues_own_text(native: Native) -> None:
    frame = sample("real_1h_vi.json")

    records = native.parse(frame)

    assert records is not None
    assert records[0]["text"] == frame.removeprefix(b'{"data":[').removesuffix(b'],"trnm":"REAL"}')
    assert not records[0]["text_is_cut"]
    assert (records[0]["symbol"], records[0]["price"], records[0]["change_rate"]) == ("417450", 7260, Decimal("10.00"))


def test_a_long_text_is_cut_and_says_so(native: Native) -> None:
    record = one(native, changed(TRADE, type="0A", name="x" * 5000))

    assert (len(record["text"]), record["text_is_cut"]) == (4096, True)


def test_an_event_without_a_time_has_that_of_its_receipt(native: Native) -> None:
    assert one(native, changed(TRADE, type="0A"))["exchange_ns"] == NOON
    assert one(native, changed(TRADE, {"20": ""}, type="0H"))["exchange_ns"] == NOON


def test_a_market_status_is_kept_whatever_its_time_says(native: Native) -> None:
    closed = {"type": "0s", "item": "", "values": {"215": "8", "20": "888888", "214": "000000"}}

    record = one(native, closed)

    assert (record["symbol"], record["exchange_ns"]) == ("", NOON)
    assert reason(one(native, changed(TRADE, {"20": "888888"}, type="0H"))) == ("invalid time of day", 20)


def test_an_interruption_without_an_item_is_of_the_issue_in_its_values(native: Native) -> None:
    entry = json.loads(sample("real_1h_vi.json"))["data"][0]

    assert one(native, entry | {"item": ""})["symbol"] == "417450"


# ---- several entries -------------------------------------------------------------------------------------------------


def test_entries_of_several_types_are_stored_in_their_order(native: Native) -> None:
    records = native.parse(push(TRADE, BOOK, changed(TRADE, type="0H"), changed(TRADE, item="000660_AL")))

    assert records is not None
    assert [record["kind"] for record in records] == ["trade", "orderbook", "event", "trade"]


def test_a_bad_entry_is_quarantined_alone_and_can_be_parsed_again(native: Native) -> None:
    bad = changed(TRADE, {"10": ""})
    frame = push(TRADE, bad, BOOK)

    records = native.parse(frame)

    assert records is not None
    assert_same(native, frame)
    assert [record["kind"] for record in records] == ["trade", "quarantine", "orderbook"]
    assert records[1]["frame"] == push(bad)
    again = native.parse(records[1]["frame"])
    assert again is not None
    assert [(record["reason"], record["frame"]) for record in again] == [(11, push(bad))]


@pytest.mark.parametrize("entry", [None, 1, "0B", [], {}, {"type": None}, {"type": "0BB"}, {"type": ["0B"]}])
def test_an_entry_without_a_known_type_is_refused(native: Native, entry: Any) -> None:
    frame = push(TRADE, entry)

    assert_same(native, frame)
    records = native.parse(frame)
    assert records is not None
    assert [record["kind"] for record in records] == ["trade", "quarantine"]
    assert reason(records[1]) == ("unknown TR", 0)


@pytest.mark.parametrize("values", [None, "", [], [1], [{}, {}], [[{}]], 5])
def test_values_that_are_no_object_are_refused(native: Native, values: Any) -> None:
    record = one(native, TRADE | {"values": values})

    assert reason(record)[0] == "number of fields does not fit the record count and the TR"


@pytest.mark.parametrize("data", [None, [], {}, "x", 1])
def test_a_push_without_entries_is_quarantined(native: Native, data: Any) -> None:
    frame = json.dumps({"trnm": "REAL", "data": data}).encode()

    assert_same(native, frame)
    records = native.parse(frame)
    assert records is not None
    assert [reason(record)[0] for record in records] == ["record count is not a number from 1"]


def test_more_entries_than_a_push_can_have_are_one_quarantine_record(native: Native) -> None:
    records = native.parse(b'{"trnm":"REAL","data":[' + b",".join([b"{}"] * 4097) + b"]}")

    assert records is not None
    assert [reason(record)[0] for record in records] == ["message is longer than the limit"]


@pytest.mark.parametrize("count", [9, 300])
def test_a_push_of_many_entries_is_kept_whole(native: Native, count: int) -> None:
    frame = push(*[changed(TRADE, {"13": str(number)}) for number in range(count)])

    assert_same(native, frame)


# ---- the ring is full ------------------------------------------------------------------------------------------------


def test_a_push_is_appended_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "small.ring"
    create_ring(path, ring=0, capacity_bytes=1 << 20, consumers=(("test", GATING),))
    ring, reader, parser = RingWriter(path), GatingReader(path, "test"), Native.new_parser()
    numbers = iter(range(10**9))

    def trade() -> dict[str, Any]:
        return changed(TRADE, {"13": str(next(numbers))})

    def several() -> bytes:
        return push(*[trade() for _ in range(5)], changed(TRADE, {"10": ""}))

    appended = 0
    while (result := parser.parse(ring, several(), NOON)) != RING_FULL:
        assert result == 6
        appended += 6
    single = 0
    while (result := parser.parse(ring, push(trade()), NOON)) != RING_FULL:
        single += result
    assert parser.parse(ring, push(changed(TRADE, {"10": ""})), NOON) == RING_FULL
    assert parser.parse(ring, b"?" * 100, NOON) == RING_FULL

    assert (parser.records, parser.quarantined) == (appended // 6 * 5 + single, appended // 6)
    reader.close()
    ring.close()


def test_a_push_that_no_ring_of_this_size_holds_is_one_quarantine_record(tmp_path: Path) -> None:
    native = Native(tmp_path / "small.ring", capacity_bytes=1 << 20)
    entry = changed(TRADE, name="x" * 200_000)

    records = native.parse(push(entry, entry, entry))

    assert records is not None
    assert [reason(record)[0] for record in records] == ["message is longer than the limit"]


def test_parse_many_offers_the_rest_again(tmp_path: Path) -> None:
    native = Native(tmp_path / "test.ring")
    frames = [push(changed(TRADE, {"13": str(number)})) for number in range(3)]

    done = native.parser.parse_many(native.ring, [frames[0], sample("ping.json"), *frames[1:]], NOON)

    assert done == 4
    assert [record["cum_volume"] for record in native.read()] == [0, 1, 2]


def test_a_trade_that_has_arrived_before_is_dropped_and_counted(tmp_path: Path) -> None:
    native = Native(tmp_path / "test.ring")
    native.parser.keeps_all = False
    other = changed(TRADE, {"13": "7064641", "15": "-1"})

    results = [
        native.parser.parse(native.ring, frame, NOON) for frame in (push(TRADE), push(TRADE), push(TRADE, other))
    ]

    assert results == [1, 0, 1]
    assert (native.parser.records, native.parser.duplicates, native.parser.quarantined) == (2, 2, 0)
    assert [record["volume"] for record in native.read() if record["kind"] == "trade"] == [37, 1]


# ---- the text --------------------------------------------------------------------------------------------------------


def test_keys_come_in_any_order(native: Native) -> None:
    values = dict(reversed(TRADE["values"].items()))
    entry = {"values": values, "item": TRADE["item"], "name": TRADE["name"], "type": TRADE["type"]}
    frame = json.dumps({"data": [entry], "trnm": "REAL"}).encode()

    assert_same(native, frame)
    assert native.parse(frame) == native.parse(push(TRADE))


def test_white_space_changes_nothing(native: Native) -> None:
    frame = b" \r\n" + json.dumps({"trnm": "REAL", "data": [TRADE]}, indent="\t").encode() + b"\n"

    assert_same(native, frame)
    assert native.parse(frame) == native.parse(push(TRADE))


def test_escaped_characters_are_the_characters(native: Native) -> None:
    """Some JSON writers escape every plus sign and everything that is not ASCII."""
    frame = push(changed(TRADE, {"15": "+5", "20": "103016"})).decode()
    escaped = frame.replace("+", r"\u002B").replace('"10"', r'"\u0031\u0030"').replace("REAL", r"\u0052EAL")
    escaped = escaped.encode("ascii", "backslashreplace").decode()

    assert_same(native, escaped.encode())
    assert native.parse(escaped.encode()) == native.parse(frame.encode())


def test_the_last_of_a_repeated_key_counts(native: Native) -> None:
    frame = push(TRADE).replace(b'"10":', b'"10":"1","10":').replace(b'"item":', b'"item":"000660","item":')
    frame = b'{"trnm":"REG","data":[],' + frame[1:]

    assert_same(native, frame)
    assert native.parse(frame) == native.parse(push(TRADE))


def test_numbers_count_as_if_they_had_quotes_and_null_as_empty(native: Native) -> None:
    record = one(native, changed(TRADE, {"10": 71200, "15": -37, "27": True, "28": [1, {"10": "5"}]}))
    assert (record["price"], record["side"], record["ask"], record["bid"]) == (71200, "sell", None, None)

    frame = push(TRADE).replace(b'"13":"7064640"', b'"13":null')
    assert_same(native, frame)


def test_a_broken_name_does_not_cost_the_price_beside_it(native: Native) -> None:
    frame = push(TRADE).replace(TRADE["name"].encode(), b"\xc1\xd6\xbd\xc4\xff")

    assert_same(native, frame)
    assert native.parse(frame) == native.parse(push(TRADE))


@pytest.mark.parametrize(
    "damage",
    [(b"}]}", b"}]"), (b'"10":', b'"10"'), (b'","11"', b'""11"'), (b'"-37"', b"037"), (b'"-37"', b"+37"),
     (b'"-37"', b"nul"), (b'"-37"', b"NaN"), (b'"-37"', b'"\\x"'), (b'"-37"', b'"\\u00g0"'), (b'"-37"', b'"a\nb"'),
     (b'"-37"', b"[1,]"), (b'"-37"', b'{"a"}'), (b"}]}", b"}]}}"), (b"}]}", b'}]} "'), (b"{", b"{,")],
)  # fmt: skip
def test_what_is_no_json_is_quarantined_whole(native: Native, damage: tuple[bytes, bytes]) -> None:
    frame = push(TRADE, TRADE).replace(*damage, 1) if damage[0] == b"{" else push(TRADE).replace(*damage, 1)

    assert_same(native, frame)
    records = native.parse(frame)
    assert records is not None
    assert [(record["kind"], record["frame"]) for record in records] == [("quarantine", frame)]


def test_an_array_at_the_top_is_no_message(native: Native) -> None:
    records = native.parse(b"[" + push(TRADE) + b"]")

    assert records is not None
    assert [record["reason"] for record in records] == [2]


def test_nesting_has_an_end(native: Native) -> None:
    def nested(depth: int) -> bytes:
        return b'{"trnm":"PING","x":' + b"[" * depth + b"1" + b"]" * depth + b"}"

    assert native.parse(nested(64)) is None
    records = native.parse(nested(65))
    assert records is not None
    assert [record["kind"] for record in records] == ["quarantine"]


def test_a_message_beyond_a_mebibyte_is_no_market_data(native: Native) -> None:
    records = native.parse(b'{"trnm":"PING","x":"' + b"x" * (1 << 20) + b'"}')

    assert records is not None
    assert [reason(record)[0] for record in records] == ["message is longer than the limit"]


def test_a_binary_frame_is_not_expected(native: Native) -> None:
    records = native.parse(push(TRADE), is_text=False)

    assert records is not None
    assert [reason(record)[0] for record in records] == ["unexpected binary frame"]
