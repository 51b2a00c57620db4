"""`sise decode`: recorded frames in, what the daemon would have stored out, as JSON lines.

The frames go through the very parser and ring that the worker uses, so that what is shown is what would be stored; only
control frames, which never reach the ring, are decoded here.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from daemon.errors import BadFrame, ConfigError
from daemon.ingest.venues import MARKET_NAMES, VENUE_NAMES, venue_named
from native_pipeline.records import BAD_CONTROL, QUARANTINE_REASONS, flag_names, read_records
from native_pipeline.ring import GATING, GatingReader, RingWriter, create_ring

if TYPE_CHECKING:
    from native_pipeline.frame_parser import FrameParser

Decoded = dict[str, Any]  # Any: one JSON object, whose values differ by kind

# Venue -> the market its frames belong to.
MARKETS = {"kis": "kr"}

# A quarantine record may fill an eighth of a ring and holds up to 1 MiB: no frame is shown truncated that a bigger ring
# would keep whole.
RING_BYTES = 16 << 20
MAX_RECORDS = 10_000

KOREA = datetime.timezone(datetime.timedelta(hours=9))
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

HEARTBEAT = "PINGPONG"

_json = msgspec.json.Encoder(decimal_format="number")


class _ControlHeader(msgspec.Struct):
    tr_id: str | None = None


class _ControlBody(msgspec.Struct):
    msg_cd: str | None = None
    msg1: str | None = None


class _Control(msgspec.Struct):
    """Only what is shown; header and body may each be absent."""

    header: _ControlHeader | None = None
    body: _ControlBody | None = None


def decode_frames(venue: str, date: datetime.date, lines: Iterable[bytes]) -> Iterator[Decoded]:
    """Yield one JSON object per record of *lines*, one frame a line; the shapes are in the README.

    date: the day of receipt, in Korea; frames that carry no date are taken to be received at its noon. One line break
    at the end of a line is not part of the frame. No line at all is one empty frame, like an empty line.
    Raises ConfigError if *venue* has no parser yet.
    """
    if venue not in MARKETS:
        raise ConfigError(f"--venue: {venue!r} cannot be decoded; supported: {', '.join(MARKETS)}")
    parser = venue_named(venue).make_parser(MARKETS[venue], connection=0)
    return _decode(parser, _noon_ns(date), lines)


def write_json_lines(records: Iterable[Decoded], out: IO[bytes]) -> None:
    """Write *records* to *out*, one JSON object a line, decimals digit by digit as the venue sent them."""
    for record in records:
        out.write(_json.encode(record) + b"\n")


def today_in_korea(now: datetime.datetime | None = None) -> datetime.date:
    """Return the date in Korea at *now* (default: the clock's), which `--date` defaults to."""
    return (now or datetime.datetime.now(tz=KOREA)).astimezone(KOREA).date()


def decode_control(frame: bytes) -> tuple[str, str]:
    """Return (code, message) of a KIS control frame, code PINGPONG for a heartbeat. Raises BadFrame if it is none."""
    control = _decode_json(frame)
    if control.header is not None and control.header.tr_id == HEARTBEAT:
        return HEARTBEAT, ""
    if control.body is None or not control.body.msg_cd:
        raise BadFrame("control frame: expected a heartbeat or body.msg_cd, found neither")
    return control.body.msg_cd, control.body.msg1 or ""


def _decode(parser: FrameParser, recv_ns: int, lines: Iterable[bytes]) -> Iterator[Decoded]:
    with tempfile.TemporaryDirectory(prefix="sise-decode-") as directory:
        path = Path(directory) / "decode.ring"
        create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=(("decode", GATING),))
        ring = RingWriter(path)
        reader = GatingReader(path, "decode")
        try:
            for frame in _frames(lines):
                if parser.parse(ring, frame, recv_ns) < 0:  # the ring is empty, so it is not full: a control frame
                    yield _control(frame)
                    continue
                while records := read_records(reader, MAX_RECORDS):
                    yield from map(_shape, records)
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


def _decode_json(frame: bytes) -> _Control:
    try:
        # venues send texts in other encodings too; that must not cost the code beside them
        return msgspec.json.decode(frame.decode("utf-8", "replace"), type=_Control)
    except msgspec.DecodeError as exc:
        raise BadFrame(f"control frame: {exc}") from exc


def _control(frame: bytes) -> Decoded:
    try:
        code, message = decode_control(frame)
    except BadFrame:
        return _quarantine(BAD_CONTROL, frame)
    return {"kind": "control", "code": code, "message": message}


def _quarantine(reason: int, frame: bytes) -> Decoded:
    return {
        "kind": "quarantine",
        "reason": QUARANTINE_REASONS[reason],
        "frame": frame.decode("utf-8", "backslashreplace"),
    }


def _shape(record: Decoded) -> Decoded:
    if record["kind"] == "quarantine":
        shaped = _quarantine(record["reason"], record["frame"])
    else:
        shaped = {
            "kind": record["kind"],
            "venue": VENUE_NAMES[record["venue"]],
            "market": MARKET_NAMES[record["market"]],
            "symbol": record["symbol"],
            "time": _iso_time(record["exchange_ns"], record["utc_offset_min"]),
        }
        keys = ("asks", "bids") if record["kind"] == "orderbook" else _TRADE_KEYS
        shaped |= {key: record[key] for key in keys}
    if flags := flag_names(record["flags"]):
        shaped["flags"] = flags
    return shaped


_TRADE_KEYS = ("price", "volume", "cum_volume", "ask", "bid", "change_rate", "side")


def _iso_time(exchange_ns: int, utc_offset_min: int) -> str:
    zone = datetime.timezone(datetime.timedelta(minutes=utc_offset_min))
    return (EPOCH + datetime.timedelta(microseconds=exchange_ns // 1000)).astimezone(zone).isoformat()


def _noon_ns(date: datetime.date) -> int:
    noon = datetime.datetime.combine(date, datetime.time(12), tzinfo=KOREA)
    return (noon - EPOCH) // datetime.timedelta(microseconds=1) * 1000
