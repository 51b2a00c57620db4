"""Step 0 of 6 in the life of a tick: the worker process, which owns a shard of connections and one ring.

Before: the shard plan. After: `native_pipeline/frame_listener.pyx`, for every frame; per tick no Python runs here.
One task per connection, one timer for everything that is due, one thread that syncs the ring to the disk.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvloop

from daemon import log as logs
from daemon.alerts import SOCKET as ALERTS_SOCKET
from daemon.alerts import Alerts, DatagramAlerts
from daemon.declined import DeclinedRegistrations
from daemon.errors import ConfigError, InvariantBroken, RingError
from daemon.ingest.approval_key import AccessKeyProvider, KeyEndpoint, KeyProvider, NoAccessKey
from daemon.ingest.changes import Changes
from daemon.ingest.clock_step import CLOCK_STEP_FLAG, ClockStep
from daemon.ingest.connection import State as ConnectionState
from daemon.ingest.connector import Connector, NetworkConnector
from daemon.ingest.gaps import GapReason, Gaps, Place, Stream, whole_until
from daemon.ingest.governor import Budgets, Governor, share_of_address
from daemon.ingest.registrar import place_of, stream_of
from daemon.ingest.ring_history import history_of, moved_until, newest_receive_times, write_gaps
from daemon.ingest.ring_sync import RingSync, sync_of
from daemon.ingest.session import Session
from daemon.ingest.surroundings import Outside, Surroundings
from daemon.ingest.worker_status import StatusFile, session_statuses, status_path
from daemon.learned_limits import Lapses, LearnedLimits
from daemon.market_hours import FILE as HOURS_FILE
from daemon.market_hours import MarketHours
from daemon.recording.raw_rings import raw_ring_path
from daemon.rings import open_ring, require_in_place
from daemon.rings import ring_path as path_of_ring
from daemon.shard_plan import WorkerPlan
from daemon.supervision import process
from native_pipeline.ring_accounts import flush_gaps, flush_ledger
from native_pipeline.ring_writer import RingWriter
from native_pipeline.stream_receipts import newest_receipts, receipts_in

if TYPE_CHECKING:
    from daemon.config import Account, Config
    from daemon.ingest.venues.venue import AccessKey, Venue
    from daemon.shard_plan import PlannedConnection
    from native_pipeline.counters import CountersBlock

HEARTBEAT_INTERVAL_S = 0.5
LEDGER_INTERVAL_S = 1.0
# Silence of sessions and streams is judged this often at least.
LOOK_INTERVAL_S = 1.0
LAPSE_INTERVAL_S = 60.0  # Limits that come to their end are noticed this often.
# Gaps that found no room in the ring are tried again after this.
GAP_INTERVAL_S = 0.02
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
    outside: Outside = Outside(),  # noqa: B008 - frozen
) -> None:
    """Collect what *plan* says into the ring at *ring_path* until *stop* is set; then close everything in order.

    wake_fds: consumer name -> eventfd. beat: shows that we live, called twice a second. outside: the network and what
    else the worker does not own. Raises ConfigError if the plan names an account that *config* lacks, RingError if the
    ring is not ours to write.
    """
    ring = open_ring(
        Path(ring_path),
        ring=plan.worker,
        capacity_mb=config.ring.capacity_mb,
        wake_fds=wake_fds,
        syncs_first=config.ring.wal_sync == "batch",
    )
    is_clean = False
    try:
        worker = Worker(config, plan, ring=ring, counters=counters, beat=beat, outside=outside)
        await worker.run(stop)
        is_clean = True
    finally:
        ring.close(clean=is_clean)


def has_other_credentials(before: Account | None, after: Account) -> bool:
    """Return whether a key that was obtained for *before* must not be used for *after*."""
    if before is None:
        return True
    return (before.app_key, before.app_secret, before.rest_url) != (after.app_key, after.app_secret, after.rest_url)


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
        outside: Outside = Outside(),  # noqa: B008 - frozen
    ) -> None:
        self._beat = beat
        self._config = config
        self._plan = plan
        self._ring = ring
        self._counters = counters
        self._outside = outside
        self._connector: Connector = outside.connector or NetworkConnector(
            connect_timeout_s=config.ingest.connect_timeout_s, max_frame_bytes=config.ingest.max_frame_bytes
        )
        self._wake = asyncio.Event()
        self._log: Any = logs.get()
        self._ring_sync: RingSync | None = sync_of(ring, config.ring.wal_sync)
        self._status = StatusFile(outside.status_path, plan.worker) if outside.status_path is not None else None
        self._clock_step = ClockStep()
        self._gaps = Gaps()
        self._governor = Governor(self._budgets())
        self._endpoints: dict[str, KeyEndpoint] = {}
        self._keys: dict[str, KeyProvider] = {}
        self._accounts: dict[str, Account] = {}
        self._shared: frozenset[Place] = frozenset()
        self._carriers: Counter[Stream] = Counter()  # how many sessions bring each stream: two are a redundant pair
        self._late_trades = self._volume_gaps = 0  # as reported
        self._group: asyncio.TaskGroup | None = None  # while running
        self._feeds: dict[int, asyncio.Task[None]] = {}  # by number of the session
        self.sessions: list[Session] = []
        self._take_plan(config, plan)
        for planned in plan.connections:
            self.sessions.append(self._make_session(planned))

    async def run(self, stop: asyncio.Event) -> None:
        """Run until *stop*; an unexpected error of any part ends all of it."""
        await self._open_gaps()
        self._counters.set("tail_bytes_cut", self._ring.recovered_bytes)
        if self._ring_sync is not None:
            self._ring_sync.start()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                timer = group.create_task(self._keep_time(), name="timer")
                listening = group.create_task(self._take_changes(), name="changes")
                for session in self.sessions:
                    self._start(session)
                await stop.wait()
                listening.cancel()
                self._log.info("worker_stopping", connections=len(self._feeds))
                # What is interrupted now, a successor cannot know; what is carried until now is its business: its gaps
                # begin where this ring ends.
                self._gaps.set_wanted((), self._outside.wall_ns())
                feeds = list(self._feeds.values())
                for feed in feeds:
                    feed.cancel()
                if feeds:
                    await asyncio.wait(feeds)  # the timer still runs: it empties paused listeners into the ring
                timer.cancel()
        finally:
            self._group = None
            if self._ring_sync is not None:
                self._ring_sync.stop()
            self._gaps.on_stopped(self._outside.wall_ns())
            self._write_gaps()
            flush_gaps(self._ring, self._outside.wall_ns(), force=True)
            flush_ledger(self._ring, self._outside.wall_ns(), force=True)
            self._report()

    async def apply(self, config: Config, plan: WorkerPlan) -> None:
        """Collect what *plan* says from now on. Sessions that it does not change are not touched.

        Registrations that changed are asked for or given up on their sessions; accounts that are new are opened, those
        that have vanished closed properly. Other credentials and addresses are used from the next key and connection
        on; a session that had stopped because of its credentials starts again. Raises ConfigError before anything has
        changed.
        """
        planned_by = {planned.account: planned for planned in plan.connections}
        before, are_settings_new = self._accounts, config.ingest != self._config.ingest
        moved = await moved_until(plan, self._outside.history, self._gaps.streams())
        self._take_plan(config, plan)
        for stream, until_ns in moved.items():
            self._gaps.on_interrupted([stream], until_ns or self._outside.wall_ns(), GapReason.CONNECTION_LOST)
        for session in list(self.sessions):
            name = session.account.name
            planned, account = planned_by.get(name), self._accounts.get(name)
            if planned is None or account is None or planned.venue != session.venue.name:
                await self._close(session)
                self._keys.pop(name, None)
                continue
            if has_other_credentials(before.get(name), account) and name in self._keys:
                self._keys[name].forget()
                if session.state is ConnectionState.STOPPED:
                    await self._close(session)
                    continue
            if are_settings_new:
                session.set_settings(config.ingest)
            session.set_planned(planned, account)
        running = {session.account.name for session in self.sessions}
        for planned in plan.connections:
            if planned.account not in running:
                session = self._make_session(planned)
                self.sessions.append(session)
                self._start(session)
        self._governor.keep(planned_by)
        self._wake.set()

    def _take_plan(self, config: Config, plan: WorkerPlan) -> None:
        """Check *plan* against *config*, and remember both."""
        accounts = {account.name: account for account in config.accounts}
        names = [planned.account for planned in plan.connections]
        for name in names:
            if name not in accounts:
                raise ConfigError(f"accounts: the plan uses {name!r}, which is not configured")
            if names.count(name) > 1:
                raise InvariantBroken(f"the plan opens two sessions of account {name!r}")
        self._config, self._plan, self._accounts = config, plan, accounts
        self._governor.set_budgets(self._budgets())
        carried = [
            stream_of(planned.venue, subscription)
            for planned in plan.connections
            for subscription in planned.subscriptions
        ]
        self._gaps.set_wanted(carried, self._outside.wall_ns())
        self._carriers = Counter(carried)
        places = Counter(place_of(stream) for stream in carried)
        self._shared = frozenset(place for place, sessions in places.items() if sessions > 1)
        self._counters.set("connections_planned", len(plan.connections))

    def _budgets(self) -> Budgets:
        settings = self._config.ingest
        return Budgets(
            connects_per_account=settings.connects_per_10min,
            connects_per_address=share_of_address(
                settings.connects_per_10min_address,
                workers=self._config.workers,
                sessions=len(self._plan.connections),
            ),
            requests_per_account=settings.requests_per_min,
        )

    def _make_session(self, planned: PlannedConnection) -> Session:
        """Return a session for *planned* under the lowest number that none has."""
        taken = {session.number for session in self.sessions}
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        account, venue = self._accounts[planned.account], self._outside.venues(planned.venue)
        if account.layouts:
            venue.use_layouts(account.layouts)
        return Session(
            number,
            planned,
            account=account,
            venue=venue,
            keys=self._keys_of(account, venue),
            around=self._surroundings(),
        )

    def _surroundings(self) -> Surroundings:
        outside = self._outside
        return Surroundings(
            ring=self._ring,
            counters=self._counters,
            connector=self._connector,
            settings=self._config.ingest,
            clock=outside.clock,
            wall_ns=outside.wall_ns,
            random=random.random,
            wake_timer=self._wake.set,
            log=self._log,
            gaps=self._gaps,
            governor=self._governor,
            alerts=outside.alerts,
            is_open=outside.is_open,
            streams=self._newest,
            transits=functools.partial(newest_receipts, self._ring),
            learn_limit=outside.learn_limit,
            decline=outside.decline,
            is_redundant=self._is_redundant,
            raw=outside.raw,
        )

    def _is_redundant(self, streams: Iterable[Stream]) -> bool:
        return any(self._carriers[stream] > 1 for stream in streams)

    def _start(self, session: Session) -> None:
        if self._group is not None:
            task = self._group.create_task(session.run(), name=f"connection-{session.number}")
            self._feeds[session.number] = task

    async def _close(self, session: Session) -> None:
        """Close the socket of *session* properly and forget it."""
        feed = self._feeds.pop(session.number, None)
        if feed is not None:
            feed.cancel()
            await asyncio.wait([feed])
        self.sessions.remove(session)

    async def _take_changes(self) -> None:
        """Apply what the supervisor sends."""
        if self._outside.changes is None:
            return
        async for config, plan in self._outside.changes:
            try:
                await self.apply(config, plan)
            except ConfigError as exc:
                self._log.error("plan_refused", error=str(exc))
            else:
                self._log.info("plan_applied", connections=len(self.sessions))

    async def _open_gaps(self) -> None:
        """Whatever a predecessor collected is interrupted since each stream's newest record.

        A stream without a record in the ring: since the oldest that is left. A ring that is new where there was one
        before (lost, or moved aside): since the newest record that the counters remember.
        """
        receipts = whole_until(receipts_in(self._ring))
        default_ns = self._ring.oldest_recv_ns or self._counters.get("last_data_ns")
        moved = await moved_until(self._plan, self._outside.history)
        for stream in self._gaps.streams():
            started_ns = max(receipts.get(place_of(stream), 0), moved.get(stream, 0)) or default_ns
            if started_ns > 0:
                self._gaps.on_interrupted([stream], started_ns, GapReason.WORKER_RESTARTED)

    async def _keep_time(self) -> None:
        """Serve every deadline of this process."""
        clock = self._outside.clock
        next_report = next_ledger = next_look = next_lapse = clock()
        while True:
            self._wake.clear()
            now = clock()
            for session in self.sessions:
                session.tick(now)
            self._write_gaps()
            if now >= next_look:
                self._look(now)
                next_look = now + self._look_interval_s()
            if now >= next_report:
                self._report()
                self._note_clock()
                next_report = now + HEARTBEAT_INTERVAL_S
            if now >= next_lapse:
                lapsed = self._outside.lapses([session.account.name for session in self.sessions])
                self._counters.increment("limits_learned", lapsed)  # the supervisor plans again
                next_lapse = now + LAPSE_INTERVAL_S
            if now >= next_ledger:
                flush_ledger(self._ring, self._outside.wall_ns())
                flush_gaps(self._ring, self._outside.wall_ns())
                next_ledger = now + LEDGER_INTERVAL_S
                self._write_status()
                require_in_place(self._ring)
                if self._ring_sync is not None:
                    self._ring_sync.raise_error()
            deadlines = [d for session in self.sessions if (d := session.next_deadline(now)) is not None]
            if self._gaps.ended():
                deadlines.append(now + GAP_INTERVAL_S)
            delay_s = max(MIN_SLEEP_S, min([next_report, next_ledger, next_look, *deadlines]) - clock())
            await self._outside.wait(self._wake, delay_s)

    def _note_clock(self) -> None:
        """Flag the record behind a jump of the wall clock."""
        if step_s := self._clock_step.look(self._outside.clock(), self._outside.wall_ns()):
            self._ring.flag_next(CLOCK_STEP_FLAG)
            self._log.warning("wall_clock_jumped", seconds=round(step_s, 3))

    def _look_interval_s(self) -> float:
        """A second, less where the thresholds of silence are so short that it would matter."""
        settings = self._config.ingest
        return min(LOOK_INTERVAL_S, settings.symbol_silence_s / 8, settings.data_warn_s / 8)

    def _look(self, now: float) -> None:
        newest = self._newest()
        for session in self.sessions:
            session.look(now, newest, self._shared)

    def _newest(self) -> Mapping[Place, int]:
        return self._outside.streams(self._ring)

    def _write_gaps(self) -> None:
        """Append the gaps that have ended; what finds no room waits for the next time."""
        self._counters.increment("gaps_recorded", write_gaps(self._ring, self._gaps))

    def _report(self) -> None:
        """Store the heartbeat and the gauges."""
        statistics = [session.statistics() for session in self.sessions]
        counters = self._counters
        counters.set("connections_ready", sum(s.state is ConnectionState.STREAMING for s in self.sessions))
        counters.set("subscriptions_confirmed", sum(s.confirmed + s.suspected for s in statistics))
        counters.set("subscriptions_pending", sum(s.pending for s in statistics))
        counters.set("subscriptions_failed", sum(s.rejected + s.failed + s.capped for s in statistics))
        counters.set("subscriptions_suspected", sum(s.doubted for s in statistics))
        late, holes = self._ring.late_trades, self._ring.volume_gaps
        counters.increment("records_late", late - self._late_trades)
        counters.increment("volume_gaps", holes - self._volume_gaps)
        self._late_trades, self._volume_gaps = late, holes
        counters.set("synced_lag_bytes", self._ring.unsynced_bytes)
        self._beat()

    def _write_status(self) -> None:
        """Tell `sise status` which subscriptions are not confirmed, and why."""
        self._outside.flush_alerts()
        if self._status is None:
            return
        try:
            self._status.write(session_statuses(self.sessions, self._newest()))
        except OSError as exc:
            self._log.info("status_not_written", error=exc.strerror)

    def _keys_of(self, account: Account, venue: Venue) -> KeyProvider:
        """Return the account's one key provider: it outlives the sessions."""
        name = account.name
        if not venue.needs_approval_key:
            return NoAccessKey()

        async def fetch() -> AccessKey:
            status, body = await self._connector.post(venue.approval_request(self._accounts[name]))
            key = venue.decode_approval(status, body, datetime.datetime.now(datetime.UTC))
            self._counters.increment("account_keys_fetched")
            return key

        place = urlsplit(venue.approval_request(account).url).netloc
        endpoint = KeyEndpoint(clock=self._outside.clock, cooldown_max_s=self._config.ingest.key_cooldown_s)
        endpoint = self._endpoints.setdefault(place, endpoint)
        return self._keys.setdefault(name, AccessKeyProvider(fetch, endpoint=endpoint))


async def _work(child: process.Child) -> None:
    stop, changes, loop = asyncio.Event(), Changes(), asyncio.get_running_loop()
    child.stop_into(loop, stop)
    child.on_reload(loop, changes.put)
    plan = child.unpack(WorkerPlan)
    outside = _outside_of(child, plan, changes)
    await run_worker(
        child.config,
        plan,
        ring_path=path_of_ring(child.data_dir, plan.worker),
        counters=child.counters,
        wake_fds=child.wake_fds,
        stop=stop,
        beat=child.running,  # the first beat says that the set-up is done
        outside=outside,
    )
    if outside.raw is not None:
        outside.raw.close()


def _outside_of(child: process.Child, plan: WorkerPlan, changes: Changes) -> Outside:
    """Return what this process has around it."""
    limits = LearnedLimits(child.data_dir)

    def learn(account: str, limit: int) -> None:
        limits.record(account, limit, datetime.datetime.now(datetime.UTC))

    alerts = DatagramAlerts(child.data_dir / ALERTS_SOCKET, role=child.name, logger=child.log, counters=child.counters)
    hours = MarketHours.load(child.data_dir / HOURS_FILE)
    return Outside(
        alerts=alerts,
        flush_alerts=alerts.flush,
        is_open=hours.is_open,
        streams=newest_receive_times,
        history=functools.partial(history_of, child.data_dir),
        learn_limit=learn,
        decline=DeclinedRegistrations(child.data_dir).record,
        lapses=Lapses(limits).count,
        changes=changes,
        status_path=status_path(child.data_dir, plan.worker),
        raw=_open_raw_ring(child, plan.worker, alerts) if child.config.raw.enabled else None,
    )


def _open_raw_ring(child: process.Child, worker: int, alerts: Alerts) -> RingWriter | None:
    """Return the ring of the recorder, None if it cannot be used: market data do not need it."""
    try:
        return RingWriter(raw_ring_path(child.data_dir, worker))
    except RingError as exc:
        alerts.send("WARNING", "raw_capture_failed", f"raw capture: {exc}", subject=child.name)
        return None


def run(child: process.Child) -> None:
    """Be a worker process until asked to stop."""
    uvloop.run(_work(child))


if __name__ == "__main__":
    process.main(run)
