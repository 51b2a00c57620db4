"""Whose a database and a Redis are: those of one data directory at a time.

Rings are numbered from 0 in every data directory, and their numbers start with the clock. Two daemons that write to one
database would have rows of the same `source` and `seq`, take each other's rings for lost ones, and find each other's
rows where they look for their own; on one Redis they would fight for the cursor. So the first one owns the server: a
row, or a key, names its data directory, and is renewed every few seconds. It expires by itself, so that a machine that
has burnt down can be replaced; an orderly stop gives it up at once, and who is seen to be dead loses it at once.

No lock of a session is used: a pooler may give every transaction another one.
"""

import psycopg

from daemon.identity import LEASE_S, Owner, is_dead, refusal
from daemon.sinks.schema import LOCK_ID

TABLE = """
CREATE TABLE IF NOT EXISTS ingest_owner (
    is_only  boolean     PRIMARY KEY DEFAULT true CHECK (is_only), -- one row
    identity uuid        NOT NULL, -- of the data directory
    place    text        NOT NULL, -- where it is, for people
    process  text        NOT NULL, -- of the supervisor there; empty: unknown
    seen_at  timestamptz NOT NULL
)"""
TAKE = """
INSERT INTO ingest_owner AS owner (identity, place, process, seen_at)
VALUES (%(identity)s, %(place)s, %(process)s, clock_timestamp())
ON CONFLICT (is_only) DO UPDATE
SET identity = excluded.identity, place = excluded.place, process = excluded.process, seen_at = excluded.seen_at
WHERE owner.identity = excluded.identity OR owner.process = %(dead)s
OR owner.seen_at < clock_timestamp() - make_interval(secs => %(lease_s)s)"""
FIND = "SELECT place, extract(epoch FROM clock_timestamp() - seen_at)::int, process FROM ingest_owner"
GIVE_UP = "UPDATE ingest_owner SET seen_at = '-infinity' WHERE identity = %s"

Connection = psycopg.Connection[tuple[object, ...]]


class OwnedByAnother(psycopg.ProgrammingError):
    """The database takes the records of another data directory at present, whose daemon was seen *age_s* ago."""

    def __init__(self, message: str, age_s: int = 0) -> None:
        super().__init__(message)
        self.age_s = age_s


def take(connection: Connection, owner: Owner) -> None:
    """Make the database *owner*'s, or keep it so. Raises OwnedByAnother, naming who has it, and psycopg.Error.

    connection: in autocommit mode, or in a transaction.
    """
    if connection.execute("SELECT to_regclass('ingest_owner') IS NULL").fetchone() == (True,):
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_ID])
            connection.execute(TABLE)
    values = {
        "identity": owner.identity, "place": owner.place, "process": owner.process, "lease_s": LEASE_S, "dead": None,
    }  # fmt: skip
    while connection.execute(TAKE, values).rowcount == 0:
        row = connection.execute(FIND).fetchone()
        if row is not None and is_dead(str(row[2])):
            values["dead"] = str(row[2])
        elif row is not None:  # otherwise somebody has deleted it since
            age_s = int(str(row[1]))
            raise OwnedByAnother(refusal("database", str(row[0]), age_s, "database.dsn"), age_s)


def give_up(connection: Connection, owner: Owner) -> None:
    """Let another data directory have the database at once, if it is *owner*'s. Raises psycopg.Error."""
    connection.execute(GIVE_UP, [owner.identity])
