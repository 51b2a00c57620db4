"""What each SQLSTATE means for a batch, in the code and in the operator's words."""

import re
from pathlib import Path

import psycopg
import pytest

from daemon.sinks.failures import FAILURE_KINDS, FailureKind, RefusalNotKept, RowsSwallowed, classify

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"

MEANINGS = {
    "AWAY": "08000 08001 08003 08006 08P01 25006 25P03 25P04 26000 40001 40P01 53000 53100 53200 53300 53400 55006"
    " 55P03 57014 57P01 57P02 57P03 57P05 58000 58030",
    "DATA": "22001 22003 22008 22012 22021 22P02 23502 23503 23505 23514 23P01 44000 54000 P0001 P0004",
    "SETUP": "0A000 22P03 22P04 25P02 28000 28P01 3D000 3F000 39P01 42501 42601 42703 42804 42883 42P01 55000"
    " 54001 54011 F0000 P0000 P0002 TS001 TS100 XX000 XX001 XX002",
}


def error(state: str) -> psycopg.Error:
    """An error of that state as psycopg raises it."""
    try:
        return psycopg.errors.lookup(state)()
    except KeyError:
        unknown = type("Unknown", (psycopg.DatabaseError,), {"sqlstate": state})
        found: psycopg.Error = unknown()
        return found


@pytest.mark.requirement("F50", "F51", "F53")
@pytest.mark.parametrize(
    ("state", "kind"), [(state, FailureKind[kind]) for kind, states in MEANINGS.items() for state in states.split()]
)
def test_the_state_says_whether_to_wait_to_take_apart_or_to_ask_for_help(state: str, kind: FailureKind) -> None:
    assert classify(error(state)) is kind


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (psycopg.OperationalError("connection refused"), FailureKind.AWAY),
        (psycopg.errors.ConnectionTimeout(), FailureKind.AWAY),
        (psycopg.InterfaceError("the connection is closed"), FailureKind.AWAY),
        (RowsSwallowed("market_ticks: sent 2 rows, the server took 1"), FailureKind.SETUP),
        (RefusalNotKept("quarantine"), FailureKind.SETUP),
        (psycopg.ProgrammingError("a bug of ours"), FailureKind.SETUP),
    ],
)
def test_without_a_state_only_a_lost_connection_is_waited_for(failure: psycopg.Error, kind: FailureKind) -> None:
    assert classify(failure) is kind


@pytest.mark.requirement("DOC-01")
def test_the_operator_reads_what_the_daemon_does() -> None:
    section = OPERATIONS.read_text(encoding="utf-8").partition("## When the database refuses")[2].partition("\n## ")[0]
    documented = {
        state: kind
        for states, kind in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|[^|]*\| (\w+) \|", section, re.MULTILINE)
        for state in re.findall(r"`(\w+)`", states)
    }

    assert documented == {state: kind.value for state, kind in FAILURE_KINDS.items()}
