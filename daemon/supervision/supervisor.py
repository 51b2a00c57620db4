"""The supervisor: one synchronous loop that makes the running processes match the desired ones.

Five verbs, each once per round: take signals, reap who has ended, judge who is silent, kill who must go, spawn who is
missing. It waits in one poll() over a signal pipe, a pidfd per child and the time of the next thing to do; it never
asks a child anything. What it decides is pure and elsewhere: `liveness`, `restarts`, `drain`.

If the supervisor itself is killed, its children notice (parent-death signal) and drain; the next supervisor waits for
them at the directory lock. Nothing that was received depends on this process.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import setproctitle

from daemon import log
from daemon.alerts import SOCKET as ALERTS_SOCKET
from daemon.alerts import Alerts, DatagramAlerts
from daemon.config import Config
from daemon.errors import ConfigError, IngestError, Refused
from daemon.supervision import drain, leftovers, liveness, spawn
from daemon.supervision.chore import Chore, ChoreSpec
from daemon.supervision.directory_lock import ChildEntry, DirectoryLock
from daemon.supervision.managed import Managed
from daemon.supervision.process import Assignment, ExitCode, ProcessSpec, ProcessState, Pulse, Restart
from daemon.supervision.reload import Respec, revise
from daemon.supervision.restarts import Backoff, RestartBudget
from daemon.supervision.run_records import RunRecords
from daemon.supervision.signals import STOPPING, Signals, StopAsked
from native_pipeline.counters import CountersBlock, create_counters_file

NAME = "supervisor"
COUNTERS_BLOCK = 0  # of the supervisor; the specs use 1 and up
RUN_DIR = "run"
SECOND_NS = 1_000_000_000
JUDGE_INTERVAL_NS = SECOND_NS
PAUSED_NS = 5 * SECOND_NS  # rounds come each second: a longer gap means that the machine or the container stood still
ABORT_DUMP_NS = SECOND_NS  # between SIGABRT, on which a child prints its traceback, and SIGKILL
LEFTOVERS_SHARE = drain.MARGIN / 4  # of the grace period, to count what stays in the rings
ORPHAN_EXTRA_S = 3.0  # beyond the grace period that orphans give themselves
HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
FOREIGN_KILLS = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT})
BOOT_FAILURES = frozenset({ExitCode.CONFIG, ExitCode.CANNOT_BOOT})
LIMITS_LEARNED = "limits_learned"  # counted by the workers, which keep them where the next plan finds them
TOTALS = ("records_received", "rows_committed", "records_published", "records_quarantined")


class Supervisor:
    """Runs *specs* until told to stop; build it in the composition root and call run() in the main thread.

    prepare: called with the directory locked and no child running: create or check ring files there. It gets what it
        sleeps with, which a stop ends.
    reload: reads the settings again on SIGHUP; respec: the same processes for other settings, called for a reload and
    when a worker has learned a limit. ConfigError from either: everything stays as it is. Children whose part changes
    are told (`Child.on_reload`), and those started later get the new one. chore: done before the first child starts.
    booted: given what alerts can be sent with, once there are counters to count them.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        config: Config,
        data_dir: Path,
        counters_path: Path,
        prepare: Callable[[Callable[[float], None]], None] | None = None,
        reload: Callable[[], Config] | None = None,
        respec: Respec | None = None,
        chore: ChoreSpec | None = None,
        booted: Callable[[Alerts], None] | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._specs = tuple(specs)
        self._config = config
        self._data_dir = data_dir
        self._run_dir = data_dir / RUN_DIR
        self._counters_path = counters_path
        self._prepare = prepare
        self._reload_config = reload
        self._respec = respec
        self._chore = None if chore is None else Chore(chore, clock_ns=clock_ns)
        self._booted = booted
        self._clock_ns = clock_ns
        self._log = log.get()
        self._signals = Signals(HANDLED_SIGNALS)
        self._lock = DirectoryLock(self._run_dir, sleep=self._signals.sleep)
        self._records = RunRecords(self._run_dir)
        self._stages = drain.stages((spec.drain_order for spec in specs), config.supervision.grace_s)
        self._budget = RestartBudget(config.supervision.restarts_per_hour)
        self._managed: list[Managed] = []
        self._wake_fds: dict[str, int] = {}
        self._poll = select.poll()
        self._now_ns = 0
        self._judged_ns = 0
        self._watching_since_ns = 0
        self._stop_began_ns: int | None = None
        self._exit_code: int = ExitCode.OK
        self._unclean: list[str] = []
        self._counters: CountersBlock
        self._alerts: DatagramAlerts
        self._pulse: Pulse
        self._totals_at_start: dict[str, int] = {}
        self._limits_learned = self._limits_seen = 0

    # ---- life ----------------------------------------------------------------------------------------

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT, or until it makes no sense any more; return the exit code."""
        setproctitle.setproctitle(f"sise: {NAME}")
        log.configure(self._config.log.level, self._config.log.format, role=NAME, pid=os.getpid())
        try:
            with self._signals:
                self._poll.register(self._signals.fd, select.POLLIN)
                if self._boot():
                    self._loop()
                    self._report_end()
                    self._alerts.close()
        except StopAsked:
            self._log.info("stopped_while_starting")
        finally:
            for fd in self._wake_fds.values():
                os.close(fd)
            if self._chore is not None:
                self._chore.stop()
            self._lock.close()
        return self._exit_code

    def _boot(self) -> bool:
        """Lock the directory, then make what the children share; False: cannot start, the exit code says why."""
        try:
            grace_s = self._config.supervision.grace_s + ORPHAN_EXTRA_S
            self._lock.acquire(
                orphan_grace_s=grace_s, expendable=self._expendable_orphans(), on_orphans=self._on_orphans
            )
        except (Refused, OSError) as exc:
            return self._refuse(ExitCode.FAILED, "refused_to_start", exc)
        try:
            if self._prepare is not None:
                self._prepare(self._signals.sleep)
            create_counters_file(self._counters_path, 1 + max(spec.counters_block for spec in self._specs))
            self._counters = CountersBlock(self._counters_path, COUNTERS_BLOCK)
        except ConfigError as exc:
            return self._refuse(ExitCode.CONFIG, "cannot_boot", exc)
        except (IngestError, OSError) as exc:
            return self._refuse(ExitCode.CANNOT_BOOT, "cannot_boot", exc)
        self._counters.take(NAME)
        self._counters.set_state(ProcessState.RUNNING)
        self._pulse = Pulse(self._counters)
        self._alerts = DatagramAlerts(
            self._data_dir / ALERTS_SOCKET, role=NAME, logger=self._log, counters=self._counters
        )
        if self._booted is not None:
            self._booted(self._alerts)
        limits = self._config.supervision
        for spec in self._specs:
            counters = CountersBlock(self._counters_path, spec.counters_block)
            self._managed.append(Managed(spec, counters, Backoff(limits.restart_first_s, limits.restart_max_s)))
        self._totals_at_start = self._totals()
        self._limits_learned = self._limits_seen = self._total(LIMITS_LEARNED)
        for wake in sorted({wake for spec in self._specs for wake in spec.wakes}):
            self._wake_fds[wake] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._records.write_pid(os.getpid())
        self._log.info("supervisor_started", data_dir=str(self._data_dir), processes=len(self._specs))
        if self._chore is not None:
            with suppress(StopAsked):  # the loop takes the signal
                self._chore.first(self._config, sleep=self._signals.sleep)
        return True

    def _refuse(self, code: ExitCode, event: str, exc: Exception) -> bool:
        self._exit_code = code
        self._log.error(event, reason=str(exc))
        return False

    def _expendable_orphans(self) -> frozenset[str]:
        """Return the processes that only pass on what the first stage stores in the rings: it stays there."""
        return frozenset(spec.name for spec in self._specs if spec.drain_order > self._stages[0].order)

    def _on_orphans(self, names: list[str]) -> None:
        self._log.warning("waiting_for_orphans", orphans=names, at_most_s=self._config.supervision.grace_s)

    def _loop(self) -> None:
        while self._stop_began_ns is None or any(managed.handle for managed in self._managed):
            self._now_ns = self._clock_ns()
            self._pulse.beat()
            self._take_signals()
            self._reap()
            self._judge()
            self._kill()
            self._spawn()
            self._poll.poll(self._wait_ms())

    def _wait_ms(self) -> int:
        """Return how long nothing needs to be done, unless a signal comes or a child ends."""
        times = [self._now_ns + JUDGE_INTERVAL_NS]
        for managed in self._managed:
            if managed.kill_at_ns is not None:
                times.append(managed.kill_at_ns)
            if managed.handle is None and managed.due_ns is not None:
                times.append(managed.due_ns)
        if self._stop_began_ns is not None and not any(managed.handle for managed in self._managed):
            return 0
        return max(0, -(-(min(times) - self._clock_ns()) // 1_000_000))

    # ---- verb 1: take signals --------------------------------------------------------------------------

    def _take_signals(self) -> None:
        for number in self._signals.take():
            if number in STOPPING:
                self._begin_stop(signal.Signals(number).name)
            elif number == signal.SIGHUP:
                self._reload()

    def _begin_stop(self, reason: str, code: int = ExitCode.OK) -> None:
        """Start to stop everything in order; later reasons change nothing."""
        if self._stop_began_ns is not None:
            self._log.info("already_stopping", reason=reason)
            return
        self._stop_began_ns = self._now_ns
        self._exit_code = code
        self._counters.set_state(ProcessState.DRAINING)
        self._log.info("stopping", reason=reason, grace_s=self._config.supervision.grace_s)
        for managed in self._managed:
            has_to_drain = managed.spec.drain_order > self._stages[0].order
            if managed.handle is None and has_to_drain and code == ExitCode.OK:
                managed.due_ns = self._now_ns  # it was about to be restarted: what is in the rings needs it now
            elif managed.handle is None:
                managed.due_ns = None

    def _reload(self) -> None:
        if self._reload_config is None or self._stop_began_ns is not None:
            return
        try:
            self._adopt(self._reload_config())
        except ConfigError as exc:
            self._log.error("reload_refused", error=str(exc))
            self._alerts.send("WARNING", "reload_refused", f"the settings in force are kept: {exc}")

    def _adopt(self, new: Config) -> None:
        """Go by *new* from here on, and tell whom it concerns. Raises ConfigError: nothing has changed."""
        revision = revise(self._config, new, [managed.spec for managed in self._managed], self._respec)
        if revision.refused or revision.waiting:
            self._log.warning("reload_needs_restart", keys=(*revision.refused, *revision.waiting))
        if self._chore is not None and revision.config.calendar != self._config.calendar:
            self._chore.ask()
        self._config = revision.config
        for managed in self._managed:
            managed.spec = revision.specs[managed.spec.name]
            if managed.handle and managed.spec.name in revision.concerned:
                self._tell(managed, managed.handle)
        self._log.info("reloaded", concerned=sorted(revision.concerned))

    def _tell(self, managed: Managed, handle: spawn.ChildHandle) -> None:
        try:
            handle.tell(self._assignment(managed.spec))
        except OSError as exc:  # no memory for a few kilobytes: its restart will tell it
            self._log.error("child_not_told", child=managed.spec.name, error=str(exc))

    def _notice_limits(self) -> None:
        """Plan again when workers have learned how much a session takes, and none has learned more for a round."""
        total = self._total(LIMITS_LEARNED)
        is_settled, self._limits_seen = total == self._limits_seen, total
        if not is_settled or total == self._limits_learned:
            return
        self._limits_learned = total
        try:
            self._adopt(self._config)
        except ConfigError as exc:
            self._log.error("replan_refused", error=str(exc))
            self._alerts.send("CRITICAL", "replan_refused", f"the plan in force is kept: {exc}")

    # ---- verb 2: reap ----------------------------------------------------------------------------------

    def _reap(self) -> None:
        for managed in self._managed:
            handle = managed.handle
            if handle is None:
                continue
            pidfd = handle.pidfd
            code = handle.try_reap()
            if code is not None:
                self._poll.unregister(pidfd)
                self._on_exit(managed, handle.pid, code)
        if os.getpid() == 1:
            ours = {managed.handle.pid for managed in self._managed if managed.handle}
            spawn.reap_strays(ours | {self._chore.pid or 0 if self._chore else 0})

    def _on_exit(self, managed: Managed, pid: int, code: int) -> None:
        name = managed.spec.name
        has_run = managed.has_run(pid)
        uptime_s = (self._now_ns - managed.spawned_ns) / SECOND_NS
        managed.handle = managed.kill_at_ns = None
        managed.counters.set_state(ProcessState.STOPPED)  # its owner is dead, so the block is ours to write
        self._record_children()
        found = self._log.bind(child=name, child_pid=pid, exit=spawn.describe_exit(code), uptime_s=round(uptime_s, 1))
        if self._stop_began_ns is not None:
            managed.due_ns = None
            if code == ExitCode.OK or managed.spec.restart is not Restart.ESSENTIAL:
                found.info("child_stopped")
            elif self._may_drain_again(managed, (self._now_ns - self._stop_began_ns) / SECOND_NS):
                managed.due_ns = self._now_ns
                managed.drains_again, managed.is_asked_to_stop = True, False
                found.warning("child_died", restart_in_s=0.0)
            elif code == ExitCode.RING_REPLACED and managed.spec.drain_order == self._stages[0].order:
                found.info("child_stopped")  # it has nothing to drain, and the next start makes its ring anew
            else:
                self._unclean.append(name)
                found.warning("child_stopped_badly")
        elif code in BOOT_FAILURES and managed.starts == 1 and not has_run:
            found.critical("child_cannot_boot")
            self._alerts.send("CRITICAL", "process_cannot_boot", f"{name} cannot start: the daemon ends", subject=name)
            self._begin_stop(f"{name} cannot boot", code)
        else:
            self._schedule_restart(managed, found, code=code, has_run=has_run, uptime_s=uptime_s)

    def _may_drain_again(self, managed: Managed, stopping_for_s: float) -> bool:
        """Whether one that ended before its rings were empty has time left; once, and not if the daemon gives up."""
        stage = self._stage_of(managed.spec)
        has_to_drain = stage.order > self._stages[0].order and self._exit_code == ExitCode.OK
        return has_to_drain and not managed.drains_again and stage.drain_s(stopping_for_s) > drain.LEAST_S

    def _stage_of(self, spec: ProcessSpec) -> drain.Stage:
        return next(stage for stage in self._stages if stage.order == spec.drain_order)

    def _schedule_restart(
        self, managed: Managed, found: Any, *, code: int, has_run: bool, uptime_s: float
    ) -> None:  # Any: structlog's bound logger
        limits = self._config.supervision
        is_foreign_kill = code in FOREIGN_KILLS and not managed.is_condemned
        was_healthy = has_run and (is_foreign_kill or uptime_s >= limits.restart_max_s)
        delay_s = managed.backoff.next_delay_s(was_healthy=was_healthy)
        managed.due_ns = self._now_ns + int(delay_s * SECOND_NS)
        found.warning("child_died", restart_in_s=delay_s)
        name, ended = managed.spec.name, spawn.describe_exit(code)
        self._alerts.send("WARNING", "process_restarted", f"{name} ended ({ended}); started again", subject=name)
        if is_foreign_kill or managed.spec.restart is Restart.BEST_EFFORT:
            return
        if not self._budget.try_spend(self._now_ns):
            found.critical("restart_budget_spent", restarts_per_hour=self._budget.limit)
            self._alerts.send("CRITICAL", "restart_budget_spent", f"{name} ends again and again: the daemon stops")
            self._begin_stop("restart budget spent", ExitCode.FAILED)

    # ---- verb 3: judge ---------------------------------------------------------------------------------

    def _judge(self) -> None:
        if self._stop_began_ns is not None or self._now_ns - self._judged_ns < JUDGE_INTERVAL_NS:
            return
        if self._now_ns - self._judged_ns > PAUSED_NS:
            self._watching_since_ns = self._now_ns
        self._judged_ns = self._now_ns
        self._records.retry()
        self._alerts.flush()
        self._notice_limits()
        if self._chore is not None:
            self._chore.tick(self._config)
        living = {managed.spec.name: managed for managed in self._managed if managed.handle}
        verdicts = liveness.judge(
            [managed.vital() for managed in living.values()],
            self._now_ns,
            limit_ns=int(self._config.supervision.heartbeat_timeout_s * SECOND_NS),
            watching_since_ns=self._watching_since_ns,
        )
        for name, verdict in verdicts.items():
            if verdict not in liveness.ALIVE and not living[name].is_condemned:
                self._condemn(living[name], verdict)

    def _condemn(self, managed: Managed, verdict: liveness.Verdict) -> None:
        """End a hung process: SIGABRT makes it print where it hangs, SIGKILL follows."""
        assert managed.handle is not None
        limit_s = self._config.supervision.heartbeat_timeout_s
        self._log.warning("child_hung", child=managed.spec.name, verdict=verdict.value, silent_for_s=limit_s)
        managed.is_condemned = True
        managed.handle.send(signal.SIGABRT)
        managed.kill_at_ns = self._now_ns + ABORT_DUMP_NS

    # ---- verb 4: kill ----------------------------------------------------------------------------------

    def _kill(self) -> None:
        if self._stop_began_ns is not None:
            self._stop_next_stage(self._stop_began_ns)
        for managed in self._managed:
            if managed.handle and managed.kill_at_ns is not None and self._now_ns >= managed.kill_at_ns:
                managed.kill_at_ns = None
                self._log.warning("child_killed", child=managed.spec.name, stopping=self._stop_began_ns is not None)
                managed.handle.send(signal.SIGKILL)

    def _stop_next_stage(self, began_ns: int) -> None:
        """Send SIGTERM to the processes of the first stage that has any left; the next one waits for their end."""
        present = [managed for managed in self._managed if managed.handle or managed.due_ns is not None]
        if not present:
            return
        order = min(managed.spec.drain_order for managed in present)
        stage = next(stage for stage in self._stages if stage.order == order)
        for managed in present:
            if managed.spec.drain_order == order and managed.handle and not managed.is_asked_to_stop:
                managed.is_asked_to_stop = True
                managed.handle.send(signal.SIGTERM)
                managed.kill_at_ns = began_ns + int(stage.ends_at_latest_s * SECOND_NS)

    # ---- verb 5: spawn ---------------------------------------------------------------------------------

    def _spawn(self) -> None:
        for managed in self._managed:
            if managed.handle is None and managed.due_ns is not None and self._now_ns >= managed.due_ns:
                self._start(managed)
                if self._stop_began_ns is not None:
                    self._stop_next_stage(self._stop_began_ns)  # it hears that when it has its handlers

    def _start(self, managed: Managed) -> None:
        spec = managed.spec
        assignment = self._assignment(spec)
        managed.starts += 1
        managed.spawned_ns = self._clock_ns()
        managed.is_condemned = False
        try:
            managed.handle = spawn.spawn(spec.argv, assignment, (self._lock.fd, *assignment.wake_fds.values()))
        except OSError as exc:
            found = self._log.bind(child=spec.name, error=str(exc))
            if self._stop_began_ns is None:
                self._schedule_restart(managed, found, code=ExitCode.FAILED, has_run=False, uptime_s=0.0)
            else:
                managed.due_ns = None
                self._unclean.append(spec.name)
                found.warning("child_not_started")
            return
        managed.due_ns = None
        self._poll.register(managed.handle.pidfd, select.POLLIN)
        self._record_children()
        if managed.starts > 1:
            self._counters.increment("restarts")
        self._log.info("child_started", child=spec.name, child_pid=managed.handle.pid, start=managed.starts)

    def _assignment(self, spec: ProcessSpec) -> Assignment:
        stopping_for_s = None if self._stop_began_ns is None else (self._clock_ns() - self._stop_began_ns) / SECOND_NS
        return Assignment(
            name=spec.name,
            role=spec.role,
            index=spec.index,
            parent_pid=os.getpid(),
            data_dir=str(self._data_dir),
            counters_path=str(self._counters_path),
            counters_block=spec.counters_block,
            processes={NAME: COUNTERS_BLOCK, **{each.name: each.counters_block for each in self._specs}},
            wake_fds={wake: self._wake_fds[wake] for wake in spec.wakes},
            lock_fd=self._lock.fd,
            drain_s=self._stage_of(spec).drain_s(stopping_for_s) * (1.0 - drain.MARGIN),
            config=self._config,
            payload=spec.payload,
        )

    def _record_children(self) -> None:
        living = [managed for managed in self._managed if managed.handle]
        self._records.write_children([ChildEntry(m.spec.name, m.handle.identity()) for m in living if m.handle])

    # ---- the end ---------------------------------------------------------------------------------------

    def _totals(self) -> dict[str, int]:
        return {name: self._total(name) for name in TOTALS}

    def _total(self, name: str) -> int:
        return sum(managed.counters.get(name) for managed in self._managed)

    def _report_end(self) -> None:
        """Log the counts of this run, and whether the stop was an orderly one."""
        assert self._stop_began_ns is not None
        counts = {name: total - self._totals_at_start[name] for name, total in self._totals().items()}
        remaining = leftovers.count(self._data_dir, patience_s=self._config.supervision.grace_s * LEFTOVERS_SHARE)
        spill_files = leftovers.count_spilled(self._data_dir)
        waiting = {
            "remaining_in_rings": remaining.records,
            "remaining_bytes_in_rings": remaining.size_bytes,
            "remaining_spill_files": spill_files,
        }
        took_s = round((self._clock_ns() - self._stop_began_ns) / SECOND_NS, 2)
        if remaining.size_bytes:
            self._log.warning(
                "records_stay_in_the_rings",
                records=remaining.records,
                bytes=remaining.size_bytes,
                reason="not committed before the deadline",
            )
        if spill_files:
            self._log.warning("spilled_batches_wait", files=spill_files, reason="the database has not taken them yet")
        if self._unclean and self._exit_code == ExitCode.OK:
            self._exit_code = ExitCode.FAILED
        if self._exit_code == ExitCode.OK:
            self._log.info("Graceful Shutdown Complete", **counts, **waiting, took_s=took_s)
        else:
            self._log.error("Shutdown After Failure", **counts, **waiting, took_s=took_s, unclean=self._unclean)
        self._counters.set_state(ProcessState.STOPPED)
        self._records.remove()
