"""Refuses a table whose columns have other types than the binary COPY sends.

The server checks the width of a binary value, never its meaning: a `float8` sent into a column that somebody has made
an `int8` is stored, without an error, as a wrong number. So every new connection looks once.
"""

from collections.abc import Mapping

import psycopg

from native_pipeline.copy_encoder import COLUMNS

Connection = psycopg.Connection[tuple[object, ...]]

BY_NAME: Mapping[str, str] = {
    **dict.fromkeys(("time", "recv_time", "started", "ended", "minute"), "timestamp with time zone"),
    **dict.fromkeys(("symbol", "market", "venue", "side", "exchange", "type", "reason", "kind"), "text"),
    **dict.fromkeys(("flags", "source"), "smallint"),
    **dict.fromkeys(("original_bytes", "received"), "integer"),
    **dict.fromkeys(("seq", "through_seq"), "bigint"),
    "frame": "bytea",
}
BY_TABLE: Mapping[tuple[str, str], str] = {("market_events", "detail"): "text", ("quarantine", "detail"): "integer"}
NUMBER = "double precision"  # of every other column
SAME = {"character varying": "text"}  # on the wire
FIND = """
SELECT relation.name, attname, format_type(coalesce(nullif(typbasetype, 0), pg_type.oid), NULL)
FROM unnest(%s::text[]) AS relation (name)
JOIN pg_attribute ON attrelid = to_regclass(relation.name) AND attnum > 0 AND NOT attisdropped
JOIN pg_type ON pg_type.oid = atttypid"""


class WrongColumns(psycopg.ProgrammingError):
    """A column of ours has another type than what is sent into it."""


def expected_type(table: str, column: str) -> str:
    """Return the type in which the rows of `copy_encoder.CopyBatch` have *column*, as SQL writes it."""
    return BY_TABLE.get((table, column)) or BY_NAME.get(column, NUMBER)


def check(connection: Connection) -> None:
    """Raise WrongColumns, naming the first one that is not as it must be; what is missing is the server's to refuse."""
    for table, column, found in connection.execute(FIND, [list(COLUMNS)]).fetchall():
        if column in COLUMNS[str(table)]:
            expected = expected_type(str(table), str(column))
            if SAME.get(str(found), found) != expected:
                raise WrongColumns(f"{table}.{column}: expected {expected}, found {found}")
