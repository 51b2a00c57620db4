"""`sise decode`: recorded frames in, what the daemon would have stored out, as JSON lines.

The frames go through the very parser and ring that the worker uses, so that what is shown is what would be stored, only
that a trade which is repeated is shown as often as it comes. Control frames, which never reach the ring, are
decoded by the venue's own file.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from daemon.errors import BadFrame, ConfigError
from daemon.ingest.venues import EXCHANGE_NAMES, MARKET_NAMES, VENUE_CLASSES, VENUE_NAMES, venue_named
from daemon.ingest.venues.venue import Heartbeat
from native_pipeline.records import BAD_CONTROL, QUARANTINE_REASONS, flag_names, read_records
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter

if TYPE_CHECKING:
    from daemon.ingest.venues.venue import Venue

Decoded = dict[str, Any]  # Any: one JSON object, whose values differ by kind
# (type of the event, the venue's own text of it) -> what that text says, by name
Describe = Callable[[str, bytes], dict[str, str]]

# A quarantine record may fill an eighth of a ring and holds up to 1 MiB: no frame is shown truncated that a bigger ring
# would keep whole.
RING_BYTES = 16 << 20
MAX_RECORDS = 10_000

KOREA = datetime.timezone(datetime.timedelta(hours=9))
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

_KEYS = {
    "trade": ("price", "volume", "cum_volume", "ask", "bid", "change_rate", "side"),
    "orderbook": ("asks", "bids"),
    "event": ("price", "volume", "cum_volume", "change_rate"),
}

_json = msgspec.json.Encoder(decimal_format="number")


def decode_frames(venue: str, date: datetime.date, lines: Iterable[bytes]) -> Iterator[Decoded]:
    """Yield one JSON object per record of *lines*, one frame a line; the shapes are in the README.

    date: the day of receipt, in Korea; frames that carry no date are taken to be received at its noon. One line break
    at the end of a line is not part of the frame. No line at all is one empty frame, like an empty line.
    Raises ConfigError if there is no such *venue*.
    """
    if venue not in VENUE_CLASSES:
        raise ConfigError(f"--venue: {venue!r} cannot be decoded; supported: {', '.join(VENUE_CLASSES)}")
    return _decode(venue_named(venue), _noon_ns(date), lines)


def write_json_lines(records: Iterable[Decoded], out: IO[bytes]) -> None:
    """Write *records* to *out*, one JSON object a line, decimals digit by digit as the venue sent them."""
    for record in records:
        out.write(_json.encode(record) + b"\n")


def today_in_korea(now: datetime.datetime | None = None) -> datetime.date:
    """Return the date in Korea at *now* (default: the clock's), which `--date` defaults to."""
    return (now or datetime.datetime.now(tz=KOREA)).astimezone(KOREA).date()


def _decode(venue: Venue, recv_ns: int, lines: Iterable[bytes]) -> Iterator[Decoded]:
    parser = venue.make_parser(venue.decode_market, connection=0)
    parser.keeps_all = True
    describe: Describe | None = getattr(venue, "describe_event", None)
    with tempfile.TemporaryDirectory(prefix="sise-decode-") as directory:
        path = Path(directory) / "decode.ring"
        create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=(("decode", GATING),))
        ring = RingWriter(path)
        reader = GatingReader(path, "decode")
        try:
            for frame in _frames(lines):
                if parser.parse(ring, frame, recv_ns) < 0:  # the ring is empty, so it is not full: a control frame
                    yield _control(venue, frame)
                    continue
                while records := read_records(reader, MAX_RECORDS):
                    for record in records:
                        if (shaped := _shape(record, describe)) is not None:
                            yield shaped
                reader.commit()
        finally:
            reader.close()
            ring.close()


def _frames(lines: Iterable[bytes]) -> Iterator[bytes]:
    empty = True
    for line in lines:
        empty = False
        yield line[:-2] if line.endswith(b"\r\n") else line[:-1] if line.endswith(b"\n") else line
    if empty:
        yield b""


def _control(venue: Venue, frame: bytes) -> Decoded:
    try:
        said = venue.decode_control(frame)
    except BadFrame:
        return _quarantine(BAD_CONTROL, frame)
    return {"kind": "control", "code": said.code, "message": "" if isinstance(said, Heartbeat) else said.text}


def _quarantine(reason: int, frame: bytes) -> Decoded:
    return {"kind": "quarantine", "reason": QUARANTINE_REASONS[reason], "frame": _text(frame)}


def _shape(record: Decoded, describe: Describe | None) -> Decoded | None:
    """Return what is shown of *record*; None for the ring's own book-keeping."""
    if record["kind"] == "quarantine":
        shaped = _quarantine(record["reason"], record["frame"])
    elif record["kind"] in _KEYS:
        shaped = {
            "kind": record["type"] if record["kind"] == "event" else record["kind"],
            "venue": VENUE_NAMES[record["venue"]],
            "market": MARKET_NAMES[record["market"]],
            "symbol": record["symbol"],
            "time": _iso_time(record["exchange_ns"], record["utc_offset_min"]),
        }
        shaped |= {key: record[key] for key in _KEYS[record["kind"]]}
        if record["kind"] == "event":
            if describe is not None:
                shaped["fields"] = describe(record["type"], record["text"])
            shaped["text"] = _text(record["text"])
    else:
        return None
    for flag in flag_names(record["flags"]):
        if flag in EXCHANGE_NAMES:
            shaped["exchange"] = flag
        else:
            shaped.setdefault("flags", []).append(flag)
    return shaped


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _iso_time(exchange_ns: int, utc_offset_min: int) -> str:
    zone = datetime.timezone(datetime.timedelta(minutes=utc_offset_min))
    return (EPOCH + datetime.timedelta(microseconds=exchange_ns // 1000)).astimezone(zone).isoformat()


def _noon_ns(date: datetime.date) -> int:
    noon = datetime.datetime.combine(date, datetime.time(12), tzinfo=KOREA)
    return (noon - EPOCH) // datetime.timedelta(microseconds=1) * 1000
