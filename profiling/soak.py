"""Does anything grow? Minutes to days of load with a fault a minute, and memory and descriptors of every process.

Topology: simulator -> lines of ours -> workers -> rings -> writer -> PostgreSQL, and -> publisher -> Redis, all on this
machine. The faults are those of tests/chaos/schedule.py, from a seed: the same seed, the same faults in the same order.
Measured are anonymous memory (without the rings, which are files in memory) and open descriptors, each process by
itself from its start to its end. The first part of a life is excluded: caches and tables fill then. Growth is the
difference between the medians of the first and the last third of what remains, whatever its length: at most 1 MB, and
for writer and publisher their buffers, which a backlog brings to their full size once. The run also counts only if the
SQL oracle finds nothing lost, duplicated, altered or invented.

    python profiling/soak.py [--minutes 10] [--rate 3000] [--seed 1] [--fault-every 60] [--only FAULT]\
        [--json soak.json]

Exits with 1 if a process grew by more than a limit, or if the oracle disagrees.
"""

import argparse
import contextlib
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.sinks import schema
from tests.chaos.network_rig import NetworkRig
from tests.chaos.schedule import FAULTS, Stage, plan

SAMPLE_S = 1.0
WARM_UP_S = 60.0  # of each life
LEAST_S = 60.0  # measured after that: shorter lives say nothing of growth
MOST_GROWTH_BYTES = 1 << 20
# What the largest batch of a backlog takes once and for all: 2,000 messages; 20,000 rows as text and as bytes. Measured
# with --only "redis away" --fault-every 30: the publisher had 25.8 MB before the first, then 28.9, 30.3, 30.4, 30.6,
# 30.6, 30.7, 31.1 and 31.4 before each further one.
BUFFERS_BYTES = {"publisher": 4 << 20, "writer": 16 << 20}
MOST_MORE_FILES = 3  # a connection that is just being replaced
KIB = 1024


@dataclass
class Life:
    """One process from its start to its end."""

    name: str
    pid: int
    times_s: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def report(self) -> "Growth | None":
        """Return how it grew after warming up; None: it was too short."""
        measured = [i for i, at_s in enumerate(self.times_s) if at_s - self.times_s[0] >= WARM_UP_S]
        if not measured or self.times_s[-1] - self.times_s[measured[0]] < LEAST_S:
            return None
        third = max(1, len(measured) // 3)

        def growth(values: Sequence[int]) -> float:
            return statistics.median(values[i] for i in measured[-third:]) - statistics.median(
                values[i] for i in measured[:third]
            )

        hours = (self.times_s[measured[-1]] - self.times_s[measured[0]]) * 2 / 3 / 3600
        memory = growth(self.memory_bytes)
        return Growth(
            name=self.name,
            pid=self.pid,
            minutes=round((self.times_s[-1] - self.times_s[0]) / 60, 1),
            memory_mb=round(self.memory_bytes[-1] / 1e6, 1),
            growth_kb=round(memory / 1e3),
            growth_mb_per_h=round(memory / 1e6 / hours, 2),
            files=self.files[-1],
            more_files=round(growth(self.files)),
        )


@dataclass(frozen=True)
class Growth:
    """One line of the result."""

    name: str
    pid: int
    minutes: float
    memory_mb: float
    growth_kb: int
    growth_mb_per_h: float
    files: int
    more_files: int

    @property
    def is_fine(self) -> bool:
        """Whether it is within both limits."""
        most_bytes = MOST_GROWTH_BYTES + BUFFERS_BYTES.get(self.name, 0)
        return self.growth_kb * 1e3 <= most_bytes and self.more_files <= MOST_MORE_FILES


class Watch:
    """Samples every process of a rig."""

    def __init__(self, rig: NetworkRig) -> None:
        self._rig = rig
        self.lives: dict[tuple[str, int], Life] = {}
        self._next_s = 0.0

    def look(self) -> None:
        """Take a sample if one is due."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + SAMPLE_S
        for name, block in self._rig.counters().items():
            with contextlib.suppress(OSError, StopIteration):
                proc = Path(f"/proc/{block['pid']}")
                status = (proc / "status").read_text().splitlines()
                anonymous_kib = int(next(line for line in status if line.startswith("RssAnon")).split()[1])
                files = sum(1 for _ in (proc / "fd").iterdir())
                life = self.lives.setdefault((name, block["pid"]), Life(name, block["pid"]))
                life.times_s.append(now_s)
                life.memory_bytes.append(anonymous_kib * KIB)
                life.files.append(files)

    def until(self, moment_s: float) -> None:
        """Sample until then."""
        while time.monotonic() < moment_s:
            self.look()
            time.sleep(SAMPLE_S / 4)

    def growths(self) -> Iterator[Growth]:
        """Yield what can be said."""
        yield from (growth for life in self.lives.values() if (growth := life.report()) is not None)


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Run it; return the result."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sise-soak-")))
        directory.chmod(0o711)
        postgres = stack.enter_context(EmbeddedPostgres(directory / "pg"))
        redis_server = stack.enter_context(EmbeddedRedis(directory / "redis"))
        schema.migrate(postgres.dsn)
        limits: dict[str, Any] = {"connects_per_10min": 100_000, "connects_per_10min_address": 100_000}
        rig = NetworkRig(
            directory, postgres.dsn, redis_server.url, accounts=4, workers=2, symbols=10, link_timeout_s=5.0,
            connect_timeout_s=3.0, **limits,
        )  # fmt: skip
        stack.enter_context(rig)
        rig.start(rate=options.rate, extra=("--pingpong-interval", "1", "--pingpong-timeout", "5"))
        rig.wait_ready()
        watch, stage, done = Watch(rig), Stage(rig, postgres, redis_server), []
        began_s = time.monotonic()
        ends_s = began_s + options.minutes * 60
        steps = plan(options.seed, int(options.minutes * 60 / options.fault_every) + 1)
        if options.only:
            steps = (replace(step, fault=options.only) for step in steps)
        for number, step in enumerate(steps, start=1):
            strikes_s = began_s + number * options.fault_every
            if strikes_s >= ends_s:
                break
            watch.until(strikes_s)
            sizes = " ".join(f"{name} {life.memory_bytes[-1] / 1e6:.1f}" for (name, _), life in watch.lives.items())
            print(f"{time.monotonic() - began_s:7.0f} s  {step.fault}  (MB: {sizes})", file=sys.stderr, flush=True)
            stage.perform(step)
            done.append(step.fault)
        watch.until(ends_s)
        stage.recover()
        received = rig.total("records_received")
        verdict, _ = rig.finish()
    growths = list(watch.growths())
    judged = {growth.name for growth in growths}
    return {
        "seed": options.seed,
        "minutes": options.minutes,
        "rate": options.rate,
        "machine": platform.processor() or platform.machine(),
        "faults": done,
        "records_received": received,
        "verdict": asdict(verdict),
        "processes": [asdict(growth) for growth in growths],
        "not_judged": sorted({name for name, _ in watch.lives} - judged),
        "is_fine": bool(growths) and all(growth.is_fine for growth in growths),
    }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    head = ("process", "pid", "minutes", "MB", "growth kB", "MB/h", "files", "more files")
    print(("{:<12}" + "{:>11}" * 7).format(*head))
    for row in result["processes"]:
        print(("{:<12}" + "{:>11}" * 7).format(*row.values()))
    print(f"faults: {', '.join(result['faults']) or 'none'}; {result['records_received']} records, {result['verdict']}")
    if result["not_judged"]:
        print(f"lived too short to be judged: {', '.join(result['not_judged'])}")
    print(f"seed {result['seed']}: {'nothing grew' if result['is_fine'] else 'GREW, or no process lived long enough'}")


def main() -> None:
    """Parse the options, run, print, exit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=3_000.0)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1 << 32)))
    parser.add_argument("--fault-every", type=float, default=60.0, help="seconds between two faults")
    parser.add_argument("--only", choices=sorted(FAULTS), help="this fault again and again")
    parser.add_argument("--json", type=Path, default=Path("soak.json"))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    result = soak(options)
    show(result)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(not result["is_fine"])


if __name__ == "__main__":
    main()
