"""What lies in quarantine: frames that no parser understood, rows that the database refused; to list and to show.

One entry is named by its ring and number there, `0-1700000000000123`: both stand in the table and are unique together.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg

from daemon.errors import ConfigError, RingError
from native_pipeline.record_block import RecordBlock

APPLICATION_NAME = "sise quarantine"
PREVIEW_CHARACTERS = 60
ID = re.compile(r"(?P<source>-?\d{1,5})-(?P<seq>\d{1,19})")
COLUMNS = """recv_time, venue, reason, detail, frame, original_bytes, source, seq, kind, market, symbol, replayed_at,
    replayed_rows"""
LIST = """
SELECT {columns} FROM quarantine
WHERE (%(all)s OR replayed_at IS NULL) AND (%(venue)s::text IS NULL OR venue = %(venue)s)
    AND (%(since)s::timestamptz IS NULL OR recv_time >= %(since)s)
    AND (%(reason)s::text IS NULL OR position(lower(%(reason)s) IN lower(reason)) > 0)
ORDER BY recv_time DESC, source DESC, seq DESC LIMIT %(limit)s"""
FIND = "SELECT {columns} FROM quarantine WHERE source = %s AND seq = %s"

Connection = psycopg.Connection[tuple[Any, ...]]


class EntryId(NamedTuple):
    """The name of an entry."""

    source: int
    seq: int

    def __str__(self) -> str:
        """Return it as it is typed."""
        return f"{self.source}-{self.seq}"


def parse_id(text: str) -> EntryId:
    """Return the ID that *text* is. Raises ConfigError."""
    found = ID.fullmatch(text)
    if found is None or not -(1 << 15) <= int(found["source"]) < 1 << 15 or int(found["seq"]) >= 1 << 63:
        raise ConfigError(f"{text!r} is no ID of an entry: expected one such as 0-1700000000000123")
    return EntryId(int(found["source"]), int(found["seq"]))


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of `quarantine`."""

    recv_time: datetime
    venue: str
    reason: str
    detail: int
    frame: bytes
    original_bytes: int
    source: int
    seq: int
    kind: str | None  # of a row that the database refused: the frame is then the record, as it lay in the ring
    market: str | None
    symbol: str | None
    replayed_at: datetime | None
    replayed_rows: int | None

    @property
    def id(self) -> EntryId:
        """Its name."""
        return EntryId(self.source, self.seq)

    @property
    def is_truncated(self) -> bool:
        """Whether the frame was longer than what is kept."""
        return self.original_bytes > len(self.frame)

    @property
    def text(self) -> str | None:
        """The frame as text, None: it is none."""
        if self.kind is not None:
            return None
        try:
            text = self.frame.decode()
        except UnicodeDecodeError:
            return None
        return text if all(character.isprintable() or character in "\r\n\t" for character in text) else None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values; the frame as `text`, or else as `hex`."""
        text = self.text
        return {
            "id": str(self.id),
            "recv_time": self.recv_time.astimezone(UTC).isoformat(),
            "venue": self.venue,
            "reason": self.reason,
            "detail": self.detail,
            "bytes": len(self.frame),
            "original_bytes": self.original_bytes,
            "kind": self.kind,
            "market": self.market,
            "symbol": self.symbol,
            "replayed_at": None if self.replayed_at is None else self.replayed_at.astimezone(UTC).isoformat(),
            "replayed_rows": self.replayed_rows,
            **({"hex": self.frame.hex()} if text is None else {"text": text}),
        }

    def as_line(self) -> str:
        """Return it in one line."""
        text = self.text
        shown = self.frame[:PREVIEW_CHARACTERS].hex() if text is None else text
        what = "" if self.kind is None else f" {self.market} {self.symbol} {self.kind}"
        preview = "".join(character if character.isprintable() else " " for character in shown[:PREVIEW_CHARACTERS])
        return (
            f"{self.id}  {self.recv_time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}Z  {self.venue}{what}  {self.reason}"
            f" ({self.detail})  {len(self.frame):,} bytes  {preview}"
        )

    def as_text(self) -> str:
        """Return everything, several lines."""
        lines = [
            f"id             {self.id}",
            f"received       {self.recv_time.astimezone(UTC).isoformat()}",
            f"venue          {self.venue}",
            f"reason         {self.reason}",
            f"detail         {self.detail}",
            f"bytes          {len(self.frame):,} of {self.original_bytes:,}",
        ]
        if self.kind is not None:
            lines.append(f"record         {self.market} {self.symbol} {self.kind}")
            lines += [f"  {name:<15}{value}" for name, value in self._record().items()]
        if self.replayed_at is not None:
            at = self.replayed_at.astimezone(UTC).isoformat()
            lines.append(f"replayed       {at}, {self.replayed_rows} rows")
        text = self.text
        lines += ["", *hex_lines(self.frame)] if text is None else ["", text]
        return "\n".join(lines)

    def _record(self) -> dict[str, Any]:
        block = RecordBlock()
        try:
            block.append_bytes(self.frame, ring=max(0, self.source))
        except RingError as exc:
            return {"damaged": str(exc)}
        return dict(block.describe(0))


def hex_lines(data: bytes) -> Iterator[str]:
    """Yield *data* as offset, hexadecimal bytes and ASCII, 16 to a line."""
    for offset in range(0, len(data), 16):
        part = data[offset : offset + 16]
        ascii_text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"{offset:08x}  {part.hex(' '):<47}  {ascii_text}"


def connect(dsn: str, *, timeout_s: int) -> Connection:
    """Return a connection in autocommit mode. Raises psycopg.Error."""
    return psycopg.connect(
        dsn,
        application_name=APPLICATION_NAME,
        connect_timeout=timeout_s,
        client_encoding="UTF8",
        autocommit=True,
        prepare_threshold=None,  # a pool in front of the server may give each transaction to another session
    )


def list_entries(
    connection: Connection,
    *,
    venue: str | None = None,
    since: datetime | None = None,
    reason: str | None = None,
    limit: int = 100,
    with_replayed: bool = False,
) -> list[Entry]:
    """Return the newest entries that fit, the newest first. *reason*: a part of it, in any case of letters."""
    values = {"venue": venue, "since": since, "reason": reason, "limit": limit, "all": with_replayed}
    return [Entry(*row) for row in connection.execute(LIST.format(columns=COLUMNS).encode(), values)]


def find_entry(connection: Connection, entry_id: EntryId) -> Entry:
    """Return the entry. Raises ConfigError if there is none."""
    row = connection.execute(FIND.format(columns=COLUMNS).encode(), list(entry_id)).fetchone()
    if row is None:
        raise ConfigError(f"{entry_id}: there is no such entry in quarantine")
    return Entry(*row)
