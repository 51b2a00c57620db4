"""The shard plan: feeds x symbols x accounts x limits -> connections -> workers.

Pure. One account is one session is one connection, and a session belongs to exactly one worker. The plan holds no
secrets: it names accounts, and the worker finds their credentials in its own configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from daemon.errors import ConfigError
from daemon.ingest.venues import venue_named

if TYPE_CHECKING:
    from daemon.config import Account, Config

FORBIDDEN_IN_SYMBOLS = frozenset('"\\^|')


class PlannedSubscription(msgspec.Struct, frozen=True):
    """One registration: the venue's channel for (market, kind), and the symbol."""

    kind: str
    symbol: str
    channel: str


class PlannedConnection(msgspec.Struct, frozen=True):
    """One session: an account and everything that is registered through it."""

    account: str
    venue: str
    market: str
    subscriptions: tuple[PlannedSubscription, ...]

    def kinds(self) -> frozenset[str]:
        """Return the kinds of data that share this socket; more than one where the accounts allow no separation."""
        return frozenset(subscription.kind for subscription in self.subscriptions)


class WorkerPlan(msgspec.Struct, frozen=True):
    """What one worker process connects to."""

    worker: int
    connections: tuple[PlannedConnection, ...]

    def registrations(self) -> int:
        """Return the number of registrations over all connections."""
        return sum(len(connection.subscriptions) for connection in self.connections)


class Plan(msgspec.Struct, frozen=True):
    """The whole daemon. Workers without a connection are in it too: they keep the ring of an earlier plan served."""

    workers: tuple[WorkerPlan, ...]


def make_plan(config: Config, *, source: str = "configuration") -> Plan:
    """Return the plan for *config*. Raises ConfigError, naming *source*, when feeds do not fit their accounts."""
    if not config.feeds:
        raise ConfigError(f"{source}: feeds: is empty: nothing would be collected")
    connections = [
        connection
        for account in config.accounts
        if (connection := _plan_connection(config, account, source)) is not None
    ]
    return Plan(workers=_spread(connections, config.workers))


def _plan_connection(config: Config, account: Account, source: str) -> PlannedConnection | None:
    """Return the session of *account*, None if no feed uses it."""
    feeds = [feed for feed in config.feeds if feed.account == account.name]
    if not feeds:
        return None
    try:
        venue = venue_named(account.venue)
    except ConfigError as exc:
        raise ConfigError(f"{source}: {exc}") from exc
    if venue.needs_approval_key:
        _check_credentials(account, source)
    markets = {feed.market for feed in feeds}
    if len(markets) > 1:
        raise ConfigError(
            f"{source}: feeds.market: account {account.name!r} has feeds of {len(markets)} markets "
            f"({', '.join(sorted(markets))}); use one account for each"
        )
    (market,) = markets
    wanted: dict[PlannedSubscription, None] = {}  # a set that keeps the order of the file
    for feed in feeds:
        for kind in feed.kinds:
            channel = venue.channel(market, kind)
            if channel is None:
                raise ConfigError(f"{source}: feeds.kinds: {account.venue} has no {kind} channel for market {market!r}")
            for symbol in feed.symbols:
                _check_symbol(symbol, source)
            wanted.update({PlannedSubscription(kind, symbol, channel): None for symbol in feed.symbols})
    _check_limit(account, len(wanted), source)
    return PlannedConnection(account.name, account.venue, market, tuple(wanted))


def _check_credentials(account: Account, source: str) -> None:
    for key, value in (("app_key", account.app_key), ("app_secret", account.app_secret)):
        if not value.strip():
            raise ConfigError(
                f"{source}: accounts.{key}: account {account.name!r}: is empty, and {account.venue} asks for one"
            )


def _check_symbol(symbol: str, source: str) -> None:
    """Refuse what a ring record cannot hold, and what no venue's frame can contain."""
    if not symbol.isascii() or not symbol.isprintable() or FORBIDDEN_IN_SYMBOLS & set(symbol):
        raise ConfigError(f'{source}: feeds.symbols: {symbol!r}: expected printable ASCII without " \\ ^ |')


def _check_limit(account: Account, registrations: int, source: str) -> None:
    """Refuse a session that the venue would cut off at its limit."""
    excess = registrations - account.max_subscriptions
    if excess > 0:
        accounts = -(-excess // account.max_subscriptions)
        raise ConfigError(
            f"{source}: feeds: account {account.name!r} takes {account.max_subscriptions} registrations, its feeds "
            f"need {registrations}: {excess} too many; {accounts} more account{'s' if accounts > 1 else ''} needed"
        )


def _spread(connections: list[PlannedConnection], workers: int) -> tuple[WorkerPlan, ...]:
    """Give the largest session to the worker with the fewest registrations, and so on; ties go to the lowest number."""
    shards: list[list[PlannedConnection]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for connection in sorted(connections, key=lambda c: -len(c.subscriptions)):
        worker = loads.index(min(loads))
        shards[worker].append(connection)
        loads[worker] += len(connection.subscriptions)
    return tuple(WorkerPlan(worker, tuple(shard)) for worker, shard in enumerate(shards))
