"""Parses quarantined frames again, with today's parser, as if they arrived: receive time and day are the recorded ones.

The frames go through the worker's own parser into a ring, so that what comes out is what would have been stored. That
includes recognising what arrived twice: two sessions of a pair may have quarantined one trade each.
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from daemon.config import Account, Config
from daemon.errors import ConfigError
from daemon.ingest.venues import venue_named
from daemon.sinks.isolation import new_batch
from native_pipeline.frame_parser import FrameParser
from native_pipeline.records import MARKET_DATA, QUARANTINE_REASONS, read_records
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter

ENCRYPTED = "encrypted frame without a key"
UNEXPECTED_BINARY = "unexpected binary frame"
RING_BYTES = 16 << 20  # the longest quarantined frame, 1 MiB, twelve times
MAX_RECORDS = 1 << 20
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MARKET_KINDS = frozenset(data.name for data in MARKET_DATA)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one frame gave. The records that are worth storing are in the batch, under these numbers."""

    seqs: tuple[int, ...]  # in the ring of this run: of market data, and of records that still cannot be parsed
    rows: int  # of market data among them
    reason: str = ""  # why there is none


def layouts_of(venue: str, accounts: Sequence[Account]) -> tuple[str, ...]:
    """Return how the *accounts* of *venue* want its frames read. Raises ConfigError if they disagree."""
    found = {account.layouts for account in accounts if account.venue == venue}
    if len(found) > 1:
        raise ConfigError(f"accounts.layouts: accounts of {venue} read its frames differently: choose one by --account")
    return next(iter(found), ())


class Reparser:
    """A context manager. `batch` takes the records of the frames that were parsed since it was cleared."""

    def __init__(self, config: Config, *, account: str | None = None) -> None:
        self.batch = new_batch()
        self._accounts = [one for one in config.accounts if account in (None, one.name)]
        if account is not None and not self._accounts:
            raise ConfigError(f"--account: there is no account {account!r}")
        self._is_redundant = any(feed.redundancy == "ab" for feed in config.feeds)
        self._parsers: dict[str, FrameParser] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sise-replay-"))
        path = Path(directory) / "replay.ring"
        create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=(("replay", GATING),))
        self._ring = self._stack.enter_context(closing(RingWriter(path)))
        self._reader = self._stack.enter_context(closing(GatingReader(path, "replay")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def parse(self, *, venue: str, frame: bytes, recv_time: datetime, reason: str) -> Parsed:
        """Parse *frame*, which was quarantined for *reason*. Raises ConfigError: no such venue, layouts disagree."""
        recv_ns = (recv_time - EPOCH) // timedelta(microseconds=1) * 1000
        parser = self._parser_of(venue)
        if parser.parse(self._ring, frame, recv_ns, is_text=reason != UNEXPECTED_BINARY) < 0:
            return Parsed((), 0, "a control frame: it holds no data")  # not a full ring: it is empty
        records = read_records(self._reader, MAX_RECORDS)
        kept = [one for one in records if one["kind"] in MARKET_KINDS or one["kind"] == "quarantine"]
        rows = sum(one["kind"] in MARKET_KINDS for one in kept)
        if rows:
            self._reader.rewind()
            self.batch.append_from(self._reader, len(records))
        self._reader.commit()
        if not rows:
            return Parsed((), 0, _reason_of(kept))
        return Parsed(tuple(one["seq"] for one in kept), rows)

    def _parser_of(self, venue: str) -> FrameParser:
        if venue not in self._parsers:
            adapter = venue_named(venue)
            if layouts := layouts_of(venue, self._accounts):
                adapter.use_layouts(layouts)
            adapter.on_session_start()  # frames are read as in a session
            self._parsers[venue] = adapter.make_parser(adapter.decode_market, connection=0)
            self._parsers[venue].is_redundant = self._is_redundant
        return self._parsers[venue]


def _reason_of(records: Sequence[Mapping[str, Any]]) -> str:
    """Return why *records*, in which there are no market data, hold none."""
    if not records:
        return ""
    reason: int = records[0]["reason"]
    return QUARANTINE_REASONS[reason]
