"""The shard plan in words, for `sise check`: accounts -> sessions -> workers, and what is special about them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from daemon.learned_limits import RETRY_AFTER

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config
    from daemon.learned_limits import LearnedLimit
    from daemon.shard_plan import Plan, PlannedConnection, PlannedSubscription

APART = frozenset({"trade", "orderbook"})
LISTED = 20  # registrations left out; more are counted


def describe_plan(
    plan: Plan,
    *,
    config: Config,
    limits: Mapping[str, int],
    learned: Mapping[str, LearnedLimit],
    file_of: Mapping[str, Path],
) -> Iterator[str]:
    """Yield the lines.

    limits: registrations by account, as planned with. learned: those that a venue taught us, and file_of: where each
    is kept.
    """
    sides = _sides(plan)
    width = max((len(connection.account) for connection in plan.connections()), default=0)
    for worker in plan.workers:
        if not worker.connections:
            yield f"worker {worker.worker}: no connection"
            continue
        yield f"worker {worker.worker}: {_registrations(worker.registrations())}"
        for connection in worker.connections:
            count = f"{len(connection.subscriptions)}/{limits[connection.account]}"
            notes = "".join(f"; {note}" for note in _notes(connection, plan, config, sides))
            yield f"  {connection.account:{width}}  {connection.venue}  {count:>7}  {_contents(connection)}{notes}"
    planned = {connection.account for connection in plan.connections()}
    for account in config.accounts:
        if account.name not in planned:
            yield f"account {account.name}: no session, nothing is registered through it"
    for name, limit in sorted(learned.items()):
        day = limit.learned_at.date().isoformat()
        again = (limit.learned_at + RETRY_AFTER).date().isoformat()
        yield (
            f"account {name}: takes {limit.limit}, learned from the venue on {day}, put to the test from {again} on; "
            f"to forget: rm {file_of[name]}"
        )
    yield from _left_out(plan)


def _registrations(count: int) -> str:
    return f"{count} registration{'' if count == 1 else 's'}"


def _contents(connection: PlannedConnection) -> str:
    counts = Counter(_what(subscription) for subscription in connection.subscriptions)
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _what(subscription: PlannedSubscription) -> str:
    return " ".join(filter(None, (subscription.market, subscription.exchange, subscription.kind)))


def _notes(
    connection: PlannedConnection, plan: Plan, config: Config, sides: Mapping[str, Mapping[str, int]]
) -> Iterator[str]:
    if connection.kinds() >= APART:
        yield "trades and order books share this socket" + (" (single_socket)" if config.single_socket else "")
    for twin, shared in sides.get(connection.account, {}).items():
        order = [account.name for account in config.accounts]
        side = "A" if order.index(connection.account) < order.index(twin) else "B"
        yield f"side {side}, {_registrations(shared)} also on {twin}"


def _sides(plan: Plan) -> dict[str, dict[str, int]]:
    """Return, by account, with how many registrations another one carries the same data."""
    carriers: dict[tuple[str, str, str], list[str]] = {}
    for connection in plan.connections():
        for subscription in connection.subscriptions:
            stream = (connection.venue, subscription.channel, subscription.key)
            carriers.setdefault(stream, []).append(connection.account)
    found: dict[str, dict[str, int]] = {}
    for accounts in carriers.values():
        for one in accounts:
            for other in accounts:
                if one != other:
                    row = found.setdefault(one, {})
                    row[other] = row.get(other, 0) + 1
    return found


def _left_out(plan: Plan) -> Iterator[str]:
    if not plan.left_out:
        return
    yield f"left out, no account has room: {_registrations(len(plan.left_out))}"
    for left in plan.left_out[:LISTED]:
        side = f" side {left.side.upper()}" if left.side else ""
        yield f"  feeds[{left.feed}]{side}: {left.subscription.symbol} {_what(left.subscription)}"
    if len(plan.left_out) > LISTED:
        yield f"  and {len(plan.left_out) - LISTED} more"
