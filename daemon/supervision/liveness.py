"""Decide from heartbeats which processes are alive: pure, the supervisor acts on it and the monitor reports it."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Verdict(enum.Enum):
    """What a process's silence means."""

    OK = "ok"
    STARTING = "starting"  # it has not taken its counters block yet, and still has time to
    HUNG = "hung"  # alive for the kernel, but its main loop has not come round within the limit
    NEVER_STARTED = "never_started"  # it has not even taken its block within the limit


ALIVE = frozenset({Verdict.OK, Verdict.STARTING})


@dataclass(frozen=True, slots=True)
class Vital:
    """What is known of one process. All times are CLOCK_MONOTONIC."""

    name: str
    pid: int
    spawned_mono_ns: int
    block_pid: int  # who took the counters block last; 0: nobody
    heartbeat_mono_ns: int


def judge(vitals: Iterable[Vital], now_ns: int, *, limit_ns: int, watching_since_ns: int) -> dict[str, Verdict]:
    """Return a verdict for each of *vitals*.

    *watching_since_ns* is when the judge itself came back from a pause (a stopped container, a suspended machine):
    silence before that moment proves nothing, because the judged may have been paused with it.
    """
    return {vital.name: _judge_one(vital, now_ns, limit_ns, watching_since_ns) for vital in vitals}


def _judge_one(vital: Vital, now_ns: int, limit_ns: int, watching_since_ns: int) -> Verdict:
    has_started = vital.block_pid == vital.pid
    last_sign_ns = vital.heartbeat_mono_ns if has_started else vital.spawned_mono_ns
    is_silent = now_ns - max(last_sign_ns, watching_since_ns) > limit_ns
    if has_started:
        return Verdict.HUNG if is_silent else Verdict.OK
    return Verdict.NEVER_STARTED if is_silent else Verdict.STARTING
