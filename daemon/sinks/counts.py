"""What is compared: how many records of a symbol and kind each minute brought, and whether the places agree. Pure.

    received + replayed = stored + refused          published = received

*Received* is what workers counted where records enter the ring; *replayed* what quarantined frames gave when they were
parsed again; *refused* are rows that the database does not take and that lie in `quarantine`. Exactly: no tolerance.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

UTC_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Key(NamedTuple):
    """What is counted together."""

    minute: int  # since 1970, of receipt
    market: str
    symbol: str
    kind: str


Counts = Mapping[Key, int]


def minute_of(moment: datetime) -> int:
    """Return the minute since 1970 that *moment* (aware) is in."""
    return (moment - UTC_EPOCH) // timedelta(minutes=1)


def time_of(minute: int) -> datetime:
    """Return when *minute* began, in UTC."""
    return UTC_EPOCH + timedelta(minutes=minute)


@dataclass(frozen=True, slots=True)
class Difference:
    """One key whose counts are not the same, or that has a row more than once."""

    key: Key
    received: int
    stored: int
    published: int | None  # None: not compared
    duplicated: int = 0  # rows whose seq another row has as well, open ones included
    refused: int = 0
    replayed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "minute": time_of(self.key.minute).isoformat(),
            "market": self.key.market,
            "symbol": self.key.symbol,
            "kind": self.key.kind,
            "received": self.received,
            "stored": self.stored,
            "published": self.published,
            "duplicated": self.duplicated,
            "refused": self.refused,
            "replayed": self.replayed,
        }

    def as_text(self) -> str:
        """Return one line."""
        minute, market, symbol, kind = self.key
        published = "-" if self.published is None else self.published
        line = (
            f"{time_of(minute):%Y-%m-%d %H:%M}Z {market} {symbol} {kind}: "
            f"received {self.received} stored {self.stored} published {published}"
        )
        rare = {"refused": self.refused, "replayed": self.replayed, "duplicated": self.duplicated}
        return " ".join([line, *(f"{name} {count}" for name, count in rare.items() if count)])


@dataclass(frozen=True, slots=True)
class Window:
    """The counts of a stretch of time."""

    received: Counts
    stored: Counts  # replayed rows included
    open: Counts
    published: Counts
    published_from: int  # first minute that Redis still counts; later than every minute: compare none
    growing_from: int  # first minute that may still get messages
    published_before: Counts = field(default_factory=dict)  # of growing minutes, counted before the rows were
    duplicated: Counts = field(default_factory=dict)
    refused: Counts = field(default_factory=dict)
    replayed: Counts = field(default_factory=dict)


def compare(window: Window) -> Iterator[Difference]:
    """Yield each key of *window* whose counts differ or that has duplicates."""
    keys = window.received.keys() | window.stored.keys() | window.duplicated.keys()
    keys |= window.refused.keys() | window.replayed.keys()
    keys |= {key for key in window.published if key.minute < window.growing_from}
    for key in sorted(keys):
        received = window.received.get(key, 0)
        stored = window.stored.get(key, 0)
        duplicated = window.duplicated.get(key, 0)
        refused = window.refused.get(key, 0)
        replayed = window.replayed.get(key, 0)
        published = window.published.get(key, 0) if key.minute >= window.published_from else None
        is_stored = stored + refused == received + replayed
        if not is_stored or duplicated or not _is_published(key, received, published, window):
            yield Difference(key, received, stored, published, duplicated, refused, replayed)


def _is_published(key: Key, received: int, published: int | None, window: Window) -> bool:
    """What is open was published or will be; in a growing minute also what is not stored yet."""
    if published is None:
        return True
    still_open = window.open.get(key, 0)
    if key.minute < window.growing_from:
        return received <= published <= received + still_open
    return published >= received and (still_open > 0 or window.published_before.get(key, 0) <= received)
