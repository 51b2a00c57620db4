"""A daemon whose roles do nothing but what a test tells them: the real supervisor, real processes.

`python dummy_daemon.py DATA_DIR PLAN.json` runs the supervisor; `python dummy_daemon.py ROLE` is one of its children.
A child writes what happens to it as lines in `DATA_DIR/events/NAME`, and behaves as the payload says.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from daemon import config as settings
from daemon import log
from daemon.errors import ConfigError, RingError
from daemon.shard_plan import PlannedConnection, PlannedSubscription, WorkerPlan
from daemon.supervision import process
from daemon.supervision.chore import ChoreSpec
from daemon.supervision.process import Child, ProcessSpec, Restart, module_argv
from daemon.supervision.supervisor import Supervisor


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What a dummy does; `file` names are relative to the data directory."""

    fails_at_boot: str = ""  # config | ring | crash
    fails_when_running: bool = False
    hangs_if: str = ""  # while this file exists
    drains_until: str = ""  # after SIGTERM, until this file exists or drain_s is over
    ignores_stop: bool = False
    exit_code: int = 0  # when it has drained
    uses_asyncio: bool = False
    rings: str = ""  # the eventfd of this consumer, when it begins to run
    adds: dict[str, int] = {}  # to the counters, each time it starts to run
    learns_if: str = ""  # when this file appears: once
    worker: int = 0  # with connections: makes it readable as a WorkerPlan too
    connections: tuple[PlannedConnection, ...] = ()


class Dummy(msgspec.Struct, frozen=True, kw_only=True):
    """A process of the plan."""

    role: str
    index: int | None = None
    drain_order: int = 0
    best_effort: bool = False
    wakes: tuple[str, ...] = ()
    module: str = ""  # run this real role instead
    behaviour: Behaviour = Behaviour()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The desired state of the daemon."""

    processes: tuple[Dummy, ...]
    supervision: settings.Supervision
    chore: str = ""  # Python code
    waits: bool = False  # before it starts anything, without end


def note(child: Child, event: str) -> None:
    """Append a line: event, monotonic time."""
    directory = child.data_dir / "events"
    directory.mkdir(exist_ok=True)
    with (directory / child.name).open("a") as file:
        file.write(f"{event} {os.getpid()} {time.monotonic_ns()}\n")


def run(child: Child) -> int | None:
    """The role."""
    behaviour = child.unpack(Behaviour)
    note(child, "began")
    if behaviour.fails_at_boot == "config":
        raise ConfigError("sise.toml: accounts.name: nobody")
    if behaviour.fails_at_boot == "ring":
        raise RingError("worker-0.ring: has magic 0")
    if behaviour.fails_at_boot == "crash":
        raise RuntimeError("boom")
    for name, amount in behaviour.adds.items():
        child.counters.increment(name, amount)
    child.running()
    note(child, f"running_token_{child.config.control_token or 'none'}")
    if behaviour.rings:
        os.eventfd_write(child.wake_fds[behaviour.rings], 1)
    if behaviour.fails_when_running:
        raise RuntimeError("boom")
    if behaviour.uses_asyncio:
        asyncio.run(_wait_in_loop(child, behaviour))
    _wait_for_stop(child, behaviour)
    note(child, "asked_to_stop")
    deadline_s = time.monotonic() + child.drain_s
    while behaviour.ignores_stop:
        child.wait(None, 1.0)
    while behaviour.drains_until and time.monotonic() < deadline_s:
        child.wait(None, 0.02)
        if (child.data_dir / behaviour.drains_until).exists():
            break
    note(child, "drained_orphaned" if child.orphaned else "drained")
    return behaviour.exit_code


def _wait_for_stop(child: Child, behaviour: Behaviour) -> None:
    wake = child.role if child.role in child.wake_fds else None
    while not child.stopping:
        if child.wait(wake, 0.5):
            note(child, "woken")
        while behaviour.hangs_if and (child.data_dir / behaviour.hangs_if).exists():
            time.sleep(0.05)


async def _wait_in_loop(child: Child, behaviour: Behaviour) -> None:
    stop = asyncio.Event()
    child.stop_into(asyncio.get_running_loop(), stop)
    has_learned = False

    def on_reload(config: settings.Config, plan: WorkerPlan) -> None:
        symbols = "+".join(s.symbol for connection in plan.connections for s in connection.subscriptions)
        note(child, f"reloaded_{config.accounts[0].app_key}_{symbols or 'nothing'}_{config.database.dsn}")

    child.on_reload(asyncio.get_running_loop(), on_reload)
    while not stop.is_set():
        child.beat()
        if behaviour.learns_if and not has_learned and (child.data_dir / behaviour.learns_if).exists():
            has_learned = True
            child.counters.increment("limits_learned")
        try:
            await asyncio.wait_for(stop.wait(), 0.5)
        except TimeoutError:
            continue


def supervise(data_dir: Path, plan: Plan) -> int:
    """The supervisor, in this process."""

    def wait(sleep: Callable[[float], None]) -> None:
        while True:  # as for the owner of a database: somebody is asked, who ends
            subprocess.run(["true"], check=True)
            log.get().info("waiting")
            sleep(1.0)

    def respec(_config: settings.Config) -> tuple[ProcessSpec, ...]:
        if (data_dir / "too_many").exists():
            raise ConfigError("sise.toml: feeds: 7 too many")
        return tuple(
            msgspec.structs.replace(spec, payload=process.pack(_with_symbols(dummy.behaviour, data_dir / spec.name)))
            for spec, dummy in zip(specs, plan.processes, strict=True)
        )

    specs = tuple(
        ProcessSpec(
            role=dummy.role,
            index=dummy.index,
            argv=module_argv(dummy.module) if dummy.module else (sys.executable, __file__, dummy.role),
            counters_block=number,
            drain_order=dummy.drain_order,
            wakes=dummy.wakes,
            restart=Restart.BEST_EFFORT if dummy.best_effort else Restart.ESSENTIAL,
            payload=process.pack(dummy.behaviour),
            accounts=("main",) if dummy.role == "worker" else (),
        )
        for number, dummy in enumerate(plan.processes, start=1)
    )
    secret = settings.Account(name="main", venue="kis", app_secret="THE-SECRET")
    config = settings.Config(
        data_dir=str(data_dir), supervision=plan.supervision, accounts=(secret,), http=settings.Http(port=0)
    )

    def reload() -> settings.Config:
        if (data_dir / "bad_config").exists():
            raise ConfigError("sise.toml: workers: expected int")
        if not (data_dir / "rotated").exists():
            return msgspec.structs.replace(config, control_token="" if (data_dir / "same").exists() else "new")
        account = msgspec.structs.replace(secret, app_key=(data_dir / "rotated").read_text())
        database = settings.Database(dsn="postgresql://elsewhere/sise")
        return msgspec.structs.replace(config, accounts=(account,), database=database, workers=9)

    supervisor = Supervisor(
        specs,
        config=config,
        data_dir=data_dir,
        counters_path=data_dir / "counters",
        prepare=wait if plan.waits else None,
        reload=reload,
        respec=respec,
        chore=ChoreSpec("chore", (sys.executable, "-c", plan.chore), lambda _config: b"told") if plan.chore else None,
    )
    return supervisor.run()


def _with_symbols(behaviour: Behaviour, file: Path) -> Behaviour:
    """Return *behaviour* with a connection for the symbols in *file*, if there is one."""
    if not file.exists():
        return behaviour
    symbols = file.read_text().split()
    subscriptions = tuple(PlannedSubscription("trade", "kr", "", symbol, "channel", symbol) for symbol in symbols)
    return msgspec.structs.replace(behaviour, connections=(PlannedConnection("main", "kis", subscriptions),))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        process.main(run)
    sys.exit(supervise(Path(sys.argv[1]), msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=Plan)))
