"""Decide from readings whether the daemon is alive, and whether it is ready: pure."""

from collections.abc import Mapping, Sequence

from daemon.supervision.process import ProcessState
from daemon.supervision.supervisor import NAME as SUPERVISOR
from daemon.watching.readings import NS_PER_S, ProcessReading, Reading

WRITER = "writer"
PUBLISHER = "publisher"
MAX_COMMIT_AGE_S = 5.0  # a batch takes 0.2 s: records that wait longer mean a writer that does not keep up
MAX_RING_SHARE = 0.25  # of a ring waiting for the writer
RUNNING = ProcessState.RUNNING.name.lower()
STOPPED = ProcessState.STOPPED.name.lower()
BEST_EFFORT = frozenset({"recorder"})  # market data do not need them: no reason to call the daemon dead or unready


def dead_reasons(reading: Reading, *, silence_limit_s: float) -> list[str]:
    """Return why the daemon is not alive; empty: every process has a fresh heartbeat.

    A process that has never started counts once the supervisor is older than the limit.
    """
    reasons = [
        f"{process.name}: no heartbeat for {process.silent_for_s:.0f} s"
        for process in reading.processes
        if process.silent_for_s > silence_limit_s and process.role not in BEST_EFFORT
    ]
    supervisor = next((process for process in reading.processes if process.name == SUPERVISOR), None)
    uptime_s = 0.0 if supervisor is None else (reading.wall_ns - supervisor.started_ns) / NS_PER_S
    if supervisor is None or uptime_s > silence_limit_s:
        reasons += [f"{name}: has not started" for name in reading.missing if name not in BEST_EFFORT]
    return reasons


def unready_reasons(history: Sequence[Reading], *, silence_limit_s: float) -> list[str]:
    """Return why not everything streams and is stored in time; empty: ready.

    *history* is in order of time and its last reading is the present one.
    """
    now = history[-1]
    reasons = [f"{name}: has not started" for name in now.missing if name not in BEST_EFFORT]
    for process in now.processes:
        if process.role in BEST_EFFORT:
            continue
        if process.silent_for_s > silence_limit_s:
            reasons.append(f"{process.name}: no heartbeat for {process.silent_for_s:.0f} s")
        elif process.state != RUNNING:
            reasons.append(f"{process.name}: is {process.state}")
        else:
            reasons += _role_reasons(process)
    reasons += lag_reasons(history)
    return reasons


def notes(reading: Reading, *, silence_limit_s: float) -> list[str]:
    """Return what is wrong although the daemon may be ready: market data do not need it."""
    found = []
    for process in reading.processes:
        if process.role == PUBLISHER and process.state == RUNNING and process.values["redis_connected"] != 1:
            found.append(f"{process.name}: Redis is away: nothing is published, storing goes on")
        elif process.role in BEST_EFFORT and process.silent_for_s > silence_limit_s:
            found.append(f"{process.name}: no heartbeat for {process.silent_for_s:.0f} s")
        elif process.role in BEST_EFFORT and process.state != RUNNING:
            found.append(f"{process.name}: is {process.state}")
    return found


def _role_reasons(process: ProcessReading) -> list[str]:
    values = process.values
    if process.role == "worker":
        ready, planned = values["connections_ready"], values["connections_planned"]
        if planned == 0:
            return [f"{process.name}: plans no connection yet"]
        reasons = [f"{process.name}: {ready} of {planned} connections stream"] if ready < planned else []
        return reasons + _subscription_reasons(process.name, values)
    if process.role == WRITER and values["database_connected"] != 1:
        return [f"{process.name}: the database is not connected"]
    return []


def _subscription_reasons(name: str, values: Mapping[str, int]) -> list[str]:
    """A connection that is up and carries less than what was planned does not stream."""
    reasons = []
    if values["subscriptions_confirmed"] == 0:
        reasons.append(f"{name}: no subscription is confirmed")
    if values["subscriptions_pending"] > 0:
        reasons.append(f"{name}: {values['subscriptions_pending']} subscriptions wait for the venue's answer")
    if values["subscriptions_failed"] > 0:
        reasons.append(f"{name}: {values['subscriptions_failed']} subscriptions failed")
    return reasons


def lag_reasons(history: Sequence[Reading]) -> list[str]:
    """Return which rings the writer does not keep up with.

    A record published before the age limit and not committed now is late, however few there are.
    """
    now = history[-1]
    limit_ns = now.mono_ns - MAX_COMMIT_AGE_S * NS_PER_S
    then = next((reading for reading in reversed(history) if reading.mono_ns <= limit_ns), None)
    heads_then = {} if then is None else {ring.name: ring.head for ring in then.rings}
    reasons = []
    for ring in now.rings:
        for consumer in ring.consumers:
            if consumer.name != WRITER:
                continue
            share = consumer.lag_bytes / ring.capacity_bytes
            if share > MAX_RING_SHARE:
                reasons.append(f"{ring.name}: {share:.0%} of the ring waits for the writer")
            elif consumer.position < heads_then.get(ring.name, 0):
                reasons.append(f"{ring.name}: records wait for the writer for more than {MAX_COMMIT_AGE_S:.0f} s")
    return reasons
