"""The shard plan: feeds x symbols x accounts x limits -> connections -> workers.

Pure. One account is one session is one connection, and a session belongs to exactly one worker. The plan holds no
secrets: it names accounts, and the worker finds their credentials in its own configuration. Given the plan before, the
new one differs from it as little as possible: a reload touches only what was changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from daemon.errors import ConfigError
from daemon.ingest.venues import venue_named
from daemon.placement import Demand, Placement, Shortage, Standing, place

if TYPE_CHECKING:
    from daemon.config import Account, Config, Feed
    from daemon.ingest.venues.venue import Venue

FORBIDDEN_IN_SYMBOLS = frozenset('"\\^|')
SIDES = ("a", "b")
NAMED_ACCOUNTS = 4  # in an error message; more are counted


class PlannedSubscription(msgspec.Struct, frozen=True):
    """One registration. symbol: as the records carry it; channel and key: the venue's own words for it."""

    kind: str
    market: str
    exchange: str
    symbol: str
    channel: str
    key: str

    def data(self) -> str:
        """Return what its records are in the tables, whatever kind of event."""
        return self.kind if self.kind in ("trade", "orderbook") else "event"


class PlannedConnection(msgspec.Struct, frozen=True):
    """One session: an account and everything that is registered through it, in this order."""

    account: str
    venue: str
    subscriptions: tuple[PlannedSubscription, ...]

    def kinds(self) -> frozenset[str]:
        """Return the kinds of data that share this socket."""
        return frozenset(subscription.kind for subscription in self.subscriptions)


class Moved(msgspec.Struct, frozen=True):
    """A registration whose history is in the ring of *worker*, which carried it under an earlier plan."""

    worker: int
    venue: str
    channel: str
    key: str


class WorkerPlan(msgspec.Struct, frozen=True):
    """What one worker process connects to."""

    worker: int
    connections: tuple[PlannedConnection, ...]
    moved: tuple[Moved, ...] = ()  # what another worker has collected before

    def registrations(self) -> int:
        """Return the number of registrations over all connections."""
        return sum(len(connection.subscriptions) for connection in self.connections)


class LeftOut(msgspec.Struct, frozen=True):
    """A registration for which no account has room. side: `a` or `b` of a redundant feed, else empty."""

    feed: int
    side: str
    subscription: PlannedSubscription


class Plan(msgspec.Struct, frozen=True):
    """The whole daemon. Workers without a connection are in it too: they keep the ring of an earlier plan served."""

    workers: tuple[WorkerPlan, ...]
    left_out: tuple[LeftOut, ...] = ()
    single_socket: bool = False

    def connections(self) -> Iterator[PlannedConnection]:
        """Yield the connections of all workers."""
        for worker in self.workers:
            yield from worker.connections


class _Wanted(NamedTuple):
    """A registration that a feed asks for, once for each side."""

    feed: int
    side: str
    venue: str
    subscription: PlannedSubscription
    pool: tuple[str, ...]
    avoid: tuple[str, ...] = ()  # accounts of the pool whose session could not have it; never all of them

    @property
    def stream(self) -> tuple[str, str, str]:
        """What is the same data, whichever account carries it."""
        return self.venue, self.subscription.channel, self.subscription.key


def make_plan(
    config: Config,
    *,
    source: str = "configuration",
    learned: Mapping[str, int] | None = None,
    declined: Mapping[str, Collection[tuple[str, str]]] | None = None,
    before: Plan | None = None,
    running: Collection[int] | None = None,
    venues: Callable[[str], Venue] = venue_named,
) -> Plan:
    """Return the plan for *config*. Raises ConfigError, naming *source*, when feeds do not fit their accounts.

    learned: limits by account that a venue has taught us; what does not fit because of them is left out and listed, as
    is what a feed with `best_effort` has too much. declined: channels and keys by account that its session could not
    have; other accounts of the feed come first. before: the plan to stay close to. running: the workers that may
    get connections, None for all of *config*.
    """
    if not config.feeds:
        raise ConfigError(f"{source}: feeds: is empty: nothing would be collected")
    used = {name for feed in config.feeds for name in accounts_of(feed)}
    accounts = {account.name: account for account in config.accounts if account.name in used}
    known = {name: _venue_of(account, venues, source) for name, account in accounts.items()}
    wanted = _wanted(config, known, declined or {}, source)
    documented = {
        name: account.max_subscriptions or known[name].default_max_subscriptions for name, account in accounts.items()
    }
    placement = _place(config, wanted, documented, learned or {}, before, source)
    if before is not None:
        stood = {(c.account, s) for c in before.connections() for s in c.subscriptions}
        if _places(placement, wanted) != stood:
            # nothing has changed since it was made: nothing moves, however tight the accounts are
            anew = _place(config, wanted, documented, learned or {}, None, source)
            placement = anew if _places(anew, wanted) == stood else placement
    connections = [
        PlannedConnection(name, known[name].name, tuple(wanted[number].subscription for number in numbers))
        for name, numbers in placement.placed.items()
        if numbers
    ]
    left_out = tuple(LeftOut(w.feed, w.side, w.subscription) for w in (wanted[n] for n in placement.unplaced))
    workers = _with_history(_spread(connections, config.workers, before, running), before)
    return Plan(workers, left_out, config.single_socket)


def _places(placement: Placement, wanted: Sequence[_Wanted]) -> set[tuple[str, PlannedSubscription]]:
    return {(name, wanted[number].subscription) for name, numbers in placement.placed.items() for number in numbers}


def accounts_of(feed: Feed) -> tuple[str, ...]:
    """Return the names that the feed gives, in either of the two ways."""
    return feed.accounts or (feed.account,)


def limits_of(
    config: Config, learned: Mapping[str, int], venues: Callable[[str], Venue] = venue_named
) -> dict[str, int]:
    """Return how many registrations each configured account may have."""
    limits = {}
    for account in config.accounts:
        limit = account.max_subscriptions or venues(account.venue).default_max_subscriptions
        limits[account.name] = min(limit, learned.get(account.name, limit))
    return limits


def _venue_of(account: Account, venues: Callable[[str], Venue], source: str) -> Venue:
    """Return the venue of *account*, which has what the venue asks for."""
    try:
        venue = venues(account.venue)
    except ConfigError as exc:
        raise ConfigError(f"{source}: {exc}") from exc
    for key, value in (("app_key", account.app_key), ("app_secret", account.app_secret)):
        if venue.needs_approval_key and not value.strip():
            raise ConfigError(
                f"{source}: accounts.{key}: account {account.name!r}: is empty, and {account.venue} asks for one"
            )
    return venue


# ---- what is wanted ---------------------------------------------------------------------------------------------


def _wanted(
    config: Config, venues: Mapping[str, Venue], declined: Mapping[str, Collection[tuple[str, str]]], source: str
) -> list[_Wanted]:
    """Return every registration in the order of its claim to a place: what is best effort comes last."""
    found: list[_Wanted] = []
    for number in sorted(range(len(config.feeds)), key=lambda n: config.feeds[n].best_effort):
        found += _wanted_by(config.feeds[number], number, venues, f"{source}: feeds[{number}]")
    found = [_avoiding(wanted, declined) for wanted in found]
    carriers: dict[tuple[str, str, str], list[_Wanted]] = {}
    for wanted in found:
        carriers.setdefault(wanted.stream, []).append(wanted)
    for claims in carriers.values():
        _check_claims(claims, config.feeds, source)
    return found


def _wanted_by(feed: Feed, number: int, venues: Mapping[str, Venue], at: str) -> Iterator[_Wanted]:
    names = accounts_of(feed)
    venue = venues[names[0]]
    if any(venues[name].name != venue.name for name in names):
        raise ConfigError(f"{at}.accounts: are of different venues; make a feed for each")
    pools = {"": names}
    if feed.redundancy == "ab" and len(names) > 1:
        pools = {side: names[place::2] for place, side in enumerate(SIDES)}  # an account more changes no other's side
    for symbol in feed.symbols:
        _check_symbol(symbol, at)
        for kind in feed.kinds:
            subscription = _subscription(venue, feed, kind, symbol, at)
            for side, pool in pools.items():
                yield _Wanted(number, side, venue.name, subscription, pool)


def _avoiding(wanted: _Wanted, declined: Mapping[str, Collection[tuple[str, str]]]) -> _Wanted:
    """What no session could have is nobody's fault: it stays where it is."""
    key = wanted.subscription.channel, wanted.subscription.key
    avoid = tuple(name for name in wanted.pool if key in declined.get(name, ()))
    return wanted._replace(avoid=avoid) if len(avoid) < len(wanted.pool) else wanted


def _subscription(venue: Venue, feed: Feed, kind: str, symbol: str, at: str) -> PlannedSubscription:
    try:
        registration = venue.registration(feed.market, kind, feed.exchange, symbol)
    except ConfigError as exc:
        raise ConfigError(f"{at}.{str(exc).removeprefix('feeds.')}") from exc  # begins with the key
    record_symbol = venue.record_symbol(registration)
    return PlannedSubscription(kind, feed.market, feed.exchange, record_symbol, *registration)


def _check_symbol(symbol: str, at: str) -> None:
    """Refuse what a ring record cannot hold, and what no venue's frame can contain."""
    if not symbol.isascii() or not symbol.isprintable() or FORBIDDEN_IN_SYMBOLS & set(symbol):
        raise ConfigError(f'{at}.symbols: {symbol!r}: expected printable ASCII without " \\ ^ |')


def _check_claims(claims: Sequence[_Wanted], feeds: Sequence[Feed], source: str) -> None:
    """Refuse data that are collected twice without being asked to, or once although twice was asked for."""
    first, last = claims[0], claims[-1]
    at = f"{source}: feeds[{last.feed}]"
    what = f"{last.subscription.symbol} ({last.subscription.kind})"
    is_redundant = [feeds[claim.feed].redundancy == "ab" for claim in claims]
    if len(claims) == 1:
        if is_redundant[0]:
            raise ConfigError(f"{at}.redundancy: {what} has one account; name two, or a second feed with redundancy")
    elif not all(is_redundant):
        raise ConfigError(f'{at}.symbols: {what} is collected twice, and redundancy is not "ab"')
    elif len(claims) > len(SIDES):
        raise ConfigError(f"{at}.symbols: {what} is collected {len(claims)} times; redundancy takes two accounts")
    elif first.side == last.side == "" and first.feed == last.feed:
        raise ConfigError(f"{at}.symbols: {what} is collected twice by one feed")
    elif set(first.pool) & set(last.pool):
        shared = sorted(set(first.pool) & set(last.pool))[0]
        raise ConfigError(f"{at}.redundancy: account {shared!r} would carry both sides of {what}")


# ---- who carries it ----------------------------------------------------------------------------------------------


def _place(
    config: Config,
    wanted: Sequence[_Wanted],
    documented: Mapping[str, int],
    learned: Mapping[str, int],
    before: Plan | None,
    source: str,
) -> Placement:
    """Return the numbers of *wanted* by account. Raises ConfigError if they do not fit the *documented* limits."""
    carriers: dict[tuple[str, str, str], list[int]] = {}
    for number, want in enumerate(wanted):
        carriers.setdefault(want.stream, []).append(number)
    twins = {number: sum(numbers) - number for numbers in carriers.values() if len(numbers) > 1 for number in numbers}
    demands = [Demand(w.subscription.kind, w.pool, twins.get(n, -1), w.avoid) for n, w in enumerate(wanted)]
    is_same_mode = before is not None and before.single_socket == config.single_socket
    standing = _standing(wanted, before) if before is not None and is_same_mode else Standing()
    capacity = {name: min(limit, learned.get(name, limit)) for name, limit in documented.items()}
    is_separate = not config.single_socket
    placement = place(demands, capacity, standing=standing, is_separate=is_separate)
    if any(not config.feeds[wanted[number].feed].best_effort for number in placement.unplaced):
        needed = [d for d, want in zip(demands, wanted, strict=True) if not config.feeds[want.feed].best_effort]
        needed = [msgspec.structs.replace(demand, twin=-1) for demand in needed]
        if shortages := place(needed, documented).shortages:
            raise ConfigError(f"{source}: feeds: " + "; and ".join(_describe(s, documented) for s in shortages))
    return placement


def _standing(wanted: Sequence[_Wanted], before: Plan) -> Standing:
    """Say in numbers of *wanted* what the plan *before* has."""
    numbers: dict[tuple[str, PlannedSubscription], list[int]] = {}
    for number, want in enumerate(wanted):
        numbers.setdefault((want.venue, want.subscription), []).append(number)
    accounts = {
        connection.account: [
            number
            for subscription in connection.subscriptions
            for number in numbers.get((connection.venue, subscription), ())
            if connection.account in wanted[number].pool
        ]
        for connection in before.connections()
    }
    return Standing(accounts, _workers_of(before))


def _workers_of(plan: Plan) -> dict[str, int]:
    return {connection.account: worker.worker for worker in plan.workers for connection in worker.connections}


def _describe(shortage: Shortage, limits: Mapping[str, int]) -> str:
    names = shortage.accounts
    is_one = len(names) == 1
    missing = -(-shortage.excess // min(limits[name] for name in names))
    listed = ", ".join(map(repr, names)) if len(names) <= NAMED_ACCOUNTS else str(len(names))
    who = f"account {listed} takes" if is_one else f"accounts {listed} take"
    if len(names) > NAMED_ACCOUNTS:
        who = f"{listed} accounts take"
    return (
        f"{who} {shortage.capacity} registrations, {'its' if is_one else 'their'} feeds need {shortage.needed}: "
        f"{shortage.excess} too many; {missing} more account{'s' if missing > 1 else ''} needed"
    )


# ---- which worker runs it -----------------------------------------------------------------------------------------


def _spread(
    connections: Sequence[PlannedConnection], workers: int, before: Plan | None, running: Collection[int] | None
) -> tuple[WorkerPlan, ...]:
    """Give each group of connections to one worker: the one that it had, else the one with the least to do.

    Connections with the same data are one group: the process that has both can tell what is double. A plan before that
    would leave a worker idle is not followed, unless the workers are running already.
    """
    groups = _groups(connections)
    allowed = sorted(range(workers) if running is None else running)
    had = {} if before is None or len(before.workers) != workers else _workers_of(before)
    placed = _assign(groups, allowed, had)
    if running is None and had and len({*placed}) < min(workers, len(groups)):
        placed = _assign(groups, allowed, {})
    shards: list[list[PlannedConnection]] = [[] for _ in range(workers)]
    for group, worker in sorted(zip(groups, placed, strict=True), key=lambda pair: -_size(pair[0])):
        shards[worker] += group
    return tuple(WorkerPlan(worker, tuple(shard)) for worker, shard in enumerate(shards))


def _with_history(workers: Sequence[WorkerPlan], before: Plan | None) -> tuple[WorkerPlan, ...]:
    """Say of each registration that another worker had before where its history is; that stays so until it moves on."""
    had: dict[tuple[str, str, str], int] = {}
    known: dict[tuple[int, str, str, str], Moved] = {}
    for worker in before.workers if before is not None else ():
        known |= {(worker.worker, moved.venue, moved.channel, moved.key): moved for moved in worker.moved}
        for connection in worker.connections:
            had |= {(connection.venue, s.channel, s.key): worker.worker for s in connection.subscriptions}

    def origins(worker: WorkerPlan) -> Iterator[Moved]:
        streams = ((c.venue, s.channel, s.key) for c in worker.connections for s in c.subscriptions)
        for stream in dict.fromkeys(streams):
            earlier = had.get(stream, worker.worker)
            if earlier != worker.worker:
                yield Moved(earlier, *stream)
            elif (moved := known.get((worker.worker, *stream))) is not None:
                yield moved

    return tuple(msgspec.structs.replace(worker, moved=tuple(origins(worker))) for worker in workers)


def _size(group: Sequence[PlannedConnection]) -> int:
    return sum(len(connection.subscriptions) for connection in group)


def _groups(connections: Sequence[PlannedConnection]) -> list[list[PlannedConnection]]:
    """Join the connections that have a registration in common, directly or through others."""
    groups: list[tuple[set[tuple[str, str, str]], list[PlannedConnection]]] = []
    for connection in connections:
        streams = {(connection.venue, s.channel, s.key) for s in connection.subscriptions}
        members = [connection]
        apart = []
        for group in groups:
            if group[0] & streams:
                streams |= group[0]
                members = group[1] + members
            else:
                apart.append(group)
        groups = [*apart, (streams, members)]
    order = {connection.account: place for place, connection in enumerate(connections)}
    return sorted((members for _, members in groups), key=lambda members: order[members[0].account])


def _assign(groups: Sequence[Sequence[PlannedConnection]], allowed: Sequence[int], had: Mapping[str, int]) -> list[int]:
    """Return the worker of each group; new ones from the largest on, each to the worker with the least to do."""
    loads = dict.fromkeys(allowed, 0)
    placed: dict[int, int] = {}
    for number, group in enumerate(groups):
        shares: dict[int, int] = {}
        for connection in group:
            worker = had.get(connection.account)
            if worker in loads:
                shares[worker] = shares.get(worker, 0) + len(connection.subscriptions)
        if shares:
            placed[number] = max(shares, key=lambda worker: shares[worker])
            loads[placed[number]] += _size(group)
    for number in sorted(range(len(groups)), key=lambda n: -_size(groups[n])):
        if number not in placed:
            placed[number] = min(loads, key=lambda worker: loads[worker])
            loads[placed[number]] += _size(groups[number])
    return [placed[number] for number in range(len(groups))]
