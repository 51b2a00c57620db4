"""Kiwoom: its streams, and sessions that speak its dialect.

A session logs in with a token before anything else; a newer login of the same app key ends the older session.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from daemon.simulator.faults import Countdown
from daemon.simulator.kiwoom_records import TYPES, Entries, book_values, latin, trade_values
from daemon.simulator.market import ExchangeTime, Instrument, Market
from daemon.simulator.session import Session
from daemon.simulator.streams import Record, Registration, Stream, Subject
from daemon.simulator.venue import Venue, World

MAX_ITEMS = 100  # issues in one REG
KINDS: Final[Mapping[str, str]] = {
    "0A": "quote", "0B": "trade", "0C": "quote", "0D": "orderbook", "0G": "nav", "0H": "expected", "0J": "index",
    "0s": "status", "0w": "program", "1h": "status",
}  # fmt: skip
EXCHANGES: Final[Mapping[str, str]] = {"": "", "NX": "nxt", "AL": "sor"}
_LOGIN_FAILED = "토큰 인증에 실패했습니다 [CODE=8005, MESSAGE=Token이 유효하지 않습니다]"
_SYSTEM: Final[Mapping[str, str]] = {
    "R10001": "동일한 App key로 접속이 되었습니다. 기존 세션은 종료가 됩니다",
    "R10002": "Heartbeat가 수신되지 않아 접속을 종료합니다",
    "R10004": "로그인 요청이 없어 접속을 종료합니다",
}
_ENTRY = '{"type":"0B","name":"x","item":"ZZZZZZ","values":{"20":"103015","10":"-71200","15":"-37","13":"7064640"}}'
GARBAGE: Final[tuple[tuple[str, str], ...]] = (
    ("truncated", f'{{"trnm":"REAL","data":[{_ENTRY[:70]}'),
    ("no_price", f'{{"trnm":"REAL","data":[{_ENTRY.replace("-71200", "")}]}}'),
    ("bad_price", f'{{"trnm":"REAL","data":[{_ENTRY.replace("-71200", "abc")}]}}'),
    ("no_item", f'{{"trnm":"REAL","data":[{_ENTRY.replace("ZZZZZZ", "")}]}}'),
    ("invalid_utf8", f'{{"trnm":"REAL","data":[{_ENTRY.replace("-71200", chr(0xFF) + chr(0xFE))}]}}'),
)


class KiwoomSpeech:
    """The streams of Kiwoom: an item and a type each."""

    name = "kiwoom"

    def __init__(self, world: World) -> None:
        seed = world.options.seed
        self._markets = {exchange: Market(f"{seed}:kiwoom:{exchange}") for exchange in EXCHANGES.values()}
        self._timed = Market(f"{seed}:kiwoom:timed")
        self.venue: Venue | None = None  # set when the venue exists

    def make_stream(self, channel: str, key: str) -> Stream:
        """Return the stream of a type (`channel`) and an item, whose suffix names the exchange."""
        symbol, _, suffix = key.partition("_")
        exchange, kind = EXCHANGES[suffix], KINDS[channel]
        subject = Subject("kr", exchange, symbol, kind)
        if kind not in ("trade", "orderbook"):
            source = self._timed.instrument(f"{channel}:{key}")
            return Stream(self.name, (channel, key), subject, _numbered(source))
        market = self._markets[exchange]
        is_new = symbol not in market.instruments
        instrument = market.instrument(symbol)
        if is_new and self.venue is not None and (keys := self.venue.first_keys(exchange)) != (0, 0):
            instrument.start_at(*keys)
        produce = instrument.trade if kind == "trade" else instrument.book
        return Stream(self.name, (channel, key), subject, produce, instrument)

    def may_share_frame(self, first: Stream, other: Stream) -> bool:
        """Any entries may travel together."""
        return True

    def garbage(self) -> tuple[tuple[str, str], ...]:
        """Return the malformed messages."""
        return GARBAGE


def _numbered(source: Instrument) -> Any:
    """Return a producer of trades of *source* that are known by their running number."""
    count = 0

    def produce(now: ExchangeTime) -> Record:
        nonlocal count
        count += 1
        text, _, price, size = source.trade(now)
        return text, count, price, size

    return produce


class KiwoomSession(Session):
    """One session of Kiwoom."""

    def __init__(self, venue: Venue) -> None:
        super().__init__(venue)
        self._entries = Entries(random.Random(f"{venue.options.seed}:{self.number}"))  # noqa: S311 - not a secret
        self._ping_text = b""  # what was sent last and must come back unchanged
        self._unanswered_since_s: float | None = None
        self._pings = 0

    def on_open(self) -> None:
        """Expect a login."""
        self.start_timer("login", self.venue.options.login_timeout_s, self._login_missing)

    def _login_missing(self) -> None:
        self.end("R10004")

    def end(self, code: str) -> None:
        """Say why, and close."""
        self.venue.replies[code] += 1
        self._say({"trnm": "SYSTEM", "code": code, "message": _SYSTEM[code]})
        self.close()

    def supersede(self) -> None:
        """End this session as if its app key had logged in elsewhere."""
        self.end("R10001")

    # Heartbeat

    def _ping(self) -> None:
        options, now_s = self.venue.options, self.venue.world.elapsed_s()
        since_s = self._unanswered_since_s
        if options.pingpong_timeout_s and since_s is not None and now_s - since_s > options.pingpong_timeout_s:
            self.venue.counts["pingpong_timeouts"] += 1
            self.end("R10002")
            return
        if not self.is_muted:
            self._pings += 1
            text = '{"trnm":"PING"}' if self._pings % 2 else f'{{"trnm": "PING", "seq":"{self._pings}"}}'
            self._ping_text = text.encode()
            if since_s is None:
                self._unanswered_since_s = now_s
            self.send(text)
            self.venue.counts["pingpong_sent"] += 1
        self.start_timer("ping", options.pingpong_interval_s, self._ping)

    def _on_echo(self) -> None:
        venue = self.venue
        venue.counts["pingpong_echoed"] += 1
        if self._unanswered_since_s is not None:
            delay_ms = (venue.world.elapsed_s() - self._unanswered_since_s) * 1000
            venue.heartbeat_echo_max_ms = max(venue.heartbeat_echo_max_ms, delay_ms)
            self._unanswered_since_s = None

    # Requests

    def answer(self, message: bytes) -> None:
        """Answer a request, or take note of an echo."""
        if message == self._ping_text:
            self._on_echo()
            return
        try:
            fields: Any = msgspec.json.decode(message)
        except msgspec.DecodeError:
            fields = None
        name = fields.get("trnm") if isinstance(fields, dict) else None
        if name in ("PING", "PONG"):
            self.end("R10002")  # an echo that is not one
        elif name == "SYSTEM":
            self.close()
        elif name == "LOGIN":
            self._login(fields)
        elif not self.app_key:
            self.end("R10004")
        elif name in ("REG", "REMOVE"):
            self._change(name, fields)
        else:
            self._reply(str(name), 1, "trnm 값이 올바르지 않습니다")

    def _login(self, fields: Mapping[str, Any]) -> None:
        approvals = self.venue.approvals
        app_key = approvals.app_key_of(str(fields.get("token", "")))
        if app_key is None:
            self._reply("LOGIN", 805004, _LOGIN_FAILED)
            self.close()
            return
        self.stop_timer("login")
        older = self.venue.sessions.get(approvals.holder(app_key) or 0)
        if older is not None and older is not self:
            older.supersede()
            approvals.release(older.number)
        self.become(app_key)
        approvals.claim(app_key, self.number)
        self._reply("LOGIN", 0, "", sor_yn="Y")
        self.start_timer("ping", self.venue.options.pingpong_interval_s, self._ping)

    def _change(self, name: str, fields: Mapping[str, Any]) -> None:
        """Apply REG or REMOVE: the cross product of items and types of each member of `data`, all or nothing."""
        wanted = _places(fields)
        if isinstance(wanted, str):
            self._note(name, fields, 1)
            self._reply(name, 1, wanted)
            return
        plan = self.plan
        symbols = {key.partition("_")[0] for _, key in wanted}
        if name == "REG" and any(_taken(plan.no_ack, symbol) for symbol in sorted(symbols)):
            self._note(name, fields, None)
            return
        code, text = self._apply(name, fields, wanted)
        self._note(name, fields, code)
        if name == "REG" and any(_taken(plan.lost_ack, symbol) for symbol in sorted(symbols)):
            return
        self._reply(name, code, text, delay_s=plan.late_ack_s)

    def _apply(self, name: str, fields: Mapping[str, Any], wanted: list[tuple[str, str]]) -> tuple[int, str]:
        if name == "REMOVE":
            for place in wanted:
                self.remove(*place)
            return 0, ""
        for _, key in wanted:
            error = self.plan.errors.get(key.partition("_")[0])
            if error is not None and error[1].take():
                return int(error[0]), "등록에 실패했습니다"
        kept = set(self.registrations) if str(fields.get("refresh", "1")) == "1" else set()
        if len({key for _, key in wanted}) > MAX_ITEMS or len(kept | set(wanted)) > self.max_registrations:
            return 1, "등록 종목수 초과"
        for place in set(self.registrations) - kept:
            self.remove(*place)
        for place in wanted:
            if place not in self.registrations:
                self.add(*place)
        return 0, ""

    def _reply(self, name: str, code: int, text: str, *, delay_s: float = 0.0, **more: str) -> None:
        self.venue.replies[f"{name} {code}"] += 1
        self._say({"trnm": name, "return_code": code, "return_msg": text, **more}, delay_s)

    def _say(self, fields: dict[str, Any], delay_s: float = 0.0) -> None:
        self.send_later(delay_s, msgspec.json.encode(fields).decode("latin-1"))

    def _note(self, name: str, fields: Mapping[str, Any], code: int | None) -> None:
        event = "subscribe" if name == "REG" else "unsubscribe"
        self.venue.note(event, self.number, data=fields.get("data"), return_code=code)

    # Data

    def compose(self, parts: Sequence[tuple[Registration, Record]]) -> str:
        """Return the REAL message with an entry for each record."""
        entries = []
        for registration, record in parts:
            kind, item = registration.stream.place
            values = _values(kind, record[0])
            if self.plan.new_fields:
                values |= {str(90_000 + number): "new" for number in range(self.plan.new_fields)}
            entries.append(self._entries.entry(kind, item, values))
        return self._entries.message(entries)

    def spoil(self, message: str, shape: str) -> str | None:
        """Return the message with bytes that are not UTF-8 in a name; it has no count that could be wrong."""
        if shape == "wrong_count":
            return None
        name = latin(TYPES["0B"])
        return message.replace(name, "\xff\xfe", 1) if name in message else None


def _values(kind: str, text: str) -> dict[str, str]:
    """Return the FIDs of an entry, from the text of a KIS record of the same synthetic stock."""
    if kind == "0D":
        return book_values(text)
    values = trade_values(text)
    if kind == "0B":
        return values
    wanted = {
        "0A": ("10", "11", "12", "27", "28", "13", "14", "16", "17", "18", "25"),
        "0C": ("27", "28"),
        "0H": ("20", "10", "11", "12", "15", "13", "25"),
        "0s": ("20",),
        "0J": ("20", "10", "11", "12", "15", "13", "14", "16", "17", "18", "25"),
        "0w": ("20", "10", "25", "11", "12", "13"),
        "0G": ("20", "10", "11", "12", "13", "25"),
    }
    if kind == "1h":
        return {
            "9001": text.split("^", 1)[0].partition(":")[2], "302": "TEST", "13": values["13"], "14": values["14"],
            "9068": "1", "9008": "101", "1221": values["10"].lstrip("+-"), "1223": values["20"], "1224": "000000",
            "1225": latin("정적"),
        }  # fmt: skip
    found = {fid: values[fid] for fid in wanted[kind]}
    more = {"0s": {"215": "3", "214": "000000"}, "0G": {"36": "55210.77", "37": "-310.12", "38": "-0.56"}}
    return found | more.get(kind, {})


def _places(fields: Mapping[str, Any]) -> list[tuple[str, str]] | str:
    """Return the (type, item) pairs that a request names, or what is wrong with it."""
    data = fields.get("data")
    if not isinstance(data, list) or not data:
        return "data 값이 없습니다"
    found = []
    for member in data:
        items, types = (member.get("item"), member.get("type")) if isinstance(member, dict) else (None, None)
        if not isinstance(items, list) or not isinstance(types, list):
            return "item 또는 type 값이 올바르지 않습니다"
        for kind in types:
            for item in items:
                symbol, has_suffix, suffix = str(item).partition("_")
                if kind not in KINDS or (has_suffix and suffix not in EXCHANGES):
                    return "type 값이 올바르지 않습니다"
                if kind not in ("0s", "1h", "0J") and not (len(symbol) in (6, 7) and symbol.isalnum()):
                    return "종목코드가 올바르지 않습니다"
                found.append((str(kind), str(item)))
    return found


def _taken(countdowns: Mapping[str, Countdown], symbol: str) -> bool:
    return symbol in countdowns and countdowns[symbol].take()
