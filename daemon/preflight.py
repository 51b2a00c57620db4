"""`sise check`: everything that can be known to be wrong before the daemon starts, each with its reason."""

import asyncio
import datetime
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg
import redis

from daemon.config import Account, Config
from daemon.errors import IngestError, Refused, first_line
from daemon.ingest.connector import NetworkConnector
from daemon.ingest.venues import venue_named
from daemon.learned_limits import LearnedLimits
from daemon.plan_text import describe_plan
from daemon.rings import MIB, missing_bytes
from daemon.shard_plan import Plan, limits_of
from daemon.sinks.spill import DIRECTORY as SPILL_DIRECTORY

CONNECT_TIMEOUT_S = 5


class Finding(NamedTuple):
    """The result of one check."""

    name: str
    is_fine: bool
    note: str  # what is wrong, or what is worth knowing; may be empty when fine


def run_checks(config: Config, plan: Plan) -> Iterator[Finding]:
    """Yield what was found, in the order in which an operator would fix it."""
    used = {connection.account for connection in plan.connections()}
    counts = f"{len(used)} connections, {sum(w.registrations() for w in plan.workers)} registrations"
    left_out = f", {len(plan.left_out)} left out" if plan.left_out else ""
    yield Finding("plan", True, counts + left_out)
    yield _one(f"data_dir {config.data_dir}", lambda: _check_disk(config))
    yield _one(SPILL_DIRECTORY, lambda: _check_spilling(config))
    yield _one("database", lambda: _check_database(config))
    yield _one("redis", lambda: _check_redis(config))
    for account in config.accounts:
        if account.name in used:
            check = functools.partial(_check_account, account, config)
            yield _one(f"account {account.name} ({account.venue})", check)


def plan_lines(config: Config, plan: Plan) -> list[str]:
    """Return *plan* in words: sessions, workers, limits, what is learned, shared, doubled and left out."""
    store = LearnedLimits(Path(config.data_dir))
    names = [account.name for account in config.accounts]
    learned = {name: found for name in names if (found := store.read(name)) is not None}
    limits = limits_of(config, store.all_of(names))
    files = {name: store.path(name) for name in learned}
    return list(describe_plan(plan, config=config, limits=limits, learned=learned, file_of=files))


def _one(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except (IngestError, OSError, ValueError, psycopg.Error, redis.RedisError) as exc:
        return Finding(name, False, first_line(exc))


def _check_disk(config: Config) -> str:
    directory = Path(config.data_dir)
    existing = _writable_part(directory)
    needed = missing_bytes(directory, workers=config.workers, capacity_mb=config.ring.capacity_mb)
    free = shutil.disk_usage(existing).free
    if free <= needed:
        raise Refused(f"{free // MIB} MiB free, the rings need {needed // MIB}")
    return ""


def _check_spilling(config: Config) -> str:
    """Where batches go while the database is away: often a disk of its own, and nobody misses it before that day."""
    existing = _writable_part(Path(config.data_dir) / SPILL_DIRECTORY)
    free = shutil.disk_usage(existing).free // MIB
    if free <= config.spill.min_free_mb:
        return f"{free} MiB free, spill.min_free_mb is {config.spill.min_free_mb}: nothing can be spilled"
    return ""


def _writable_part(directory: Path) -> Path:
    """Return *directory*, or the part of its path that exists. Raises Refused if nothing can be made there."""
    existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise Refused(f"{existing} is not a directory")
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        raise Refused(f"{existing} is not writable")
    return existing


def _check_database(config: Config) -> str:
    with psycopg.connect(config.database.dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        found = connection.execute("SELECT to_regclass('ingest_cursor')").fetchone()
    return "" if found and found[0] else "not migrated yet: the daemon does it at its start, or `sise migrate`"


def _check_redis(config: Config) -> str:
    with redis.Redis.from_url(config.redis.url, socket_timeout=CONNECT_TIMEOUT_S) as client:
        client.ping()
        return _persistence_note(client)


def _persistence_note(client: "redis.Redis") -> str:
    """Say what is missing for counters, cursor and streams to outlive a restart of the server; nothing is refused."""
    try:
        memory = client.info("memory")
        has_aof = client.info("persistence").get("aof_enabled")
    except redis.ResponseError as exc:  # a hosted server that hides it
        return f"its persistence is not known: {first_line(exc)}"
    notes = [] if has_aof else ["no append-only file (appendonly yes): counts and cursor are lost in a crash"]
    if memory.get("maxmemory_policy", "noeviction") != "noeviction":
        notes.append(f"maxmemory-policy is {memory['maxmemory_policy']}: an evicted cursor repeats messages")
    return "; ".join(notes)


def _check_account(account: Account, config: Config) -> str:
    venue = venue_named(account.venue)
    if not venue.needs_approval_key:
        return ""

    async def fetch() -> None:
        connector = NetworkConnector(
            connect_timeout_s=config.ingest.connect_timeout_s, max_frame_bytes=config.ingest.max_frame_bytes
        )
        status, body = await connector.post(venue.approval_request(account))
        venue.decode_approval(status, body, datetime.datetime.now(datetime.UTC))
        url = urlsplit(venue.websocket_url(account))
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(url.hostname, url.port or (443 if url.scheme == "wss" else 80)), CONNECT_TIMEOUT_S
        )
        writer.close()
        await writer.wait_closed()

    asyncio.run(fetch())
    return ""
