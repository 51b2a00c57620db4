"""Late rows that were put aside go to their tables, once the part of the table that they belong to can be written to.

They lie in `quarantine`, as whole records, and go the way of `sise quarantine replay`: stored and marked in one
transaction, so that each is stored once, whoever tries, and however often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from daemon.errors import ConfigError
from daemon.sinks.isolation import MAX_REASON_CHARS, PUT_ASIDE, REFUSED
from daemon.sinks.quarantine import EntryId
from daemon.sinks.quarantine_replay import BATCH_ENTRIES, DONE, Outcome, Replay, Result

WAITING = """
SELECT source, seq FROM quarantine WHERE replayed_at IS NULL AND kind IS NOT NULL AND reason = %s
ORDER BY recv_time, source, seq LIMIT %s"""
REFUSE = "UPDATE quarantine SET reason = %s WHERE (source, seq) = (%s, %s) AND replayed_at IS NULL"
LOCK_NOT_AVAILABLE = "55P03"

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Aside:
    """What became of the rows that were put aside."""

    stored: int = 0
    refused: Sequence[str] = ()  # why the server does not take these: they stay in quarantine as refused rows
    is_waiting: bool = False  # some are left


def store_waiting(connection: Connection) -> Aside:
    """Store what waits, up to the first batch of which the database takes nothing.

    connection: in autocommit mode. Raises psycopg.Error, but for a lock that is not had: then the rest waits.
    """
    stored = 0
    refused: list[str] = []
    while rows := connection.execute(WAITING.encode(), [PUT_ASIDE, BATCH_ENTRIES]).fetchall():
        ids = [EntryId(source, seq) for source, seq in rows]
        try:
            with Replay(None, connection) as replay:
                results = list(replay.run(ids))
        except ConfigError:
            continue  # some were replayed by somebody else since we looked
        except psycopg.Error as exc:
            if exc.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            return Aside(stored, refused, is_waiting=True)
        stored += sum(result.outcome in DONE for result in results)
        refused += _give_up(connection, results)
        if all(result.outcome is Outcome.TAKEN for result in results):
            return Aside(stored, refused, is_waiting=True)  # somebody else is just storing them
    return Aside(stored, refused)


def _give_up(connection: Connection, results: Sequence[Result]) -> list[str]:
    """Let what cannot be stored be a refused row like any other; return why."""
    failed = [result for result in results if result.outcome not in {*DONE, Outcome.TAKEN}]
    for one in failed:
        connection.execute(REFUSE, [(REFUSED + one.reason)[:MAX_REASON_CHARS], one.id.source, one.id.seq])
    return [one.reason for one in failed]
