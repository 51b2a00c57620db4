"""The monitor's comparison on a real PostgreSQL and a real Redis, and in the whole daemon."""

import gc
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from daemon.config import Config, Reconcile
from daemon.watching.reconcile import CONFIRM_S, Reconciler
from daemon.watching.reconcile_thread import Servers
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_writer import RingWriter
from tests.conftest import PostgresFactory, RedisFactory
from tests.integration.test_verify import SEQ, UNIX_MINUTE, Bench
from tests.reference.packed_records import Trade, append
from tests.rig import Rig, wait_for

pytestmark = pytest.mark.requirement("E2E-OBS-01")


class Look:
    """What worker, writer and publisher would have left in one minute, and the monitor, at a time of the test's."""

    def __init__(self, dsn: str, redis_url: str, data_dir: Path) -> None:
        self.bench = Bench(dsn, redis_url)
        self.dsn = dsn
        self.redis_url = redis_url
        self.counts: dict[str, int] = {}
        self.now_s = (UNIX_MINUTE + 1) * 60 + 30.0
        self.config = Config(
            data_dir=str(data_dir),
            database=self.bench.config.database,
            redis=self.bench.config.redis,
            reconcile=Reconcile(statement_timeout_s=5.0),
        )
        self.servers = Servers(self.config, clock=lambda: self.now_s)
        self.reconciler = Reconciler(
            self.servers.measure, self, settle_s=20.0, interval_s=60.0, clock=lambda: self.now_s,
            open_source=self.servers.digests,
        )  # fmt: skip

    def increment(self, name: str, n: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + n

    def fill(self) -> None:
        """Two symbols, ten trades and ten order books each; all is well."""
        self.bench.begin_epoch(0)
        seq = 0
        for symbol in ("005930", "000660"):
            for kind in ("trade", "orderbook"):
                self.bench.store(10, first_seq=seq, symbol=symbol, kind=kind)
                self.bench.ledger(10, through=39, symbol=symbol, kind=kind)
                self.bench.publish(10, symbol=symbol, kind=kind)
                seq += 10
        self.published_through(39)

    def published_through(self, seq: int) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            client.hset("published:cursor", "ring-0", f"{SEQ}:{SEQ + seq}")

    def execute(self, query: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(query.encode())

    def told(self) -> list[str]:
        """Look twice; return the messages of what is wrong."""
        for _ in range(2):
            self.now_s += CONFIRM_S
            self.reconciler.look()
        return [condition.message for condition in self.reconciler.conditions()]


@pytest.fixture
def look(postgres_dsn: str, redis_url: str, tmp_path: Path) -> Look:
    return Look(postgres_dsn, redis_url, tmp_path)


def test_a_minute_in_which_all_is_equal_is_counted_and_nothing_is_told(look: Look) -> None:
    look.fill()

    assert look.told() == []

    assert look.counts == {"minutes_reconciled": 1}
    assert look.reconciler.state().waiting == ""


DAMAGE = pytest.mark.parametrize(
    ("damage", "named"),
    [
        (f"DELETE FROM market_ticks WHERE seq = {SEQ + 4}", "kr 005930 trade"),
        (f"INSERT INTO market_orderbook SELECT * FROM market_orderbook WHERE seq = {SEQ + 31}", "kr 000660 orderbook"),
        (f"UPDATE market_ticks SET symbol = '035420' WHERE seq = {SEQ + 21}", "kr 000660 trade, kr 035420 trade"),
        ("UPDATE ingest_ledger SET received = 11 WHERE kind = 'trade' AND symbol = '005930'", "kr 005930 trade"),
    ],
)


@DAMAGE
def test_a_row_removed_doubled_or_changed_by_hand_is_told_with_its_symbol(look: Look, damage: str, named: str) -> None:
    look.fill()
    look.execute(damage)

    assert look.told() == [f"received, stored and published are not the same for {named}"]
    assert look.counts["reconcile_differences"] == named.count(",") + 1


@DAMAGE
def test_what_is_removed_doubled_or_changed_behind_the_comparison_is_told_after_the_next_look(
    look: Look, damage: str, named: str
) -> None:
    look.fill()
    assert look.told() == []
    for _ in range(3):
        look.now_s += 60
        look.reconciler.look()
    look.execute(damage)

    look.now_s += 60
    assert look.told() == [f"received, stored and published are not the same for {named}"]


def test_a_count_on_redis_that_changes_behind_the_comparison_is_told_after_the_next_look(look: Look) -> None:
    look.fill()
    assert look.told() == []
    look.bench.publish(1, symbol="000660", kind="orderbook")

    look.now_s += 60
    assert look.told() == ["received, stored and published are not the same for kr 000660 orderbook"]


def test_a_minute_that_was_equal_costs_one_statement_and_the_server_says_when_rows_were_removed(look: Look) -> None:
    look.fill()
    assert look.told() == []

    with look.servers.digests() as source:
        before = source.changes()
        assert source.read(UNIX_MINUTE, UNIX_MINUTE + 1)[UNIX_MINUTE].rows == 40
        look.execute(f"DELETE FROM market_ticks WHERE seq = {SEQ + 4}")
        wait_for(lambda: source.changes() != before, "the statistics of the server")
        assert source.read(UNIX_MINUTE, UNIX_MINUTE + 1)[UNIX_MINUTE].rows == 39


@pytest.mark.parametrize("by", [1, -1])
def test_a_count_on_redis_that_was_changed_by_hand_is_told_with_its_symbol(look: Look, by: int) -> None:
    look.fill()
    look.bench.publish(by, symbol="000660", kind="orderbook")

    assert look.told() == ["received, stored and published are not the same for kr 000660 orderbook"]


def test_a_row_that_is_removed_after_its_minute_was_compared_is_found_when_it_is_looked_at_again(look: Look) -> None:
    look.fill()
    assert look.told() == []
    look.bench.delete(12, kind="orderbook")

    look.now_s += 60
    look.told()

    (condition,) = look.reconciler.conditions()
    assert "kr 005930 orderbook" in condition.message


def test_a_publisher_that_is_behind_is_waited_for(look: Look) -> None:
    look.fill()
    look.bench.publish(-3, symbol="005930", kind="trade")
    look.published_through(35)

    assert look.told() == []
    assert look.reconciler.state().waiting == "the publisher is behind in rings [0]"

    look.bench.publish(3, symbol="005930", kind="trade")
    look.published_through(39)
    assert look.told() == []
    assert look.counts == {"minutes_reconciled": 1}


@pytest.mark.requirement("DLP-01")
def test_what_waits_in_a_spill_file_is_waited_for(look: Look) -> None:
    look.fill()
    look.execute(f"DELETE FROM market_ticks WHERE seq >= {SEQ + 20} AND seq < {SEQ + 30}")
    look.bench.spill(19, 29, records=10)
    assert look.told() == []
    assert look.reconciler.state().waiting == "0 spill files are not stored yet"

    look.execute("UPDATE spilled_batches SET stored_at = now()")  # which is not true

    assert look.told() == ["received, stored and published are not the same for kr 000660 trade"]


def test_what_waits_in_a_ring_is_waited_for(look: Look, tmp_path: Path) -> None:
    (tmp_path / "rings").mkdir()
    path = tmp_path / "rings" / "worker-0.ring"
    create_ring(path, ring=0, capacity_bytes=1 << 20, consumers=(("writer", GATING),))
    ring = RingWriter(path)
    append(ring, Trade())
    ring.publish()
    ring.close()
    look.bench.publish(5)  # of what is in the ring

    assert look.told() == []
    assert look.reconciler.state().waiting.startswith("rings [0] hold what is not stored yet")
    assert look.counts.get("minutes_reconciled", 0) == 0


def test_servers_that_are_away_are_no_difference(
    own_postgres: PostgresFactory, own_redis: RedisFactory, tmp_path: Path
) -> None:
    postgres, redis_server = own_postgres(), own_redis()
    look = Look(postgres.dsn, redis_server.url, tmp_path)
    look.fill()
    look.bench.delete(4)

    redis_server.stop()
    assert len(look.told()) == 1  # the tables are compared all the same
    assert look.reconciler.state().waiting == "Redis does not answer: ConnectionError"
    postgres.stop()
    look.told()
    assert look.reconciler.state().waiting.startswith("the database does not answer")
    assert look.counts == {"reconcile_differences": 1}


def test_a_server_that_takes_too_long_is_left_alone(look: Look) -> None:
    look.fill()
    config = Config(
        data_dir=look.config.data_dir, database=look.config.database, redis=look.config.redis,
        reconcile=Reconcile(statement_timeout_s=0.2),
    )  # fmt: skip
    slow = Servers(config, clock=lambda: look.now_s)
    look.reconciler = Reconciler(
        slow.measure, look, settle_s=20.0, interval_s=60.0, clock=lambda: look.now_s, open_source=slow.digests
    )
    with psycopg.connect(look.dsn) as other:
        other.execute("LOCK TABLE market_ticks IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        assert look.told() == []
    assert time.monotonic() - started < 5
    assert look.reconciler.state().waiting == "the database does not answer: 57014"


@pytest.mark.requirement("LEAK-01")
def test_memory_and_connections_do_not_grow_with_the_number_of_looks(look: Look) -> None:
    _grows(look, looks=15, warm_up=10)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.requirement("LEAK-01")
def test_memory_does_not_grow_within_a_thousand_looks(look: Look) -> None:
    _grows(look, looks=1000, warm_up=500)


def _grows(look: Look, *, looks: int, warm_up: int) -> None:
    look.fill()
    look.bench.delete(4)
    process = psutil.Process()

    def run(count: int) -> None:
        for _ in range(count):
            look.now_s += 7.0
            look.reconciler.look()

    run(warm_up)
    gc.collect()
    rss, files = process.memory_info().rss, process.num_fds()
    run(looks)
    gc.collect()
    grown = process.memory_info().rss - rss
    print(f"{looks} looks: RSS grew by {grown:,} bytes")
    assert grown < 1 << 20
    assert process.num_fds() <= files


@pytest.fixture
def rig(tmp_path: Path, own_postgres: PostgresFactory, own_redis: RedisFactory) -> Iterator[Rig]:
    with Rig(tmp_path, own_postgres(), own_redis(), symbols=4, workers=1) as rig:
        yield rig


# A worker that receives says after each minute what it received: until the first is over, nothing can be compared.
@pytest.mark.timeout(240)
@pytest.mark.parametrize("receives", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_the_daemon_tells_of_a_row_that_was_doubled_by_hand_and_the_status_shows_it(rig: Rig, receives: bool) -> None:
    rig.start_simulator(rate=200, extra=() if receives else ("--start-after", "1000"))
    with rig.config_path.open("a") as file:
        file.write("[reconcile]\ninterval_s = 0.2\n")
    heard = redis.Redis.from_url(rig.redis.url).pubsub()  # type: ignore[no-untyped-call]
    heard.subscribe("system:alerts")
    with psycopg.connect(rig.postgres.dsn, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(
                "INSERT INTO market_ticks (time, symbol, price, volume, market, venue, recv_time, flags, source, seq)"
                " VALUES (now(), '005930', 1, 1, 'kr', 'kis', now() - INTERVAL '57 minutes', 0, 7, 7)"
            )
    rig.start_daemon()

    def alert() -> dict[str, str] | None:
        message = heard.get_message(ignore_subscribe_messages=True, timeout=0.05)
        found = json.loads(message["data"]) if message else {}
        return found if found.get("code") == "counts_differ" else None

    try:
        told = wait_for(alert, "an alert", timeout_s=150.0)
    except AssertionError:
        raise AssertionError(rig.tail(30)) from None
    assert (told["level"], told["source"]) == ("CRITICAL", "monitor")
    assert "kr 005930 trade" in told["message"]
    state = json.loads((rig.data_dir / "run" / "reconcile.json").read_bytes())
    assert state["differences"] == 1
    assert "005930 trade: received 0 stored 0 published 0 duplicated 1" in state["named"][0]
    assert rig.total("reconcile_differences") == 1
    heard.close()
    rig.stop_simulator()
    assert rig.stop_daemon() == 0


@pytest.mark.nightly
@pytest.mark.timeout(400)
def test_minutes_of_live_data_with_killed_sinks_raise_no_alarm(rig: Rig) -> None:
    rig.start_simulator(rate=1_000)
    with rig.config_path.open("a") as file:
        file.write("[reconcile]\ninterval_s = 0.5\nsettle_s = 5\n")
    rig.start_daemon()
    rig.wait_received(1_000)
    start = rig.total("minutes_reconciled")
    for role in ("writer", "publisher"):
        rig.kill_roles(signal.SIGKILL, role)
        rig.wait_received(5_000)

    wait_for(lambda: rig.total("minutes_reconciled") >= start + 3, "three minutes compared", timeout_s=240)

    state = json.loads((rig.data_dir / "run" / "reconcile.json").read_bytes())
    assert (rig.total("reconcile_differences"), state["differences"]) == (0, 0), state
    rig.stop_simulator()
    assert rig.stop_daemon() == 0
