"""Step 0 of 6 in the life of a tick: the worker process, which owns a shard of connections and one ring.

Before: the shard plan. After: `native_pipeline/frame_listener.pyx`, for every frame; per tick no Python runs here.
One task per connection, one timer for everything that is due, one thread that syncs the ring to the disk.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from daemon import log as logs
from daemon.errors import ConfigError
from daemon.ingest.approval_key import ApprovalKeyProvider, KeyProvider, NoApprovalKey
from daemon.ingest.connection import State as ConnectionState
from daemon.ingest.connector import Connector, NetworkConnector
from daemon.ingest.gaps import whole_until
from daemon.ingest.ring_sync import RingSync
from daemon.ingest.session import Session, Surroundings
from daemon.ingest.venues import venue_named
from daemon.rings import ring_path as path_of_ring
from daemon.shard_plan import WorkerPlan
from daemon.supervision import process
from native_pipeline.ring import RingWriter

if TYPE_CHECKING:
    from daemon.config import Account, Config
    from daemon.ingest.venues.venue import Venue
    from native_pipeline.counters import CountersBlock

HEARTBEAT_INTERVAL_S = 0.5
LEDGER_INTERVAL_S = 1.0
# The timer never sleeps less: a deadline in the past that nobody serves must not become a busy loop.
MIN_SLEEP_S = 0.001


async def run_worker(
    config: Config,
    plan: WorkerPlan,
    *,
    ring_path: str | Path,
    counters: CountersBlock,
    wake_fds: Mapping[str, int],
    stop: asyncio.Event,
    beat: Callable[[], None],
    connector: Connector | None = None,
) -> None:
    """Collect what *plan* says into the ring at *ring_path* until *stop* is set; then close everything in order.

    wake_fds: consumer name -> eventfd. beat: shows that we live, called twice a second. connector: the network, by
    default the real one. Raises ConfigError if the plan names an account that *config* lacks, RingError if the ring is
    not ours to write.
    """
    ring = RingWriter(str(ring_path), wake_fds=dict(wake_fds))
    is_clean = False
    try:
        worker = Worker(config, plan, ring=ring, counters=counters, beat=beat, connector=connector)
        await worker.run(stop)
        is_clean = True
    finally:
        ring.close(clean=is_clean)


class Worker:
    """The sessions of one worker process, and their timer."""

    def __init__(
        self,
        config: Config,
        plan: WorkerPlan,
        *,
        ring: RingWriter,
        counters: CountersBlock,
        beat: Callable[[], None],
        connector: Connector | None = None,
    ) -> None:
        self._beat = beat
        self._config = config
        self._ring = ring
        self._counters = counters
        self._connector: Connector = connector or NetworkConnector(
            connect_timeout_s=config.ingest.connect_timeout_s, max_frame_bytes=config.ingest.max_frame_bytes
        )
        self._wake = asyncio.Event()
        self._log: Any = logs.get()
        self._ring_sync = RingSync(ring) if config.ring.wal_sync == "1s" else None
        around = Surroundings(
            ring=ring,
            counters=counters,
            connector=self._connector,
            settings=config.ingest,
            clock=time.monotonic,
            wall_ns=time.time_ns,
            random=random.random,
            wake_timer=self._wake.set,
            log=self._log,
        )
        accounts = {account.name: account for account in config.accounts}
        self.sessions: list[Session] = []
        for number, planned in enumerate(plan.connections):
            if planned.account not in accounts:
                raise ConfigError(f"accounts: the plan uses {planned.account!r}, which is not configured")
            account, venue = accounts[planned.account], venue_named(planned.venue)
            keys = self._key_provider(account, venue)
            self.sessions.append(Session(number, planned, account=account, venue=venue, keys=keys, around=around))

    async def run(self, stop: asyncio.Event) -> None:
        """Run until *stop*; an unexpected error of any part ends all of it."""
        self._open_gaps()
        self._counters.set("tail_bytes_cut", self._ring.recovered_bytes)
        self._counters.set("connections_planned", len(self.sessions))
        if self._ring_sync is not None:
            self._ring_sync.start()
        try:
            async with asyncio.TaskGroup() as group:
                timer = group.create_task(self._keep_time(), name="timer")
                feeds = [
                    group.create_task(session.run(), name=f"connection-{number}")
                    for number, session in enumerate(self.sessions)
                ]
                await stop.wait()
                self._log.info("worker_stopping", connections=len(feeds))
                for feed in feeds:
                    feed.cancel()
                if feeds:
                    await asyncio.wait(feeds)  # the timer still runs: it empties paused listeners into the ring
                timer.cancel()
        finally:
            if self._ring_sync is not None:
                self._ring_sync.stop()
            self._ring.flush_ledger(time.time_ns(), force=True)
            self._report()

    def _open_gaps(self) -> None:
        """Whatever a predecessor collected is interrupted since each stream's newest record.

        A stream without a record in the ring: since the oldest that is left. A ring that is new where there was one
        before (lost, or moved aside): since the newest record that the counters remember.
        """
        receipts = whole_until(self._ring.last_receipts())
        default_ns = self._ring.oldest_recv_ns or self._counters.get("last_data_ns")
        if default_ns > 0:
            for session in self.sessions:
                session.on_restarted(receipts, default_ns)

    async def _keep_time(self) -> None:
        """Serve every deadline of this process."""
        next_report = next_ledger = time.monotonic()
        while True:
            self._wake.clear()
            now = time.monotonic()
            for session in self.sessions:
                session.tick(now)
            if now >= next_report:
                self._report()
                next_report = now + HEARTBEAT_INTERVAL_S
            if now >= next_ledger:
                self._ring.flush_ledger(time.time_ns())
                next_ledger = now + LEDGER_INTERVAL_S
                if self._ring_sync is not None:
                    self._ring_sync.raise_error()
            deadlines = [d for session in self.sessions if (d := session.next_deadline(now)) is not None]
            delay_s = max(MIN_SLEEP_S, min([next_report, next_ledger, *deadlines]) - time.monotonic())
            try:
                async with asyncio.timeout(delay_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _report(self) -> None:
        """Store the heartbeat and the gauges."""
        statistics = [session.statistics() for session in self.sessions]
        counters = self._counters
        counters.set("connections_ready", sum(s.state is ConnectionState.STREAMING for s in self.sessions))
        counters.set("subscriptions_confirmed", sum(s.confirmed for s in statistics))
        counters.set("subscriptions_pending", sum(s.pending for s in statistics))
        counters.set("subscriptions_failed", sum(s.rejected + s.failed + s.capped for s in statistics))
        self._beat()

    def _key_provider(self, account: Account, venue: Venue) -> KeyProvider:
        if not venue.needs_approval_key:
            return NoApprovalKey()

        async def fetch() -> str:
            status, body = await self._connector.post(venue.approval_request(account))
            return venue.decode_approval(status, body)

        return ApprovalKeyProvider(fetch, clock=time.monotonic)


async def _work(child: process.Child) -> None:
    stop = asyncio.Event()
    child.stop_into(asyncio.get_running_loop(), stop)
    plan = child.unpack(WorkerPlan)
    await run_worker(
        child.config,
        plan,
        ring_path=path_of_ring(child.data_dir, plan.worker),
        counters=child.counters,
        wake_fds=child.wake_fds,
        stop=stop,
        beat=child.running,  # the first beat says that the set-up is done
    )


def run(child: process.Child) -> None:
    """Be a worker process until asked to stop."""
    uvloop.run(_work(child))


if __name__ == "__main__":
    process.main(run)
