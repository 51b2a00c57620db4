"""The whole daemon in a test's hands: real processes, real servers, the simulator, and an oracle that asks nobody.

The oracle is SQL over the simulator's own journal: no count, no value and no code of the daemon enters it.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from native_pipeline.counters import CountersBlock
from native_pipeline.ring_reader import LossyReader

POLL_S = 0.05
TIMEOUT_S = 60.0
MIB = 1 << 20
ROLES = ("supervisor", "worker", "writer", "publisher", "monitor", "recorder")


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """Return the condition's first true value; fail naming *what* if it never comes."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(POLL_S)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The journal against the tables. *lost* counts records that no row of feed_gaps accounts for."""

    sent: int
    stored: int
    in_gaps: int
    lost: int
    duplicated: int
    wrong: int
    unknown: int
    seqs_missing: int  # numbers of a ring between its first and last row that no table has
    seqs_twice: int

    @property
    def is_exact(self) -> bool:
        """Nothing lost, doubled, altered or invented, and every ring accounted for number by number."""
        return self.sent > 0 and not (
            self.lost or self.duplicated or self.wrong or self.unknown or self.seqs_missing or self.seqs_twice
        )


@dataclasses.dataclass(frozen=True)
class MinuteCount:
    """What became of the records of a symbol and kind that were sent in one minute."""

    symbol: str
    kind: str
    minute: int  # since 1970
    sent: int
    stored: int  # records, each once
    rows: int  # of them
    refused: int  # in quarantine, by the database
    in_gaps: int  # not stored, and sent while a recorded gap was open

    @property
    def is_exact(self) -> bool:
        """Everything is stored once, or somewhere it is known to be."""
        return self.sent == self.stored + self.refused + self.in_gaps and self.rows == self.stored


class Rig:
    """One daemon with its venue and servers. Everything it starts ends with it."""

    def __init__(
        self,
        directory: Path,
        postgres: EmbeddedPostgres,
        redis_server: EmbeddedRedis,
        *,
        symbols: int = 10,
        workers: int = 2,
        http_port: int = 0,
        subscribe_interval_ms: int = 2,
    ) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.journal = directory / "journal.csv"
        self.config_path = directory / "sise.toml"
        self.log_path = directory / "daemon.log"
        self.postgres = postgres
        self.redis = redis_server
        self.symbols = [f"{5930 + 10 * i:06d}" for i in range(symbols)]
        self.workers = workers
        self.http_port = http_port
        self.subscribe_interval_ms = subscribe_interval_ms
        self.daemon: subprocess.Popen[bytes] | None = None
        self.simulator: subprocess.Popen[str] | None = None
        self.rest_url = ""  # of the simulator

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.daemon, self.simulator):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self.kill_roles(signal.SIGKILL)
        for process in (self.daemon, self.simulator):
            if process is not None and process.stdout is not None:
                process.stdout.close()

    # ---- parts ---------------------------------------------------------------------------------------

    def start_simulator(self, *, rate: float, faults: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> None:
        """Start the venue; it offers nothing until every subscription exists."""
        words = ["--rate", str(rate), "--journal", str(self.journal), "--start-after", str(2 * len(self.symbols))]
        for fault in faults:
            words += ["--fault", fault]
        self.simulator = subprocess.Popen(
            [sys.executable, "-m", "daemon.simulator", *words, *extra], stdout=subprocess.PIPE, text=True
        )
        assert self.simulator.stdout is not None
        address = json.loads(self.simulator.stdout.readline())
        self.rest_url = address["rest_url"]
        self.config_path.write_text(self._config(address))

    def _config(self, address: dict[str, Any]) -> str:
        text = [
            f'data_dir = "{self.data_dir}"\nworkers = {self.workers}',
            f'[database]\ndsn = "{self.postgres.dsn}"',
            f'[redis]\nurl = "{self.redis.url}"\nretry_max_s = 0.5',
            f'[http]\nhost = "127.0.0.1"\nport = {self.http_port}',
            "[ring]\ncapacity_mb = 64",
            f"[ingest]\nsubscribe_interval_ms = {self.subscribe_interval_ms}\nbackoff_first_s = 0.05",
            "backoff_max_s = 0.5",
            "slot_held_backoff_s = 0.3",
            "[supervision]\ngrace_s = 20",
            '[log]\nformat = "json"',
        ]
        per_account = -(-len(self.symbols) // self.workers)
        for number in range(self.workers):
            symbols = self.symbols[number * per_account : (number + 1) * per_account]
            text.append(
                f'[[accounts]]\nname = "a{number}"\nvenue = "kis"\napp_key = "key-{number}"\napp_secret = "secret"\n'
                f'ws_url = "{address["ws_url"]}"\nrest_url = "{address["rest_url"]}"\n'
                f'[[feeds]]\naccount = "a{number}"\nmarket = "kr"\nsymbols = {json.dumps(symbols)}'
            )
        return "\n".join(text) + "\n"

    def start_daemon(self) -> None:
        """`sise run`; its log goes to a file."""
        with self.log_path.open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "daemon.cli", "run", "-c", str(self.config_path)], stdout=log, stderr=log
            )

    def inject(self, fault: str) -> None:
        """Put a fault into effect now: an act such as "abort" or "close@key-0", or a fault of the options."""
        request = urllib.request.Request(f"{self.rest_url}/faults", fault.encode(), method="POST")
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()

    def stop_simulator(self) -> dict[str, Any]:
        """End the offer; return the simulator's totals. The journal is complete after this."""
        assert self.simulator is not None
        self.simulator.send_signal(signal.SIGTERM)
        out, _ = self.simulator.communicate(timeout=TIMEOUT_S)
        totals: dict[str, Any] = json.loads(out.splitlines()[-1])
        return totals

    def stop_daemon(self) -> int:
        """SIGTERM to the supervisor; return its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(TIMEOUT_S)

    # ---- looking -------------------------------------------------------------------------------------

    def counters(self) -> dict[str, Any]:
        """{process: snapshot}."""
        found: dict[str, Any] = {}
        with contextlib.suppress(ValueError, FileNotFoundError):
            for index in range(64):
                snapshot = CountersBlock(str(self.data_dir / "run" / "counters"), index, writable=False).snapshot()
                if snapshot is not None:
                    found[snapshot["role"]] = snapshot
        return found

    def total(self, name: str) -> int:
        """One counter over all processes."""
        return sum(block["values"][name] for block in self.counters().values())

    def pids(self, role: str) -> list[int]:
        """Living processes of a role ("worker", "writer", "publisher", "supervisor", "monitor")."""
        found: list[int] = []
        if self.daemon is None:
            return found  # not started here: pids of another namespace mean nothing
        for name, block in self.counters().items():
            if name.split("-")[0] == role and psutil.pid_exists(block["pid"]):
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(block["pid"])
                    if process.status() != psutil.STATUS_ZOMBIE and "sise" in " ".join(process.cmdline()):
                        found.append(block["pid"])
        return found

    def kill_roles(self, number: signal.Signals, *roles: str) -> list[int]:
        """Send a signal to every process of the roles (none named: all); return the pids."""
        pids = [pid for role in (roles or ROLES) for pid in self.pids(role)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def wait_received(self, more: int) -> None:
        """Wait until *more* records have been received from now on."""
        start = self.total("records_received")
        wait_for(lambda: self.total("records_received") >= start + more, f"{more} more records received: {self.tail()}")

    def wait_committed(self) -> None:
        """Wait until the writer has nothing left to do (offer ended)."""

        def is_idle() -> bool:
            writer = self.counters()["writer"]["values"]
            return writer["writer_lag_bytes"] == 0 and self.backlog() == 0

        wait_for(is_idle, f"the writer to be done: {self.tail()}")

    def backlog(self) -> int:
        """Published bytes that the writer has not committed, from the ring files themselves."""
        total = 0
        for path in (self.data_dir / "rings").glob("worker-*.ring"):
            probe = LossyReader(path, "probe")
            total += probe.head - probe.consumers()["writer"]["position"]
            probe.close()
        return total

    def tail(self, lines: int = 12) -> str:
        """End of the daemon's log."""
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines with that event name."""
        found = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                fields = json.loads(line)
                if isinstance(fields, dict) and fields.get("event") == name:
                    found.append(fields)
        return found

    # ---- the oracle ----------------------------------------------------------------------------------

    def compare(self) -> Verdict:
        """Compare the journal with the database, by SQL alone."""
        with self._with_journal() as connection:
            row = connection.execute(COMPARE).fetchone()
            seqs = connection.execute(SEQS).fetchone()
        assert row is not None
        assert seqs is not None
        return Verdict(*(int(value or 0) for value in (*row, *seqs)))

    def unheard_outside_gaps(self) -> tuple[int, int]:
        """Return how many records were traded while nobody listened, and how many of those no row of feed_gaps covers.

        Needs the fault `market_goes_on`.
        """
        with self._with_journal() as connection:
            row = connection.execute(UNHEARD).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def missing_shares(self) -> dict[str, tuple[int, int]]:
        """Return {symbol: (shares of the trades that were never sent, shares that feed_gaps says are missing)}."""
        with self._with_journal() as connection:
            rows = connection.execute(MISSING).fetchall()
        return {symbol: (int(left_out), int(told)) for symbol, left_out, told in rows}

    def clocks_apart_s(self) -> float:
        """Return how far the journal's time of a record and the daemon's were apart at most: both are late under load.

        What is compared with a gap's ends, which the daemon stamps, may be off by that much.
        """
        with self._with_journal() as connection:
            row = connection.execute(CLOCKS_APART).fetchone()
        assert row is not None
        return float(row[0])

    def by_minute(self) -> list[MinuteCount]:
        """Compare the journal with the database per symbol, kind and minute of sending."""
        with self._with_journal() as connection:
            return [MinuteCount(*row) for row in connection.execute(BY_MINUTE).fetchall()]

    @contextlib.contextmanager
    def _with_journal(self) -> Iterator[psycopg.Connection]:
        """The database, with the journal as a table of its own."""
        with psycopg.connect(self.postgres.dsn) as connection:
            connection.execute(
                "CREATE TEMP TABLE journal (session text, kind text, symbol text, key bigint, price float8,"
                " size float8, sent_ns bigint, venue text, market text, exchange text, fate text)"
            )
            with (
                connection.cursor().copy("COPY journal FROM STDIN (FORMAT csv, HEADER)") as copy,
                self.journal.open("rb") as file,
            ):
                while block := file.read(MIB):
                    copy.write(block)
            connection.execute(REVERSE_BYTES)
            yield connection


# The key of a record: trades of KIS and Kiwoom their cumulative volume, trades of Upbit their size in units of 1e-8
# (unique in the simulator), order books the size of their tenth ask. Several exchanges of one symbol have keys of their
# own ranges.
STORED = """
    SELECT venue, 'trade' AS kind, symbol, price, volume AS size,
           CASE WHEN market = 'crypto' THEN round(volume * 1e8)::bigint ELSE cum_volume::bigint END AS key
    FROM market_ticks
    UNION ALL
    SELECT venue, 'orderbook', symbol, ask_price1, ask_vol1, ask_vol10::bigint FROM market_orderbook
"""

# Of each record the first copy: a session that begins anew may repeat some.
CLOCKS_APART = """
WITH stored AS (
    SELECT venue, 'trade' AS kind, symbol, recv_time,
           CASE WHEN market = 'crypto' THEN round(volume * 1e8)::bigint ELSE cum_volume::bigint END AS key
    FROM market_ticks
    UNION ALL
    SELECT venue, 'orderbook', symbol, recv_time, ask_vol10::bigint FROM market_orderbook
), first AS (
    SELECT venue, kind, symbol, key, extract(epoch FROM min(recv_time)) AS recv_s FROM stored GROUP BY 1, 2, 3, 4
)
SELECT coalesce(max(abs(recv_s - sent_ns / 1e9)), 0) FROM journal JOIN first USING (venue, kind, symbol, key)
WHERE fate = 'sent'
"""

# A record counts as accounted for when it was sent while a recorded gap of its symbol and kind was open. What the
# simulator left out on purpose ("dropped"), or sold while nobody was connected ("unheard"), was never sent; a
# "damaged" one was, in a frame that a parser may refuse: it may be stored or not, but not twice and not altered.
COMPARE = f"""
WITH stored AS ({STORED}), matched AS (
    SELECT venue, kind, symbol, key, min(price) AS price, min(size) AS size, count(*) AS copies
    FROM stored GROUP BY venue, kind, symbol, key
), told AS (
    SELECT * FROM journal WHERE kind IN ('trade', 'orderbook') AND fate IN ('sent', 'damaged')
), joined AS (
    SELECT j.price, j.size, j.fate, m.key AS stored_key, m.copies, m.price AS stored_price, m.size AS stored_size,
           j.key IS NULL AS is_unknown,
           m.key IS NULL AND EXISTS (
               SELECT FROM feed_gaps g
               WHERE g.symbol = j.symbol AND g.kind = j.kind AND g.venue = j.venue
                 AND to_timestamp(j.sent_ns / 1e9) BETWEEN g.started AND g.ended
           ) AS is_in_gap
    FROM told j FULL JOIN matched m USING (venue, kind, symbol, key)
)
SELECT count(*) FILTER (WHERE NOT is_unknown),
       count(stored_key),
       count(*) FILTER (WHERE is_in_gap),
       count(*) FILTER (WHERE stored_key IS NULL AND NOT is_in_gap AND fate = 'sent'),
       sum(copies - 1),
       count(*) FILTER (WHERE NOT is_unknown AND (stored_price <> price OR stored_size <> size)),
       count(*) FILTER (WHERE is_unknown)
FROM joined
"""

# A refused row is known by the number that the simulator gave it, where the quarantined record has it: byte 80 of a
# trade is its cumulative volume, byte 216 of an order book the size of its tenth ask (docs/formats.md).
BY_MINUTE = f"""
WITH stored AS ({STORED}), matched AS (
    SELECT venue, kind, symbol, key, count(*) AS copies FROM stored GROUP BY venue, kind, symbol, key
), refused AS (
    SELECT venue, kind, symbol, ('x' || encode(pg_temp.reverse_bytes(substring(
        frame FROM CASE kind WHEN 'trade' THEN 81 ELSE 217 END FOR 8)), 'hex'))::bit(64)::bigint AS key
    FROM quarantine WHERE kind IN ('trade', 'orderbook') AND replayed_at IS NULL
)
SELECT symbol, kind, sent_ns / 60000000000 AS minute, count(*), count(m.key), coalesce(sum(m.copies), 0),
    count(r.key) FILTER (WHERE m.key IS NULL),
    count(*) FILTER (WHERE m.key IS NULL AND r.key IS NULL AND EXISTS (
        SELECT FROM feed_gaps g WHERE g.symbol = j.symbol AND g.kind = j.kind AND g.venue = j.venue
            AND to_timestamp(j.sent_ns / 1e9) BETWEEN g.started AND g.ended))
FROM journal j LEFT JOIN matched m USING (venue, kind, symbol, key) LEFT JOIN refused r USING (venue, kind, symbol, key)
WHERE kind IN ('trade', 'orderbook') AND fate = 'sent' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
REVERSE_BYTES = """
CREATE FUNCTION pg_temp.reverse_bytes(bytea) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(substring($1 FROM i FOR 1), NULL ORDER BY i DESC) FROM generate_series(1, length($1)) AS i
$$"""

UNHEARD = """
SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (
    SELECT FROM feed_gaps g
    WHERE g.symbol = j.symbol AND g.kind = j.kind AND g.venue = j.venue
      AND to_timestamp(j.sent_ns / 1e9) BETWEEN g.started AND g.ended
)) FROM journal j WHERE fate = 'unheard'
"""

MISSING = """
WITH left_out AS (
    SELECT symbol, sum(size) AS shares FROM journal
    WHERE kind = 'trade' AND fate IN ('dropped', 'unheard') GROUP BY symbol
), told AS (
    SELECT symbol, sum(missing) AS shares FROM feed_gaps WHERE missing IS NOT NULL GROUP BY symbol
)
SELECT symbol, coalesce(l.shares, 0), coalesce(t.shares, 0) FROM left_out l FULL JOIN told t USING (symbol)
"""

SEQS = """
WITH rows AS (
    SELECT source, seq FROM market_ticks UNION ALL SELECT source, seq FROM market_orderbook
    UNION ALL SELECT source, seq FROM quarantine WHERE kind IS NULL OR replayed_at IS NULL
    UNION ALL SELECT source, seq FROM feed_gaps
    UNION ALL SELECT source, seq FROM ingest_ledger
), rings AS (
    SELECT r.source, count(*) AS rows, count(DISTINCT r.seq) AS seqs, max(r.seq) - min(r.seq) + 1 AS span,
           min(r.seq) - min(c.epoch) AS missing_at_start, max(c.seq) - max(r.seq) AS missing_at_end
    FROM rows r JOIN ingest_cursor c ON c.ring = r.source GROUP BY r.source
)
SELECT sum(span - seqs) + sum(missing_at_start) + sum(missing_at_end), sum(rows - seqs) FROM rings
"""


@contextlib.contextmanager
def running(rig: Rig, *, rate: float, faults: tuple[str, ...] = ()) -> Iterator[Rig]:
    """Simulator and daemon, streaming."""
    rig.start_simulator(rate=rate, faults=faults)
    rig.start_daemon()
    wait_for(lambda: rig.total("records_received") > 0, f"first data: {rig.tail()}")
    yield rig
