"""A synthetic US stock: prices in cents, and the records that KIS would send of it (HDFSCNT0, HDFSASP0).

As in `market`: a trade is known by its cumulative volume, an order book by the ask size of level 10.
"""

import random

from daemon.simulator.market import CORRECTION_STRIDE, LEVELS, ExchangeTime

FIRST_HOUR, LAST_HOUR = 9.5, 16.0  # of the regular session, New York
PRE_MARKET, REGULAR, AFTER_MARKET = "2", "1", "3"
MAX_DRIFT_CENTS = 400

# Record of the market: text, key, price as the wire has it, size.
UsRecord = tuple[str, int, str, int]


def market_type(ny_hhmmss: str) -> str:
    """Return the venue's code of the session (field MTYP) at a time of New York."""
    hour = int(ny_hhmmss[:2]) + int(ny_hhmmss[2:4]) / 60
    if hour < FIRST_HOUR:
        return PRE_MARKET
    return REGULAR if hour < LAST_HOUR else AFTER_MARKET


class UsInstrument:
    """One symbol's day. `trade()` and `book()` each advance it by one record."""

    def __init__(self, tr_key: str, *, seed: int | str) -> None:
        draw = random.Random(f"{seed}:{tr_key}")  # noqa: S311 - a market, not a secret
        self.tr_key = tr_key  # as asked for, e.g. DNASAAPL
        self.symbol = tr_key[4:]
        self.previous_close = draw.randint(2_000, 60_000)  # cents
        self.cum_volume = self.trade_count = self.book_count = 0
        self._draw = draw
        self._cum_cents = 0
        self._last_size = 0
        self._step = 1
        self._is_small = False
        self._is_rolling = False
        self._second = ""  # of the newest trade
        self._bid = self.previous_close + draw.randint(-100, 100)
        self._open = self._high = self._low = self._bid

    def start_at(self, cum_volume: int, book_number: int) -> None:
        """Begin with so much volume behind it."""
        self.cum_volume, self._cum_cents = cum_volume, cum_volume * self.previous_close
        self.book_count = book_number

    def prepare_corrections(self) -> None:
        """Trade in sizes between which corrections leave room."""
        self._step = CORRECTION_STRIDE

    def correct(self) -> None:
        """Take back the last trade; the next trade is a small one."""
        taken = self._last_size + CORRECTION_STRIDE - 1
        self.cum_volume -= taken
        self._cum_cents = max(0, self._cum_cents - taken * self._bid)
        self._is_small = True

    def settle(self) -> None:
        """Go on with ordinary sizes."""
        self._is_small = False

    def roll(self) -> None:
        """Begin a new session with the next second."""
        self._is_rolling = True

    def _begin_session(self) -> None:
        self._is_rolling = False
        self.cum_volume = self._cum_cents = 0
        self._open = self._high = self._low = self._bid

    def trade(self, now: ExchangeTime) -> UsRecord:
        """Trade once: the next HDFSCNT0 record (26 fields)."""
        if self._is_rolling and now.hhmmss != self._second:
            self._begin_session()
        self._second = now.hhmmss
        bits = self._draw.getrandbits(24)
        bid = self._move(bits & 7)
        price = bid + (bits >> 3 & 1)
        size = self._step if self._is_small else (1 + (bits >> 4 & 255) % 199) * self._step
        self._last_size = size
        self.cum_volume = volume = self.cum_volume + size
        self._cum_cents += size * price
        self.trade_count += 1
        self._high, self._low = max(self._high, price), min(self._low, price)
        change = price - self.previous_close
        sign = "3" if not change else "2" if change > 0 else "5"
        rate = 100 * change / self.previous_close
        bought = volume // 2
        last = _dollars(price)
        text = (
            f"{self.tr_key}^{self.symbol}^4^{now.ny_yyyymmdd}^{now.ny_yyyymmdd}^{now.ny_hhmmss}^{now.yyyymmdd}"
            f"^{now.hhmmss}^{_dollars(self._open)}^{_dollars(self._high)}^{_dollars(self._low)}^{last}^{sign}"
            f"^{_dollars(change)}^{rate:+.2f}^{_dollars(bid)}^{_dollars(bid + 1)}^{1 + (bits >> 12 & 511)}"
            f"^{1 + (bits >> 14 & 511)}^{size}^{volume}^{self._cum_cents // 100}^{volume - bought}^{bought}"
            f"^100.00^{market_type(now.ny_hhmmss)}"
        )
        return text, volume, last, size

    def book(self, now: ExchangeTime) -> UsRecord:
        """Change the order book once: the next HDFSASP0 record (71 fields, 10 levels)."""
        bits = self._draw.getrandbits(40)
        bid = self._move(bits & 7)
        ask = bid + 1
        self.book_count = number = self.book_count + 1
        ask_sizes = [1 + (bits >> shift & 1023) for shift in range(3, 3 + LEVELS - 1)]
        bid_sizes = [1 + (bits >> shift & 1023) for shift in range(20, 20 + LEVELS)]
        ask_sizes.append(number)
        levels = "^".join(
            f"{_dollars(bid - level)}^{_dollars(ask + level)}^{bid_sizes[level]}^{ask_sizes[level]}^0^0"
            for level in range(LEVELS)
        )
        text = (
            f"{self.tr_key}^{self.symbol}^4^{now.ny_yyyymmdd}^{now.ny_hhmmss}^{now.yyyymmdd}^{now.hhmmss}"
            f"^{sum(bid_sizes)}^{sum(ask_sizes)}^0^0^{levels}"
        )
        return text, number, _dollars(ask), ask_sizes[0]

    def _move(self, three_bits: int) -> int:
        step = (-1, 1, 0, 0, 0, 0, 0, 0)[three_bits]
        if abs(self._bid + step - self.previous_close) > MAX_DRIFT_CENTS:
            step = -step
        self._bid += step
        return self._bid


def _dollars(cents: int) -> str:
    """Return *cents* with the four decimals of the wire."""
    sign, cents = ("-", -cents) if cents < 0 else ("", cents)
    return f"{sign}{cents // 100}.{cents % 100:02d}00"
