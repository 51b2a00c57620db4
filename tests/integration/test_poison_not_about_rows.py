"""A real server fails for reasons that no row has: nothing is taken apart, everything is stored after the repair."""

import contextlib
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

import psycopg
import pytest

from daemon.sinks.database import FailureKind
from tests import servers
from tests.conftest import PostgresFactory
from tests.integration import poison_rig
from tests.integration.poison_rig import (
    ASLEEP,
    BAD_VOLUME,
    COUNT_COPIES,
    NO_BAD_VOLUME,
    Bench,
    every_third_bad,
    query,
    trigger,
    wait_for_lock,
    wait_until,
)
from tests.reference.packed_records import Trade

make_bench, bench, poor = poison_rig.make_bench, poison_rig.bench, poison_rig.poor


NOT_ABOUT_A_ROW = [
    (
        "42703",
        "ALTER TABLE market_ticks RENAME cum_volume TO total",
        "ALTER TABLE market_ticks RENAME total TO cum_volume",
    ),
    ("42P01", "ALTER TABLE market_ticks RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO market_ticks"),
    ("42883", trigger("PERFORM is_not_there();"), "DROP TRIGGER judge ON market_ticks"),
    ("42501", trigger("RAISE insufficient_privilege;"), "DROP TRIGGER judge ON market_ticks"),
    (None, trigger(result="NULL"), "DROP TRIGGER judge ON market_ticks"),
    (
        "23502",
        "ALTER TABLE market_ticks ADD desk text; ALTER TABLE market_ticks ADD CHECK (true);"
        " UPDATE market_ticks SET desk = ''; ALTER TABLE market_ticks ALTER desk SET NOT NULL",
        "ALTER TABLE market_ticks DROP desk",
    ),
    (
        "22P03",
        "DROP VIEW market_ticks_1m; ALTER TABLE market_ticks ALTER price TYPE int4 USING price::int4",
        "ALTER TABLE market_ticks ALTER price TYPE float8",
    ),
    ("0A000", trigger("RAISE feature_not_supported;"), "DROP TRIGGER judge ON market_ticks"),
    ("XX000", trigger("RAISE internal_error;"), "DROP TRIGGER judge ON market_ticks"),
    ("TS001", trigger("RAISE SQLSTATE 'TS001';"), "DROP TRIGGER judge ON market_ticks"),
]


@pytest.mark.requirement("F53")
@pytest.mark.parametrize(("state", "damage", "repair"), NOT_ABOUT_A_ROW, ids=[str(row[0]) for row in NOT_ABOUT_A_ROW])
def test_what_concerns_every_row_is_never_taken_apart_and_stored_after_the_repair(
    bench: Bench, state: str | None, damage: str, repair: str
) -> None:
    if state == "22P03" and servers.HAS_TIMESCALEDB:
        pytest.skip("the type of a column of a continuous aggregate cannot be changed")
    seqs = bench.put(*[Trade()] * 100)
    bench.execute(damage)
    if state != "42P01":
        bench.execute(COUNT_COPIES)

    assert bench.failure() == (state, FailureKind.SETUP)
    refused_before_copy = state == "22P03"  # by the look at the columns that each new connection has: no SQLSTATE
    again = None if refused_before_copy else state
    assert bench.failure(bench.store_isolated) == (again, FailureKind.SETUP)

    if state not in {"42P01", "42703"}:
        assert bench.copies() == (1 if refused_before_copy else 2), "one for each attempt"
    assert bench.stored_cursor() == bench.cursor
    assert bench.refused() == []
    bench.execute(repair)
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.requirement("F53")
def test_a_role_without_the_right_to_write_stores_after_it_was_granted(bench: Bench, poor: str) -> None:
    seqs = bench.put(Trade())
    bench.connect(poor)

    assert bench.failure() == ("42501", FailureKind.SETUP)

    bench.execute("GRANT INSERT ON market_ticks TO poor")
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.requirement("F53")
@pytest.mark.parametrize(
    ("what", "state"),
    [("RAISE insufficient_privilege;", "42501"), ("RETURN NULL;", None), ("RAISE disk_full;", "53100")],
)
def test_what_concerns_every_row_is_seen_behind_many_bad_ones_too(bench: Bench, what: str, state: str | None) -> None:
    bench.put(*every_third_bad(777))
    bad = f"IF NEW.volume = {BAD_VOLUME} THEN RAISE 'no'; END IF; IF NEW.volume = 777 THEN {what} END IF;"
    bench.execute(trigger(bad))

    kind = FailureKind.AWAY if state == "53100" else FailureKind.SETUP
    assert bench.failure(bench.store_isolated) == (state, kind)

    assert bench.seqs() == []
    assert bench.refused() == []


@pytest.mark.requirement("F51", "F53")
def test_a_quarantine_that_refuses_too_keeps_the_batch_where_it_is(bench: Bench) -> None:
    seqs = bench.put(Trade(volume=(BAD_VOLUME, 0)), Trade())
    bench.execute(NO_BAD_VOLUME, "ALTER TABLE quarantine ADD CONSTRAINT closed CHECK (false)")

    assert bench.failure(bench.store_isolated) == (None, FailureKind.SETUP)

    assert bench.seqs() == []
    assert bench.stored_cursor() == bench.cursor
    bench.execute("ALTER TABLE quarantine DROP CONSTRAINT closed")
    assert bench.store_isolated().refused == 1
    assert bench.seqs() == seqs[1:]


@pytest.mark.requirement("F50")
def test_a_deadlock_is_tried_again(bench: Bench) -> None:
    seqs = bench.put(Trade())
    # A session looks once, so long after it began to wait: the writer does so when there is one, and gives way.
    bench.execute(f"ALTER DATABASE {urlsplit(bench.dsn).path[1:]} SET deadlock_timeout = '2s'")
    bench.connect()
    with psycopg.connect(bench.dsn) as other:
        other.execute("SET deadlock_timeout = '1min'")
        other.execute("LOCK TABLE market_ticks IN EXCLUSIVE MODE")
        caught: list[tuple[str | None, FailureKind]] = []
        thread = threading.Thread(target=lambda: caught.append(bench.failure()))
        thread.start()
        wait_for_lock(bench.dsn)
        other.execute("SELECT FROM ingest_cursor FOR UPDATE")
        thread.join(30)
        other.rollback()

    assert caught == [("40P01", FailureKind.AWAY)]
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.requirement("F50")
def test_a_table_that_somebody_locks_is_given_up_in_time_and_tried_again(bench: Bench) -> None:
    seqs = bench.put(Trade())
    bench.connect(statement_timeout_s=1)
    with psycopg.connect(bench.dsn) as other:
        other.execute("LOCK TABLE market_ticks")
        assert bench.failure() == ("57014", FailureKind.AWAY)
        assert bench.failure(bench.store_isolated) == ("57014", FailureKind.AWAY)
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.nightly
@pytest.mark.requirement("F50")
def test_a_lock_of_ten_seconds_is_given_up_before_the_statement_times_out(bench: Bench) -> None:
    bench.put(Trade())
    with psycopg.connect(bench.dsn) as other:
        other.execute("LOCK TABLE market_ticks")
        assert bench.failure() == ("55P03", FailureKind.AWAY)


@pytest.mark.requirement("F53")
def test_a_replica_that_is_not_promoted_yet_is_waited_for(bench: Bench) -> None:
    name = urlsplit(bench.dsn).path[1:]
    seqs = bench.put(Trade())
    bench.connect()
    bench.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    assert bench.failure() == ("25006", FailureKind.AWAY)
    assert bench.failure(bench.store_isolated) == ("25006", FailureKind.AWAY)

    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.requirement("F48")
@pytest.mark.parametrize("isolated", [False, True])
def test_a_session_that_is_ended_in_the_middle_of_a_copy_stores_nothing_twice(bench: Bench, isolated: bool) -> None:
    seqs = bench.put(Trade(), Trade())
    bench.execute(trigger("PERFORM pg_sleep(30);"))
    caught: list[tuple[str | None, FailureKind]] = []
    thread = threading.Thread(target=lambda: caught.append(bench.failure(bench.store_isolated if isolated else None)))
    thread.start()
    wait_until(lambda: query(bench.dsn, f"SELECT pg_terminate_backend(pid) {ASLEEP}"))
    thread.join(30)

    assert caught == [("57P01", FailureKind.AWAY)]
    bench.execute("DROP TRIGGER judge ON market_ticks")
    bench.store()
    assert bench.seqs() == seqs


@pytest.mark.requirement("F55")
def test_a_server_whose_connections_are_used_up_is_waited_for(
    own_postgres: PostgresFactory, make_bench: Callable[[str], Bench]
) -> None:
    bench = make_bench(own_postgres().dsn)
    seqs = bench.put(Trade())
    bench.connect()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(psycopg.connect(bench.dsn))
        assert bench.failure()[1] is FailureKind.AWAY
        assert bench.failure()[1] is FailureKind.AWAY
    wait_until(
        lambda: (
            query(bench.dsn, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") == [(1,)]
        )
    )

    bench.store()

    assert bench.seqs() == seqs


@pytest.mark.requirement("F55")
def test_a_transaction_relies_on_nothing_that_was_set_in_the_session_before_it(bench: Bench) -> None:
    bench.connect(statement_timeout_s=7)
    shown = ("statement_timeout", "lock_timeout", "synchronous_commit")
    bench.execute(
        "CREATE TABLE seen (value text)",
        trigger(
            f"INSERT INTO seen VALUES ({' || $q$ $q$ || '.join(f'current_setting($q${name}$q$)' for name in shown)});"
        ),
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),"
        " set_config('synchronous_commit', 'off', false); RETURN NULL; END $$",
        "CREATE TRIGGER forget AFTER INSERT ON market_ticks FOR EACH STATEMENT EXECUTE FUNCTION forget()",
    )
    for _ in range(2):  # the second transaction finds the session as a pooler may hand it out
        bench.put(Trade())
        bench.store()

    assert query(bench.dsn, "SELECT value FROM seen") == [("7s 10s on",)] * 2
    assert query(bench.dsn, "SELECT count(*) FROM pg_prepared_statements") == [(0,)]
