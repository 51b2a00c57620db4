"""The synthetic US, Upbit and Kiwoom markets, and what each venue's words mean, without any socket."""

import itertools
import json
import random
from typing import Any

import pytest

from daemon.simulator.approval import Approvals
from daemon.simulator.faults import Faults
from daemon.simulator.kiwoom_records import Entries, book_values, trade_values
from daemon.simulator.market import ExchangeTime, Instrument, Market
from daemon.simulator.offer import Pacer
from daemon.simulator.options import SimulatorOptions
from daemon.simulator.upbit import ConnectLimit, How, RequestLimit, WrongRequest, parse_request
from daemon.simulator.upbit_market import UpbitInstrument, book_text, ticker_text, trade_text
from daemon.simulator.us_market import UsInstrument, market_type

NOW = ExchangeTime("233015", "20261120", "093015", "20261120")
NS = 1_795_138_215_123_000_000


# Markets


@pytest.mark.parametrize("key", ["DNASAAPL", "DAMSSPY", "RBAQTSLA", "DNYSBRK/A"])
def test_a_us_trade_is_consistent_in_itself(key: str) -> None:
    instrument, volume, prices = UsInstrument(key, seed=1), 0, []
    for _ in range(1_000):
        text, cum_volume, price, size = instrument.trade(NOW)
        fields = text.split("^")
        assert len(fields) == 26
        assert fields[:2] == [key, key[4:]]
        volume += size
        prices.append(float(price))
        assert (cum_volume, volume) == (int(fields[20]), int(fields[20]))
        assert float(price) in (float(fields[15]), float(fields[16]))
        assert float(fields[10]) <= min(prices) <= max(prices) <= float(fields[9])
        change = float(fields[13])
        assert fields[12] == ("3" if change == 0 else "2" if change > 0 else "5")
    assert len(set(prices)) > 3


def test_the_us_session_is_named_by_the_time_of_new_york() -> None:
    assert [market_type(time) for time in ("080000", "093000", "155959", "160000")] == ["2", "1", "1", "3"]


@pytest.mark.parametrize("instrument", [UsInstrument("DNASAAPL", seed=1), Market(1).instrument("005930")])
def test_after_corrections_no_cumulative_volume_occurs_twice(instrument: UsInstrument | Instrument) -> None:
    instrument.prepare_corrections()
    keys, holes = [0], []
    for number in range(2_000):
        if number % 7 == 6:
            instrument.correct()
        _, key, _, size = instrument.trade(NOW)
        instrument.settle()
        holes.append(key - size - keys[-1])
        keys.append(key)

    assert len(set(keys)) == len(keys)
    assert all((hole < 0) == (number % 7 == 6) and hole <= 0 for number, hole in enumerate(holes))
    assert [b < a for a, b in itertools.pairwise(keys)] == [number % 7 == 6 for number in range(2_000)]


def test_upbit_trades_have_sizes_and_ids_of_their_own_in_valid_json() -> None:
    pair = UpbitInstrument("KRW-BTC", seed=1, wall_ns=lambda: NS)
    keys, ids = [], []
    for number in range(2_000):
        trade, key, price, volume = pair.trade()
        for is_simple in (False, True):
            fields = json.loads(trade_text(trade, simple=is_simple, stream_type="REALTIME"))  # type: ignore[arg-type]
            name = {"price": "tp", "volume": "tv", "id": "sid"} if is_simple else {
                "price": "trade_price", "volume": "trade_volume", "id": "sequential_id",
            }  # fmt: skip
            assert (fields[name["price"]], fields[name["volume"]]) == (float(price), float(volume))
            assert round(float(volume) * 1e8) == key
        assert fields["ab"] in ("ASK", "BID")
        keys.append(key)
        ids.append(fields["sid"])
        assert number < 1_999 or fields["ttm"] == "01:30:15"
    assert keys == sorted(set(keys))
    assert ids == sorted(set(ids))


def test_an_upbit_book_has_the_units_that_were_asked_for_and_its_number_in_the_tenth() -> None:
    pair = UpbitInstrument("KRW-BTC", seed=1, wall_ns=lambda: NS)
    for number in range(1, 50):
        book, key, price, size = pair.book()
        full = json.loads(book_text(book, 30, simple=False, stream_type="REALTIME"))  # type: ignore[arg-type]
        units = full["orderbook_units"]
        assert (len(units), key, units[9]["ask_size"]) == (30, number, float(number))
        assert (units[0]["ask_price"], units[0]["ask_size"]) == (float(price), float(size))
        assert [u["ask_price"] for u in units] == sorted(u["ask_price"] for u in units)
        assert units[0]["bid_price"] < units[0]["ask_price"]
        short = json.loads(book_text(book, 5, simple=True, stream_type="REALTIME"))  # type: ignore[arg-type]
        assert [u["ap"] for u in short["obu"]] == [u["ask_price"] for u in units[:5]]
    ticker = json.loads(ticker_text(pair.ticker()[0], simple=True, stream_type="REALTIME"))  # type: ignore[arg-type]
    assert (ticker["ty"], ticker["tdt"]) == ("ticker", "20261120")


def test_kiwoom_values_say_what_the_record_says_with_its_signs() -> None:
    instrument = Market(3).instrument("005930")
    for _ in range(500):
        text, cum_volume, price, size = instrument.trade(NOW)
        values, fields = trade_values(text), text.split("^")
        assert values["10"].lstrip("+-") == str(price)
        assert values["15"] == ("-" if fields[21] == "5" else "+") + str(size)
        assert values["13"] == str(cum_volume)
        assert (values["10"][0] == "-") == (price < instrument.previous_close)
        text, number, ask, ask_size = instrument.book(NOW)
        values = book_values(text)
        assert (values["41"].lstrip("+-"), values["61"], values["70"]) == (str(ask), str(ask_size), str(number))
        assert (values["121"], values["125"]) == (text.split("^")[43], text.split("^")[44])


def test_kiwoom_entries_hold_the_same_in_every_order() -> None:
    entries, values = Entries(random.Random(1)), {"20": "103015", "10": "-71200", "15": "+3"}

    texts = [entries.entry("0B", "005930_AL", values) for _ in range(50)]

    parsed = [json.loads(text.encode("latin-1")) for text in texts]
    assert len(set(texts)) > 5
    expected: dict[str, Any] = {"type": "0B", "name": "주식체결", "item": "005930_AL", "values": values}
    assert all(entry == expected for entry in parsed)


# Requests and limits


def test_an_upbit_request_is_read_with_its_units_and_format() -> None:
    request = [
        {"ticket": "x"}, {"type": "trade", "codes": ["KRW-BTC"], "is_only_realtime": True},
        {"type": "orderbook", "codes": ["KRW-BTC.5", "KRW-ETH.7"], "level": 10000}, {"format": "SIMPLE_LIST"},
    ]  # fmt: skip

    trade, book, odd = parse_request(json.dumps(request).encode())

    assert (trade.place, trade.snapshot, trade.realtime) == (("trade", "KRW-BTC"), False, True)
    assert book.how == How(is_simple=True, is_list=True, units=5, level=10000)
    assert odd.how.units == 30  # what is not offered counts as the deepest


def test_a_wrong_upbit_request_is_named() -> None:
    with pytest.raises(WrongRequest) as caught:
        parse_request(b'[{"ticket":"x"},{"type":"orderbook","codes":[]}]')
    assert caught.value.args[0] == "NO_CODES"


def test_connections_and_requests_are_limited_by_the_second_and_the_minute() -> None:
    connects, requests = ConnectLimit(2), RequestLimit(5, 8)

    assert [connects.take(now_s) for now_s in (0.0, 0.1, 0.2, 1.05)] == [True, True, False, True]
    assert [connects.take(now_s, has_origin=True) for now_s in (20.0, 25.0, 31.0)] == [True, False, True]
    assert [requests.take(now_s) for now_s in (0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 61)] == [
        True, True, True, True, True, False, True, True, True, False, True,
    ]  # fmt: skip
    assert all(ConnectLimit(0).take(0.0) for _ in range(100))


# Faults of one side


def test_a_tag_limits_a_fault_to_its_sessions_and_leaves_the_general_ones_shared() -> None:
    faults = Faults(["no_ack:005930:2", "limit:5@a", "silent:000660@kiwoom"])

    plan = faults.plan("a", "kis")

    assert (plan.limit, faults.plan("b", "kis").limit, faults.plan("a", "kiwoom").silent) == (5, None, {"000660"})
    assert plan.no_ack["005930"].take()
    assert faults.general.no_ack["005930"].left == 1
    assert faults.plan("a", "kis") is plan
    assert faults.plan("b", "kis") is faults.general
    assert faults.tags == ("a", "kiwoom")
    assert faults.own("a").limit == 5
    faults.add("limit:3")
    assert (faults.plan("b").limit, faults.plan("a").limit) == (3, 5)
    with pytest.raises(ValueError, match="after @"):
        faults.add("limit:3@")
    with pytest.raises(ValueError, match="limit:0@a"):
        faults.add("limit:0@a")


def test_a_slot_is_held_for_a_time_or_for_attempts() -> None:
    now_s = 0.0
    approvals = Approvals(Faults(), "kis", lambda: now_s)
    assert approvals.claim("a", 1)
    assert not approvals.claim("a", 2)
    approvals.release(1, held_s=10.0)
    assert not approvals.claim("a", 2)
    now_s = 10.5
    assert approvals.claim("a", 2)
    assert approvals.holder("a") == 2
    approvals.release(2, held_s=100.0, held_attempts=1)
    assert [approvals.claim("a", 3), approvals.claim("a", 3)] == [False, True]


def test_expired_keys_are_those_issued_before() -> None:
    approvals = Approvals(Faults(), "kis", lambda: 0.0)
    old, other = approvals.issue("a"), approvals.issue("b")
    approvals.expire("a")
    new = approvals.issue("a")

    assert [approvals.app_key_of(key) for key in (old, other, new)] == [None, "b", "a"]


# Options


def test_the_rate_is_divided_among_the_venues() -> None:
    assert SimulatorOptions().shares() == {"kis": 1.0}
    assert SimulatorOptions(venues="upbit,kis").shares() == {"upbit": 0.5, "kis": 0.5}
    assert SimulatorOptions(venues="kis,kiwoom=0.1,upbit=0.1").shares() == {"kis": 0.8, "kiwoom": 0.1, "upbit": 0.1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("venues", "kis,nasdaq"), ("venues", "kis,kis"), ("venues", "kis=2"), ("venues", "kis=x"), ("venues", ""),
        ("venues", "kis=0.7,upbit=0.7"), ("clock", "yesterday"), ("clock", "2026-11-20T09:00:00"),
    ],
)  # fmt: skip
def test_a_venue_or_clock_that_cannot_be_read_is_named(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: expected"):
        SimulatorOptions(**{field: value})  # type: ignore[arg-type]


def test_what_was_given_back_is_due_again() -> None:
    pacer = Pacer(rate=1000)
    pacer.due(0.0, is_offering=True)
    assert pacer.due(0.010, is_offering=True) == 10
    pacer.give_back(4)
    assert pacer.due(0.010, is_offering=True) == 4
