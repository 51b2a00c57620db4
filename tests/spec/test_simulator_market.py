"""The synthetic market follows KRX's rules, and each of its records can be told from all others."""

import itertools

import pytest

from daemon.simulator.market import (
    DOWN,
    FLAT,
    LOWER_LIMIT,
    UP,
    UPPER_LIMIT,
    ExchangeTime,
    Instrument,
    Market,
    change_rate,
    change_sign,
    price_ladder,
    price_limits,
    tick_size,
)

NOW = ExchangeTime("103015", "20261120")
TRADE_FIELDS, BOOK_FIELDS = 47, 63
SYMBOLS = [f"{number:06d}" for number in range(30)]


def trades(instrument: Instrument, count: int) -> list[list[str]]:
    return [instrument.trade(NOW)[0].split("^") for _ in range(count)]


def books(instrument: Instrument, count: int) -> list[list[str]]:
    return [instrument.book(NOW)[0].split("^") for _ in range(count)]


@pytest.mark.parametrize(
    ("price", "tick"),
    [
        (1, 1), (1_999, 1), (2_000, 5), (4_995, 5), (5_000, 10), (19_990, 10), (20_000, 50), (49_950, 50),
        (50_000, 100), (199_900, 100), (200_000, 500), (499_500, 500), (500_000, 1_000), (2_000_000, 1_000),
    ],
)  # fmt: skip
def test_tick_sizes_are_those_of_krx_since_2023(price: int, tick: int) -> None:
    assert tick == tick_size(price)


def test_a_ladder_climbs_by_the_tick_of_each_price_between_the_daily_limits() -> None:
    ladder = price_ladder(19_000)

    assert (13_300, 24_700) == price_limits(19_000) == (ladder[0], ladder[-1])
    assert all(upper - lower == tick_size(lower) for lower, upper in itertools.pairwise(ladder))
    assert [price for price in ladder if 19_990 <= price <= 20_050] == [19_990, 20_000, 20_050]


@pytest.mark.parametrize(
    ("price", "previous_close", "rate"),
    [
        (71_200, 70_900, "0.42"),
        (182_500, 184_000, "-0.82"),
        (70_900, 70_900, "0.00"),
        (801, 800, "0.13"),  # 0.125: half goes away from zero
        (799, 800, "-0.13"),
        (999_999, 1_000_000, "0.00"),  # no minus zero
        (92_170, 70_900, "30.00"),
    ],
)
def test_the_change_rate_has_two_decimals_and_follows_from_the_price(
    price: int, previous_close: int, rate: str
) -> None:
    assert rate == change_rate(price, previous_close)


def test_signs_tell_limits_from_ordinary_moves() -> None:
    limits = price_limits(10_000)

    signs = [change_sign(price, 10_000, limits) for price in (7_000, 9_990, 10_000, 10_010, 13_000)]

    assert signs == [LOWER_LIMIT, DOWN, FLAT, UP, UPPER_LIMIT]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_record_has_the_width_of_today(symbol: str) -> None:
    instrument = Market(1).instrument(symbol)

    assert {TRADE_FIELDS} == {len(fields) for fields in trades(instrument, 300)}
    assert {BOOK_FIELDS} == {len(fields) for fields in books(instrument, 300)}


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_cumulative_volume_and_value_grow_by_exactly_each_trade(symbol: str) -> None:
    volume = value = 0
    for fields in trades(Market(1).instrument(symbol), 2_000):
        price, size = int(fields[2]), int(fields[12])
        volume, value = volume + size, value + price * size
        assert size > 0
        assert (volume, value) == (int(fields[13]), int(fields[14]))


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_trade_is_consistent_in_itself(symbol: str) -> None:
    instrument = Market(7).instrument(symbol)
    close = instrument.previous_close
    prices: list[int] = []
    for fields in trades(instrument, 2_000):
        price = int(fields[2])
        prices.append(price)
        assert price % tick_size(price) == 0
        assert (change_sign(price, close), price - close, change_rate(price, close)) == (
            fields[3],
            int(fields[4]),
            fields[5],
        )
        assert [prices[0], max(prices), min(prices)] == [int(field) for field in fields[7:10]]
        assert price == int(fields[10] if fields[21] == "1" else fields[11])  # a buyer pays the ask
        assert fields[21] in {"1", "5"}
        assert int(fields[15]) + int(fields[16]) == len(prices)
        assert int(fields[19]) + int(fields[20]) == int(fields[13])
        assert [price - prices[0], price - max(prices), price - min(prices)] == [int(fields[i]) for i in (26, 29, 32)]
        assert fields[33] == "20261120"
    assert len(set(prices)) > 3  # it moves


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_an_order_book_has_ten_full_levels_around_the_last_price(symbol: str) -> None:
    instrument = Market(1).instrument(symbol)
    for fields in books(instrument, 2_000):
        asks, bids = [int(f) for f in fields[3:13]], [int(f) for f in fields[13:23]]
        ask_sizes, bid_sizes = [int(f) for f in fields[23:33]], [int(f) for f in fields[33:43]]
        assert bids[0] < asks[0]
        ladder = bids[::-1] + asks
        assert all(upper - lower == tick_size(lower) for lower, upper in itertools.pairwise(ladder))
        assert min(ask_sizes + bid_sizes) > 0
        assert [sum(ask_sizes), sum(bid_sizes)] == [int(fields[43]), int(fields[44])]


def test_the_tenth_ask_size_is_the_running_number_of_the_book() -> None:
    instrument = Market(1).instrument("005930")

    assert list(range(1, 501)) == [int(fields[32]) for fields in books(instrument, 500)]


def test_what_a_record_says_of_itself_is_what_its_text_says() -> None:
    instrument = Market(1).instrument("005930")

    text, key, price, size = instrument.trade(NOW)
    fields = text.split("^")
    assert (key, price, size) == (int(fields[13]), int(fields[2]), int(fields[12]))

    text, key, price, size = instrument.book(NOW)
    fields = text.split("^")
    assert (key, price, size) == (int(fields[32]), int(fields[3]), int(fields[23]))


def test_the_same_seed_gives_the_same_market_whatever_else_is_traded() -> None:
    alone, crowded, other = Market(5), Market(5), Market(6)
    for symbol in SYMBOLS:
        trades(crowded.instrument(symbol), 3)

    expected = trades(alone.instrument("005930"), 500) + books(alone.instrument("005930"), 500)

    instrument = crowded.instrument("005930")
    assert expected == trades(instrument, 500) + books(instrument, 500)
    assert expected != trades(other.instrument("005930"), 500) + books(other.instrument("005930"), 500)


def test_times_follow_the_clock_while_the_open_keeps_its_own() -> None:
    instrument = Market(1).instrument("005930")
    instrument.trade(NOW)

    fields = instrument.trade(ExchangeTime("000001", "20261121"))[0].split("^")

    assert [fields[1], fields[24], fields[33]] == ["000001", "103015", "20261121"]
