"""A schedule of faults, the same for the same seed, and how each is done to a running daemon.

What is drawn is what happens and after how many records; when exactly it strikes is the machine's affair. A run that
failed is repeated with its seed, which repeats its faults in their order.
"""

import dataclasses
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import psycopg

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.chaos.network_rig import NetworkRig
from tests.rig import ROLES, wait_for

MOST_RECORDS_BETWEEN = 1_500
SHORT_S = 0.7  # long enough to be noticed, shorter than any limit


@dataclasses.dataclass(frozen=True)
class Step:
    """After so many records, this; *choice* (0 to 1) picks what it happens to."""

    after_records: int
    fault: str
    choice: float


def plan(seed: str, steps: int, *, most_records_between: int = MOST_RECORDS_BETWEEN) -> Iterator[Step]:
    """Yield *steps* steps of a seed."""
    draw = random.Random(f"schedule:{seed}")
    names = sorted(FAULTS)
    for _ in range(steps):
        yield Step(draw.randint(1, most_records_between), draw.choice(names), draw.random())


class Stage:
    """A streaming daemon, its servers and its lines: all that a fault may touch."""

    def __init__(self, rig: NetworkRig, postgres: EmbeddedPostgres, redis_server: EmbeddedRedis) -> None:
        self.rig = rig
        self.postgres = postgres
        self.redis = redis_server

    def perform(self, step: Step) -> None:
        """Wait for the step's moment and do it. What it takes away is given back before this returns."""
        self.rig.wait_received(step.after_records)
        FAULTS[step.fault](self, step.choice)

    def recover(self) -> None:
        """Wait until everything streams again."""
        self.rig.wait_ready()

    def restart_daemon(self) -> None:
        """Start it again after its supervisor has ended."""
        assert self.rig.daemon is not None
        self.rig.daemon.wait()
        self.rig.start_daemon()


def _pause(seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= until, "a moment")


def _kill(role: str) -> Callable[[Stage, float], None]:
    def kill(stage: Stage, _choice: float) -> None:
        stage.rig.kill_roles(signal.SIGKILL, role)
        if role == "supervisor":
            stage.restart_daemon()

    return kill


def _kill_all(stage: Stage, _choice: float) -> None:
    stage.rig.kill_roles(signal.SIGKILL)
    stage.restart_daemon()


def _freeze(stage: Stage, choice: float) -> None:
    role = ROLES[1:][int(choice * (len(ROLES) - 1))]
    stage.rig.kill_roles(signal.SIGSTOP, role)
    _pause(SHORT_S)
    stage.rig.kill_roles(signal.SIGCONT, role)


def _restart(stage: Stage, _choice: float) -> None:
    assert stage.rig.stop_daemon() == 0, stage.rig.tail()
    stage.rig.start_daemon()


def _postgres(stage: Stage, choice: float) -> None:
    if choice < 0.5:
        stage.postgres.stop("fast")
    else:
        stage.postgres.kill()
    _pause(SHORT_S)
    stage.postgres.start()


def _outage(stage: Stage, _choice: float) -> None:
    """Behind all retries: spilled, and stored when the server is back."""
    spilled = stage.rig.total("batches_spilled")
    stage.postgres.stop("fast")
    wait_for(lambda: stage.rig.total("batches_spilled") > spilled, f"a spill file: {stage.rig.tail()}")
    stage.postgres.start()


def _backends(stage: Stage, _choice: float) -> None:
    with psycopg.connect(stage.postgres.dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sise%'")


def _lock(stage: Stage, _choice: float) -> None:
    with psycopg.connect(stage.postgres.dsn) as connection:
        connection.execute("LOCK TABLE market_ticks IN ACCESS EXCLUSIVE MODE")
        _pause(SHORT_S)


def _redis(stage: Stage, _choice: float) -> None:
    stage.redis.kill()
    _pause(SHORT_S)
    stage.redis.start()


def _reset(stage: Stage, _choice: float) -> None:
    stage.rig.ws.reset()


def _half_open(stage: Stage, _choice: float) -> None:
    stage.rig.ws.half_open()


def _partition(stage: Stage, choice: float) -> None:
    lines = (stage.rig.ws, stage.rig.rest)
    for line in lines:
        line.is_partitioned = True
    _pause(5 * SHORT_S * choice)
    for line in lines:
        line.is_partitioned = False


def _slow_line(stage: Stage, choice: float) -> None:
    stage.rig.ws.latency_s, stage.rig.ws.jitter_s = 0.2 * choice, 0.1 * choice


def _venue(act: str) -> Callable[[Stage, float], None]:
    def inject(stage: Stage, choice: float) -> None:
        names = list(stage.rig.accounts)
        stage.rig.inject(f"{act}@key-{names[int(choice * len(names))]}")

    return inject


FAULTS: Final[Mapping[str, Callable[[Stage, float], None]]] = {
    **{f"kill {role}": _kill(role) for role in ROLES},
    "kill all": _kill_all,
    "freeze": _freeze,
    "restart": _restart,
    "postgres away": _postgres,
    "outage": _outage,
    "backends ended": _backends,
    "table locked": _lock,
    "redis away": _redis,
    "reset": _reset,
    "half open": _half_open,
    "partition": _partition,
    "slow line": _slow_line,
    **{f"venue {act}": _venue(act) for act in ("close", "abort", "stall", "garbage", "skip", "swap", "expire_keys")},
}
