"""`sise check`: everything that can be known to be wrong before the daemon starts, each with its reason."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import redis

from daemon.config import Account, Config
from daemon.errors import IngestError
from daemon.ingest.connector import NetworkConnector
from daemon.ingest.venues import venue_named
from daemon.shard_plan import make_plan

MIB = 1 << 20
CONNECT_TIMEOUT_S = 5


def run_checks(config: Config) -> Iterator[tuple[str, str | None]]:
    """Yield (what was checked, problem or None), in the order in which an operator would fix them."""
    yield from _one("plan", lambda: _check_plan(config))
    yield from _one(f"data_dir {config.data_dir}", lambda: _check_disk(config))
    yield from _one("database", lambda: _check_database(config))
    yield from _one("redis", lambda: _check_redis(config))
    for account in config.accounts:
        yield from _one(f"account {account.name} ({account.venue})", lambda a=account: _check_account(a, config))  # type: ignore[misc]


def _one(name: str, check: Callable[[], str | None]) -> Iterator[tuple[str, str | None]]:
    try:
        yield name, check()
    except (IngestError, OSError, psycopg.Error, redis.RedisError) as exc:
        yield name, str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__


def _check_plan(config: Config) -> str | None:
    plan = make_plan(config)
    return None if any(worker.connections for worker in plan.workers) else "no feed: nothing would be collected"


def _check_disk(config: Config) -> str | None:
    directory = Path(config.data_dir)
    existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} is not writable"
    rings = directory / "rings"
    missing = sum(1 for i in range(config.workers) if not (rings / f"worker-{i}.ring").exists())
    needed = missing * config.ring.capacity_mb * MIB
    free = shutil.disk_usage(existing).free
    return None if free > needed else f"{free // MIB} MiB free, the rings need {needed // MIB}"


def _check_database(config: Config) -> str | None:
    with psycopg.connect(config.database.dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        found = connection.execute("SELECT to_regclass('ingest_cursor')").fetchone()
    return None if found and found[0] else "reachable, but not migrated: the daemon does it at start, or `sise migrate`"


def _check_redis(config: Config) -> str | None:
    with redis.Redis.from_url(config.redis.url, socket_timeout=CONNECT_TIMEOUT_S) as client:
        client.ping()
    return None


def _check_account(account: Account, config: Config) -> str | None:
    venue = venue_named(account.venue)
    if not venue.needs_approval_key:
        return None
    if not account.app_key or not account.app_secret:
        return "app_key or app_secret is empty"

    async def fetch() -> None:
        connector = NetworkConnector(
            connect_timeout_s=config.ingest.connect_timeout_s, max_frame_bytes=config.ingest.max_frame_bytes
        )
        status, body = await connector.post(venue.approval_request(account))
        venue.decode_approval(status, body)
        url = urlsplit(venue.websocket_url(account))
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(url.hostname, url.port or (443 if url.scheme == "wss" else 80)), CONNECT_TIMEOUT_S
        )
        writer.close()
        await writer.wait_closed()

    asyncio.run(fetch())
    return None
