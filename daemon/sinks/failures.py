"""What a failure of the database means for the batch: SQLSTATE decides, never the text, which the server translates.

docs/operations.md has the same table with what an operator does about each; a test compares the two.
"""

import enum
from collections.abc import Mapping

import psycopg
from psycopg import errors

from native_pipeline.copy_encoder import COLUMNS


class FailureKind(enum.Enum):
    """What a failed transaction means for the batch."""

    AWAY = "away"  # connection lost, server stopping, full or busy: the same batch will go in later
    DATA = "data"  # the server refuses a value of the batch: the other rows can be stored without it
    SETUP = "setup"  # table, permission or edition is wrong: needs the operator; every row would be refused


class RowsSwallowed(psycopg.DataError):
    """The server took fewer rows than were sent, without an error: a trigger or rule of somebody drops them."""


class RefusalNotKept(psycopg.DataError):
    """The table `quarantine` does not take the rows that another table refuses."""


# SQLSTATE classes and codes: the longest match decides. What is not listed needs the operator.
FAILURE_KINDS: Mapping[str, FailureKind] = {
    "08": FailureKind.AWAY,  # connection exception; also what a pooler says when it has no server
    "26": FailureKind.AWAY,  # a statement prepared on another server of a pooler: gone with the connection
    "25006": FailureKind.AWAY,  # read-only: a replica that has not been promoted yet
    "25P03": FailureKind.AWAY,  # idle-in-transaction timeout: this process was stopped for that long
    "25P04": FailureKind.AWAY,  # transaction timeout
    "40": FailureKind.AWAY,  # serialization failure, deadlock
    "53": FailureKind.AWAY,  # disk full, out of memory, too many connections
    "55006": FailureKind.AWAY,  # object in use
    "55P03": FailureKind.AWAY,  # lock not available
    "57": FailureKind.AWAY,  # operator intervention: shutdown, cannot connect now, statement timeout
    "58": FailureKind.AWAY,  # the server's disk fails
    "22": FailureKind.DATA,  # data exception: out of range, not a text of the encoding, division by zero in a trigger
    "22P03": FailureKind.SETUP,  # not this column's binary format: somebody changed the type of a column
    "22P04": FailureKind.SETUP,  # not the fields of a row: the same
    "23": FailureKind.DATA,  # integrity constraint: check, not null, unique, foreign key, exclusion
    "44": FailureKind.DATA,  # check option of a view
    "54000": FailureKind.DATA,  # a value is too long for an index
    "P0001": FailureKind.DATA,  # a trigger raises an exception: its author says which rows
    "P0004": FailureKind.DATA,  # a trigger's assertion
}
UNIQUE_VIOLATION = "23505"
_OUR_COLUMNS = frozenset(column for columns in COLUMNS.values() for column in columns)


def classify(error: psycopg.Error) -> FailureKind:
    """Return what *error* means.

    Without a SQLSTATE it comes from the client: either there was no working server, or it says what the client found.
    """
    state = error.sqlstate
    if state is None:
        is_away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return FailureKind.AWAY if is_away else FailureKind.SETUP
    if isinstance(error, errors.NotNullViolation) and error.diag.column_name not in {None, *_OUR_COLUMNS}:
        return FailureKind.SETUP  # a column that somebody added, without a default: no row has a value for it
    return kind_of(state)


def kind_of(state: str) -> FailureKind:
    """Return what the SQLSTATE *state* means."""
    for length in (5, 2):
        if state[:length] in FAILURE_KINDS:
            return FAILURE_KINDS[state[:length]]
    return FailureKind.SETUP
