"""Does the whole daemon keep up, on this machine with everything on it, and what does it cost?

Topology: simulator -> loopback WebSockets -> workers -> rings -> writer -> PostgreSQL, and -> publisher -> Redis; all
on the same cores. The load is open loop: the simulator sends by the clock, whether we keep up or not. The baseline is
the offered rate: the ratio is stored / offered, and the run only counts if the SQL oracle finds nothing lost,
duplicated or altered (`sise demo` does both). Ages are taken from the socket read. Then an idle daemon, subscribed and
without data, is watched for its CPU.

    python profiling/bench_end_to_end.py [--json] [--seconds 60] [--rate 50000] [--symbols 200] [--idle-seconds 20]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.rig import Rig, wait_for

IDLE_LIMIT_PERCENT = 2.0
RSS_LIMIT_MB = 300.0
CALM_S = 5.0  # after the last subscription, before the idle clock starts


def under_load(options: argparse.Namespace) -> dict[str, Any]:
    """`sise demo --json`."""
    words = [sys.executable, "-m", "daemon.cli", "demo", "--json", "--workers", "2"]
    for name in ("seconds", "rate", "symbols"):
        words += [f"--{name}", str(getattr(options, name))]
    run = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if not run.stdout.strip():
        sys.exit("the demo printed no result")
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    result["exit_code"] = run.returncode
    result["ratio_stored_to_offered"] = round(result["stored"] / (options.rate * options.seconds), 4)
    return result


def idle(seconds: int) -> dict[str, Any]:
    """CPU of all processes of a daemon whose venue says nothing but PINGPONG."""
    with tempfile.TemporaryDirectory(prefix="sise-bench-idle-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        with (
            EmbeddedPostgres(directory / "pg") as postgres,
            EmbeddedRedis(directory / "redis") as redis_server,
            Rig(directory, postgres, redis_server, symbols=40) as rig,
        ):
            rig.start_simulator(rate=1, extra=("--start-after", "1000000"))
            rig.start_daemon()
            wait_for(lambda: rig.total("subscriptions_confirmed") == 2 * len(rig.symbols), "all subscriptions")
            time.sleep(CALM_S)
            assert rig.daemon is not None
            processes = {p.pid: p for p in [psutil.Process(rig.daemon.pid), *psutil.Process(rig.daemon.pid).children()]}
            before = {pid: sum(p.cpu_times()[:2]) for pid, p in processes.items()}
            start = time.monotonic()
            time.sleep(seconds)
            elapsed_s = time.monotonic() - start
            used = {p.name() + f" {pid}": sum(p.cpu_times()[:2]) - before[pid] for pid, p in processes.items()}
            names = {str(block["pid"]): role for role, block in rig.counters().items()}
            by_role = {names.get(key.split()[-1], key): round(100 * cpu / elapsed_s, 2) for key, cpu in used.items()}
            assert rig.stop_daemon() == 0
    return {"cpu_percent_of_one_core": round(sum(by_role.values()), 2), "by_process": by_role}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, default=50_000)
    parser.add_argument("--symbols", type=int, default=200)
    parser.add_argument("--idle-seconds", type=int, default=20)
    options = parser.parse_args()
    load = under_load(options)
    quiet = idle(options.idle_seconds)
    result = {
        "bench": "end_to_end",
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "load": load,
        "idle": quiet,
        "within_limit": {
            "nothing_lost": load["exit_code"] == 0,
            "rate": load["ratio_stored_to_offered"] >= 1.0,
            "rss": load["rss_mb"]["total"] < RSS_LIMIT_MB,
            "idle": quiet["cpu_percent_of_one_core"] < IDLE_LIMIT_PERCENT,
        },
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    sys.exit(0 if load["exit_code"] == 0 else 1)


if __name__ == "__main__":
    main()
