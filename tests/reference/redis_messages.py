"""The slow, obvious twin of `native_pipeline.redis_encoder`: one record to its channel and JSON message."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from tests.reference import copy_rows
from tests.reference.packed_records import ABSENT, Book, Decimal64, Event, Level, Trade

LATE = 8  # flag


def number(value: Decimal64) -> str:
    """The decimal as the venue wrote it; null if it did not."""
    mantissa, scale = value
    return "null" if mantissa == ABSENT else format(Decimal(mantissa).scaleb(-scale), "f")


def string(text: bytes) -> str:
    """A JSON string; whatever is not printable ASCII is escaped byte by byte."""

    def escaped(byte: int) -> str:
        if byte < 0x20 or byte > 0x7E:
            return f"\\u{byte:04x}"
        return "\\" + chr(byte) if chr(byte) in '"\\' else chr(byte)

    return '"' + "".join(map(escaped, text)) + '"'


def venue_string(text: bytes) -> str:
    """A JSON string in UTF-8, with the same characters as in the database; controls are escaped."""

    def escaped(character: str) -> str:
        if character < " ":
            return f"\\u{ord(character):04x}"
        return "\\" + character if character in '"\\' else character

    return '"' + "".join(map(escaped, copy_rows.venue_text(text))) + '"'


def marks(flags: int) -> dict[str, str]:
    """The keys that are only there if the flags of the record say so."""
    exchange = copy_rows.exchange_of(flags)
    found = {} if exchange is None else {"exchange": f'"{exchange.decode()}"'}
    return found | {"late": "true"} if flags & LATE else found


def timestamp(unix_ns: int, offset_min: int) -> str:
    """Local time of the exchange, ISO 8601; datetime knows the calendar, microseconds are rounded down."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=unix_ns // 1000)
    return moment.astimezone(timezone(timedelta(minutes=offset_min))).isoformat()


def levels(side: Sequence[Level]) -> str:
    """The levels that exist."""
    return "[" + ",".join(f'{{"price":{number(p)},"vol":{number(s)}}}' for p, s in side if p[0] != 0) + "]"


def message(
    record: Trade | Book | Event,
    *,
    source: int,
    seq: int,
    venues: Sequence[str],
    markets: Sequence[str],
    prev_seq: int = 0,
) -> tuple[str, str]:
    """Return the channel of *record* and its message."""
    market = markets[record.market] if record.market < len(markets) else "unknown"
    venue = venues[record.venue] if record.venue < len(venues) else "unknown"
    common = {
        "timestamp": f'"{timestamp(record.exchange_ns, record.utc_offset_min)}"',
        "symbol": string(record.symbol),
    }
    origin = marks(record.flags) | {
        "market": f'"{market}"',
        "venue": f'"{venue}"',
        "recv_ns": str(record.recv_ns),
        "source": str(source),
        "seq": str(seq),
        "prev_seq": str(prev_seq),
    }
    match record:
        case Trade():
            change = number(record.change_rate)
            fields = {
                "type": '"ticker"',
                **common,
                "price": number(record.price),
                "change": "0" if change == "null" else change,
                "volume": number(record.volume),
                "side": {1: '"buy"', 2: '"sell"'}.get(record.side, "null"),
                "cum_volume": number(record.cum_volume),
                "ask": number(record.ask),
                "bid": number(record.bid),
                **origin,
            }
            channel = f"ticker.{market}"
        case Book():
            sides = {"asks": levels(record.asks), "bids": levels(record.bids)}
            fields = {"type": '"orderbook"', **common, **sides, **origin}
            channel = f"orderbook.{market}"
        case Event():
            fields = {
                "type": f'"{copy_rows.type_of(record.type).decode()}"',
                **common,
                "price": number(record.price),
                "change": number(record.change_rate),
                "volume": number(record.volume),
                "cum_volume": number(record.cum_volume),
                "detail": venue_string(record.text),
                **({"detail_is_cut": "true"} if record.text_is_cut else {}),
                **origin,
            }
            channel = f"event.{market}"
    return channel, "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"


def command(*words: bytes | str | int) -> bytes:
    """One command as RESP."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


def commands(payload: bytes) -> list[list[bytes]]:
    """Read *payload* back as a list of commands; it must end where a command ends."""
    found: list[list[bytes]] = []
    at = 0

    def line() -> bytes:
        nonlocal at
        end = payload.index(b"\r\n", at)
        start, at = at, end + 2
        return payload[start:end]

    while at < len(payload):
        words = []
        header = line()
        assert header[:1] == b"*", header
        for _ in range(int(header[1:])):
            size = line()
            assert size[:1] == b"$", size
            words.append(payload[at : at + int(size[1:])])
            at += int(size[1:])
            assert line() == b""
        found.append(words)
    return found


def joined(parts: Iterable[Sequence[bytes | str | int]]) -> bytes:
    """The commands one after the other."""
    return b"".join(command(*words) for words in parts)
