"""The composition root: settings -> plan -> rings and processes. The only module that knows every part."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path

from daemon import config as settings
from daemon import log, market_calendar
from daemon.errors import ConfigError, Refused
from daemon.identity import owner_of
from daemon.planning import Planner
from daemon.recording.raw_rings import prepare_raw_rings
from daemon.rings import MIB, RINGS_DIR, missing_bytes, prepare_rings
from daemon.shard_plan import Plan
from daemon.sinks.boot_check import check_servers
from daemon.supervision.chore import ChoreSpec
from daemon.supervision.process import ExitCode, ProcessSpec, Restart, module_argv, pack
from daemon.supervision.supervisor import Supervisor

# Places in the counters file; 0 is the supervisor's. Fixed, so that a changed number of workers moves nobody.
WRITER_BLOCK = 1
PUBLISHER_BLOCK = 2
MONITOR_BLOCK = 3
RECORDER_BLOCK = 4
FIRST_WORKER_BLOCK = 5

# Stop order: close the sockets, then empty the rings, then the lights.
DRAIN_WORKERS, DRAIN_SINKS, DRAIN_MONITOR = 1, 2, 3

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def run_daemon(config_path: str) -> int:
    """Run the daemon that *config_path* describes; return its exit code. Raises ConfigError before anything starts."""
    config = settings.load(config_path)
    data_dir = Path(config.data_dir)
    planner = Planner(data_dir, source=config_path)
    plan = planner.start(config)
    _make_data_dir(data_dir, config_path)
    log.configure(config.log.level, config.log.format, role="supervisor")
    log.get().info("settings", file=config_path, **settings.masked(config))

    def prepare(sleep: Callable[[float], None]) -> None:
        check_servers(config, owner_of(data_dir, os.getpid()), sleep=sleep)
        _prepare_rings(data_dir, config)
        planner.keep()

    chore = ChoreSpec(
        "market_hours",
        market_calendar.command(data_dir),
        lambda current: market_calendar.closed_days(current.calendar.closed),
        lambda current: market_calendar.is_fresh(
            market_calendar.path_in(data_dir), closed=current.calendar.closed, wall_ns=time.time_ns()
        ),
    )
    code = Supervisor(
        process_specs(plan, has_recorder=config.raw.enabled),
        config=config,
        data_dir=data_dir,
        counters_path=data_dir / "run" / "counters",
        prepare=prepare,
        reload=lambda: settings.load(config_path),
        respec=lambda new: process_specs(planner.again(new), planner.running, has_recorder=config.raw.enabled),
        chore=chore,
        booted=planner.report_to,
    ).run()
    return code if code in (ExitCode.OK, ExitCode.CONFIG) else ExitCode.FAILED  # the three that users are promised


def _make_data_dir(data_dir: Path, source: str) -> None:
    """Create the directory, private, or leave it as it is. Raises ConfigError if nothing can be kept there."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{source}: data_dir: {data_dir}: {exc.strerror}") from exc
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"{source}: data_dir: {data_dir}: {os.strerror(errno.EACCES)}")


def _prepare_rings(data_dir: Path, config: settings.Config) -> None:
    """Create or check the rings. Raises Refused, with path and size, when the disk has no room for them."""
    size = {"workers": config.workers, "capacity_mb": config.ring.capacity_mb}
    try:
        prepare_rings(data_dir, **size)
        if config.raw.enabled:
            prepare_raw_rings(data_dir, workers=config.workers, capacity_mb=config.raw.ring_mb)
    except OSError as exc:
        if exc.errno not in NO_ROOM:
            raise
        needed, free = missing_bytes(data_dir, **size) // MIB, shutil.disk_usage(data_dir).free // MIB
        raise Refused(
            f"{data_dir / RINGS_DIR}: no room: the missing rings need {needed} MiB, {free} MiB are free"
        ) from exc


def process_specs(plan: Plan, running: Collection[int] = (), *, has_recorder: bool = False) -> tuple[ProcessSpec, ...]:
    """Return the desired processes: a worker for each shard that has connections or is *running*, one of each sink.

    has_recorder: one more, that keeps what the workers receive as it came.
    """
    workers = tuple(
        ProcessSpec(
            role="worker",
            index=shard.worker,
            argv=module_argv("daemon.ingest.worker"),
            counters_block=FIRST_WORKER_BLOCK + shard.worker,
            drain_order=DRAIN_WORKERS,
            wakes=("writer", "publisher"),
            payload=pack(shard),
            accounts=tuple(connection.account for connection in shard.connections),
        )
        for shard in plan.workers
        if shard.connections or shard.worker in running
    )
    recorder = ProcessSpec(
        role="recorder",
        argv=module_argv("daemon.recording.recorder"),
        counters_block=RECORDER_BLOCK,
        drain_order=DRAIN_SINKS,
        restart=Restart.BEST_EFFORT,
    )
    return (
        *((recorder,) if has_recorder else ()),
        ProcessSpec(
            role="writer",
            argv=module_argv("daemon.sinks.writer_process"),
            counters_block=WRITER_BLOCK,
            drain_order=DRAIN_SINKS,
            wakes=("writer",),
        ),
        ProcessSpec(
            role="publisher",
            argv=module_argv("daemon.sinks.publisher"),
            counters_block=PUBLISHER_BLOCK,
            drain_order=DRAIN_SINKS,
            wakes=("publisher",),
        ),
        *workers,
        ProcessSpec(
            role="monitor",
            argv=module_argv("daemon.watching.monitor"),
            counters_block=MONITOR_BLOCK,
            drain_order=DRAIN_MONITOR,
            restart=Restart.BEST_EFFORT,
        ),
    )
