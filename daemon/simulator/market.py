"""A synthetic KRX stock: prices that walk along the real tick sizes, and the records that KIS would send of it.

Pure and seeded: the same seed, symbol and sequence of calls give the same records. Each record can be told from all
others by what a database keeps of it: a trade by (symbol, cumulative volume), because every trade adds at least one
share; an order book by (symbol, ask size of level 10), because that size is the running number of the symbol's books.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

LEVELS = 10
MAX_DRIFT_TICKS = 60  # the walk turns back here: with 30 % to the daily limits, the book always has all its levels
RATIO_REFRESH_TRADES = 16  # day ratios (strength, turnover, ...) move slowly: recomputing each time doubles the cost
DEPTH_VARIANTS = 1024  # order-book size patterns made in advance; a power of two, walked in order

# KRX quotation units since 2023-01-25: price below -> tick, in KRW.
TICK_SIZES = ((2_000, 1), (5_000, 5), (20_000, 10), (50_000, 50), (200_000, 100), (500_000, 500))
TOP_TICK_SIZE = 1_000

BUY, SELL = "1", "5"
UPPER_LIMIT, UP, FLAT, LOWER_LIMIT, DOWN = "1", "2", "3", "4", "5"

# One look-up a trade instead of arithmetic: two of sixteen draws move the quote up, two down.
_MOVES = (-1, -1, 1, 1) + (0,) * 12
# Many small trades and a few large ones; never 0, so that the cumulative volume always grows.
_SIZES = tuple(
    [1 + n % 30 for n in range(160)] + [10 * (1 + n % 20) for n in range(80)] + [500 + 50 * n for n in range(16)]
)


def tick_size(price: int) -> int:
    """Return the smallest price step at *price*."""
    for below, tick in TICK_SIZES:
        if price < below:
            return tick
    return TOP_TICK_SIZE


def price_limits(previous_close: int) -> tuple[int, int]:
    """Return the lowest and the highest price of a day: 30 % either way, cut to the tick, as KRX computes them."""
    width = previous_close * 3 // 10
    width -= width % tick_size(previous_close)
    upper = previous_close + width
    lower = previous_close - width
    return lower + -lower % tick_size(lower), upper - upper % tick_size(upper)


def price_ladder(previous_close: int) -> list[int]:
    """Return every price that the day allows, ascending."""
    lower, upper = price_limits(previous_close)
    ladder = [lower]
    while ladder[-1] < upper:
        ladder.append(ladder[-1] + tick_size(ladder[-1]))
    return ladder


def change_sign(price: int, previous_close: int, limits: tuple[int, int] | None = None) -> str:
    """Return the venue's code of the direction against *previous_close*."""
    if price == previous_close:
        return FLAT
    if limits is not None and price in limits:
        return LOWER_LIMIT if price == limits[0] else UPPER_LIMIT
    return UP if price > previous_close else DOWN


def change_rate(price: int, previous_close: int) -> str:
    """Return the change in percent with two decimals, rounded half away from zero, computed in integers."""
    change = price - previous_close
    hundredths = (abs(change) * 20_000 + previous_close) // (2 * previous_close)
    return f"{'-' if change < 0 and hundredths else ''}{hundredths // 100}.{hundredths % 100:02d}"


# With corrections, all sizes are multiples of the stride, and each correction moves the remainder of the cumulative
# volume by one, so that none can occur again before so many corrections later.
CORRECTION_STRIDE = 64
_WIDE_SIZES = tuple(size * CORRECTION_STRIDE for size in _SIZES)
_SMALLEST_SIZES = (CORRECTION_STRIDE,) * len(_SIZES)


class ExchangeTime(NamedTuple):
    """The exchanges' clocks as the wire has them; one object a second."""

    hhmmss: str  # KST
    yyyymmdd: str
    ny_hhmmss: str = ""  # New York, with its daylight saving time
    ny_yyyymmdd: str = ""


# One record: its wire text, its key (trades: cumulative volume; books: running number), a price (trades: last; books:
# best ask) and the size that goes with that price. A plain tuple: a named one costs a tenth of the whole record.
Record = tuple[str, int, int, int]


class Depth(NamedTuple):
    """Sizes of one order book: ten bids, and the nine asks that come before the running number."""

    asks_text: str
    bids_text: str
    best_ask_size: int
    best_bid_size: int
    asks_total: int
    bids_total: int


def depth_variants(seed: int | str, count: int = DEPTH_VARIANTS) -> tuple[Depth, ...]:
    """Return *count* size patterns; each differs from the one before in two levels, as books do."""
    draw = random.Random(f"{seed}:depth")  # noqa: S311 - a market, not a secret
    asks = [draw.randint(1, 9_000) for _ in range(LEVELS - 1)]
    bids = [draw.randint(1, 9_000) for _ in range(LEVELS)]
    variants = []
    for _ in range(count):
        asks[draw.randrange(LEVELS - 1)] = draw.randint(1, 9_000)
        bids[draw.randrange(LEVELS)] = draw.randint(1, 9_000)
        texts = "^".join(map(str, asks)), "^".join(map(str, bids))
        variants.append(Depth(*texts, asks[0], bids[0], sum(asks), sum(bids)))
    return tuple(variants)


class Instrument:
    """One symbol's day: price, volume, book. `trade()` and `book()` each advance it by one record.

    The quote is one number, the place of the best ask in the ladder; the best bid is the price below. A buyer trades at
    the ask and a seller at the bid, so a trade never falls outside the book.
    """

    # More than 30 attributes: without slots each access would be a look-up in a dictionary of its own.
    __slots__ = (
        "_anchor",
        "_asks_total",
        "_best_ask",
        "_bits",
        "_buy_count",
        "_buy_volume",
        "_depth",
        "_depth_place",
        "_depths",
        "_high",
        "_high_at",
        "_is_rolling",
        "_ladder_texts",
        "_last_size",
        "_listed_shares",
        "_low",
        "_low_at",
        "_now",
        "_open",
        "_opened_at",
        "_prefix",
        "_price_texts",
        "_quote_texts",
        "_range_text",
        "_ratios",
        "_session_texts",
        "_sizes",
        "_tail",
        "_yesterday_volume",
        "book_count",
        "cum_value",
        "cum_volume",
        "ladder",
        "limits",
        "previous_close",
        "symbol",
        "trade_count",
    )

    def __init__(self, symbol: str, *, seed: int | str, depths: tuple[Depth, ...]) -> None:
        draw = random.Random(f"{seed}:{symbol}")  # noqa: S311 - a market, not a secret
        rough = int(1_000 * 700 ** draw.random())  # 1,000 to 700,000 KRW, evenly in the logarithm
        self.symbol = symbol
        self.previous_close = rough - rough % tick_size(rough)
        self.limits = price_limits(self.previous_close)
        self.ladder = price_ladder(self.previous_close)
        self.cum_volume = 0
        self.cum_value = 0
        self.trade_count = 0
        self.book_count = 0
        self._bits = draw.getrandbits
        self._anchor = self.ladder.index(self.previous_close)
        self._best_ask = self._anchor + draw.randint(-LEVELS, LEVELS)
        self._open = 0
        self._high = self._low = -1  # places in the ladder; -1 before the first trade
        self._buy_count = self._buy_volume = 0
        self._yesterday_volume = draw.randint(100_000, 20_000_000)
        self._listed_shares = draw.randint(5_000_000, 900_000_000)
        self._depths = depths
        self._depth_place = draw.randrange(len(depths))
        self._depth = depths[self._depth_place]
        self._asks_total = self._depth.asks_total
        self._now: ExchangeTime | None = None
        self._is_rolling = False
        self._prefix = ""
        self._opened_at = self._high_at = self._low_at = ""
        self._range_text = ""  # open, high, low
        self._ratios = self._ratios_text()
        # Texts per place in the ladder, empty until first needed; `_session_texts` dies with each new high, low or day.
        self._price_texts = [""] * len(self.ladder)
        self._session_texts = [""] * len(self.ladder)
        self._quote_texts = [""] * len(self.ladder)
        self._ladder_texts = [""] * len(self.ladder)
        self._sizes = _SIZES
        self._last_size = 0
        self._tail = f"^0^^{self.previous_close}^2"

    def trade(self, now: ExchangeTime) -> Record:
        """Trade once: the next H0STCNT0 record (47 fields)."""
        if now is not self._now:
            self._set_time(now)
        bits = self._bits(24)
        best_ask = self._move(_MOVES[bits & 15])
        size = self._sizes[(bits >> 4) & 255]
        is_buy = bits >> 12 & 1
        place = best_ask if is_buy else best_ask - 1
        price = self.ladder[place]
        self.cum_volume = volume = self.cum_volume + size
        self.cum_value = value = self.cum_value + size * price
        self.trade_count = count = self.trade_count + 1
        self._last_size = size
        if is_buy:
            self._buy_count += 1
            self._buy_volume += size
        if not self._low <= place <= self._high:
            self._extend_range(place, now)
        if not count % RATIO_REFRESH_TRADES:
            self._ratios = self._ratios_text()
        buys = self._buy_count
        bought = self._buy_volume
        strength, shares, turnover = self._ratios
        _, _, ask_size, bid_size, _, bids_total = self._depth
        quote = self._price_texts[place] or self._price_text(place)
        session = self._session_texts[place] or self._session_text(place)
        book = self._quote_texts[best_ask] or self._quote_text(best_ask)
        text = (
            f"{self._prefix}{quote}^{value / volume:.2f}^{self._range_text}^{book}^{size}^{volume}^{value}"
            f"^{count - buys}^{buys}^{buys + buys - count}^{strength}^{volume - bought}^{bought}"
            f"^{BUY if is_buy else SELL}^{shares}^{session}^{ask_size}^{bid_size}"
            f"^{self._asks_total}^{bids_total}^{turnover}{self._tail}"
        )
        return text, volume, price, size

    def book(self, now: ExchangeTime) -> Record:
        """Change the order book once: the next H0STASP0 record (63 fields)."""
        if now is not self._now:
            self._set_time(now)
        best_ask = self._move(_MOVES[self._bits(4)])
        self.book_count = number = self.book_count + 1
        old_asks_total, old_bids_total = self._asks_total, self._depth[-1]
        self._depth_place = place = (self._depth_place + 1) % len(self._depths)
        self._depth = depth = self._depths[place]
        asks, bids, ask_size, _, asks_total, bids_total = depth
        self._asks_total = asks_total = asks_total + number
        prices = self._ladder_texts[best_ask] or self._ladder_text(best_ask)
        close = self.previous_close
        text = (
            f"{self._prefix}0^{prices}^{asks}^{number}^{bids}^{asks_total}^{bids_total}^0^0^0^0^0^-{close}^5^-100.00"
            f"^{self.cum_volume}^{asks_total - old_asks_total}^{bids_total - old_bids_total}^0^0^0^0^0^0^2"
        )
        return text, number, self.ladder[best_ask], ask_size

    def start_at(self, cum_volume: int, book_number: int) -> None:
        """Begin with so much volume behind it, so that the keys of two streams of one symbol never meet."""
        self.cum_volume, self.cum_value = cum_volume, cum_volume * self.previous_close
        self.book_count = book_number

    def prepare_corrections(self) -> None:
        """Trade in sizes between which corrections leave room, see CORRECTION_STRIDE."""
        self._sizes = _WIDE_SIZES

    def correct(self) -> None:
        """Take back the last trade, as an exchange that busts it does; the next trade is a small one."""
        taken = self._last_size + CORRECTION_STRIDE - 1
        self.cum_volume -= taken
        self.cum_value = max(0, self.cum_value - taken * self.ladder[self._best_ask])
        self._sizes = _SMALLEST_SIZES

    def settle(self) -> None:
        """Go on with ordinary sizes: the trade that showed the correction has been made."""
        self._sizes = _WIDE_SIZES

    def roll(self) -> None:
        """Begin a new session with the next second: sessions of an exchange do not meet within one."""
        self._is_rolling = True

    def _begin_session(self) -> None:
        """The day's totals start again from nothing."""
        self._is_rolling = False
        self.cum_volume = self.cum_value = self._buy_volume = self._buy_count = self.trade_count = 0
        self._low = self._high = -1

    def _move(self, step: int) -> int:
        if step:
            place = self._best_ask + step
            if abs(place - self._anchor) > MAX_DRIFT_TICKS:
                place = self._best_ask - step
            self._best_ask = place
        return self._best_ask

    def _set_time(self, now: ExchangeTime) -> None:
        if self._now is None or self._now.yyyymmdd != now.yyyymmdd:
            self._session_texts = [""] * len(self.ladder)
        if self._is_rolling and self._now is not None and now.hhmmss != self._now.hhmmss:
            self._begin_session()
        self._now = now
        self._prefix = f"{self.symbol}^{now.hhmmss}^"

    def _extend_range(self, place: int, now: ExchangeTime) -> None:
        """Note a first trade, a new high or a new low."""
        if self._low < 0:
            self._open = self.ladder[place]
            self._opened_at = now.hhmmss
        if place > self._high:
            self._high, self._high_at = place, now.hhmmss
        if place < self._low or self._low < 0:
            self._low, self._low_at = place, now.hhmmss
        self._range_text = f"{self._open}^{self.ladder[self._high]}^{self.ladder[self._low]}"
        self._session_texts = [""] * len(self.ladder)

    def _price_text(self, place: int) -> str:
        """Fields 2 to 5: price, sign, change, change rate."""
        price, close = self.ladder[place], self.previous_close
        text = f"{price}^{change_sign(price, close, self.limits)}^{price - close}^{change_rate(price, close)}"
        self._price_texts[place] = text
        return text

    def _session_text(self, place: int) -> str:
        """Fields 24 to 35: the price against open, high and low, with their times, then the date and session."""
        assert self._now is not None
        price = self.ladder[place]
        against = []
        for reference, at in (
            (self._open, self._opened_at),
            (self.ladder[self._high], self._high_at),
            (self.ladder[self._low], self._low_at),
        ):
            against.append(f"{at}^{change_sign(price, reference)}^{price - reference}")
        text = f"{'^'.join(against)}^{self._now.yyyymmdd}^20^N"
        self._session_texts[place] = text
        return text

    def _quote_text(self, best_ask: int) -> str:
        """Fields 10 and 11: best ask, best bid."""
        text = f"{self.ladder[best_ask]}^{self.ladder[best_ask - 1]}"
        self._quote_texts[best_ask] = text
        return text

    def _ladder_text(self, best_ask: int) -> str:
        """Ten ask prices upwards, then ten bid prices downwards."""
        asks = self.ladder[best_ask : best_ask + LEVELS]
        bids = self.ladder[best_ask - LEVELS : best_ask][::-1]
        text = "^".join(map(str, asks + bids))
        self._ladder_texts[best_ask] = text
        return text

    def _ratios_text(self) -> tuple[str, str, str]:
        """Field 18 (strength); 22 and 23 (buyers' part, volume against yesterday); 40 to 42 (turnover)."""
        volume, bought = self.cum_volume, self._buy_volume
        sold = volume - bought
        strength = f"{100 * bought / sold:.2f}" if sold else "0.00"
        shares = f"{bought / volume if volume else 0:.2f}^{100 * volume / self._yesterday_volume:.2f}"
        half_day = self._yesterday_volume // 2
        turnover = f"{100 * volume / self._listed_shares:.2f}^{half_day}^{100 * volume / half_day:.2f}"
        return strength, shares, turnover


class Market:
    """All instruments of one run, made when first asked for and kept over reconnects."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        self._depths = depth_variants(seed)
        self._instruments: dict[str, Instrument] = {}

    def instrument(self, symbol: str) -> Instrument:
        """Return the one instrument called *symbol*."""
        if symbol not in self._instruments:
            self._instruments[symbol] = Instrument(symbol, seed=self._seed, depths=self._depths)
        return self._instruments[symbol]

    @property
    def instruments(self) -> Mapping[str, Instrument]:
        """Every instrument that was asked for, by symbol."""
        return self._instruments
