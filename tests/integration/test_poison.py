"""A real server refuses rows: the good ones are stored, the bad ones kept with its reason, once; the rest waits."""

import random
from urllib.parse import urlsplit

import psycopg
import pytest

from daemon.alerts import RecordingAlerts
from daemon.sinks import isolation
from daemon.sinks.database import FailureKind, Isolated
from daemon.sinks.isolation import new_batch
from native_pipeline.record_block import RecordBlock
from tests import servers
from tests.integration import poison_rig
from tests.integration.poison_rig import (
    BAD_VOLUME,
    COUNT_COPIES,
    EVERY_KIND,
    NO_BAD_VOLUME,
    RING,
    ROWS,
    Bench,
    every_third_bad,
    query,
    ten_thousand,
    trigger,
)
from tests.reference.packed_records import Event, Record, Trade

make_bench, bench, poor = poison_rig.make_bench, poison_rig.bench, poison_rig.poor


@pytest.mark.requirement("F51", "DLP-01")
@pytest.mark.parametrize("bad", [0, 6_789, ROWS - 1])
def test_one_bad_row_of_ten_thousand_is_kept_with_the_reason_and_all_others_are_stored(bench: Bench, bad: int) -> None:
    seqs = bench.put(*ten_thousand(bad))
    bench.execute(NO_BAD_VOLUME, COUNT_COPIES)
    assert bench.failure() == ("23514", FailureKind.DATA)
    bench.copies()

    isolated = bench.store_isolated()

    assert (isolated.refused, isolated.already_stored) == (1, 0)
    assert bench.copies() <= 4, "the server names the row"
    assert bench.seqs() == seqs[:bad] + seqs[bad + 1 :]
    assert bench.stored_cursor() == seqs[-1]
    [row] = bench.refused()
    assert (row["source"], row["seq"], row["kind"], row["symbol"]) == (RING, seqs[bad], "trade", f"{bad % 100:06}")
    assert (row["venue"], row["market"]) == ("kis", "kr")
    assert row["reason"].startswith("refused by the database: 23514 ")
    assert "no_bad_volume" in row["reason"]
    assert row["original_bytes"] == len(row["frame"]) == 120


@pytest.mark.requirement("F51")
def test_a_bad_row_that_the_server_does_not_name_is_found_by_halving(bench: Bench) -> None:
    bad = 6_789
    seqs = bench.put(*[Trade(symbol=b"STRANGE" if row == bad else b"KNOWN") for row in range(ROWS)])
    bench.execute(
        "CREATE TABLE listed (symbol text PRIMARY KEY)",
        "INSERT INTO listed VALUES ('KNOWN')",
        "ALTER TABLE market_ticks ADD CONSTRAINT is_listed FOREIGN KEY (symbol) REFERENCES listed",
        COUNT_COPIES,
    )
    assert bench.failure() == ("23503", FailureKind.DATA)
    bench.copies()

    assert bench.store_isolated().refused == 1

    assert bench.copies() <= 1 + 2 * 14, "14 halvings of 10,000 rows"
    assert bench.seqs() == seqs[:bad] + seqs[bad + 1 :]
    assert [row["symbol"] for row in bench.refused()] == ["STRANGE"]


@pytest.mark.requirement("F51")
def test_several_bad_rows_leave_all_others_stored_in_their_order(bench: Bench) -> None:
    bad = {0, 1, 17, 4_000, 4_001, 9_999, *range(5_000, 5_020)}
    seqs = bench.put(*ten_thousand(*bad))
    bench.execute(NO_BAD_VOLUME)

    isolated = bench.store_isolated()

    assert isolated.refused == len(bad)
    assert len(isolated.reasons) == 1
    assert isolated.reasons[0].endswith(f"({len(bad)} rows)")
    assert bench.seqs() == [seq for row, seq in enumerate(seqs) if row not in bad]
    assert [row["seq"] for row in bench.refused()] == [seqs[row] for row in sorted(bad)]


@pytest.mark.requirement("F51")
def test_a_batch_of_bad_rows_only_ends_in_quarantine_as_a_whole(bench: Bench) -> None:
    seqs = bench.put(*[Trade(volume=(BAD_VOLUME, 0))] * 300)
    bench.execute(NO_BAD_VOLUME)

    assert bench.store_isolated().refused == 300

    assert bench.seqs() == []
    assert [row["seq"] for row in bench.refused()] == seqs
    assert bench.stored_cursor() == seqs[-1]


@pytest.mark.requirement("F51")
def test_each_table_loses_only_its_own_bad_rows(bench: Bench) -> None:
    seqs = bench.put(*EVERY_KIND, *EVERY_KIND)
    bench.execute(
        "ALTER TABLE market_orderbook ADD CHECK (false) NOT VALID",
        "ALTER TABLE feed_gaps ADD CHECK (false) NOT VALID",
        "ALTER TABLE ingest_ledger ADD CHECK (false) NOT VALID",
        "ALTER TABLE quarantine ADD CHECK (reason LIKE 'refused%') NOT VALID",
    )

    isolated = bench.store_isolated()

    assert isolated.refused == 8
    assert bench.seqs() == seqs[0::6]
    assert bench.seqs("market_events") == seqs[2::6]
    refused = bench.refused()
    assert [row["kind"] for row in refused] == ["orderbook", "quarantine", "gap", "ledger"] * 2
    assert [row["seq"] for row in refused] == [seq for row, seq in enumerate(seqs) if row % 6 not in (0, 2)]
    assert refused[1]["symbol"] is None
    assert refused[3]["recv_time"].year >= 2025, "retention counts from it"


@pytest.mark.requirement("F51", "DLP-01")
def test_the_kept_record_becomes_the_row_once_the_server_takes_it(bench: Bench) -> None:
    seqs = bench.put(*ten_thousand(5)[:10])
    bench.execute(NO_BAD_VOLUME)
    bench.store_isolated()
    bench.execute("ALTER TABLE market_ticks DROP CONSTRAINT no_bad_volume")

    [row] = bench.refused()
    block, batch = RecordBlock(), new_batch()
    block.append_bytes(row["frame"], ring=row["source"])
    batch.append_block(block)
    with psycopg.connect(bench.dsn) as connection:
        isolation.copy_rows(connection, "market_ticks", batch)

    assert bench.seqs() == seqs
    assert query(bench.dsn, f"SELECT volume, source FROM market_ticks WHERE seq = {seqs[5]}") == [(BAD_VOLUME, RING)]


INCOMPRESSIBLE = random.Random(1).randbytes(8_000).hex().encode()
BAD_ROWS = [
    ("23514", Trade(price=(0, 0)), []),
    ("23514", Trade(symbol=b""), []),
    ("22021", Trade(symbol=b"\xff\xfe"), []),
    ("22021", Trade(symbol=b"\xed\xa0\x80"), []),
    ("22003", Trade(volume=(10**18, 0)), [trigger("PERFORM NEW.volume::int4;")]),
    ("22012", Trade(volume=(0, 0)), [trigger("PERFORM 1 / NEW.volume::int4;")]),
    ("22001", Event(text=b"x" * 11), ["ALTER TABLE market_events ALTER detail TYPE varchar(10)"]),
    ("23502", Trade(), ["ALTER TABLE market_ticks ALTER cum_volume SET NOT NULL"]),
    ("23514", Trade(side=2), ["ALTER TABLE market_ticks ADD CHECK (side IN ('buy'))"]),
    ("P0001", Trade(volume=(BAD_VOLUME, 0)), [trigger(f"IF NEW.volume = {BAD_VOLUME} THEN RAISE 'no'; END IF;")]),
    ("P0004", Trade(volume=(BAD_VOLUME, 0)), [trigger(f"ASSERT NEW.volume <> {BAD_VOLUME};")]),
    ("54000", Event(text=INCOMPRESSIBLE), ["CREATE INDEX ON market_events (detail)"]),
    ("23P01", Trade(flags=1), ["ALTER TABLE market_ticks_default ADD EXCLUDE (flags WITH =) WHERE (flags = 1)"]),
]


@pytest.mark.requirement("F51", "SCH-01")
@pytest.mark.parametrize(
    ("state", "bad", "preparation"), BAD_ROWS, ids=[f"{row[0]}-{i}" for i, row in enumerate(BAD_ROWS)]
)
def test_a_row_that_is_refused_for_a_value_is_kept_with_its_sqlstate(
    bench: Bench, state: str, bad: Record, preparation: list[str]
) -> None:
    good = Trade(cum_volume=(5, 0), side=1, volume=(1, 0))
    if state == "23P01" and servers.HAS_TIMESCALEDB:
        pytest.skip("chunks have no name that is known before")
    if state == "23P01":
        bench.put(bad)
        bench.store()
    seqs = bench.put(good, good, bad, good)
    bench.execute(*preparation)
    assert bench.failure() == (state, FailureKind.DATA)

    isolated = bench.store_isolated()

    assert isolated.refused == 1
    assert [seq for seq in bench.seqs() if seq >= seqs[0]] == [seqs[0], seqs[1], seqs[3]]
    [row] = bench.refused()
    assert row["seq"] == seqs[2]
    assert row["reason"].startswith(f"refused by the database: {state} ")


@pytest.mark.requirement("F51")
def test_many_bad_rows_need_no_right_to_make_temporary_tables(bench: Bench, poor: str) -> None:
    seqs = bench.put(*every_third_bad()[:300])
    bench.execute(
        NO_BAD_VOLUME,
        f"REVOKE TEMPORARY ON DATABASE {urlsplit(bench.dsn).path[1:]} FROM PUBLIC",
        "GRANT INSERT ON market_ticks, quarantine TO poor",
    )
    bench.connect(poor)

    assert bench.store_isolated().refused == 100

    assert bench.seqs() == [seq for row, seq in enumerate(seqs) if row % 3]


@pytest.mark.requirement("F51")
@pytest.mark.parametrize(
    "rule",
    [
        NO_BAD_VOLUME,
        trigger(f"IF NEW.volume = {BAD_VOLUME} THEN RAISE 'no'; END IF;"),
        trigger("ASSERT NEW.volume = 1;"),
    ],
    ids=["check", "raise", "assert"],
)
def test_many_bad_rows_are_told_from_the_good_ones(bench: Bench, rule: str) -> None:
    seqs = bench.put(*every_third_bad())
    bench.execute(rule)

    isolated = bench.store_isolated()

    assert isolated.refused == len(seqs[::3])
    assert bench.seqs() == [seq for row, seq in enumerate(seqs) if row % 3]
    assert [row["seq"] for row in bench.refused()] == seqs[::3]


@pytest.mark.requirement("F51")
def test_a_constraint_that_is_looked_at_only_at_the_commit_refuses_rows_like_any_other(bench: Bench) -> None:
    seqs = bench.put(Trade(symbol=b"KNOWN"), Trade(symbol=b"STRANGE"), Trade(symbol=b"KNOWN"))
    bench.execute(
        "CREATE TABLE listed (symbol text PRIMARY KEY)",
        "INSERT INTO listed VALUES ('KNOWN')",
        "ALTER TABLE market_ticks ADD FOREIGN KEY (symbol) REFERENCES listed DEFERRABLE INITIALLY DEFERRED",
    )
    assert bench.failure() == ("23503", FailureKind.DATA)

    assert bench.store_isolated().refused == 1

    assert bench.seqs() == [seqs[0], seqs[2]]


@pytest.mark.requirement("F51")
def test_refused_rows_are_counted_and_people_are_told() -> None:
    counters: dict[str, int] = {}

    class Counters:
        def increment(self, name: str, n: int = 1, /) -> None:
            counters[name] = counters.get(name, 0) + n

        def set(self, name: str, value: int, /) -> None:
            raise AssertionError(name)

    alerts = RecordingAlerts()
    isolation.report(Isolated(), Counters(), alerts)
    assert (counters, alerts.sent) == ({}, [])

    isolation.report(Isolated(3, 2, ("market_ticks: 23514 no (3 rows)",)), Counters(), alerts)

    assert counters == {"rows_refused": 3, "rows_already_stored": 2}
    assert alerts.codes() == ["rows_refused"]
