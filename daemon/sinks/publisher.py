"""Step 4 of 6 in the life of a tick: the publisher fans records out to Redis, in transactions that count themselves.

Before: `native_pipeline/ring.pyx`. Next: `native_pipeline/redis_encoder.pyx`, which turns records into a transaction,
and `redis_link.py`, which carries it. Redis is never on the path to the database: while it is away nothing here blocks
anybody, and a ring that goes round meanwhile costs this consumer messages, which are counted.

Each message is published once: a transaction moves the cursor that Redis holds together with its messages. When the
outcome of one is unknown, or a predecessor was killed, the cursor says where to go on.
"""

import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from daemon import log
from daemon.config import Redis as RedisSettings
from daemon.ingest.venues import MARKET_NAMES, VENUE_NAMES
from daemon.rings import ring_paths
from daemon.sinks.background import BackgroundThread
from daemon.sinks.host import Clock, Counters, DrainDeadline, Host, host_of
from daemon.sinks.redis_link import Cursor, RedisAway, RedisLink
from daemon.supervision import process
from native_pipeline.counters import CountersBlock
from native_pipeline.redis_encoder import PublishBatch, TransactionReplies
from native_pipeline.ring import LossyReader

CONSUMER = "publisher"  # name of its slot in every ring
AGE_HISTOGRAM = 0
IDLE_WAIT_S = 1.0  # the heartbeat's pace when nothing arrives
BEAT_S = 0.25  # the heartbeat's pace while Redis works
FIRST_RETRY_S = 0.1  # doubled with each failure up to retry_max_s; the delay is drawn from zero to that
REPORT_INTERVAL_S = 60.0  # troubles that last are logged this often, with their count
ATTEMPTS_AT_STOP = 2  # a stop does not wait for a Redis that is away: what is left stays in the rings
DEADLINE_MARGIN_S = 0.5  # of the time to drain, for closing the connection

T = TypeVar("T")


class Reader(Protocol):
    """What `native_pipeline.ring.LossyReader` offers to the publisher."""

    @property
    def ring(self) -> int:
        """Number of the ring."""

    @property
    def epoch(self) -> int:
        """Epoch of the ring file."""

    @property
    def lag_bytes(self) -> int:
        """Published in the ring and not committed."""

    @property
    def lapped_records(self) -> int:
        """Records that the ring lost before this consumer read them."""

    @property
    def corrupt_records(self) -> int:
        """Records skipped because their checksum was wrong."""

    def seek_after(self, seq: int, /) -> int:
        """Go behind *seq*; return how many of the following records are gone."""

    def commit(self) -> None:
        """Remember the position for a successor."""

    def prepare_sleep(self) -> bool:
        """Ask the producer for a wake-up; False if there is something to read."""

    def cancel_sleep(self) -> None:
        """Ask for no wake-up any more."""


class Batch(Protocol):
    """What `native_pipeline.redis_encoder.PublishBatch` offers to the publisher."""

    @property
    def messages(self) -> int:
        """Messages in the batch."""

    @property
    def records(self) -> int:
        """Records taken, those without a message included."""

    @property
    def commands(self) -> int:
        """Commands of the last payload."""

    @property
    def progress(self) -> Mapping[int, tuple[int, int, int]]:
        """For each ring: epoch, first and last seq."""

    def append_from(self, reader: Any, max_records: int, /) -> int:  # Any: the native batch takes the native reader
        """Encode up to *max_records* of *reader*; return how many."""

    def payload(self) -> memoryview:
        """Return the transaction."""

    def observe_ages(self, counters: Any, histogram: int, now_ns: int, /) -> None:
        """Count how old each record was at *now_ns*."""

    def clear(self) -> None:
        """Forget everything."""


class Link(Protocol):
    """What `redis_link.RedisLink` offers to the publisher; connect() and send() raise RedisAway."""

    def connect(self, rings: Sequence[int], /) -> Mapping[int, Cursor]:
        """Connect and return the cursors."""

    def send(self, payload: memoryview, commands: int, /) -> TransactionReplies:
        """Send a transaction and return its replies."""

    def close(self) -> None:
        """Disconnect."""


class Publisher:
    """The loop: connect, gather, publish, commit. `run` returns when it was asked to stop and has drained the rings."""

    def __init__(
        self,
        *,
        readers: Sequence[Reader],
        batch: Batch,
        link: Link,
        settings: RedisSettings,
        counters: Counters,
        host: Host,
        clock: Clock = time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._readers = {reader.ring: reader for reader in readers}
        self._batch = batch
        self._link = link
        self._settings = settings
        self._counters = counters
        self._host = host
        self._clock = clock
        self._jitter = jitter
        self._background = BackgroundThread("redis")
        self._is_connected = False
        self._failures = 0  # since the last success
        self._failures_at_stop = 0  # since a stop was asked for
        self._retry_at = clock.monotonic()
        self._away_since: float | None = None
        self._next_batch_at = clock.monotonic()
        self._turn = 0
        self._drain_deadline: float | None = None
        self._published: dict[int, int] = {}  # last published seq of each ring, once it is known
        self._counted = {"publish_lapped": self._sum_lapped(), "corrupt_records": self._sum_corrupt()}
        self._lapped_unreported = 0
        self._report_due = clock.monotonic()
        self._log = log.get()

    def run(self) -> bool:
        """Publish until asked to stop; True if the rings were empty at the end."""
        self._counters.set("redis_connected", 0)
        try:
            while True:
                self._host.beat()
                self._check_deadline()
                if self._failures_at_stop >= ATTEMPTS_AT_STOP:
                    return False
                if not self._is_connected:
                    self._connect_when_due()
                elif self._gather():
                    self._publish()
                elif self._host.stopping():
                    return True
                else:
                    self._wait_for_records()
        except DrainDeadline:
            self._log.warning("publisher_drain_deadline", lag_bytes=self._count_lag())
            self._link.close()  # from here: whatever hangs in the other thread ends
            return False
        finally:
            self._background.close(self._link.close, DEADLINE_MARGIN_S)
            self._counters.set("redis_connected", 0)

    # ---- the connection --------------------------------------------------------------------------------

    def _connect_when_due(self) -> None:
        """Try to connect if it is time to, else wait. A stop makes it time."""
        remaining = self._retry_at - self._clock.monotonic()
        if remaining > 0 and not self._host.stopping():
            self._count_lag()
            self._report()
            self._host.wait(min(remaining, IDLE_WAIT_S))
            return
        try:
            cursors = self._in_background(lambda: self._link.connect(list(self._readers)))
        except RedisAway as exc:
            self._note_failure("redis_away", str(exc))
            return
        self._is_connected = True
        self._counters.set("redis_connected", 1)
        self._go_on_behind(cursors)

    def _note_failure(self, event: str, error: str) -> None:
        """Count, log the first of a series, and draw the time of the next attempt: full jitter."""
        self._counters.increment("publish_errors")
        self._counters.set("redis_connected", 0)
        self._is_connected = False
        if self._away_since is None:
            self._away_since = self._clock.monotonic()
            self._report_due = self._away_since + REPORT_INTERVAL_S
            self._log.warning(event, error=error)
        ceiling = min(self._settings.retry_max_s, FIRST_RETRY_S * 2 ** min(self._failures, 30))
        self._failures += 1
        self._failures_at_stop += self._host.stopping()
        self._retry_at = self._clock.monotonic() + ceiling * self._jitter()

    def _note_success(self) -> None:
        """Redis takes what we have, not merely our connection: the trouble is over."""
        self._failures = 0
        if self._away_since is not None:
            self._log.info("redis_back", away_s=round(self._clock.monotonic() - self._away_since, 3))
            self._away_since = None

    def _go_on_behind(self, cursors: Mapping[int, Cursor]) -> None:
        """Reconcile with what Redis says was published: the batch at hand, then every reader."""
        known = {
            ring: cursors[ring].seq
            for ring, reader in self._readers.items()
            if ring in cursors and cursors[ring].epoch == reader.epoch
        }
        if self._batch.records:
            self._settle_batch(known)
        for ring, seq in known.items():
            before = self._published.get(ring)
            if ring in self._batch.progress or seq == before:
                continue
            ahead = before - seq if before is not None else 0
            if ahead <= 0:
                ahead = self._readers[ring].seek_after(seq)  # how far the ring's own memory of us is ahead of Redis
                self._published[ring] = seq + ahead
            if ahead > 0:  # a Redis that lost its last moments; the subscribers it had then have the messages
                self._log.warning("redis_cursor_went_back", ring=ring, cursor_seq=seq, records=ahead)

    def _settle_batch(self, known: Mapping[int, int]) -> None:
        """The outcome of the last transaction was unknown: it happened, it did not, or somebody else was faster."""
        progress = self._batch.progress
        happened = [known.get(ring, -1) >= last for ring, (_, _, last) in progress.items()]
        if all(happened):
            self._confirm()
        elif any(known.get(ring, -1) >= first for ring, (_, first, _) in progress.items()):
            self._log.warning("redis_cursor_moved_by_another", rings=sorted(progress))
            for ring, (_, first, _) in progress.items():
                self._published[ring] = max(known.get(ring, -1), first - 1)
                self._readers[ring].seek_after(self._published[ring])
            self._batch.clear()

    # ---- batches ---------------------------------------------------------------------------------------

    def _gather(self) -> int:
        """Encode what the rings hold, up to a full batch; return its records. A batch that failed is kept as it is.

        The rings take turns and share the room evenly, so that a busy one cannot starve the others.
        """
        if self._batch.records:
            return self._batch.records
        limit = self._settings.batch_messages
        readers = list(self._readers.values())
        self._turn += 1
        order = [readers[(self._turn + i) % len(readers)] for i in range(len(readers))]
        progress = True
        while progress and self._batch.records < limit:
            progress = False
            for reader in order:
                share = max(1, (limit - self._batch.records) // len(order))
                if self._batch.records < limit and self._batch.append_from(reader, share):
                    progress = True
        return self._batch.records

    def _publish(self) -> None:
        """Send the batch; commit it if the transaction happened, else leave it for the next connection."""
        started = self._clock.monotonic()
        payload = self._batch.payload()
        commands = self._batch.commands
        try:
            replies = self._in_background(lambda: self._link.send(payload, commands))
        except RedisAway as exc:
            payload.release()
            self._note_failure("redis_away", str(exc))
            return
        payload.release()
        if replies.errors:
            # Inside EXEC the other commands have happened nevertheless: counted and reported, never repeated.
            self._note_failure("redis_refused", replies.first_error.decode(errors="replace"))
        elif replies.aborted:
            self._note_failure("redis_cursor_moved", "the cursor was moved by another connection")
        if replies.executed:
            full = self._batch.records >= self._settings.batch_messages
            self._confirm()
            if not full:
                self._pause_until(started + self._settings.flush_interval_ms / 1000)

    def _confirm(self) -> None:
        """The batch is published: count it and remember the positions."""
        now_ns = self._clock.time_ns()
        for ring, (_, _, last) in self._batch.progress.items():
            self._readers[ring].commit()
            self._published[ring] = last
        self._counters.increment("records_published", self._batch.messages)
        self._counters.increment("publish_batches")
        self._batch.observe_ages(self._counters, AGE_HISTOGRAM, now_ns)
        self._batch.clear()
        if self._is_connected:
            self._note_success()
        self._count_losses()
        self._count_lag()
        self._report()

    def _pause_until(self, moment: float) -> None:
        """Let a batch come together: at most one transaction per flush interval unless there is more than a batch."""
        remaining = moment - self._clock.monotonic()
        if remaining > 0 and not self._host.stopping():
            self._host.wait(remaining)

    def _wait_for_records(self) -> None:
        """Sleep until a producer publishes; an idle daemon costs one wake-up a second."""
        self._note_success()
        self._count_lag()
        self._report()
        asleep = [reader.prepare_sleep() for reader in self._readers.values()]
        if all(asleep):
            self._host.wait(IDLE_WAIT_S)
        for reader in self._readers.values():
            reader.cancel_sleep()

    def _in_background(self, action: Callable[[], T]) -> T:
        """Run *action* in the other thread; beat meanwhile, and give up when the time to drain is over."""
        self._background.submit(action)
        while not self._background.wait(BEAT_S):
            self._host.beat()
            self._check_deadline()
        result: T = self._background.result()
        return result

    def _check_deadline(self) -> None:
        if not self._host.stopping():
            return
        now = self._clock.monotonic()
        if self._drain_deadline is None:
            self._drain_deadline = now + self._host.drain_s - DEADLINE_MARGIN_S
        if now >= self._drain_deadline:
            raise DrainDeadline

    # ---- numbers ---------------------------------------------------------------------------------------

    def _sum_lapped(self) -> int:
        return sum(reader.lapped_records for reader in self._readers.values())

    def _sum_corrupt(self) -> int:
        return sum(reader.corrupt_records for reader in self._readers.values())

    def _count_losses(self) -> None:
        for name, total in (("publish_lapped", self._sum_lapped()), ("corrupt_records", self._sum_corrupt())):
            new = total - self._counted[name]
            if new > 0:
                self._counters.increment(name, new)
                self._counted[name] = total
                self._lapped_unreported += new

    def _count_lag(self) -> int:
        lag = sum(reader.lag_bytes for reader in self._readers.values())
        self._counters.set("publisher_lag_bytes", lag)
        return lag

    def _report(self) -> None:
        """Log what goes on being wrong: once a minute."""
        now = self._clock.monotonic()
        if now < self._report_due or (self._away_since is None and not self._lapped_unreported):
            return
        self._report_due = now + REPORT_INTERVAL_S
        if self._away_since is not None:
            self._log.warning("redis_still_away", away_s=round(now - self._away_since), attempts=self._failures)
        if self._lapped_unreported:
            self._log.warning("messages_not_published", records=self._lapped_unreported)
            self._lapped_unreported = 0


def run(
    settings: RedisSettings,
    paths: Sequence[Path],
    counters: CountersBlock,
    host: Host,
    *,
    on_ready: Callable[[], object],
) -> bool:
    """Be the publisher of the rings at *paths*; see `Publisher.run` for the result.

    on_ready is called when the rings are open: a Redis that is away is waited for, a broken ring is not.
    Raises RingError if a ring is not what it says or has a publisher already.
    """
    batch = PublishBatch(
        venues=VENUE_NAMES, markets=MARKET_NAMES, minute_counts_kept_s=settings.minute_counts_kept_h * 3600
    )
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(contextlib.closing(LossyReader(path, CONSUMER))) for path in paths]
        on_ready()
        publisher = Publisher(
            readers=readers, batch=batch, link=RedisLink(settings), settings=settings, counters=counters, host=host
        )
        return publisher.run()


def main(child: process.Child) -> None:
    """Be the publisher process until asked to stop."""
    host = host_of(child, CONSUMER)
    run(child.config.redis, ring_paths(child.data_dir), child.counters, host, on_ready=child.running)


if __name__ == "__main__":
    process.main(main)
