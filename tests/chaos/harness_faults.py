"""What can go wrong, each as one function on the harness, and the order of them by seed."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from daemon.embedded import EmbeddedPostgres
from tests.chaos.harness import ROLES, SISE, Harness
from tests.chaos.harness_proxy import Cut

SPILLING_S = 25.0
Fault = Callable[[Harness, random.Random], None]


def _pause(seconds: float) -> None:
    time.sleep(seconds)  # how long a fault lasts is the fault itself, not a wait for something


def kill_one(h: Harness, r: random.Random) -> None:
    """SIGKILL to one role."""
    role = r.choice(ROLES)
    if role != "supervisor":
        h.signal(role, signal.SIGKILL)
    else:
        h.kill_supervisor()
        _pause(r.uniform(0, 1))
        h.start()


def kill_everything(h: Harness, r: random.Random) -> None:
    """SIGKILL to all at once, and a new start."""
    h.kill_all()
    _pause(r.uniform(0, 0.5))
    h.start()


def freeze_one(h: Harness, r: random.Random) -> None:
    """SIGSTOP for a while."""
    role = r.choice(ROLES)
    pids = h.signal(role, signal.SIGSTOP)
    _pause(r.uniform(0.5, 4))
    for pid in pids:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            continue


def _database_goes(h: Harness) -> None:
    h.postgres.stop("immediate")


def _wait_spilled(h: Harness, files: int = 1) -> None:
    h.wait_until(lambda: len(h.spill_files()) >= files, SPILLING_S, f"{files} spill files")


def outage(h: Harness, r: random.Random) -> None:
    """The database crashes, stays away until batches are spilled, and comes back."""
    _database_goes(h)
    _wait_spilled(h, r.randint(1, 6))
    h.postgres.start()


def outage_and_kills(h: Harness, r: random.Random) -> None:
    """Everything is killed and started during an outage, spilled batches on the disk."""
    _database_goes(h)
    _wait_spilled(h, r.randint(1, 4))
    for _ in range(r.randint(1, 2)):
        if r.random() < 0.5:
            kill_everything(h, r)
        else:
            h.signal("writer", signal.SIGKILL)
        _pause(r.uniform(0.2, 2.5))
    h.postgres.start()


def killed_in_recovery(h: Harness, r: random.Random) -> None:
    """The database comes back, and the writer is killed again and again while it stores what was spilled."""
    _database_goes(h)
    _wait_spilled(h, r.randint(3, 8))
    h.postgres.start()
    for _ in range(r.randint(1, 4)):
        _pause(r.expovariate(2))
        h.signal("writer", signal.SIGKILL)


def everything_killed_in_recovery(h: Harness, r: random.Random) -> None:
    """The writer is killed as recovery begins, and then everything."""
    _database_goes(h)
    _wait_spilled(h, 2)
    h.postgres.start()
    _pause(r.uniform(0, 0.5))
    h.signal("writer", signal.SIGKILL)
    _pause(r.uniform(0, 0.5))
    kill_everything(h, r)


def restarted_in_recovery(h: Harness, r: random.Random) -> None:
    """SIGTERM as soon as the database is back, and a new start."""
    _database_goes(h)
    _wait_spilled(h, r.randint(3, 8))
    h.postgres.start()
    _pause(r.uniform(0, 1.5))
    assert h.stop() == 0, "exit code of a stop during recovery"
    h.start()


def database_gone_in_recovery(h: Harness, r: random.Random) -> None:
    """It comes back, and crashes again in the middle."""
    _database_goes(h)
    _wait_spilled(h, r.randint(2, 5))
    for _ in range(r.randint(1, 2)):
        h.postgres.start()
        _pause(r.uniform(0, 1.2))
        _database_goes(h)
        _pause(r.uniform(0.2, 1))
    h.postgres.start()


def stopped_without_database(h: Harness, r: random.Random) -> None:
    """SIGTERM while the database is away; started again before or after its return."""
    _database_goes(h)
    _pause(r.uniform(0, 3))
    assert h.stop() == 0, "exit code of a stop without the database"
    is_early = r.random() < 0.5
    if is_early:
        h.start()
        _pause(r.uniform(0.3, 2))
    h.postgres.start()
    if not is_early:
        h.start()


def cut_connections(h: Harness, r: random.Random) -> None:
    """The connection is cut at random bytes."""
    for _ in range(r.randint(2, 5)):
        h.proxy.cut_after(int(10 ** r.uniform(0, 5.3)))
        _pause(r.uniform(0.1, 0.6))


def cut_commits(h: Harness, r: random.Random) -> None:
    """The connection is cut before, inside or after a COMMIT."""
    for _ in range(r.randint(2, 4)):
        h.proxy.cut_at(r.choice(list(Cut)))
        _pause(r.uniform(0.3, 0.8))


def recovery_with_cuts(h: Harness, r: random.Random) -> None:
    """As recovery begins, connections are cut around COMMIT."""
    _database_goes(h)
    _wait_spilled(h, r.randint(3, 6))
    for _ in range(r.randint(2, 6)):
        h.proxy.cut_at(r.choice(list(Cut)))
    h.postgres.start()
    _pause(r.uniform(0.5, 2))


def redis_away(h: Harness, r: random.Random) -> None:
    """Redis is stopped or killed for a while."""
    if r.random() < 0.5:
        h.redis_server.stop()
    else:
        h.redis_server.kill()
    _pause(r.uniform(0.2, 4))
    h.redis_server.start()


def redis_full(h: Harness, r: random.Random) -> None:
    """Redis refuses every write: OOM command not allowed."""
    with h.redis() as client:
        client.config_set("maxmemory", "1")
        _pause(r.uniform(0.5, 4))
        client.config_set("maxmemory", "0")


def second_daemon(h: Harness, r: random.Random) -> None:
    """Another daemon on the same directory refuses, and does no harm."""
    second = subprocess.run([str(SISE), "run", "-c", str(h.config)], capture_output=True, text=True, timeout=30)
    assert second.returncode not in (0, -signal.SIGKILL), second.stderr


def recover_beside(h: Harness, r: random.Random) -> None:
    """`sise recover` by hand, while the daemon recovers by itself."""
    _database_goes(h)
    _wait_spilled(h, r.randint(3, 6))
    away = h.sise("recover")
    assert away.returncode == 1, f"recover without a database: {away.returncode} {away.stdout} {away.stderr}"
    h.postgres.start()
    for _ in range(r.randint(1, 3)):
        h.sise("recover")
        if r.random() < 0.3:
            h.signal("writer", signal.SIGKILL)


def spill_disk_full(h: Harness, r: random.Random) -> None:
    """The file system of the spill directory is full, before or while batches are spilled; then there is room again."""
    ballast = h.data / "failed_batches" / "ballast"
    _database_goes(h)
    if r.random() < 0.5:
        _wait_spilled(h)
    fill_file_system(ballast)
    _pause(r.uniform(1, 5))
    if r.random() < 0.3:
        kill_everything(h, r)
        _pause(r.uniform(0.5, 2))
    ballast.unlink()
    _pause(r.uniform(0, 2))
    h.postgres.start()


def fill_file_system(path: os.PathLike[str]) -> None:
    """Write until the disk is full. Only for a small file system of its own."""
    with Path(path).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            pass


def damage_spill_file(h: Harness, r: random.Random) -> None:
    """A bit of a waiting spill file flips, or its end is cut off, or it is deleted: its records are gone."""
    _database_goes(h)
    _wait_spilled(h, r.randint(2, 5))
    if is_stopped := r.random() < 0.5:
        h.kill_all()
    path = r.choice(h.spill_files())
    h.files_destroyed = True
    content = bytearray(path.read_bytes())
    match r.randrange(3):
        case 0:
            content[r.randrange(len(content))] ^= 1 << r.randrange(8)
            path.write_bytes(content)
        case 1:
            path.write_bytes(content[: r.randrange(len(content))])
        case _:
            path.unlink()
    if is_stopped:
        h.start()
    h.postgres.start()


def delete_ring(h: Harness, r: random.Random) -> None:
    """A ring is deleted, while the daemon runs or between two runs."""
    path = h.data / "rings" / f"worker-{r.randrange(2)}.ring"
    h.files_destroyed = True
    if r.random() < 0.5:
        h.kill_all()
        path.unlink(missing_ok=True)  # the one deleted before may not have been made again yet
        h.start()
    else:
        path.unlink(missing_ok=True)


FAULTS: tuple[Fault, ...] = (
    kill_one, kill_one, kill_everything, freeze_one, outage, outage_and_kills, killed_in_recovery,
    everything_killed_in_recovery, restarted_in_recovery, database_gone_in_recovery, stopped_without_database,
    cut_connections, cut_commits, recovery_with_cuts, redis_away, redis_full, second_daemon, recover_beside,
)  # fmt: skip
NEEDS_SMALL_DISK: tuple[Fault, ...] = (spill_disk_full,)
DESTRUCTIVE: tuple[Fault, ...] = (damage_spill_file, delete_ring)


def run_faults(h: Harness, seed: str, steps: int, faults: tuple[Fault, ...]) -> list[str]:
    """Start, break *steps* things, and leave everything healed; the names of what was done."""
    r = random.Random(seed)
    h.start()
    h.wait_flowing()
    done = []
    for _ in range(steps):
        fault = r.choice(faults)
        done.append(fault.__name__)
        try:
            fault(h, r)
            if r.random() < 0.7:
                h.wait_flowing()
            assert h.is_running, "the daemon has ended by itself"
        except BaseException as exc:
            exc.add_note(f"seed {seed}: {done}")
            raise
        finally:
            heal(h.postgres)
            if not h.redis_server.pid:
                h.redis_server.start()
        _pause(r.uniform(0, 1))
    return done


def heal(postgres: EmbeddedPostgres) -> None:
    """A fault that failed half-way leaves the database stopped."""
    if not postgres.pid:
        postgres.start()
