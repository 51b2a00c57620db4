"""Redis stopped, full, killed, and its publisher killed between EXEC and commit: the tables never notice."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.rig import Rig, wait_for

RATE = 6_000.0
KINDS = {"ticker.kr": "market_ticks", "orderbook.kr": "market_orderbook", "event.kr": "market_events"}


def start(rig: Rig) -> None:
    """Daemon and simulator, with all streams, and rings that are full after some 15 s: not while a process starts."""
    rig.start_simulator(rate=RATE)
    text = rig.config_path.read_text()
    faster = 'retry_max_s = 0.2\ntimeout_s = 0.5\nstreams = ["all"]\nstream_maxlen = 9999999'
    text = text.replace("retry_max_s = 0.5", faster)
    rig.config_path.write_text(text.replace("capacity_mb = 64", "capacity_mb = 16"))
    rig.start_daemon()
    wait_for(lambda: rig.total("records_received") > 0, f"first data: {rig.tail()}")


@pytest.mark.requirement("F56", "QG-IT-01")
def test_a_redis_that_is_full_for_a_while_changes_nothing_in_the_tables(
    tmp_path: Path, own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis]
) -> None:
    server = own_redis()
    with Rig(tmp_path, own_postgres(), server, symbols=4) as rig:
        start(rig)
        rig.wait_received(1_000)
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "1")
            rig.wait_received(2_000)
            client.config_set("maxmemory", "0")
        rig.wait_received(1_000)
        rig.stop_simulator()
        assert rig.stop_daemon() == 0, rig.tail()
        verdict = rig.compare()
        assert verdict.is_exact, f"{verdict}\n{rig.tail()}"
        assert rig.total("publish_lapped") == 0  # of what a ring overwrites nobody knows the channel
        compare_streams(rig, server)


@pytest.mark.nightly
@pytest.mark.requirement("F56", "QG-IT-01", "BP-01", "RDS-01")
def test_whatever_happens_to_redis_the_tables_are_exact_and_every_message_is_published_or_accounted_for(
    tmp_path: Path,
    own_postgres: Callable[[], EmbeddedPostgres],
    own_redis: Callable[[], EmbeddedRedis],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = tmp_path / "points"
    points.mkdir()
    monkeypatch.setenv("SISE_FAILPOINTS", str(points))
    server = own_redis()
    with Rig(tmp_path, own_postgres(), server, symbols=4) as rig:
        start(rig)
        rig.wait_received(2_000)

        os.kill(server.pid, signal.SIGSTOP)  # longer than a ring lasts
        wait_for(lambda: rig.total("records_dropped_on_redis") > 0, f"messages given up: {rig.tail()}")
        os.kill(server.pid, signal.SIGCONT)
        wait_for(lambda: rig.total("redis_connected") == 1, "Redis to be back")

        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "1")
            rig.wait_received(3_000)
            client.config_set("maxmemory", "0")

        for point in ("publisher.before_send", "publisher.after_exec"):
            # what a publisher has noticed and not counted yet dies with it: no loss may be on its way
            wait_for(lambda: rig.total("publisher_lag_bytes") < 200_000, f"the backlog: {rig.tail()}")
            (points / point).write_text("kill")
            wait_for(lambda: not (points / point).exists(), f"the death at {point}")  # noqa: B023 - used at once
            rig.wait_received(2_000)

        server.kill()
        rig.wait_received(3_000)
        server.start()
        rig.wait_received(2_000)

        rig.stop_simulator()
        assert rig.stop_daemon() == 0, rig.tail()
        verdict = rig.compare()
        assert verdict.is_exact, f"{verdict}\n{rig.tail()}"
        assert rig.total("publish_lapped") == 0  # of what a ring overwrites nobody knows the channel
        compare_streams(rig, server)
        assert rig.total("records_dropped_on_redis") > 0


def compare_streams(rig: Rig, server: EmbeddedRedis) -> None:
    """Each row of the tables is an entry of a stream, once and in order, or was counted and told as given up."""
    dropped: Counter[str] = Counter()
    with psycopg.connect(rig.postgres.dsn) as tables, redis.Redis.from_url(server.url) as client:
        for channel, table in KINDS.items():
            for ring in range(rig.workers):
                query = f"SELECT seq FROM {table} WHERE source = %s ORDER BY seq"
                stored = [seq for (seq,) in tables.execute(query, (ring,))]
                found = client.xrange(f"stream:{channel}:{ring}")
                added = [int(entry.split(b"-")[0]) for entry, fields in found if b"message" in fields]
                assert added == sorted(set(added))
                assert set(added) <= set(stored)
                missing = set(stored) - set(added)
                dropped[channel] += len(missing)
                for entry, gap in [(entry, json.loads(fields[b"gap"])) for entry, fields in found if b"gap" in fields]:
                    covered = missing & set(range(gap["after_seq"] + 1, gap["through_seq"] + 1))
                    assert entry == b"%d-1" % gap["after_seq"]
                    assert (gap["reason"], gap["missing"]) == ("dropped", len(covered))
                    missing -= covered
                assert not missing
            assert int(client.get(f"published:count:{channel}") or 0) == sum(
                client.xlen(f"stream:{channel}:{ring}") - gaps_in(client, channel, ring) for ring in range(rig.workers)
            )
            assert int(client.get(f"published:dropped:{channel}") or 0) == dropped[channel]
    assert dropped.total() == rig.total("records_dropped_on_redis")


def gaps_in(client: Any, channel: str, ring: int) -> int:
    return sum(b"gap" in fields for _, fields in client.xrange(f"stream:{channel}:{ring}"))
