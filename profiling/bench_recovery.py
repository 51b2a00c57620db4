"""An outage and its end: are live rows as fast as before while the backlog is stored, and how fast is that?

Topology: a producer process -> a ring file of 256 MiB -> the writer as a process of its own, settings as shipped ->
PostgreSQL with its durability. The producer offers the live rate; the server is stopped, the producer offers as much as
it can until the backlog is there, then the live rate again; the server is started. At last the writer is killed, the
ring is filled to the brim, and the writer started again. Ages are from the stamp of receipt to the commit, out of the
writer's own histogram (live batches only, its buckets are 12 % wide or wider). All counts are SQL's: every record
once, and each symbol's volumes complete.

    python profiling/bench_recovery.py [--short] [--rate 10000] [--backlog 10000000] [--json]

Exits with 1 if a count is wrong; `within_limit` says which speeds are as they should be.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon.config import Database as DatabaseSettings
from daemon.config import Spill
from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.sinks import schema, writer, writer_process
from daemon.sinks.host import Host
from daemon.sinks.spill import DIRECTORY
from native_pipeline.counters import CountersBlock, create_counters_file, percentile_us
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.rig import ROLES, Rig, wait_for

RING, COUNTERS, RATE = "worker-0.ring", "counters", "rate"  # files of the run
RING_BYTES = 256 << 20
TRADE = 1
SYMBOLS = [f"{i:06d}".encode() for i in range(200)]
TRADE_BODY = struct.Struct("<24sq6q8B")
TICK_S = 0.005  # of the producer
ROOM_BYTES = 4096
FLAT_OUT, FILL = -1, -2  # rates: as fast as it goes; until the ring is full
PATIENCE_S = 900.0
SETTLE_S = 3.0  # after the return, for what waited in the ring while the last files were registered
END_TO_END_RATE = 50_000  # records/s, what bench_end_to_end.py sustains
DRAIN_OVER_LIVE, RESTART_S, TEN_MILLION_S = 3.0, 3.0, 300.0
MOST_AGE_GROWTH = 2.0  # p99 of live rows while the backlog is stored, against before
SIZE = 5  # volume of each trade


# ---- the processes ---------------------------------------------------------------------------------------


def append(producer: RingWriter, i: int, now_ns: int) -> None:
    """Append the *i*-th trade; the symbols take turns, and the volumes of each add up."""
    symbol, number = i % len(SYMBOLS), i // len(SYMBOLS) + 1
    body = TRADE_BODY.pack(
        SYMBOLS[symbol], now_ns, 71_200 + i % 50 * 100, SIZE, SIZE * number, 71_300, 71_200, 42,
        0, 0, 0, 0, 0, 2, 1 + i % 2, 0,
    )  # fmt: skip
    producer.append(TRADE, body, venue=1, market=1, recv_ns=now_ns, utc_offset_min=540)


def all_stored(sent: int) -> tuple[int, ...]:
    """Return what STORED finds when the first *sent* trades are stored, each once."""
    of_symbol = [sent // len(SYMBOLS) + (symbol < sent % len(SYMBOLS)) for symbol in range(len(SYMBOLS))]
    return sent, sent, sent, SIZE * sent, SIZE * sum(n * (n + 1) // 2 for n in of_symbol), 0


STORED = """
SELECT count(*), count(DISTINCT seq), count(DISTINCT (cum_volume::int8 << 8) + symbol::int8),
    sum(volume)::int8, sum(cum_volume)::int8, (SELECT count(*) FROM spilled_batches WHERE stored_at IS NULL)
FROM market_ticks"""


def produce(directory: Path) -> None:
    """Offer what the file `rate` says, until it says 0; then print how many."""
    producer = RingWriter(directory / RING)
    sent, due = 0, time.monotonic()
    while rate := int((directory / RATE).read_text() or "1"):
        records = 2_000
        if rate > 0:
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
            due = max(due, now - 1.0) + TICK_S
            records = int(rate * TICK_S)
        now_ns = time.time_ns()
        for i in range(sent, sent + records):
            while producer.room_bytes < ROOM_BYTES:  # like a worker that pauses its socket
                producer.publish()
                if rate == FILL:
                    break
                time.sleep(TICK_S)
            if rate == FILL and producer.room_bytes < ROOM_BYTES:
                records = 0
                break
            append(producer, i, now_ns)
            sent += 1
        producer.publish()
        if not records:
            time.sleep(TICK_S)
    producer.close()
    print(sent)


def write(directory: Path, dsn: str) -> None:
    """Be the writer until SIGTERM."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    counters = CountersBlock(str(directory / COUNTERS), 0)
    counters.take("writer")
    host = Host(
        wait=lambda seconds: time.sleep(min(seconds, 0.01)),
        beat=counters.heartbeat,
        stopping=lambda: bool(stopping),
        drain_s=60.0,
    )
    settings = DatabaseSettings(dsn=dsn)
    is_drained = writer_process.run(
        settings, directory, counters, host, on_ready=lambda: None, spill_directory=directory / DIRECTORY,
        spill=Spill(min_free_mb=0),
    )  # fmt: skip
    sys.exit(0 if is_drained else 1)


@contextlib.contextmanager
def process(*words: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """This file in another role."""
    command = [sys.executable, __file__, *map(str, words)]
    out = subprocess.PIPE if words[0] == "--produce" else sys.stderr  # a log that nobody reads would block the writer
    with subprocess.Popen(command, stdout=out, text=True) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


# ---- the measurement -------------------------------------------------------------------------------------


class Bench:
    """What the scenes share."""

    def __init__(self, directory: Path, server: EmbeddedPostgres) -> None:
        self.directory = directory
        self.server = server
        self.counters = CountersBlock(str(directory / COUNTERS), 0)

    def offer(self, rate: int) -> None:
        """Tell the producer."""
        unfinished = self.directory / f"{RATE}.tmp"
        unfinished.write_text(str(rate))
        unfinished.rename(self.directory / RATE)

    def histogram(self) -> Sequence[int]:
        """Ages of committed rows so far."""
        snapshot = self.counters.snapshot()
        assert snapshot is not None
        return snapshot["histograms"][writer.AGE_HISTOGRAM]

    def ages_ms(self, before: Sequence[int]) -> dict[str, float]:
        """Median and 99th percentile of what was committed since *before*."""
        new = [late - early for late, early in zip(self.histogram(), before, strict=True)]
        return {
            "rows": sum(new),
            **{f"p{round(100 * part)}_ms": round((percentile_us(new, part) or 0) / 1e3, 1) for part in (0.5, 0.99)},
        }

    def live_ages_ms(self, seconds: float) -> dict[str, float]:
        """Ages over that time."""
        before = self.histogram()
        time.sleep(seconds)
        return self.ages_ms(before)

    def wait(self, condition: Callable[[], object], what: str) -> float:
        """Return the moment when *condition* is met."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}")
            time.sleep(0.01)
        return time.monotonic()


def outage(bench: Bench, rate: int, backlog: int, calm_s: float) -> dict[str, Any]:
    """Live, away with *backlog* records spilled, back; return the numbers."""
    get = bench.counters.get
    bench.offer(rate)
    bench.wait(lambda: get("rows_committed") > rate, "the first second")
    before = bench.live_ages_ms(calm_s)

    bench.server.stop("immediate")
    bench.wait(lambda: get("records_spilled") > 0, "the first spill file")
    spilled, began_s = get("records_spilled"), time.monotonic()
    bench.offer(FLAT_OUT)
    spill_s = bench.wait(lambda: get("records_spilled") >= backlog, "the backlog") - began_s
    spill_rate = (get("records_spilled") - spilled) / spill_s
    bench.offer(rate)
    bench.wait(lambda: get("writer_lag_bytes") < RING_BYTES / 8, "what the flat-out producer left in the ring")

    started_s = time.monotonic()
    bench.server.start()
    bench.wait(lambda: get("database_connected"), "the return")
    live_from, waiting = get("rows_committed") - get("records_recovered"), get("records_spilled")
    begun_s = bench.wait(lambda: get("records_recovered") > 0, "the first stored file")
    recovered, ages = get("records_recovered"), bench.histogram()
    time.sleep(SETTLE_S)
    at_return, ages = bench.ages_ms(ages), bench.histogram()
    drained_s = bench.wait(lambda: get("spill_files") == 0, "the drain")
    during, drain_s = bench.ages_ms(ages), drained_s - begun_s
    live = get("rows_committed") - get("records_recovered") - live_from
    return {
        "before": before,
        "spill_records_per_s": round(spill_rate),
        "spilled": waiting,
        "return_to_drained_s": round(drained_s - started_s, 2),
        "drain_rows_per_s": round((get("records_recovered") - recovered) / drain_s),
        "live_rows_per_s_meanwhile": round(live / drain_s),
        "drain_over_live": round((get("records_recovered") - recovered) / drain_s / rate, 2),
        "first_seconds": at_return,
        "during": during,
        "after": bench.live_ages_ms(calm_s),
    }


def restart(bench: Bench, child: "subprocess.Popen[str]") -> dict[str, float]:
    """Kill the writer, fill the ring, start it; return the seconds to the first row that SQL sees."""
    child.kill()
    child.wait()
    bench.offer(FILL)
    probe = LossyReader(bench.directory / RING, "probe")
    bench.wait(
        lambda: probe.head - probe.consumers()["writer"]["position"] > RING_BYTES - 2 * ROOM_BYTES, "a full ring"
    )
    probe.close()
    with psycopg.connect(bench.server.dsn, autocommit=True) as connection:
        query = "SELECT max(seq) FROM ingest_cursor"
        (before,) = connection.execute(query).fetchone() or (0,)
        began_s = time.monotonic()
        with process("--write", bench.directory, bench.server.dsn) as second:
            first_s = bench.wait(lambda: connection.execute(query).fetchone() != (before,), "the first row")
            bench.offer(0)
            emptied_s = bench.wait(lambda: bench.counters.get("writer_lag_bytes") == 0, "an empty ring")
            second.terminate()
            assert second.wait(60) == 0, "the writer did not empty the ring"
    return {"first_row_s": round(first_s - began_s, 2), "ring_empty_s": round(emptied_s - began_s, 2)}


def restart_daemon(directory: Path, server: EmbeddedPostgres) -> dict[str, float]:
    """Kill a whole daemon, fill its ring, start it; return the seconds from exec to the first row that SQL sees."""
    (directory / "daemon").mkdir(mode=0o711)
    with (
        EmbeddedRedis(directory / "redis") as redis_server,
        Rig(directory / "daemon", server, redis_server, symbols=2, workers=1) as rig,
        psycopg.connect(server.dsn, autocommit=True) as connection,
    ):
        connection.execute("TRUNCATE market_ticks, ingest_cursor, spilled_batches")
        rig.start_simulator(rate=1, extra=("--start-after", "1000000"))  # says nothing
        rig.config_path.write_text(rig.config_path.read_text().replace("capacity_mb = 64", "capacity_mb = 256"))
        rig.start_daemon()
        wait_for(lambda: rig.total("subscriptions_confirmed") == 2 * len(rig.symbols), "all subscriptions")
        assert rig.daemon is not None
        rig.daemon.kill()
        rig.kill_roles(signal.SIGKILL)
        rig.daemon.wait()
        wait_for(lambda: not any(rig.pids(role) for role in ROLES), "the end of all processes")
        producer = RingWriter(rig.data_dir / "rings" / "worker-0.ring")
        sent = 0
        while producer.room_bytes >= ROOM_BYTES:
            append(producer, sent, time.time_ns())
            sent += 1
        producer.publish()
        producer.close()
        began_s = time.monotonic()
        rig.start_daemon()
        query = "SELECT count(*) FROM (SELECT FROM market_ticks LIMIT 1) AS one"
        first_s = wait_for(lambda: connection.execute(query).fetchone() == (1,) and time.monotonic(), "the first row")

        def is_stored() -> float:
            rows = connection.execute("SELECT count(*) FROM market_ticks").fetchone()
            return time.monotonic() if rows == (sent,) else 0.0

        emptied_s = wait_for(is_stored, "all rows")
        assert rig.stop_daemon() == 0
        assert connection.execute(STORED).fetchone() == all_stored(sent)
    return {"first_row_s": round(first_s - began_s, 2), "ring_empty_s": round(emptied_s - began_s, 2)}


def measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    create_ring(directory / RING, ring=0, capacity_bytes=RING_BYTES, consumers=(("writer", GATING),))
    create_counters_file(str(directory / COUNTERS), 1)
    with EmbeddedPostgres(directory / "pg") as server:
        schema.migrate(server.dsn)
        bench = Bench(directory, server)
        bench.offer(1)
        with process("--produce", directory) as producer:
            with process("--write", directory, server.dsn) as child:
                result = outage(bench, options.rate, options.backlog, options.calm_s)
                result["restart"] = restart(bench, child)
            out, _ = producer.communicate(timeout=60)
        sent = int(out)
        with psycopg.connect(server.dsn) as connection:
            found = connection.execute(STORED).fetchone()
        assert found is not None
        result["restart_of_daemon"] = restart_daemon(directory, server)
    result["sent"], result["stored"] = sent, found[0]
    result["is_exact"] = found == all_stored(sent)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="a backlog of a million, and short calm times")
    parser.add_argument("--rate", type=int, default=10_000, help="live records/s")
    parser.add_argument("--backlog", type=int)
    parser.add_argument("--produce", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.produce:
        return produce(options.produce)
    if options.write:
        return write(Path(options.write[0]), options.write[1])
    options.backlog = options.backlog or (1_000_000 if options.short else 10_000_000)
    options.calm_s = 5.0 if options.short else 20.0
    with tempfile.TemporaryDirectory(prefix="sise-bench-recovery-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        result = measure(directory, options)
    result = {
        "bench": "recovery",
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load_average": round(os.getloadavg()[0], 1),
        },
        "live_rate": options.rate,
        **result,
        "within_limit": {
            "spill": result["spill_records_per_s"] >= END_TO_END_RATE,
            "drain": result["drain_over_live"] >= DRAIN_OVER_LIVE,
            "live_latency": result["during"]["p99_ms"] <= MOST_AGE_GROWTH * result["before"]["p99_ms"],
            "restart": max(result[name]["first_row_s"] for name in ("restart", "restart_of_daemon")) < RESTART_S,
            "ten_million": result["return_to_drained_s"] / result["spilled"] * 1e7 <= TEN_MILLION_S,
        },
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    sys.exit(0 if result["is_exact"] and all(result["within_limit"].values()) else 1)


if __name__ == "__main__":
    main()
