"""How late records arrive: receive time minus exchange time, over the last minute, by venue and market.

Two clocks are compared, and a venue's comes with a resolution of its own. Where that is a second, half of one is added
on the average and a whole one at worst. The smallest delay is therefore nearest to
what the line costs. A negative one is no error: the venue's clock is ahead of ours, by at least so much.

Nothing of this is done where records are received: a bounded number of those that came since the last look is read from
the ring files, with pread, so that no page of a ring is mapped or can vanish under us.
"""

import os
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from daemon.ingest.venues import MARKET_NAMES, VENUE_NAMES
from native_pipeline.ring_file import HEADER_BYTES, LAYOUT_VERSION

# native_pipeline/layout.h; tests/spec/test_exchange_delays.py compares them with what a ring writer writes.
MAGIC = b"SISERING"
IDENTITY = struct.Struct("<8sI4xQQ")  # magic, layout_version, capacity_bytes, epoch
HEAD = struct.Struct("<Q")
HEAD_OFFSET = 128
INDEX_OFFSET, INDEX_ENTRIES = 4096, struct.Struct("<512Q")  # position and seq, 256 times
RECORD = struct.Struct("<I12xqBxBB")  # length, recv_ns, kind, venue, market
EXCHANGE_NS, EXCHANGE_NS_OFFSET = struct.Struct("<q"), 56
TRADE, BOOK, PAD = 1, 2, 255
SMALLEST_RECORD = 32

READ_BYTES = 1 << 17  # of a ring at one look
MOST_RECORDS = 512
WINDOW_NS = 60_000_000_000
NS_PER_MS = 1_000_000

Feed = tuple[int, int]  # venue, market


class DelayReading(msgspec.Struct, frozen=True, kw_only=True):
    """Delays of one venue and market in the last minute, in seconds, to two digits; negative: its clock is ahead."""

    venue: str
    market: str
    records: int  # looked at
    smallest_s: float
    p50_s: float
    p99_s: float
    largest_s: float


@dataclass(slots=True)
class _Place:
    epoch: int
    position: int


@dataclass(slots=True)
class _Look:
    wall_ns: int
    delays_ms: dict[Feed, Counter[int]] = field(default_factory=dict)


class ExchangeDelays:
    """Looks at rings again and again; each look costs about 0.2 ms for a busy one."""

    def __init__(self) -> None:
        self._places: dict[Path, _Place] = {}
        self._looks: deque[_Look] = deque()
        self._window: dict[Feed, Counter[int]] = {}

    def look(self, paths: Iterable[Path], wall_ns: int) -> list[DelayReading]:
        """Take in what is new in the rings at *paths*; return what is known of the last minute."""
        look = _Look(wall_ns)
        for path in paths:
            for feed, recv_ns, exchange_ns in self._new_records(path):
                if wall_ns - recv_ns < WINDOW_NS:
                    look.delays_ms.setdefault(feed, Counter())[_two_digits((recv_ns - exchange_ns) // NS_PER_MS)] += 1
        self._looks.append(look)
        for feed, delays in look.delays_ms.items():
            self._window.setdefault(feed, Counter()).update(delays)
        while wall_ns - self._looks[0].wall_ns >= WINDOW_NS or self._looks[0].wall_ns > wall_ns:
            self._forget(self._looks.popleft())
        return [_reading(feed, delays) for feed, delays in sorted(self._window.items())]

    def _forget(self, look: _Look) -> None:
        for feed, delays in look.delays_ms.items():
            rest = self._window[feed] - delays
            if rest:
                self._window[feed] = rest
            else:
                del self._window[feed]

    def _new_records(self, path: Path) -> list[tuple[Feed, int, int]]:
        """Return (feed, recv_ns, exchange_ns) of records behind the last look's; none of a file that is no ring."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            return self._read(path, lambda size, offset: os.pread(fd, size, offset))
        except (OSError, struct.error):  # cut, or a disk that fails: its owner tells
            return []
        finally:
            os.close(fd)

    def _read(self, path: Path, pread: Callable[[int, int], bytes]) -> list[tuple[Feed, int, int]]:
        magic, version, capacity, epoch = IDENTITY.unpack(pread(IDENTITY.size, 0))
        if magic != MAGIC or version != LAYOUT_VERSION or capacity == 0:
            return []
        head = _head(pread)
        place = self._places.get(path)
        if place is None or place.epoch != epoch or not head - capacity // 2 < place.position <= head:
            entries = INDEX_ENTRIES.unpack(pread(INDEX_ENTRIES.size, INDEX_OFFSET))
            known = [at for at in entries[::2] if at < head]
            recent = [at for at in known if at >= head - READ_BYTES]
            place = _Place(epoch, min(recent) if recent else max(known, default=head))
        begin, place.position = place.position, head  # where a record begins, also at the next look
        self._places[path] = place
        offset = begin % capacity
        size = min(READ_BYTES, head - begin, capacity - offset)
        data = pread(size, HEADER_BYTES + offset)
        if _head(pread) - begin > capacity // 2:  # it may have been overwritten while it was read
            return []
        return list(_records(data))


def _head(pread: Callable[[int, int], bytes]) -> int:
    return int(HEAD.unpack(pread(HEAD.size, HEAD_OFFSET))[0])


def _records(data: bytes) -> Iterator[tuple[Feed, int, int]]:
    at = found = 0
    while at + EXCHANGE_NS_OFFSET + 8 <= len(data) and found < MOST_RECORDS:
        length, recv_ns, kind, venue, market = RECORD.unpack_from(data, at)
        if length < SMALLEST_RECORD or length % 8 or kind == PAD:
            return
        if kind in (TRADE, BOOK):  # an event may have no time of its own
            found += 1
            yield (venue, market), recv_ns, EXCHANGE_NS.unpack_from(data, at + EXCHANGE_NS_OFFSET)[0]
        at += length


def _two_digits(value: int) -> int:
    """Return *value* rounded to two digits, so that a window holds few different ones."""
    step: int = 10 ** max(0, len(str(abs(value))) - 2)
    return (value + step // 2) // step * step


def _reading(feed: Feed, delays_ms: Counter[int]) -> DelayReading:
    values = sorted(delays_ms)
    venue, market = feed
    return DelayReading(
        venue=VENUE_NAMES[venue] if venue < len(VENUE_NAMES) else str(venue),
        market=MARKET_NAMES[market] if market < len(MARKET_NAMES) else str(market),
        records=delays_ms.total(),
        smallest_s=values[0] / 1000,
        p50_s=_quantile(values, delays_ms, 0.5) / 1000,
        p99_s=_quantile(values, delays_ms, 0.99) / 1000,
        largest_s=values[-1] / 1000,
    )


def _quantile(values: list[int], counts: Counter[int], fraction: float) -> int:
    rank, seen = fraction * counts.total(), 0
    for value in values:
        seen += counts[value]
        if seen >= rank:
            return value
    return values[-1]
