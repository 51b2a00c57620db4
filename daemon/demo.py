"""`sise demo`: the whole daemon against real servers and the simulator, and the proof that nothing was lost.

Korean and US stocks of KIS, Korean stocks of Kiwoom and crypto of Upbit run side by side in one daemon. Starts
PostgreSQL, Redis and the simulator on free ports, runs `sise run` as a user would, waits until everything that was
offered has arrived everywhere, stops the daemon with SIGTERM, and compares the simulator's own journal with what was
received, published and stored: counts by symbol, and every stored value, in SQL.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import redis
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.errors import IngestError, Retryable
from native_pipeline.counters import CountersBlock, percentile_us

KINDS = ("trade", "orderbook")
# Kiwoom's and Upbit's JSON costs the simulator several times what a KIS frame does: a small part of the rate each.
JSON_SHARE = 0.02
US_PART, MAX_US, MAX_KIWOOM, MAX_CRYPTO = 0.1, 20, 20, 10  # how many symbols beside the Korean ones of KIS
US_KEYS = ("AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "AVGO", "COST", "NFLX")
CRYPTO_CODES = ("BTC", "ETH", "XRP", "SOL", "DOGE", "ADA", "TRX", "AVAX", "DOT", "LINK")
SYMBOLS_PER_ACCOUNT = 20  # x 2 kinds = 40 registrations of the 41 that one session takes
START_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
POLL_S = 0.2
MIB = 1 << 20
SHOWN_SYMBOLS = 10
SHOWN_FINE_SYMBOLS = 3  # of each feed
COUNTS = ("sent", "received", "published", "stored", "lost", "duplicated", "wrong")
TABLE_WIDTH = 120  # where there is no terminal to ask


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What `sise demo` was asked for."""

    seconds: int = 20
    rate: int = 20_000
    symbols: int = 100
    workers: int = 2
    seed: int = 1
    keep: str | None = None
    as_json: bool = False


@dataclasses.dataclass(frozen=True)
class SymbolRow:
    """One line of the verification table: records of one symbol at one venue, both kinds."""

    venue: str
    market: str
    symbol: str
    sent: int
    received: int
    published: int
    stored: int
    lost: int
    duplicated: int
    wrong: int

    @property
    def is_fine(self) -> bool:
        """Whether every count is what was sent, and every value too."""
        return self.sent == self.received == self.published == self.stored and not (
            self.lost or self.duplicated or self.wrong
        )


def run_demo(options: DemoOptions) -> int:
    """Run it; return 0 only if every record that was sent is published and stored exactly once, with its value."""
    console = Console(stderr=options.as_json)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    try:
        with contextlib.ExitStack() as stack:
            if options.keep is None:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sise-demo-")))
            else:
                directory = Path(options.keep).absolute()
                directory.mkdir(parents=True, exist_ok=False)
            return _run(options, directory, console, stack)
    except FileExistsError as exc:
        console.print(f"[red]{exc.filename} exists already: --keep needs a new directory")
    except IngestError as exc:
        console.print(f"[red]{exc}")
    except KeyboardInterrupt:
        console.print("interrupted")
    return 1


def _run(options: DemoOptions, directory: Path, console: Console, stack: contextlib.ExitStack) -> int:
    console.print("starting PostgreSQL, Redis and the simulator ...")
    postgres = stack.enter_context(EmbeddedPostgres(directory / "postgres"))
    redis_server = stack.enter_context(EmbeddedRedis(directory / "redis"))
    journal = directory / "journal.csv"
    simulator, address = _start_simulator(options, journal, directory)
    stack.callback(_end, simulator)
    config_path = directory / "sise.toml"
    config_path.write_text(_config_text(options, directory, postgres.dsn, redis_server.url, address["venues"]))
    daemon = _start_daemon(config_path, directory)
    stack.callback(_end, daemon)

    counters = _Counters(directory / "data")
    started = time.monotonic()
    rss_mb = _watch(options, counters, daemon, console, directory)
    elapsed_s = time.monotonic() - started
    latency = counters.latency_us()
    sent_totals = _stop_simulator(simulator)
    _settle(counters, sent_totals["sent"]["total"], daemon, directory)
    console.print("stopping the daemon (SIGTERM) ...")
    exit_code = _stop_daemon(daemon)
    rows = list(_compare(postgres.dsn, redis_server.url, journal))
    result = _result(rows, counters, sent_totals, options, latency, rss_mb, elapsed_s)
    _print_table(console, rows, result, exit_code)
    is_fine = exit_code == 0 and rows and all(row.is_fine for row in rows) and result["unknown"] == 0
    if not is_fine and options.keep is None:
        console.print((directory / "daemon.log").read_text()[-4000:], markup=False)
    if options.as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    return 0 if is_fine else 1


class Group(NamedTuple):
    """The symbols of one market at one venue."""

    venue: str
    market: str
    symbols: list[str]
    per_account: int


def symbol_codes(count: int, first: int = 5930) -> list[str]:
    """Return *count* six-digit codes."""
    return [f"{first + 10 * i:06d}" for i in range(count)]


def groups_of(count: int) -> list[Group]:
    """Return what the demo collects when *count* Korean stocks of KIS are asked for."""
    beside = max(1, round(count * US_PART))
    us = [US_KEYS[i % len(US_KEYS)] + "ABCDEFGHIJ"[i // len(US_KEYS)] * (i >= len(US_KEYS)) for i in range(MAX_US)]
    return [
        Group("kis", "kr", symbol_codes(count), SYMBOLS_PER_ACCOUNT),
        Group("kis", "us", [f"DNAS{symbol}" for symbol in us[: min(beside, MAX_US)]], SYMBOLS_PER_ACCOUNT),
        Group("kiwoom", "kr", symbol_codes(min(beside, MAX_KIWOOM), 900_000), MAX_KIWOOM),
        Group("upbit", "crypto", [f"KRW-{code}" for code in CRYPTO_CODES[: min(beside, MAX_CRYPTO)]], MAX_CRYPTO),
    ]


def _config_text(
    options: DemoOptions, directory: Path, dsn: str, redis_url: str, venues: dict[str, dict[str, str]]
) -> str:
    """The settings of the demo: as many accounts as the symbols need, one session each."""
    text = [
        f"data_dir = {json.dumps(str(directory / 'data'))}",
        f"workers = {options.workers}",
        f"[database]\ndsn = {json.dumps(dsn)}",
        f"[redis]\nurl = {json.dumps(redis_url)}",
        '[http]\nhost = "127.0.0.1"\nport = 0',
        "[ingest]\nsubscribe_interval_ms = 5  # the simulator does not mind",
        '[log]\nformat = "json"',
    ]
    for group in groups_of(options.symbols):
        address = venues[group.venue]
        for number in range(0, len(group.symbols), group.per_account):
            name = f"{group.venue}-{group.market}-{number // group.per_account}"
            text.append(
                f'[[accounts]]\nname = "{name}"\nvenue = "{group.venue}"\n'
                f'app_key = "{name}-key"\napp_secret = "not-a-secret"\n'
                f'ws_url = "{address["ws_url"]}"\nrest_url = "{address["rest_url"]}"\n'
                f'[[feeds]]\naccount = "{name}"\nmarket = "{group.market}"\nkinds = ["trade", "orderbook"]\n'
                f"symbols = {json.dumps(group.symbols[number : number + group.per_account])}"
            )
    return "\n".join(text) + "\n"


def _start_simulator(options: DemoOptions, journal: Path, directory: Path) -> tuple[subprocess.Popen[str], Any]:
    arguments = [
        *("--rate", str(options.rate)),
        *("--seconds", str(options.seconds)),
        *("--seed", str(options.seed)),
        *("--journal", str(journal)),
        *("--venues", f"kis,kiwoom={JSON_SHARE},upbit={JSON_SHARE}"),
        *("--start-after", str(sum(len(group.symbols) for group in groups_of(options.symbols)) * len(KINDS))),
    ]
    with (directory / "simulator.log").open("w") as errors:
        process = subprocess.Popen(  # noqa: S603 - the words are ours
            [sys.executable, "-m", "daemon.simulator", *arguments], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Retryable(f"the simulator did not start: {(directory / 'simulator.log').read_text().strip()}")
    return process, json.loads(line)


def _stop_simulator(process: subprocess.Popen[str]) -> Any:
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=STOP_TIMEOUT_S)
    return json.loads(out.splitlines()[-1])


def _start_daemon(config_path: Path, directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "daemon.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - the words are ours
            [sys.executable, "-m", "daemon.cli", "run", "-c", str(config_path)], stdout=log, stderr=log
        )


def _stop_daemon(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(STOP_TIMEOUT_S)


def _end(process: subprocess.Popen[Any]) -> None:
    """Make sure that *process* is gone, however the demo ends."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Counters:
    """The daemon's counters file, read while it runs and after."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "run" / "counters"

    def blocks(self) -> dict[str, Any]:
        """{process: snapshot} of every process that has started."""
        if not self._path.exists():
            return {}
        found: dict[str, Any] = {}
        with contextlib.suppress(ValueError):  # behind the last block
            for index in range(64):
                snapshot = CountersBlock(str(self._path), index, writable=False).snapshot()
                if snapshot is not None:
                    found[snapshot["role"]] = snapshot
        return found

    def total(self, name: str) -> int:
        """Sum of one counter over all processes."""
        return sum(block["values"][name] for block in self.blocks().values())

    def latency_us(self) -> dict[str, int | None]:
        """Age of a record when it was in the ring, committed, published: 50 and 99 percent of all."""
        stages: dict[str, list[int]] = {}
        for role, block in self.blocks().items():
            stage = {"worker": "ring", "writer": "db", "publisher": "redis"}.get(role.split("-")[0])
            if stage is not None:
                buckets = block["histograms"][0]
                stages[stage] = [a + b for a, b in zip(stages.get(stage, [0] * len(buckets)), buckets, strict=True)]
        return {
            f"{stage}_{label}": percentile_us(stages.get(stage, [0]), fraction)
            for stage in ("ring", "redis", "db")
            for label, fraction in (("p50", 0.5), ("p99", 0.99))
        }

    def rss_mb(self) -> dict[str, float]:
        """Resident memory of each living process, from the kernel."""
        found = {}
        for role, block in self.blocks().items():
            with contextlib.suppress(OSError):
                pages = int(Path(f"/proc/{block['pid']}/statm").read_text().split()[1])
                found[role] = round(pages * os.sysconf("SC_PAGE_SIZE") / MIB, 1)
        return found


def _watch(
    options: DemoOptions, counters: _Counters, daemon: subprocess.Popen[bytes], console: Console, directory: Path
) -> dict[str, float]:
    """Show progress until the offer is over; return the memory of the processes at that moment."""
    _wait(lambda: counters.total("records_received") > 0, START_TIMEOUT_S, "no data arrived", daemon, directory)
    columns = (
        TextColumn("[bold]offering"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("received {task.fields[received]:,}"),
        TextColumn("published {task.fields[published]:,}  stored {task.fields[stored]:,}"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
    )
    rss_mb: dict[str, float] = {}
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        task = progress.add_task("", total=options.seconds, received=0, published=0, stored=0, rate=0.0)
        start, last, last_at = time.monotonic(), 0, time.monotonic()
        while (now := time.monotonic()) - start < options.seconds:
            if daemon.poll() is not None:
                raise Retryable(f"the daemon ended with {daemon.returncode}:\n{_tail(directory)}")
            received = counters.total("records_received")
            progress.update(
                task,
                completed=now - start,
                received=received,
                published=counters.total("records_published"),
                stored=counters.total("rows_committed"),
                rate=(received - last) / max(now - last_at, 1e-9),
            )
            last, last_at = received, now
            rss_mb = counters.rss_mb() | {"supervisor": _rss_of(daemon.pid)}
            time.sleep(min(1.0, options.seconds - (now - start)))
    return rss_mb


def _rss_of(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MIB, 1)


def _settle(counters: _Counters, sent: int, daemon: subprocess.Popen[bytes], directory: Path) -> None:
    """Wait until everything sent is received, published and stored, or until nothing moves any more."""
    last, moved_at = (-1, -1, -1), time.monotonic()
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while time.monotonic() < deadline and daemon.poll() is None:
        now = tuple(counters.total(n) for n in ("records_received", "records_published", "rows_committed"))
        if now[0] >= sent and now[1] >= sent and now[2] >= sent:
            return
        if now != last:
            last, moved_at = now, time.monotonic()  # type: ignore[assignment]
        elif time.monotonic() - moved_at > 10 * POLL_S * 5:
            return  # the comparison will say what is missing
        time.sleep(POLL_S)


def _wait(
    condition: Callable[[], bool], timeout_s: float, problem: str, daemon: subprocess.Popen[bytes], directory: Path
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if daemon.poll() is not None:
            raise Retryable(f"the daemon ended with {daemon.returncode}:\n{_tail(directory)}")
        if time.monotonic() > deadline:
            raise Retryable(f"{problem} within {timeout_s:.0f} s:\n{_tail(directory)}")
        time.sleep(POLL_S)


def _tail(directory: Path) -> str:
    return "\n".join((directory / "daemon.log").read_text(errors="replace").splitlines()[-15:])


# The oracle: the simulator's journal against the tables. A trade is known by its cumulative volume, or in crypto by its
# size in units of 1e-8, which the simulator gives to one trade only; an order book by the size of its tenth ask, which
# the simulator uses as a running number.
JOURNAL_SQL = """
CREATE TEMP TABLE journal
    (session text, kind text, symbol text, key bigint, price float8, size float8, sent_ns bigint,
     venue text, market text, exchange text, fate text)
"""
COMPARE_SQL = """
WITH stored AS (
    SELECT venue, market, 'trade' AS kind, symbol, price, volume AS size,
           CASE WHEN market = 'crypto' THEN round(volume * 1e8)::bigint ELSE cum_volume::bigint END AS key
    FROM market_ticks
    UNION ALL
    SELECT venue, market, 'orderbook', symbol, ask_price1, ask_vol1, ask_vol10::bigint FROM market_orderbook
), matched AS (
    SELECT venue, market, kind, symbol, key,
           min(price) AS price, max(price) AS price_max, min(size) AS size, count(*) AS copies
    FROM stored GROUP BY venue, market, kind, symbol, key
), received AS (
    SELECT venue, symbol, sum(received) AS records FROM ingest_ledger GROUP BY venue, symbol
)
SELECT coalesce(j.venue, m.venue) AS venue,
       coalesce(j.market, m.market) AS market,
       coalesce(j.symbol, m.symbol) AS symbol,
       count(j.key) AS sent,
       coalesce(max(r.records), 0) AS received,
       coalesce(sum(m.copies), 0) AS stored,
       count(*) FILTER (WHERE m.key IS NULL) AS lost,
       coalesce(sum(m.copies - 1), 0) AS duplicated,
       count(*) FILTER (WHERE m.price <> j.price OR m.size <> j.size OR m.price_max <> j.price) AS wrong,
       count(*) FILTER (WHERE j.key IS NULL) AS unknown
FROM (SELECT * FROM journal WHERE kind IN ('trade', 'orderbook')) j
FULL JOIN matched m USING (venue, market, kind, symbol, key)
LEFT JOIN received r ON r.symbol = coalesce(j.symbol, m.symbol) AND r.venue = coalesce(j.venue, m.venue)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


def _compare(dsn: str, redis_url: str, journal: Path) -> Iterator[SymbolRow]:
    published = _published_by_symbol(redis_url)
    with psycopg.connect(dsn) as connection:
        connection.execute(JOURNAL_SQL)
        cursor = connection.cursor()
        with cursor.copy("COPY journal FROM STDIN (FORMAT csv, HEADER)") as copy, journal.open("rb") as file:
            while block := file.read(MIB):
                copy.write(block)
        for venue, market, symbol, *counts in connection.execute(COMPARE_SQL):
            sent, received, stored, lost, duplicated, wrong, unknown = map(int, counts)
            found = (sent, received, published.get(symbol, 0), stored, lost, duplicated)
            yield SymbolRow(venue, market, symbol, *found, wrong + unknown)


def _published_by_symbol(redis_url: str) -> dict[str, int]:
    """What the publisher counted in the same transactions as the messages."""
    totals: dict[str, int] = {}
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        for key in client.scan_iter("published:minute:*"):
            for field, count in client.hgetall(key).items():
                symbol = field.split("|")[1]
                totals[symbol] = totals.get(symbol, 0) + int(count)
    return totals


def _result(
    rows: list[SymbolRow],
    counters: _Counters,
    sent_totals: dict[str, Any],
    options: DemoOptions,
    latency: dict[str, int | None],
    rss_mb: dict[str, float],
    elapsed_s: float,
) -> dict[str, Any]:
    stored = sum(row.stored for row in rows)
    return {
        "sent": sum(row.sent for row in rows),
        "received": sum(row.received for row in rows),
        "stored": stored,
        "published": sum(row.published for row in rows),
        "lost": sum(row.lost for row in rows),
        "duplicated": sum(row.duplicated for row in rows),
        "quarantined": counters.total("records_quarantined"),
        "wrong": sum(row.wrong for row in rows),
        "unknown": sum(1 for row in rows if row.sent == 0),
        "markets": _by_market(rows),
        "withheld": sent_totals.get("withheld", 0),
        "offered_rate": options.rate,
        "elapsed_s": round(elapsed_s, 3),
        "rows_per_s": round(stored / options.seconds),
        "latency_us": latency,
        "rss_mb": rss_mb | {"total": round(sum(rss_mb.values()), 1)},
    }


def _by_market(rows: list[SymbolRow]) -> dict[str, dict[str, int]]:
    """{"kis kr": {count: sum over its symbols}}."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        sums = found.setdefault(f"{row.venue} {row.market}", {"symbols": 0, **dict.fromkeys(COUNTS, 0)})
        sums["symbols"] += 1
        for name in COUNTS:
            sums[name] += getattr(row, name)
    return found


def _print_table(console: Console, rows: list[SymbolRow], result: dict[str, Any], exit_code: int) -> None:
    table = Table(title="sent by the simulator = received = published = stored ?", title_justify="left")
    for name in ("feed", "symbol", *COUNTS):
        table.add_column(name, justify="left" if name in ("feed", "symbol") else "right")
    for feed, sums in result["markets"].items():
        of_feed = [row for row in rows if f"{row.venue} {row.market}" == feed]
        worst = sorted(of_feed, key=lambda row: (row.is_fine, row.symbol))
        for row in worst[: SHOWN_SYMBOLS if not worst[0].is_fine else SHOWN_FINE_SYMBOLS]:
            cells = (f"{getattr(row, name):,}" for name in COUNTS)
            table.add_row(feed, row.symbol, *cells, style=None if row.is_fine else "bold red")
        title = f"all {sums['symbols']} symbols"
        table.add_row(feed, title, *(f"{sums[name]:,}" for name in COUNTS), style="bold", end_section=True)
    table.add_row("total", "", *(f"{result[name]:,}" for name in COUNTS), style="bold")
    console.print(table)
    latency = result["latency_us"]
    console.print(
        f"{result['rows_per_s']:,} records/s stored of {result['offered_rate']:,} offered; quarantined "
        f"{result['quarantined']:,}; daemon exit code {exit_code}; memory {result['rss_mb']['total']:.0f} MB"
    )
    console.print(
        "age since the socket read, p50 / p99: "
        + ", ".join(
            f"{name} {_milliseconds(latency[key + '_p50'])} / {_milliseconds(latency[key + '_p99'])}"
            for name, key in (("in the ring", "ring"), ("on Redis", "redis"), ("committed", "db"))
        )
    )


def _milliseconds(us: int | None) -> str:
    return "-" if us is None else f"{us / 1000:.2f} ms"
