"""The publisher's counters and what it has given up, exact over its death: kept by the journal, settled by the cursor.

Of what a killed publisher had under way, only Redis knows whether it has happened. So its successor settles the account
when it has read the cursor: it brings the counters to what the journal says, and takes over what is still to be told.
"""

from collections.abc import Mapping
from typing import Protocol

from daemon import log
from daemon.sinks import host
from daemon.sinks.publisher_interfaces import Batch, Reader
from daemon.sinks.publisher_journal import Journal, Span, State, has_happened, lost_with
from daemon.sinks.redis_link import Cursor

DROPPED = "records_dropped_on_redis"


class Counters(host.Counters, Protocol):
    """Counters that can be read as well."""

    def get(self, name: str, /) -> int:
        """Return the value of the counter called *name*."""


class Accounts:
    """Without a journal it only counts."""

    def __init__(
        self, readers: Mapping[int, Reader], batch: Batch, counters: Counters, journal: Journal | None
    ) -> None:
        self._readers = readers
        self._batch = batch
        self._counters = counters
        self._journal = journal
        self._is_settled = journal is None  # the predecessor's account
        self._inherited: dict[int, Span] = {} if journal is None else dict(journal.state.given_up)
        self._is_in_doubt = False  # a batch was sent
        self._told: dict[int, Span] = {}  # given up before the batch at hand, and told in it

    def begin(self) -> None:
        """A new batch is going to be gathered: what is to be told by now is told in it."""
        if self._journal is not None:
            self._told = self._gaps()

    def send(self, uncounted: Mapping[str, int]) -> None:
        """The batch is going to be sent. *uncounted*: losses that are counted with it."""
        if self._journal is None:
            return
        parts = self._batch.parts
        given_up = self._gaps()
        self._journal.write(
            State(
                batch={
                    ring: Span(epoch, first - 1, last, last - first + 1, None if messages is None else dict(messages))
                    for ring, (epoch, first, last, messages) in parts.items()
                },
                told={ring: span for ring, span in self._told.items() if ring in parts},
                given_up=given_up,
                before={name: self._counters.get(name) for name in (*self._counts(), *uncounted, DROPPED)},
                then={**self._counts(), **uncounted},
            )
        )
        self._is_in_doubt = True

    def confirm(self) -> None:
        """The batch is published: count it."""
        for name, count in self._counts().items():
            self._counters.increment(name, count)
        self._is_in_doubt = False

    def give_up(self, counts: Mapping[str, int]) -> None:
        """The position of a ring is going to move over what was given up; *counts* are to be counted afterwards."""
        if self._journal is None:
            return
        state = self._journal.state if self._is_in_doubt or not self._is_settled else State()
        before = {name: self._counters.get(name) for name in counts} | state.before
        always = {name: state.always.get(name, 0) + counts.get(name, 0) for name in (*state.always, *counts)}
        given_up = self._gaps()
        if not self._is_settled:  # on top of what the predecessor had given up, of a ring that is still the same file
            for ring, span in self._inherited.items():
                mine = given_up.get(ring)
                if mine is None:
                    given_up[ring] = span
                elif mine.epoch == span.epoch:
                    given_up[ring] = span.then(mine)
        self._journal.write(
            State(batch=state.batch, told=state.told, given_up=given_up, before=before, always=always, then=state.then)
        )

    def recall(self, cursors: Mapping[int, Cursor]) -> dict[int, int]:
        """Settle what a predecessor left, once; return the cursor of each ring that was brought where it belongs."""
        if self._journal is None or self._is_settled:
            return {}
        self._is_settled = True
        state = self._journal.state
        is_published = has_happened(state, {ring: (cursor.epoch, cursor.seq) for ring, cursor in cursors.items()})
        settled: dict[int, int] = {}
        lost = 0
        for ring, reader in self._readers.items():
            cursor = cursors.get(ring)
            if cursor is not None and cursor.epoch != reader.epoch:
                continue
            span, lost_of_batch = lost_with(state, ring, reader.epoch, None if cursor is None else cursor.seq)
            if span is None:
                continue
            lost += lost_of_batch
            settled[ring] = self._take_over(reader, span, cursor)
        self._settle_counters(state, lost, is_published=is_published)
        return settled

    def _take_over(self, reader: Reader, span: Span, cursor: Cursor | None) -> int:
        """Go on behind what was given up, and tell it; return the seq that Redis knows."""
        reader.seek_after(span.through)
        seq = reader.first_seq - 1 if cursor is None else cursor.seq
        self._batch.restore_gap(reader, span.after, span.through, span.records, span.messages)
        self._batch.resume(reader, seq, {} if cursor is None else cursor.last)
        logger = log.get()
        logger.info("publisher_takes_over", ring=reader.ring, after_seq=span.after, records=span.records)
        if seq < span.after:
            logger.warning("redis_cursor_went_back", ring=reader.ring, cursor_seq=seq, records=span.after - seq)
        return seq

    def _settle_counters(self, state: State, lost: int, *, is_published: bool) -> None:
        """Bring the counters to where they belong; those of a new counters file are left alone."""
        for name, before in state.before.items():
            target = before + state.always.get(name, 0) + (state.then.get(name, 0) if is_published else 0)
            if name == DROPPED:
                target += lost
            now = self._counters.get(name)
            if before <= now < target:
                self._counters.set(name, target)

    def _counts(self) -> dict[str, int]:
        found = {"records_published": self._batch.messages, "publish_batches": 1}
        if self._batch.gap_entries:
            found["stream_gaps"] = self._batch.gap_entries
        return found

    def _gaps(self) -> dict[int, Span]:
        return {
            ring: Span(epoch, after, through, records, None if missing is None else dict(missing))
            for ring, (epoch, after, through, records, missing) in self._batch.gaps.items()
        }
