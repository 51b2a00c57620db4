"""Upbit: its streams, and sessions that speak its dialect.

There is no login and no confirmation: a request states everything that is wanted and replaces the one before.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import msgspec
from picows import WSCloseCode

from daemon.simulator.session import Session
from daemon.simulator.streams import Fate, Record, Registration, Stream, Subject
from daemon.simulator.upbit_market import (
    MAX_UNITS,
    UNITS,
    UpbitBook,
    UpbitInstrument,
    book_text,
    ticker_text,
    trade_text,
)
from daemon.simulator.venue import Venue, World

FORMATS = ("DEFAULT", "SIMPLE", "JSON_LIST", "SIMPLE_LIST")
TYPES = ("trade", "orderbook", "ticker")
ORIGIN_INTERVAL_S = 10.0  # between two connections that say where they come from
SNAPSHOT, REALTIME = "SNAPSHOT", "REALTIME"
_TRADE = '{"type":"trade","code":"KRW-ZZZ","timestamp":1795138215123,"trade_timestamp":1795138215098,"trade_price":1.0'
_REST = ',"trade_volume":0.00372,"ask_bid":"BID","sequential_id":17951382150980000,"stream_type":"REALTIME"}'
GARBAGE: Final[tuple[tuple[str, str], ...]] = (
    ("truncated", _TRADE[:90]),
    ("no_price", (_TRADE + _REST).replace('"trade_price":1.0,', "")),
    ("bad_price", (_TRADE + _REST).replace(":1.0", ':"abc"')),
    ("unknown_type", (_TRADE + _REST).replace('"trade"', '"trader"', 1)),
    ("invalid_utf8", (_TRADE + _REST).replace("KRW-ZZZ", "\xff\xfe")),
)


class UpbitSpeech:
    """The streams of Upbit: a type and a code each."""

    name = "upbit"

    def __init__(self, world: World) -> None:
        self._world = world
        self._instruments: dict[str, UpbitInstrument] = {}

    def make_stream(self, channel: str, key: str) -> Stream:
        """Return the stream of a type (`channel`) of one pair."""
        if key not in self._instruments:
            seed = self._world.options.seed
            self._instruments[key] = UpbitInstrument(key, seed=seed, wall_ns=self._world.exchange_ns)
        pair = self._instruments[key]
        produce = {"trade": pair.trade, "orderbook": pair.book, "ticker": pair.ticker}[channel]
        kind = "quote" if channel == "ticker" else channel
        stream = Stream(self.name, (channel, key), Subject("crypto", "", key, kind), produce, pair)
        stream.keeps_last = True  # a snapshot is the last trade once more
        return stream

    def may_share_frame(self, first: Stream, other: Stream) -> bool:
        """A message has one record."""
        return False

    def garbage(self) -> tuple[tuple[str, str], ...]:
        """Return the malformed messages."""
        return GARBAGE


class ConnectLimit:
    """How many connections a second are taken. Pure; 0: any number."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._taken: deque[float] = deque()
        self._origin_at = float("-inf")

    def take(self, now_s: float, *, has_origin: bool = False) -> bool:
        """Return whether a connection at *now_s* is taken."""
        if not self._per_s:
            return True
        if has_origin:
            if now_s - self._origin_at < ORIGIN_INTERVAL_S:
                return False
            self._origin_at = now_s
        while self._taken and now_s - self._taken[0] >= 1.0:
            self._taken.popleft()
        if len(self._taken) >= self._per_s:
            return False
        self._taken.append(now_s)
        return True


class RequestLimit:
    """How many requests a connection may make. Pure; 0: any number."""

    def __init__(self, per_s: int, per_min: int) -> None:
        self._limits = ((1.0, per_s), (60.0, per_min))
        self._taken: deque[float] = deque()

    def take(self, now_s: float) -> bool:
        """Return whether a request at *now_s* is within the limits."""
        while self._taken and now_s - self._taken[0] >= self._limits[1][0]:
            self._taken.popleft()
        for span_s, count in self._limits:
            if count and sum(now_s - taken < span_s for taken in self._taken) >= count:
                return False
        self._taken.append(now_s)
        return True


class How(NamedTuple):
    """How one registration wants its messages."""

    is_simple: bool
    is_list: bool
    units: int
    level: float


class Wanted(NamedTuple):
    """One stream of a request."""

    place: tuple[str, str]
    how: How
    snapshot: bool
    realtime: bool


class WrongRequest(ValueError):
    """A request that Upbit answers with an error; the first argument is its name."""


def parse_request(message: bytes) -> list[Wanted]:
    """Return everything that a request asks for. Raises WrongRequest with the name of the error and a text."""
    try:
        tree: Any = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise WrongRequest("WRONG_FORMAT", "not JSON") from None
    if not isinstance(tree, list) or not all(isinstance(member, dict) for member in tree):
        raise WrongRequest("WRONG_FORMAT", "not a list of objects")
    if not any(isinstance(member.get("ticket"), str) and member["ticket"] for member in tree):
        raise WrongRequest("NO_TICKET", "ticket missing")
    formats = [member["format"] for member in tree if "format" in member]
    if any(name not in FORMATS for name in formats):
        raise WrongRequest("WRONG_FORMAT", f"format {formats}")
    name = formats[-1] if formats else FORMATS[0]
    members = [member for member in tree if "ticket" not in member and "format" not in member]
    if not members or not all("type" in member for member in members):
        raise WrongRequest("NO_TYPE", "type missing")
    return [wanted for member in members for wanted in _of_member(member, "SIMPLE" in name, name.endswith("_LIST"))]


def _of_member(member: Mapping[str, Any], is_simple: bool, is_list: bool) -> list[Wanted]:
    if member["type"] not in TYPES:
        raise WrongRequest("INVALID_PARAM", f"type {member['type']}")
    codes = member.get("codes")
    if not isinstance(codes, list) or not codes:
        raise WrongRequest("NO_CODES", "codes missing")
    only_snapshot = member.get("is_only_snapshot", False) is True or member.get("isOnlySnapshot", False) is True
    only_realtime = member.get("is_only_realtime", False) is True or member.get("isOnlyRealtime", False) is True
    found = []
    for text in codes:
        code, _, units = str(text).partition(".")
        if code != code.upper() or "-" not in code:
            raise WrongRequest("INVALID_PARAM", f"code {text}")
        depth = int(units) if units.isdigit() and int(units) in UNITS else MAX_UNITS
        how = How(is_simple, is_list, depth, member.get("level", 0))
        found.append(Wanted((member["type"], code), how, not only_realtime, not only_snapshot))
    return found


class UpbitSession(Session):
    """One session of Upbit."""

    is_binary: ClassVar[bool] = True

    def __init__(self, venue: Venue) -> None:
        super().__init__(venue)
        options = venue.options
        self._limit = RequestLimit(options.requests_per_s, options.requests_per_min)

    def on_open(self) -> None:
        """Start to wait for any sign of life."""
        self.on_traffic()

    def on_traffic(self) -> None:
        """Wait anew."""
        if self.venue.options.idle_timeout_s:
            self.start_timer("idle", self.venue.options.idle_timeout_s, self._on_idle)

    def _on_idle(self) -> None:
        self.venue.counts["idle_closes"] += 1
        self.close()

    def answer(self, message: bytes) -> None:
        """Answer a request or a sign of life."""
        if message == b"PING":
            self.venue.counts["pingpong_echoed"] += 1
            self.send('{"status":"UP"}')
            return
        if not self._limit.take(self.venue.world.elapsed_s()):
            self._refuse("TOO_MANY_REQUESTS", "request limit exceeded")
            self.close(WSCloseCode.POLICY_VIOLATION)
            return
        try:
            wanted = parse_request(message)
            self._check(wanted)
        except WrongRequest as exc:
            self._refuse(*exc.args)
            return
        plan = self.plan
        if any(code in plan.no_ack and plan.no_ack[code].take() for code in sorted({w.place[1] for w in wanted})):
            self._note(wanted, "ignored")
            return
        self._note(wanted, "")
        self._apply(wanted)

    def _check(self, wanted: Sequence[Wanted]) -> None:
        for (_, code), *_ in wanted:
            error = self.plan.errors.get(code)
            if error is not None and error[1].take():
                raise WrongRequest(error[0], "as a fault demands")
        if len({w.place for w in wanted}) > self.max_registrations:
            raise WrongRequest("INVALID_PARAM", "too many codes")

    def _apply(self, wanted: Sequence[Wanted]) -> None:
        """Replace what is registered by what is wanted, then send the snapshots."""
        kept = {w.place for w in wanted if w.realtime}
        for place in set(self.registrations) - kept:
            self.remove(*place)
        for want in wanted:
            if want.realtime:
                if want.place in self.registrations:
                    self.registrations[want.place].how = want.how
                else:
                    self.add(*want.place, want.how)
            if want.snapshot and not self.venue.world.is_waiting:
                self._send_snapshot(want)
        self.flush()

    def _send_snapshot(self, want: Wanted) -> None:
        stream = self.venue.stream(*want.place)
        registration = Registration(self, stream, want.how)
        if not self.hears(registration):
            return
        if stream.is_trade and stream.recent:  # the trade that everybody knows already
            record = stream.recent[-1]
            self.venue.counts["snapshot_duplicates"] += 1
        else:
            record = stream.produce(self.venue.world.exchange_time())
            stream.recent.append(record)
            self.note_record(stream.line(self.number, record, Fate.SENT))
        self.put_frame(_text(registration, record, SNAPSHOT))

    def _refuse(self, name: str, text: str) -> None:
        self.venue.replies[name] += 1
        self._note((), name)
        self.send(msgspec.json.encode({"error": {"name": name, "message": text}}).decode("latin-1"))

    def _note(self, wanted: Sequence[Wanted], error: str) -> None:
        self.venue.note("subscribe", self.number, places=[list(w.place) for w in wanted], error=error)

    def put(self, streams: Sequence[Stream], records: Sequence[Record]) -> list[Fate] | None:
        """Queue one message for each record."""
        found = [super(UpbitSession, self).put([s], [r]) for s, r in zip(streams, records, strict=True)]
        return [fates[0] if fates else Fate.SENT for fates in found]

    def compose(self, parts: Sequence[tuple[Registration, Record]]) -> str:
        """Return the message of one record; only a fault makes two of one stream travel at once, as a list."""
        texts = [_text(registration, record, REALTIME) for registration, record in parts]
        if self.plan.new_fields:
            new = "".join(f'"new_{number}":"x",' for number in range(self.plan.new_fields))
            texts = [text.replace("{", "{" + new, 1) for text in texts]
        if len(texts) == 1:
            return texts[0]
        return f"[{','.join(text.strip('[]') for text in texts)}]"

    def spoil(self, message: str, shape: str) -> str | None:
        """Return the message with bytes that are not UTF-8 in a text nobody needs; it has no count."""
        return None if shape == "wrong_count" else message.replace("REALTIME", "REAL\xff\xfe", 1)


def _text(registration: Registration, record: Record, stream_type: str) -> str:
    how, what = registration.how, record[0]
    if isinstance(what, UpbitBook):
        text = book_text(what, how.units, simple=how.is_simple, stream_type=stream_type, level=how.level)
    else:
        write = trade_text if registration.stream.is_trade else ticker_text
        text = write(what, simple=how.is_simple, stream_type=stream_type)
    return f"[{text}]" if how.is_list else text
