"""Step 4 of 6 in the life of a tick: the publisher fans records out to Redis, in transactions that count themselves.

Before: `native_pipeline/ring_reader.pyx`. Next: `native_pipeline/redis_encoder.pyx`, which turns records into a
transaction, and `redis_link.py`, which carries it. Redis is never on the path to the database: while it is away nothing
here blocks anybody, and a ring that goes round meanwhile costs this consumer messages, which are counted.

Each message is published once: a transaction moves the cursor that Redis holds together with its messages. When the
outcome of one is unknown, or a predecessor was killed, the cursor says where to go on.
"""

import contextlib
import dataclasses
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from daemon import failpoints, log
from daemon.config import Redis as RedisSettings
from daemon.identity import RENEW_S, Owner, owner_of
from daemon.ingest.venues import MARKET_NAMES, VENUE_NAMES
from daemon.rings import RINGS_DIR, look_for_new_rings, noticing_new_rings, rings_in
from daemon.sinks.background import BackgroundThread
from daemon.sinks.host import Clock, DrainDeadline, Host, host_of
from daemon.sinks.publish_losses import PublishLosses
from daemon.sinks.publisher_accounts import Accounts, Counters
from daemon.sinks.publisher_interfaces import Batch, Link, Reader
from daemon.sinks.publisher_journal import FILE as JOURNAL_FILE
from daemon.sinks.publisher_journal import Journal
from daemon.sinks.redis_errors import Reaction, reaction_to
from daemon.sinks.redis_link import Cursor, RedisAway, RedisLink
from daemon.supervision import process
from native_pipeline.counters import CountersBlock
from native_pipeline.redis_encoder import STREAM_KEY, PublishBatch
from native_pipeline.redis_replies import TransactionReplies
from native_pipeline.ring_reader import LossyReader

CONSUMER = "publisher"  # name of its slot in every ring
AGE_HISTOGRAM = 0
IDLE_WAIT_S = 1.0  # the heartbeat's pace when nothing arrives
BEAT_S = 0.25  # the heartbeat's pace while Redis works
FIRST_RETRY_S = 0.1  # doubled with each failure up to retry_max_s; the delay is drawn from zero to that
REPORT_INTERVAL_S = 60.0  # troubles that last are logged this often, with their count
ATTEMPTS_AT_STOP = 2  # a stop does not wait for a Redis that is away: what is left stays in the rings
DEADLINE_MARGIN_S = 0.5  # of the time to drain, for closing the connection

T = TypeVar("T")


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
        journal: Journal | None = None,
    ) -> None:
        """journal: without one, what a predecessor did not come to count stays uncounted."""
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
        self._renewal_due = clock.monotonic() + RENEW_S
        self._turn = 0
        self._drain_deadline: float | None = None
        self._published: dict[int, int] = {}  # last published seq of each ring, once it is known
        self._accounts = Accounts(self._readers, batch, counters, journal)
        self._losses = PublishLosses(self._readers, batch, counters, clock, self._accounts)
        self._streams_ahead: set[int] = set()  # rings whose streams have later ids than the ring will give
        self._report_due = clock.monotonic()
        self._log = log.get()

    def run(self) -> bool:
        """Publish until asked to stop; True if the rings were empty at the end."""
        self._counters.set("redis_connected", 0)
        try:
            while True:
                self._host.beat()
                self._check_deadline()
                if self._is_connected or self._failures:  # not before the first attempt
                    self._losses.relieve()
                if self._failures_at_stop >= ATTEMPTS_AT_STOP:
                    return False
                if not self._is_connected:
                    self._connect_when_due()
                elif not self._keep_owner():
                    continue
                elif self._gather():
                    self._publish()
                elif self._host.stopping():
                    self._give_up_owner()
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
            self._note_failure("redis_away", str(exc), exc.reaction)
            return
        self._is_connected = True
        self._counters.set("redis_connected", 1)
        self._go_on_behind(cursors)

    def _keep_owner(self) -> bool:
        """Renew our ownership of the server when it is time to; False if it is another's, or does not answer."""
        if self._clock.monotonic() < self._renewal_due:
            return True
        self._renewal_due = self._clock.monotonic() + RENEW_S
        try:
            self._in_background(self._link.keep_owner)
        except RedisAway as exc:
            self._note_failure("redis_away", str(exc), exc.reaction)
            return False
        return True

    def _give_up_owner(self) -> None:
        with contextlib.suppress(RedisAway):
            self._in_background(self._link.give_up_owner)

    def _note_failure(self, event: str, error: str, reaction: Reaction = Reaction.RETRY) -> None:
        """Count, log the first of a series, and draw the time of the next attempt: full jitter, or none of it."""
        self._counters.increment("publish_errors")
        self._counters.set("redis_connected", 0)
        self._is_connected = False
        if self._away_since is None:
            self._away_since = self._clock.monotonic()
            self._report_due = self._away_since + REPORT_INTERVAL_S
            if reaction is Reaction.WAIT:
                self._log.error("redis_needs_attention", error=error)
            else:
                self._log.warning(event, error=error)
        ceiling = min(self._settings.retry_max_s, FIRST_RETRY_S * 2 ** min(self._failures, 30))
        self._failures += 1
        self._failures_at_stop += self._host.stopping()
        delay_s = self._settings.retry_max_s if reaction is Reaction.WAIT else ceiling * self._jitter()
        self._retry_at = self._clock.monotonic() + delay_s

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
        self._note_replaced(cursors)
        for ring, reader in self._readers.items():
            if ring not in cursors:  # it has forgotten everything, or never knew: then nothing is ahead of it
                known[ring] = reader.first_seq - 1
        self._published |= self._accounts.recall(cursors)
        if self._batch.records:
            self._settle_batch(known, cursors)
        for ring, seq in known.items():
            before, reader = self._published.get(ring), self._readers[ring]
            if seq == before:
                continue
            ahead = before - seq if before is not None else 0
            if ring in self._batch.progress:  # not published yet, and to be sent again as it is
                if ahead > 0:
                    self._batch.tell_forgotten(reader, seq)
                    self._published[ring] = seq
            else:
                if ahead <= 0:
                    ahead = reader.seek_after(seq)  # how far the ring's own memory of us is ahead of Redis
                    self._published[ring] = seq + ahead
                    if ring not in cursors and ahead <= 0:
                        continue
                self._batch.resume(reader, seq, cursors[ring].last if ring in cursors else {})
            if ahead > 0:  # a Redis that lost its last moments; the subscribers it had then have the messages
                self._log.warning("redis_cursor_went_back", ring=ring, cursor_seq=seq, records=ahead)

    def _note_replaced(self, cursors: Mapping[int, Cursor]) -> None:
        """Rings that are other files than Redis knows: whether the old ones were published to the end is not known."""
        for ring, reader in self._readers.items():
            if ring not in cursors or cursors[ring].epoch == reader.epoch or ring in self._published:
                continue
            cursor = cursors[ring]
            self._published[ring] = 0
            self._batch.resume(reader, 0, cursor.last, replaced_seq=cursor.seq)
            if cursor.seq >= reader.first_seq:  # made while the clock stood behind an earlier file's
                self._streams_ahead.add(ring)
                if self._settings.streams:
                    self._log.error("redis_streams_ahead", ring=ring, cursor_seq=cursor.seq, first_seq=reader.first_seq)

    def _settle_batch(self, known: Mapping[int, int], cursors: Mapping[int, Cursor]) -> None:
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
            for ring in progress:
                last = cursors[ring].last if ring in known and ring in cursors else {}
                self._batch.resume(self._readers[ring], self._published[ring], last)

    # ---- batches ---------------------------------------------------------------------------------------

    def _gather(self) -> int:
        """Encode what the rings hold, up to a full batch; return its records. A batch that failed is kept as it is.

        The rings take turns and share the room evenly, so that a busy one cannot starve the others.
        """
        if self._batch.records:
            return self._batch.records
        self._accounts.begin()
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
        self._accounts.send(self._losses.uncounted())
        failpoints.reach("publisher.before_send")
        try:
            replies = self._in_background(lambda: self._link.send(payload, commands))
        except RedisAway as exc:
            payload.release()
            self._note_failure("redis_away", str(exc), exc.reaction)
            return
        payload.release()
        failpoints.reach("publisher.after_exec")
        if replies.errors > len(replies.failures):
            error = replies.first_error.decode(errors="replace")
            self._note_failure("redis_refused", error, reaction_to(error))
        elif replies.aborted:
            self._note_failure("redis_cursor_moved", "the cursor was moved by another connection")
        if replies.executed:
            self._count_refused(replies)
            full = self._batch.records >= self._settings.batch_messages
            self._confirm()
            if not full:
                self._pause_until(started + self._settings.flush_interval_ms / 1000)

    def _confirm(self) -> None:
        """The batch is published: count it and remember the positions."""
        now_ns = self._clock.time_ns()
        self._accounts.confirm()
        failpoints.reach("publisher.counted")
        for ring, (_, _, last) in self._batch.progress.items():
            self._readers[ring].commit()
            self._published[ring] = last
        failpoints.reach("publisher.committed")
        self._batch.observe_ages(self._counters, AGE_HISTOGRAM, now_ns)
        self._batch.clear()
        if self._is_connected:
            self._note_success()
        self._losses.count()
        self._count_lag()
        self._report()

    def _count_refused(self, replies: TransactionReplies) -> None:
        """Inside EXEC the other commands have happened nevertheless: what failed is counted by channel, never repeated.

        An entry that its stream has already is none of this, unless the stream is ahead of the ring.
        """
        failed = self._batch.keys_of(command for command, _ in replies.failures)
        if replies.failures:
            self._counters.increment("publish_errors")
            self._losses.note_refusal(failed[0], replies.first_error.decode(errors="replace"))
        if self._streams_ahead:
            repeated = self._batch.keys_of(replies.repeated)
            failed = [*failed, *(key for key in repeated if int(key.rpartition(":")[2]) in self._streams_ahead)]
        self._losses.count_refused(Counter(key.split(":")[1] for key in failed if key.startswith(STREAM_KEY)))

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
            self._losses.relieve()
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

    def _count_lag(self) -> int:
        lag = sum(reader.lag_bytes for reader in self._readers.values())
        self._counters.set("publisher_lag_bytes", lag)
        return lag

    def _report(self) -> None:
        """Log what goes on being wrong: once a minute."""
        self._losses.report()
        now = self._clock.monotonic()
        if now < self._report_due or self._away_since is None:
            return
        self._report_due = now + REPORT_INTERVAL_S
        self._log.warning("redis_still_away", away_s=round(now - self._away_since), attempts=self._failures)


def run(
    settings: RedisSettings,
    rings_dir: Path,
    counters: CountersBlock,
    host: Host,
    *,
    on_ready: Callable[[], object],
    owner: Owner | None = None,
    journal_path: Path | None = None,
) -> bool:
    """Be the publisher of the rings in *rings_dir*; see `Publisher.run` for the result.

    on_ready is called when the rings are open: a Redis that is away is waited for, a broken ring is not.
    Raises RingError if a ring is not what it says or has a publisher already.
    """
    batch = PublishBatch(
        venues=VENUE_NAMES,
        markets=MARKET_NAMES,
        minute_counts_kept_s=settings.minute_counts_kept_h * 3600,
        streams=settings.streams,
        stream_maxlen=settings.stream_maxlen,
    )
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(contextlib.closing(LossyReader(path, CONSUMER))) for path in rings_in(rings_dir)]
        journal = None
        try:
            if journal_path is not None:
                journal = stack.enter_context(Journal(journal_path))
        except OSError as exc:  # of a full or broken disk: messages go on
            log.get().error("publisher_journal_unusable", path=str(journal_path), error=exc.strerror or str(exc))
        on_ready()
        publisher = Publisher(
            readers=readers,
            batch=batch,
            link=RedisLink(settings, owner),
            settings=settings,
            counters=counters,
            host=dataclasses.replace(host, wait=noticing_new_rings(host.wait, rings_dir, readers)),
            journal=journal,
        )
        is_drained = publisher.run()
        if is_drained:
            look_for_new_rings(rings_dir, readers)  # since the last look: the supervisor has time for that one too
        return is_drained


def main(child: process.Child) -> None:
    """Be the publisher process until asked to stop."""
    host = host_of(child, CONSUMER)
    owner = owner_of(child.data_dir, os.getppid())
    run(
        child.config.redis,
        child.data_dir / RINGS_DIR,
        child.counters,
        host,
        on_ready=child.running,
        owner=owner,
        journal_path=child.data_dir / JOURNAL_FILE,
    )


if __name__ == "__main__":
    process.main(main)
