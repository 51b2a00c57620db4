"""KIS: its streams, and sessions that speak its dialect.

A session holds an app key from its first accepted request until it closes.
"""

import asyncio
from collections.abc import Sequence

from picows import WSCloseCode

from daemon.simulator import dialect
from daemon.simulator.dialect import Code, Refusal, Request
from daemon.simulator.faults import GARBAGE
from daemon.simulator.kis_trs import (
    TIMED_KINDS,
    TRS,
    US_KEY_PREFIX,
    encrypt,
    other_exchange_book,
    timed_producer,
)
from daemon.simulator.market import ExchangeTime, Instrument, Market
from daemon.simulator.session import Session
from daemon.simulator.streams import Fate, Producer, Record, Registration, Stream, Subject
from daemon.simulator.us_market import UsInstrument
from daemon.simulator.venue import Venue, World

_UTF8_FIELD = 44  # of H0STCNT0: normally empty
WIDE_FIELD = "^new"  # what a field that no layout knows yet holds


class KisSpeech:
    """The streams of KIS: Korean and US stocks, and what comes by the clock."""

    name = "kis"

    def __init__(self, world: World) -> None:
        seed = world.options.seed
        self._seed = seed
        self._markets = {"": Market(seed), "nxt": Market(f"{seed}:nxt"), "sor": Market(f"{seed}:sor")}
        self._timed = Market(f"{seed}:timed")
        self._us: dict[str, UsInstrument] = {}
        self.venue: Venue | None = None  # set when the venue exists

    def make_stream(self, channel: str, key: str) -> Stream:
        """Return the stream of a TR and its key."""
        tr = TRS[channel]
        if tr.kind in TIMED_KINDS:
            produce = timed_producer(tr.kind, key, self._timed.instrument(f"{channel}:{key}"))
            return Stream(self.name, (channel, key), Subject(tr.market, tr.exchange, key, tr.kind), produce)
        if tr.market == "us":
            us = self._us_instrument(key)
            exchange = "day" if key.startswith("R") else ""
            subject = Subject(tr.market, exchange, key[US_KEY_PREFIX:], tr.kind)
            return Stream(self.name, (channel, key), subject, us.trade if tr.kind == "trade" else us.book, us)
        kr = self._kr_instrument(tr.exchange, key)
        produce = kr.trade
        if tr.kind == "orderbook":
            produce = other_exchange_book(kr, tr.exchange) if tr.exchange else kr.book
        return Stream(self.name, (channel, key), Subject(tr.market, tr.exchange, key, tr.kind), produce, kr)

    def may_share_frame(self, first: Stream, other: Stream) -> bool:
        """One frame has one TR; only trades come several at a time."""
        return first.channel == other.channel and first.is_trade

    def garbage(self) -> tuple[tuple[str, str], ...]:
        """Return the malformed frames."""
        return GARBAGE

    def _kr_instrument(self, exchange: str, symbol: str) -> Instrument:
        market = self._markets[exchange]
        is_new = symbol not in market.instruments
        instrument = market.instrument(symbol)
        if is_new and self.venue is not None and (keys := self.venue.first_keys(exchange)) != (0, 0):
            instrument.start_at(*keys)
        return instrument

    def _us_instrument(self, key: str) -> UsInstrument:
        if key not in self._us:
            self._us[key] = UsInstrument(key, seed=self._seed)
            if self.venue is not None:
                self._us[key].start_at(*self.venue.first_keys("day" if key.startswith("R") else ""))
        return self._us[key]


class KisSession(Session):
    """One session of KIS."""

    def __init__(self, venue: Venue) -> None:
        super().__init__(venue)
        self._iv = f"{venue.draw.getrandbits(64):016x}"
        self._key = f"{venue.draw.getrandbits(128):032x}"
        self._pinged_at: float | None = None  # when the oldest unanswered heartbeat left

    def on_open(self) -> None:
        """Start the heartbeat."""
        self.start_timer("pingpong", self.venue.options.pingpong_interval_s, self._ping)

    def add(self, channel: str, key: str, how: object = None) -> Registration:
        """Register, with the head of the stream's frames."""
        return super().add(channel, key, dialect.data_frame(channel, [""]) if how is None else how)

    def put_one(self, registration: Registration, now: ExchangeTime) -> None:
        """Do what the general one does, in a third of the time: nearly every record of a full load comes this way."""
        stream = registration.stream
        text, key, price, size = stream.produce(now)
        stream.sent += 1
        self.put_frame(registration.how + text)
        self._journal_lines.append(f"{registration.journal_head}{key},{price},{size},\0{stream.sent_tail}")

    def compose(self, parts: Sequence[tuple[Registration, Record]]) -> str:
        """Return the frame of these records, which are of one TR."""
        stream = parts[0][0].stream
        if stream.subject.kind == "notice":
            return dialect.encrypted_frame(stream.channel, encrypt(parts[0][1][0], self._key, self._iv))
        texts = [record[0] for _, record in parts]
        if self.plan.new_fields:
            texts = [text + WIDE_FIELD * self.plan.new_fields for text in texts]
        return dialect.data_frame(stream.channel, texts)

    def spoil(self, message: str, shape: str) -> str | None:
        """Return the frame with a count that is one too high, or with bytes that are not UTF-8."""
        flag, tr_id, count, payload = message.split("|", 3)
        if shape == "wrong_count":
            return f"{flag}|{tr_id}|{int(count) + 1:03d}|{payload}"
        if tr_id != dialect.TRADE_TR:
            return None
        fields = payload.split("^")
        fields[_UTF8_FIELD] = "\xff\xfe"
        return f"{flag}|{tr_id}|{count}|{'^'.join(fields)}"

    # Heartbeat

    def _ping(self) -> None:
        venue, now = self.venue, asyncio.get_running_loop().time()
        timeout_s = venue.options.pingpong_timeout_s
        if timeout_s and self._pinged_at is not None and now - self._pinged_at > timeout_s:
            venue.counts["pingpong_timeouts"] += 1
            self.cut()
            return
        if not self.is_muted:
            time = venue.world.exchange_time()
            self.send(dialect.pingpong(time.yyyymmdd + time.hhmmss))
            venue.counts["pingpong_sent"] += 1
            if self._pinged_at is None:
                self._pinged_at = now
        self.start_timer("pingpong", venue.options.pingpong_interval_s, self._ping)

    def _on_echo(self) -> None:
        venue = self.venue
        venue.counts["pingpong_echoed"] += 1
        if self._pinged_at is not None:
            delay_ms = (asyncio.get_running_loop().time() - self._pinged_at) * 1000
            venue.heartbeat_echo_max_ms = max(venue.heartbeat_echo_max_ms, delay_ms)
            self._pinged_at = None

    # Requests

    def answer(self, message: bytes) -> None:
        """Answer a request, or take note of an echo."""
        if dialect.is_pingpong(message):
            self._on_echo()
            return
        request = dialect.parse_request(message)
        if isinstance(request, Refusal):
            self._reply(request.code, request.tr_id, request.tr_key)
            if not message:
                self.close(WSCloseCode.POLICY_VIOLATION)  # the venue hangs up on an empty text
            return
        app_key = self.venue.approvals.app_key_of(request.approval_key)
        if app_key is not None:
            self.become(app_key)
        plan, key = self.plan, fault_symbol(request.tr_id, request.tr_key)
        if request.subscribe and key in plan.no_ack and plan.no_ack[key].take():
            self._note_request(request, "ignored")
            return
        code, detail = self._decide(request, app_key)
        self._note_request(request, code)
        if request.subscribe and key in plan.lost_ack and plan.lost_ack[key].take():
            return
        if plan.ack_wrong_tr and code == Code.SUBSCRIBED:
            self._send_stray_successes(request)
        no_tr = code in (Code.APP_KEY_IN_USE, Code.INVALID_TR_ID)
        self._reply(code, *(() if no_tr else (request.tr_id, request.tr_key)), detail=detail, delay_s=plan.late_ack_s)

    def _decide(self, request: Request, app_key: str | None) -> tuple[str, str]:
        """Apply *request*; return the code of the reply and its detail."""
        venue = self.venue
        if app_key is None:
            return Code.INVALID_APPROVAL, request.approval_key or "NOT FOUND"
        if not venue.approvals.claim(app_key, self.number):
            return Code.APP_KEY_IN_USE, ""
        if not request.subscribe:
            is_gone = self.remove(request.tr_id, request.tr_key)
            return (Code.UNSUBSCRIBED if is_gone else Code.NOT_SUBSCRIBED), ""
        return self._register(request.tr_id, request.tr_key), ""

    def _register(self, tr_id: str, tr_key: str) -> str:
        error = self.plan.errors.get(fault_symbol(tr_id, tr_key))
        if error is not None and error[1].take():
            return error[0]
        if (tr_id, tr_key) in self.registrations:
            return Code.ALREADY_SUBSCRIBED
        if len(self.registrations) >= self.max_registrations:
            return Code.MAX_SUBSCRIBE_OVER
        self.add(tr_id, tr_key)
        return Code.SUBSCRIBED

    def _reply(self, code: str, *tr: str, detail: str = "", delay_s: float = 0.0) -> None:
        self.venue.replies[str(code)] += 1
        self.send_later(delay_s, dialect.reply(code, *tr, detail=detail, iv=self._iv, key=self._key))

    def _send_stray_successes(self, request: Request) -> None:
        """Send UNSUBSCRIBE SUCCESS for what is not registered yet: the requested TR, and its sister if that is free."""
        for tr_id in filter(None, (request.tr_id, dialect.SISTERS.get(request.tr_id))):
            if tr_id == request.tr_id or (tr_id, request.tr_key) not in self.registrations:
                self.send(dialect.reply(Code.UNSUBSCRIBED, tr_id, request.tr_key, iv=self._iv, key=self._key))

    def _note_request(self, request: Request, code: str) -> None:
        event = "subscribe" if request.subscribe else "unsubscribe"
        self.venue.note(event, self.number, tr_id=request.tr_id, tr_key=request.tr_key, msg_cd=str(code))


def fault_symbol(tr_id: str, tr_key: str) -> str:
    """Return the symbol by which a fault names what is asked for: AAPL for DNASAAPL."""
    return tr_key[US_KEY_PREFIX:] if TRS[tr_id].market == "us" and TRS[tr_id].kind != "notice" else tr_key


def first_trade(venue: Venue, symbol: str) -> tuple[str, str]:
    """Return the frame of a new trade of a Korean *symbol*, and its line of the journal."""
    stream: Stream = venue.stream(dialect.TRADE_TR, symbol)
    produce: Producer = stream.produce
    record = produce(venue.world.exchange_time())
    return dialect.data_frame(dialect.TRADE_TR, [record[0]]), stream.line(0, record, Fate.SENT)
