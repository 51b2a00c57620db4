"""Asks the database and Redis for the counts that `reconcile` compares, in a thread of the monitor.

A connection lives for one look at most and reads a snapshot of a few minutes, each statement within its timeout:
nothing stays open on the server, and the memory is that of the symbols of one minute.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import redis
from psycopg.conninfo import make_conninfo

from daemon.config import Config
from daemon.errors import first_line
from daemon.sinks.count_queries import Checkpoint, read_checkpoints, read_counts, read_published, unpublished_rings
from daemon.sinks.counts import Difference, Window, compare, time_of
from daemon.sinks.counts_digests import Digest, DigestReader, read_digests
from daemon.sinks.in_flight import InFlight, read_in_flight, unsettled_from
from daemon.supervision.directory_lock import write_atomically
from daemon.watching.reconcile import Counter, Measurement, Reconciler, Unavailable
from daemon.watching.reconcile_file import FILE

APPLICATION_NAME = "sise monitor"
KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
JOIN_S = 1.0
REPLAYED = """
SELECT now(), count(*) FROM quarantine WHERE replayed_at > coalesce(%s, now()) AND replayed_at <= now()"""
MINUTE_S = 60
NEVER = 1 << 40  # a minute that does not come


class Servers:
    """Measures. Not for use by two threads at once."""

    def __init__(self, config: Config, *, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._address = make_conninfo(
            config.database.dsn,
            application_name=APPLICATION_NAME,
            connect_timeout=config.database.connect_timeout_s,
            client_encoding="UTF8",
            **KEEPALIVE,
        )
        self._replayed_until: datetime | None = None
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def measure(self, minutes: Sequence[int]) -> Measurement:
        """Return the differences in *minutes*. Raises Unavailable: the database does not answer."""
        with self._connected() as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            return self._compare(connection, minutes)

    @contextmanager
    def digests(self) -> Iterator[DigestReader]:
        """What minutes look like that were compared before, while the block lasts. Raises Unavailable, as measure()."""
        address, timeout_s = self._config.redis.url, self._config.redis.timeout_s
        with self._connected() as connection, redis.Redis.from_url(address, socket_timeout=timeout_s) as client:
            connection.autocommit = True
            yield DigestReader(
                connection,
                client,
                statement_timeout_s=self._config.reconcile.statement_timeout_s,
                published_from=self._published_from(),
            )

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        try:
            with psycopg.connect(self._address, prepare_threshold=None) as connection:
                self._connection = connection
                yield connection
        except psycopg.Error as exc:
            raise Unavailable(f"the database does not answer: {exc.sqlstate or type(exc).__name__}") from exc
        finally:
            self._connection = None

    def _published_from(self) -> int:
        """First minute that Redis still counts."""
        return int(self._clock() // MINUTE_S) - self._config.redis.minute_counts_kept_h * 60 + 1

    def cancel(self) -> None:
        """End a running statement, from another thread."""
        connection = self._connection
        if connection is not None:
            connection.cancel_safe(timeout=JOIN_S)

    def _compare(self, connection: psycopg.Connection[tuple[Any, ...]], minutes: Sequence[int]) -> Measurement:
        # Local to the transaction: a pool in front of the server may give the session to somebody else afterwards.
        timeout = f"{self._config.reconcile.statement_timeout_s * 1000:.0f}ms"
        connection.execute("SELECT set_config('statement_timeout', %s, true)", [timeout])
        in_flight = read_in_flight(Path(self._config.data_dir))  # before the snapshot: what has left it is in there
        start = time_of(min(minutes, default=int(self._clock() // MINUTE_S)))
        checkpoints = read_checkpoints(connection, start)
        unsettled = unsettled_from(checkpoints, in_flight)
        differences: list[Difference] = []
        digests: dict[int, Digest] = {}
        unpublished = ""
        with redis.Redis.from_url(self._config.redis.url, socket_timeout=self._config.redis.timeout_s) as client:
            try:
                behind = unpublished_rings(client, checkpoints)
                unpublished = f"the publisher is behind in rings {behind}" if behind else ""
            except redis.RedisError as exc:
                unpublished = f"Redis does not answer: {type(exc).__name__}"
            for minute in minutes:
                try:
                    found, digest = self._compare_minute(
                        connection, None if unpublished else client, checkpoints, unsettled, minute
                    )
                except redis.RedisError as exc:
                    unpublished = f"Redis does not answer: {type(exc).__name__}"
                    found, digest = self._compare_minute(connection, None, checkpoints, unsettled, minute)
                differences += found
                if digest is not None:
                    digests[minute] = digest
        return Measurement(
            differences,
            unsettled_from=unsettled,
            on_the_way=_on_the_way(checkpoints, in_flight),
            unpublished=unpublished,
            replayed=self._count_replayed(connection),
            digests=digests,
        )

    def _compare_minute(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        client: redis.Redis | None,
        checkpoints: Sequence[Checkpoint],
        unsettled: int | None,
        minute: int,
    ) -> tuple[list[Difference], Digest | None]:
        """Return the differences in *minute*; without any, its digest too, unless there is more to come."""
        counts = read_counts(connection, checkpoints, minute, minute + 1)
        published_from = NEVER if client is None else self._published_from()
        # Before its counts are read: what is published in between changes the digest.
        digest = read_digests(connection, client, minute, minute + 1, published_from=published_from)[minute]
        published = {} if client is None else read_published(client, [minute])
        growing_from = int((self._clock() - self._config.reconcile.settle_s) // MINUTE_S)
        if unsettled is not None:
            growing_from = min(growing_from, unsettled)
        found = list(
            compare(
                Window(
                    counts.received,
                    counts.stored,
                    counts.open,
                    published,
                    published_from,
                    growing_from,
                    duplicated=counts.duplicated,
                    refused=counts.refused,
                    replayed=counts.replayed,
                )
            )
        )
        is_final = not found and not counts.open and not counts.waiting and minute < growing_from and client is not None
        return found, digest if is_final else None

    def _count_replayed(self, connection: psycopg.Connection[tuple[Any, ...]]) -> int:
        row = connection.execute(REPLAYED, [self._replayed_until]).fetchone()
        if row is None:
            return 0
        self._replayed_until, replayed = row
        return int(replayed)


def _on_the_way(checkpoints: Sequence[Checkpoint], in_flight: InFlight) -> str:
    parts = []
    if in_flight.spilled or any(one.is_waiting for one in checkpoints):
        parts.append(f"{len(in_flight.spilled)} spill files are not stored yet")
    if in_flight.ring_bytes:
        parts.append(f"rings {sorted(in_flight.ring_bytes)} hold what is not stored yet")
    return "; ".join(parts)


class ReconcileThread:
    """Runs a reconciler until stop(). `conditions()` is for the alarms."""

    def __init__(self, config: Config, data_dir: Path, counters: Counter, logger: Any) -> None:  # Any: structlog's
        self._servers = Servers(config)
        settings = config.reconcile
        self._reconciler = Reconciler(
            self._servers.measure,
            counters,
            settle_s=settings.settle_s,
            interval_s=settings.interval_s,
            clock=time.time,
            open_source=self._servers.digests,
        )
        self._path = data_dir / FILE
        self._log = logger
        self._stop = threading.Event()
        # A daemon thread: a server that hangs must not hold up the end of the monitor.
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)
        self.conditions = self._reconciler.conditions

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits a second at most."""
        self._stop.set()
        try:
            self._servers.cancel()
        except psycopg.Error:  # the connection has just gone
            self._log.debug("reconcile_cancel_failed")
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        wait_s = 0.0
        said = ""
        while not self._stop.wait(wait_s):
            try:
                wait_s = self._reconciler.look()
            except Exception as exc:  # the top of a thread: the monitor must go on
                self._log.exception("reconcile_failed", error=first_line(exc))
                wait_s = MINUTE_S
            state = self._reconciler.state()
            if state.waiting != said:
                said = state.waiting
                self._log.info("reconcile_waits" if said else "reconcile_goes_on", reason=said)
            try:
                write_atomically(self._path, msgspec.json.encode(state))
            except OSError as exc:  # a full disk: the counters say the same
                self._log.info("run_record_not_written", path=str(self._path), error=exc.strerror)
