"""What the embedded server really runs with, and what `sise check` says about another one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from daemon.config import Account, Config, Database, Feed
from daemon.config import Redis as RedisSettings
from daemon.embedded import EmbeddedRedis
from daemon.preflight import run_checks
from daemon.shard_plan import make_plan

EXPECTED = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "no-appendfsync-on-rewrite": "yes",
    "save": "60 1000",
    "maxmemory-policy": "noeviction",
    "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 67108864 16777216 30",
}


def finding(url: str, directory: Path) -> tuple[bool, str]:
    config = Config(
        data_dir=str(directory),
        redis=RedisSettings(url=url),
        database=Database(dsn="postgresql://sise@127.0.0.1:1/sise"),
        accounts=(Account(name="a", venue="upbit"),),
        feeds=(Feed(account="a", market="crypto", kinds=("trade",), symbols=("KRW-BTC",)),),
    )
    found = next(found for found in run_checks(config, make_plan(config)) if found.name == "redis")
    return found.is_fine, found.note


@pytest.mark.requirement("RDS-01")
def test_a_server_runs_with_every_setting_of_the_shipped_file(redis_server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        found = {name: client.config_get(name)[name] for name in EXPECTED}

    assert found == EXPECTED


@pytest.mark.requirement("RDS-01")
def test_the_check_before_the_start_says_what_a_restart_of_redis_would_cost(
    tmp_path: Path, own_redis: Callable[[], EmbeddedRedis]
) -> None:
    server = own_redis()
    assert finding(server.url, tmp_path) == (True, "")

    with redis.Redis.from_url(server.url) as client:
        client.config_set("appendonly", "no")
        client.config_set("maxmemory-policy", "allkeys-lru")

    is_fine, note = finding(server.url, tmp_path)
    assert is_fine
    assert "no append-only file" in note
    assert "allkeys-lru" in note
