"""What each Upbit message becomes, by reading; the twin's test covers everything else."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from native_pipeline.records import QUARANTINE_REASONS
from native_pipeline.ring_writer import RingWriter
from tests.reference.native_kis import exact
from tests.reference.native_upbit import FRAMES, RECEIVED, Native, capture, sample

pytestmark = pytest.mark.requirement("SCH-01")

MS = 10**6
D = Decimal


@pytest.fixture
def native(tmp_path: Path) -> Native:
    return Native(tmp_path / "test.ring")


def only(records: list[dict[str, Any]] | None) -> dict[str, Any]:
    assert records is not None
    (record,) = records
    return record


def changed(name: str, **members: Any) -> bytes:
    """The sample *name* with other members; None takes one away."""
    message = json.loads(sample(f"{name}.json")) | members
    return json.dumps({key: value for key, value in message.items() if value is not None}).encode()


def reason(records: list[dict[str, Any]] | None) -> str:
    record = only(records)
    assert record["kind"] == "quarantine"
    return str(QUARANTINE_REASONS[record["reason"]])


# ---- trades ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "side"), [("upbit_trade_default", "buy"), ("upbit_trade_simple", "sell")])
def test_a_trade_is_read_under_its_long_and_its_short_names(native: Native, name: str, side: str) -> None:
    trade = only(native.parse(sample(f"{name}.json")))

    assert exact(trade) == exact({
        "kind": "trade",
        "recv_ns": RECEIVED,
        "venue": 3,
        "market": 3,
        "connection": 7,
        "flags": 0,
        "symbol": "KRW-BTC",
        "exchange_ns": 1795138215098 * MS,
        "utc_offset_min": 0,
        "price": D("134250000.0"),
        "volume": D("0.00372"),
        "cum_volume": None,
        "ask": D(134251000),
        "bid": D(134250000),
        "change_rate": D("0.2614"),
        "side": side,
    })  # fmt: skip


def test_numbers_with_an_exponent_are_exact(native: Native) -> None:
    trade = only(native.parse(sample("upbit_trade_exponent.json")))

    assert exact(trade["price"]) == exact(D("0.00070"))
    assert exact(trade["volume"]) == exact(D(15_000_000))


def test_a_message_is_read_as_text_too(native: Native) -> None:
    assert only(native.parse(sample("upbit_trade_simple.json"), is_text=True))["kind"] == "trade"


@pytest.mark.parametrize(
    ("change", "amount", "close", "rate"),
    [
        ("RISE", 350000.0, 133900000.0, D("0.2614")),
        ("FALL", 350000.0, 133900000.0, D("-0.2614")),
        ("EVEN", 0.0, 133900000.0, D("0.0000")),
        ("FALL", 0, 5, D("0.0000")),
        ("RISE", 1, 3, D("33.3333")),
        ("RISE", 2, 3, D("66.6667")),
        ("RISE", 1, 8_000_000, D("0.0000")),
        ("RISE", 4, 8_000_000, D("0.0001")),  # half: away from zero
        ("RISE", 0.00000001, 0.00000004, D("25.0000")),
        ("RISE", 30, 10, D("300.0000")),
        ("RISE", 9223372036854, 1, D("922337203685400.0000")),
        ("RISE", 9300000000000, 1, None),  # just more than fits
        ("RISE", 2**63 - 1, 1, None),
        ("RISE", 2**63 - 1, 1e-18, None),
        ("RISE", 1, 0, None),
        ("RISE", -1, 5, None),
        ("RISE", 1, None, None),
        ("RISE", None, 5, None),
        (None, 1, 5, None),
        ("SIDEWAYS", 1, 5, None),
        ("RISE", "1", 5, None),
    ],
)
def test_the_rate_of_change_is_computed_to_four_decimals_of_a_percent(
    native: Native, change: Any, amount: Any, close: Any, rate: D | None
) -> None:
    frame = changed("upbit_trade_default", change=change, change_price=amount, prev_closing_price=close)

    assert exact(only(native.parse(frame))["change_rate"]) == exact(rate)


@pytest.mark.parametrize("name", ["best_ask_price", "best_bid_price"])
@pytest.mark.parametrize("value", [None, 0, -1, "134251000"])
def test_a_best_price_that_is_none_is_absent(native: Native, name: str, value: Any) -> None:
    trade = only(native.parse(changed("upbit_trade_default", **{name: value})))

    assert trade["ask" if "ask" in name else "bid"] is None


def test_a_side_that_nobody_knows_is_absent(native: Native) -> None:
    assert only(native.parse(changed("upbit_trade_default", ask_bid="BOTH")))["side"] is None


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"code": None}, "missing or invalid symbol"),
        ({"code": "K" * 25}, "missing or invalid symbol"),
        ({"code": 5}, "missing or invalid symbol"),
        ({"trade_timestamp": None}, "invalid time of day"),
        ({"trade_timestamp": 0}, "invalid time of day"),
        ({"trade_timestamp": 9223372036855}, "invalid time of day"),
        ({"trade_timestamp": 1795138215098.5}, "invalid time of day"),
        ({"trade_price": None}, "price is missing"),
        ({"trade_price": 0}, "price is missing"),
        ({"trade_price": -1.5}, "price is missing"),
        ({"trade_price": "1"}, "price is missing"),
        ({"trade_price": 2**63}, "price is missing"),
        ({"trade_price": 1e-19}, "price is missing"),
        ({"trade_volume": None}, "size is missing"),
        ({"trade_volume": -0.1}, "size is missing"),
        ({"sequential_id": -1}, "invalid number"),
        ({"sequential_id": 1.5}, "invalid number"),
        ({"sequential_id": "1"}, "invalid number"),
        ({"type": "candle.1s"}, "unknown TR"),
        ({"type": 5}, "unknown TR"),
    ],
)
def test_what_does_not_fit_is_kept_whole_with_the_reason(native: Native, members: dict[str, Any], why: str) -> None:
    frame = changed("upbit_trade_default", **members)

    records = native.parse(frame)

    assert reason(records).startswith(why)
    assert only(records)["frame"] == frame
    assert native.parser.quarantined == 1
    assert native.parser.records == 0


def test_unknown_members_are_skipped_whatever_they_hold(native: Native) -> None:
    plain = only(native.parse(sample("upbit_trade_default.json")))
    rich = changed("upbit_trade_default", new={"a": [1, {"b": '}]\\"'}], "c": None}, later="비트코인", more=[[], {}])

    assert plain == only(native.parse(rich))


# ---- snapshots of trades ---------------------------------------------------------------------------------------------


def test_a_recorded_snapshot_is_shown_as_the_trade_that_it_is(native: Native) -> None:
    snapshot = only(native.parse(sample("upbit_trade_snapshot.json")))

    assert snapshot == only(native.parse(sample("upbit_trade_default.json")))


def test_a_live_snapshot_is_a_quote_because_its_trade_may_be_stored_already(tmp_path: Path) -> None:
    native = Native(tmp_path / "test.ring", snapshot_trades=False)
    frame = sample("upbit_trade_snapshot.json")

    quote = only(native.parse(frame))

    assert (quote["kind"], quote["type"], quote["text"]) == ("event", "quote", frame)
    assert (quote["symbol"], quote["price"], quote["exchange_ns"]) == ("KRW-BTC", D("134250000.0"), 1795138215098 * MS)
    assert only(native.parse(sample("upbit_trade_default.json")))["kind"] == "trade"


# ---- order books -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["upbit_orderbook_default", "upbit_orderbook_simple"])
def test_a_book_is_read_under_its_long_and_its_short_names(native: Native, name: str) -> None:
    book = only(native.parse(sample(f"{name}.json")))

    assert (book["kind"], book["symbol"], book["exchange_ns"]) == ("orderbook", "KRW-BTC", 1795138215200 * MS)
    assert exact(book["asks"][:3]) == exact(
        [(D("134251000.0"), D("0.1")), (D("134252000.0"), D("0.2")), (D("134253000.0"), D("0.30000000000000004"))]
    )
    assert exact(book["bids"][4]) == exact((D("134246000.0"), D("0.6000000000000001")))
    assert book["asks"][5:] == book["bids"][5:] == [(0, 0)] * 5
    assert book["flags"] == 0


def unit(ask: Any = 101, bid: Any = 100, ask_size: Any = 1.5, bid_size: Any = 2.5) -> dict[str, Any]:
    return {"ask_price": ask, "bid_price": bid, "ask_size": ask_size, "bid_size": bid_size}


def test_levels_behind_the_tenth_are_not_kept(native: Native) -> None:
    units = [unit(101 + i, 100 - i) for i in range(15)]

    book = only(native.parse(changed("upbit_orderbook_default", orderbook_units=units)))

    assert [price for price, _ in book["asks"]] == list(range(101, 111))
    assert [price for price, _ in book["bids"]] == list(range(100, 90, -1))


@pytest.mark.parametrize("name", ["upbit_orderbook_default", "upbit_orderbook_simple"])
@pytest.mark.parametrize(
    "number",
    ["7", "0", "0.5", "127303000.0", "12345678901234", "123456789012345", "1234567890123456", "0.00000001", "-1", "1e5",
     "1.5E-7", "null", '"x"', "[1]", "01", "1.", ".5", "1.2.3", "+1", "", "1e", "0x1", "1 ", "--1", "1,"],
)  # fmt: skip
def test_a_level_that_is_not_kept_has_to_be_json_all_the_same(native: Native, name: str, number: str) -> None:
    message = json.loads(sample(f"{name}.json"))
    units = "orderbook_units" if "orderbook_units" in message else "obu"
    kept = message[units][:1] * 10
    message[units] = [*kept, *(kept[:1] * 5)]
    member = next(iter(kept[0]))
    for at in range(10, 15):
        message[units][at] = {**kept[0], member: "@" if at == 12 else 1}
    frame = json.dumps(message, separators=(",", ":")).replace('"@"', number).encode()
    try:
        json.loads(frame)
    except ValueError:
        assert reason(native.parse(frame)) == "control frame is not the expected JSON object"
    else:
        assert len(only(native.parse(frame))["asks"]) == 10


def test_a_crossed_book_is_kept_and_marked(native: Native) -> None:
    book = only(native.parse(changed("upbit_orderbook_default", orderbook_units=[unit(100.0, 100.01)])))
    even = only(native.parse(changed("upbit_orderbook_default", orderbook_units=[unit(100.00, 100)])))

    assert (book["flags"], even["flags"]) == (1, 0)


def test_an_empty_book_is_a_book_without_levels(native: Native) -> None:
    book = only(native.parse(changed("upbit_orderbook_default", orderbook_units=[])))

    assert book["asks"] == book["bids"] == [(0, 0)] * 10


@pytest.mark.parametrize(
    ("units", "why", "detail"),
    [
        (None, "price is missing", 0),
        ({}, "price is missing", 0),
        ([unit(), unit(bid=-1)], "price is missing", 2),
        ([unit(ask="1")], "price is missing", 1),
        ([unit(), unit(), unit(bid_size=-1)], "size is missing", 3),
        ([unit(ask_size=None)], "size is missing", 1),
        ([5], "price is missing", 1),
        ([unit(ask=2**63)], "price is missing", 1),
    ],
)
def test_a_bad_level_of_the_ten_is_named(native: Native, units: Any, why: str, detail: int) -> None:
    records = native.parse(changed("upbit_orderbook_default", orderbook_units=units))

    assert reason(records).startswith(why)
    assert only(records)["detail"] == detail


# ---- tickers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate", "price"),
    [("upbit_ticker_default", D("0.26138909"), 134250000), ("upbit_ticker_simple", D("-0.26138909"), 133550000)],
)
def test_a_ticker_is_a_quote_with_its_own_text(native: Native, name: str, rate: D, price: int) -> None:
    frame = sample(f"{name}.json")

    quote = only(native.parse(frame))

    assert (quote["kind"], quote["type"], quote["symbol"]) == ("event", "quote", "KRW-BTC")
    assert (quote["text"], quote["text_is_cut"]) == (frame, False)
    assert quote["exchange_ns"] == 1795138215123 * MS
    assert (quote["price"], quote["volume"], quote["cum_volume"]) == (price, D("0.00372"), D("812.55031276"))
    assert exact(quote["change_rate"]) == exact(rate)


def test_a_text_too_long_for_a_record_is_cut(native: Native) -> None:
    frame = changed("upbit_ticker_simple", more="x" * 70_000)

    quote = only(native.parse(frame))

    assert (quote["text"], quote["text_is_cut"]) == (frame[:65_535], True)


# ---- arrays ----------------------------------------------------------------------------------------------------------


def test_an_array_is_as_many_messages(native: Native) -> None:
    names = ["upbit_trade_simple", "upbit_orderbook_default", "upbit_ticker_simple", "upbit_trade_default"]
    frame = b"[" + b" ,\n".join(sample(f"{name}.json") for name in names) + b"]"

    records = native.parse(frame)

    assert records is not None
    assert [record["kind"] for record in records] == ["trade", "orderbook", "event", "trade"]
    assert only(native.parse(sample("upbit_simple_list.json")))["volume"] == D("0.1")


def test_one_bad_message_of_an_array_costs_only_itself(native: Native) -> None:
    good = sample("upbit_trade_simple.json")
    bad = changed("upbit_trade_default", trade_price=-1)

    records = native.parse(b"[5," + bad + b"," + good + b"]")

    assert records is not None
    assert [record["kind"] for record in records] == ["quarantine", "quarantine", "trade"]
    assert records[0]["frame"] == b"5"
    assert records[1]["frame"] == bad
    assert native.parse(bad) == [records[1]]


def test_all_messages_of_an_array_fit_or_none_is_appended(tmp_path: Path) -> None:
    native = Native(tmp_path / "test.ring", capacity_bytes=1 << 20)
    one = sample("upbit_orderbook_simple.json")
    frame = b"[" + b",".join([one] * 50) + b"]"
    parse = native.parser.parse
    fitted = 0
    while (result := parse(native.ring, frame, RECEIVED, is_text=False)) != -2:
        assert result == 50
        fitted += 1

    assert fitted > 0
    records = native.read()
    assert len(records) == 50 * fitted == native.parser.records
    assert parse(native.ring, frame, RECEIVED, is_text=False) == 50


def test_a_single_message_waits_for_room_too(tmp_path: Path) -> None:
    native = Native(tmp_path / "test.ring", capacity_bytes=1 << 20)
    book = sample("upbit_orderbook_simple.json")
    while native.parser.parse(native.ring, book, RECEIVED, is_text=False) == 1:
        pass
    taken = native.parser.records

    assert len(native.read()) == taken
    assert native.parser.quarantined == 0
    assert native.parser.parse(native.ring, book, RECEIVED, is_text=False) == 1


def test_an_array_that_never_fits_is_quarantined(tmp_path: Path) -> None:
    native = Native(tmp_path / "test.ring", capacity_bytes=1 << 20)

    records = native.parse(b"[" + b",".join([sample("upbit_trade_simple.json")] * 2_000) + b"]")

    assert reason(records) == "message is longer than the limit"


# ---- frames that are no data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["upbit_status", "upbit_error"])
def test_an_object_without_a_type_is_a_control_frame(native: Native, name: str) -> None:
    assert native.parse(sample(f"{name}.json")) is None


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "empty frame"),
        (b" \n", "empty frame"),
        (b"UP", "neither a data nor a control frame"),
        (b"\x00", "neither a data nor a control frame"),
        (b"[]", "record count"),
        (b"{" + b" " * (1 << 20) + b"}", "message is longer"),
    ],
)
def test_a_frame_that_is_no_message_is_quarantined(native: Native, frame: bytes, why: str) -> None:
    assert reason(native.parse(frame)).startswith(why)


@pytest.mark.parametrize("name", ["upbit_trade_simple", "upbit_orderbook_default", "upbit_simple_list"])
def test_a_frame_cut_off_anywhere_is_quarantined_whole(native: Native, name: str) -> None:
    frame = sample(f"{name}.json")
    for size in range(1, len(frame)):
        record = only(native.parse(frame[:size]))

        assert (record["kind"], record["frame"]) == ("quarantine", frame[:size])


# ---- samples and capture ---------------------------------------------------------------------------------------------


def test_every_sample_is_what_its_description_says(native: Native) -> None:
    for entry in json.loads((FRAMES / "manifest.json").read_text(encoding="utf-8")):
        records = native.parse(sample(entry["file"]), is_text=entry.get("frame") != "binary")
        match entry["cls"]:
            case "control":
                assert records is None
            case "data":
                assert only(records)["kind"] in ("trade", "orderbook", "event"), entry["file"]
            case _:
                assert entry["cls"] == "outbound"


def test_the_real_capture_decodes_without_a_quarantine_digit_by_digit(native: Native) -> None:
    frames = capture()
    kinds: Counter[str] = Counter()
    for frame in frames:
        message = json.loads(frame, parse_float=Decimal)
        record = only(native.parse(frame))
        kinds[record["kind"]] += 1

        assert record["symbol"] == message["cd"]
        if record["kind"] == "trade":
            assert record["price"] == message["tp"]
            assert record["volume"] == message["tv"]
            assert record["exchange_ns"] == message["ttms"] * MS
            assert record["side"] == {"BID": "buy", "ASK": "sell"}[message["ab"]]
            signed = message["tp"] - message["pcp"]
            assert record["change_rate"] == (signed * 100 / message["pcp"]).quantize(D("0.0001"))
        else:
            assert record["exchange_ns"] == message["tms"] * MS
            assert record["asks"] == [(level["ap"], level["as"]) for level in message["obu"][:10]]
            assert record["bids"] == [(level["bp"], level["bs"]) for level in message["obu"][:10]]

    assert kinds == {"trade": 65, "orderbook": 52}
    assert native.parser.quarantined == 0


# ---- repeated trades -------------------------------------------------------------------------------------------------


@pytest.fixture
def live(tmp_path: Path) -> Native:
    native = Native(tmp_path / "live.ring")
    native.parser = native.new_parser(snapshot_trades=False, keeps_all=False)
    return native


@pytest.mark.requirement("F19")
def test_a_trade_that_is_sent_again_is_dropped_and_counted(live: Native) -> None:
    assert only(live.parse(sample("upbit_trade_default.json")))["kind"] == "trade"
    live.parser = again = live.new_parser(snapshot_trades=False, keeps_all=False)  # after a reconnect

    assert live.parse(sample("upbit_trade_default.json")) == []
    assert (again.duplicates, again.records, again.quarantined) == (1, 0, 0)


@pytest.mark.requirement("F19")
def test_a_repeated_trade_of_an_array_costs_only_itself(live: Native) -> None:
    one, other = sample("upbit_trade_default.json"), sample("upbit_trade_simple.json")

    records = live.parse(b"[" + b",".join((one, one, other)) + b"]")

    assert records is not None
    assert [record["side"] for record in records] == ["buy", "sell"]


def test_trades_alike_in_everything_but_their_number_are_two(live: Native) -> None:
    for number in (7, 8):
        assert only(live.parse(changed("upbit_trade_simple", sid=number)))["kind"] == "trade"


def test_the_same_number_of_two_symbols_is_two_trades(live: Native) -> None:
    """The capture has three such pairs: `sequential_id` tells trades apart within a symbol only."""
    one, other = changed("upbit_trade_simple"), changed("upbit_trade_simple", cd="KRW-ETH")

    assert only(live.parse(one))["symbol"] == "KRW-BTC"
    assert only(live.parse(other))["symbol"] == "KRW-ETH"


@pytest.mark.parametrize("number", [None, 0])
def test_a_trade_without_a_number_is_never_taken_for_a_repetition(live: Native, number: int | None) -> None:
    for _ in range(3):
        assert only(live.parse(changed("upbit_trade_simple", sid=number)))["kind"] == "trade"


def taken_over(live: Native) -> Native:
    """The ring of a producer that died, with another one."""
    live.ring.close(clean=False)
    live.ring = RingWriter(live.ring.path)
    live.parser = live.new_parser(snapshot_trades=False, keeps_all=False)
    return live


@pytest.mark.requirement("F19", "CH-PROC-01")
def test_what_a_predecessor_wrote_is_recognised_each_number_once_and_however_often_it_comes(live: Native) -> None:
    written = [changed("upbit_trade_simple", sid=number, tp=1000 + number) for number in range(1, 400)]
    for frame in written:
        only(live.parse(frame))

    for _ in range(3):
        live = taken_over(live)
        for frame in [*written, *reversed(written)]:
            assert live.parse(frame) == []
        assert live.parser.duplicates == 2 * len(written)


@pytest.mark.requirement("F19", "DLP-01", "CH-PROC-01")
def test_a_twin_that_the_predecessor_did_not_hear_is_stored(live: Native) -> None:
    """Trades of one taker at one price differ in their numbers only; the predecessor may have died in between."""
    numbers = range(100, 140)
    for number in numbers:
        only(live.parse(changed("upbit_trade_simple", sid=number)))
    live = taken_over(live)

    for number in range(90, 100):  # never seen, and alike: told apart by the digest of the number
        assert len(live.parse(changed("upbit_trade_simple", sid=number)) or ()) == 1
    for number in numbers:
        assert live.parse(changed("upbit_trade_simple", sid=number)) == []
    later = changed("upbit_trade_simple", sid=500, ttms=json.loads(sample("upbit_trade_simple.json"))["ttms"] + 1)
    assert only(live.parse(later))["kind"] == "trade"
    live = taken_over(live)
    assert live.parse(later) == []


@pytest.mark.requirement("DLP-01")
def test_of_the_predecessors_trades_each_stands_for_one_number_only(live: Native) -> None:
    """Even two numbers with one digest: the second of them is a trade of its own."""
    only(live.parse(changed("upbit_trade_simple", sid=1)))
    live = taken_over(live)

    stored = [number for number in range(2, 3_000) if live.parse(changed("upbit_trade_simple", sid=number))]

    assert len(stored) == 2_997  # one of them has the digest of number 1 and is taken for it


def test_books_and_quotes_are_kept_however_alike(live: Native) -> None:
    for name in ("upbit_orderbook_simple", "upbit_ticker_simple"):
        for _ in range(2):
            assert only(live.parse(sample(f"{name}.json")))["kind"] in ("orderbook", "event")
