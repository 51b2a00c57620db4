"""A synthetic Upbit pair: KRW prices, eight decimals of size, and the messages of both formats.

A trade is known by its size in units of 1e-8, which no other trade of the pair has; an order book by the size of its
tenth ask, which is its running number. Numbers are written in the ways that Upbit's JSON has them: with and without a
fraction, and with an exponent.
"""

import datetime
import random
from collections.abc import Callable
from typing import Any, NamedTuple

UNITS = (1, 5, 15, 30)  # depths of an order book that can be asked for
MAX_UNITS = 30
_SCALE = 100_000_000


class UpbitTrade(NamedTuple):
    """One trade; numbers that must be exact on the wire are texts."""

    code: str
    price: str
    volume: str
    side: str  # ASK: initiated by a seller; BID: by a buyer
    trade_ms: int
    sent_ms: int
    sequential_id: int
    previous_close: int
    ask: int
    bid: int


class UpbitBook(NamedTuple):
    """One order book, MAX_UNITS levels."""

    code: str
    sent_ms: int
    asks: tuple[tuple[int, str], ...]
    bids: tuple[tuple[int, str], ...]


UpbitRecord = tuple[UpbitTrade | UpbitBook, int, str, str]


class UpbitInstrument:
    """One pair. `trade()` and `book()` each advance it by one record; *wall_ns* is the exchange's clock, UTC."""

    def __init__(self, code: str, *, seed: int | str, wall_ns: Callable[[], int]) -> None:
        draw = random.Random(f"{seed}:{code}")  # noqa: S311 - a market, not a secret
        self.code = code
        self.tick = draw.choice((1, 5, 10, 50, 100, 500, 1_000))
        self.previous_close = self.tick * draw.randint(20_000, 140_000)
        self.trade_count = self.book_count = self.ticker_count = 0
        self._sequential_id = 0
        self._draw = draw
        self._wall_ns = wall_ns
        self._ask = self.previous_close + self.tick

    def start_at(self, cum_volume: int, book_number: int) -> None:
        """Begin with books of that running number; trades have no cumulative volume here."""
        self.book_count = book_number

    def trade(self, _now: Any = None) -> UpbitRecord:
        """Trade once."""
        bits = self._draw.getrandbits(24)
        ask = self._move(bits & 7)
        self.trade_count = number = self.trade_count + 1
        is_buy = bits >> 3 & 1
        price = ask if is_buy else ask - self.tick
        units = number * 1_000 + (bits >> 4) % 1_000  # of 1e-8: rising, so unique
        volume = f"{units}E-8" if bits >> 20 & 3 == 0 else f"{units // _SCALE}.{units % _SCALE:08d}"
        sent_ms = self._wall_ns() // 1_000_000
        self._sequential_id = sid = max(self._sequential_id + 1, sent_ms * 1_000)
        trade = UpbitTrade(
            self.code, f"{price}.0", volume, "BID" if is_buy else "ASK", sent_ms - 3, sent_ms, sid,
            self.previous_close, ask, ask - self.tick,
        )  # fmt: skip
        return trade, units, trade.price, volume

    def book(self, _now: Any = None) -> UpbitRecord:
        """Change the order book once."""
        bits = self._draw.getrandbits(40)
        ask = self._move(bits & 7)
        self.book_count = number = self.book_count + 1
        asks = [(ask + level * self.tick, _size(bits >> level & 0xFFFF)) for level in range(MAX_UNITS)]
        asks[9] = (asks[9][0], f"{number}.0")
        bids = tuple((ask - (level + 1) * self.tick, _size(bits >> (level & 15) & 0xFFF)) for level in range(MAX_UNITS))
        book = UpbitBook(self.code, self._wall_ns() // 1_000_000, tuple(asks), bids)
        return book, number, f"{asks[0][0]}", asks[0][1]

    def ticker(self, _now: Any = None) -> UpbitRecord:
        """Sum the day up; the key is the running number."""
        self.ticker_count += 1
        sent_ms = self._wall_ns() // 1_000_000
        ask = self._ask
        trade = UpbitTrade(
            self.code, f"{ask}.0", "0.001", "BID", sent_ms, sent_ms, 0, self.previous_close, ask, ask - self.tick
        )
        return trade, self.ticker_count, trade.price, trade.volume

    def _move(self, three_bits: int) -> int:
        step = (-1, 1, 0, 0, 0, 0, 0, 0)[three_bits] * self.tick
        if abs(self._ask + step - self.previous_close) > 400 * self.tick:
            step = -step
        self._ask += step
        return self._ask


def _size(value: int) -> str:
    return f"{(value + 1) / 10_000:.4f}"


def trade_text(trade: UpbitTrade, *, simple: bool, stream_type: str) -> str:
    """Return the message of a trade in the DEFAULT or SIMPLE format."""
    date, time = _utc(trade.trade_ms)
    change = float(trade.price) - trade.previous_close
    values = {
        "type": '"trade"',
        "code": f'"{trade.code}"',
        "timestamp": trade.sent_ms,
        "trade_date": f'"{date}"',
        "trade_time": f'"{time}"',
        "trade_timestamp": trade.trade_ms,
        "trade_price": trade.price,
        "trade_volume": trade.volume,
        "ask_bid": f'"{trade.side}"',
        "prev_closing_price": f"{trade.previous_close}.00000000",
        "change": '"RISE"' if change > 0 else '"FALL"' if change < 0 else '"EVEN"',
        "change_price": f"{abs(change):.8f}",
        "sequential_id": trade.sequential_id,
        "best_ask_price": trade.ask,
        "best_ask_size": "0.11",
        "best_bid_price": trade.bid,
        "best_bid_size": "0.52",
        "stream_type": f'"{stream_type}"',
    }
    return _object(values, simple=simple)


def book_text(book: UpbitBook, units: int, *, simple: bool, stream_type: str, level: float = 0) -> str:
    """Return the message of an order book with so many units."""
    names = ("ap", "bp", "as", "bs") if simple else ("ask_price", "bid_price", "ask_size", "bid_size")
    rows = ",".join(
        f'{{"{names[0]}":{ask}.0,"{names[1]}":{bid}.0,"{names[2]}":{ask_size},"{names[3]}":{bid_size}}}'
        for (ask, ask_size), (bid, bid_size) in zip(book.asks[:units], book.bids[:units], strict=True)
    )
    values = {
        "type": '"orderbook"',
        "code": f'"{book.code}"',
        "timestamp": book.sent_ms,
        "total_ask_size": f"{sum(float(size) for _, size in book.asks):.8f}",
        "total_bid_size": f"{sum(float(size) for _, size in book.bids):.8f}",
        "orderbook_units": f"[{rows}]",
        "stream_type": f'"{stream_type}"',
        "level": level,
    }
    return _object(values, simple=simple)


def ticker_text(trade: UpbitTrade, *, simple: bool, stream_type: str) -> str:
    """Return the message of a ticker; it writes its date and time in another way than a trade does."""
    date, time = _utc(trade.trade_ms)
    close = trade.previous_close
    change = float(trade.price) - close
    values = {
        "type": '"ticker"', "code": f'"{trade.code}"', "opening_price": f"{close}.0", "high_price": trade.price,
        "low_price": f"{close}.0", "trade_price": trade.price, "prev_closing_price": f"{close}.0",
        "change": '"RISE"' if change > 0 else '"FALL"' if change < 0 else '"EVEN"', "change_price": abs(change),
        "signed_change_price": change, "change_rate": f"{abs(change) / close:.8f}",
        "signed_change_rate": f"{change / close:.8f}", "trade_volume": trade.volume, "acc_trade_volume": "1.5E3",
        "trade_date": f'"{date.replace("-", "")}"', "trade_time": f'"{time.replace(":", "")}"',
        "trade_timestamp": trade.trade_ms, "ask_bid": f'"{trade.side}"', "timestamp": trade.sent_ms,
        "stream_type": f'"{stream_type}"',
    }  # fmt: skip
    names = SHORT_NAMES | {"trade_date": "tdt"}
    return "{" + ",".join(f'"{names[name] if simple else name}":{value}' for name, value in values.items()) + "}"


SHORT_NAMES = {
    "opening_price": "op", "high_price": "hp", "low_price": "lp", "signed_change_price": "scp", "change_rate": "cr",
    "signed_change_rate": "scr", "acc_trade_volume": "atv",
    "type": "ty", "code": "cd", "timestamp": "tms", "trade_date": "td", "trade_time": "ttm", "trade_timestamp": "ttms",
    "trade_price": "tp", "trade_volume": "tv", "ask_bid": "ab", "prev_closing_price": "pcp", "change": "c",
    "change_price": "cp", "sequential_id": "sid", "best_ask_price": "bap", "best_ask_size": "bas",
    "best_bid_price": "bbp", "best_bid_size": "bbs", "stream_type": "st", "total_ask_size": "tas",
    "total_bid_size": "tbs", "orderbook_units": "obu", "level": "lv",
}  # fmt: skip


def _object(values: dict[str, Any], *, simple: bool) -> str:
    if simple:
        return "{" + ",".join(f'"{SHORT_NAMES[name]}":{value}' for name, value in values.items()) + "}"
    return "{" + ",".join(f'"{name}":{value}' for name, value in values.items()) + "}"


def _utc(ms: int) -> tuple[str, str]:
    moment = datetime.datetime.fromtimestamp(ms // 1000, datetime.UTC)
    return moment.strftime("%Y-%m-%d"), moment.strftime("%H:%M:%S")
