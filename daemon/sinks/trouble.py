"""What people are told of a database that does not take what it is given: once when it begins, once when it is over.

The log has one line whenever the kind of trouble changes. An alert goes out only where nothing but an operator can help
(FailureKind.SETUP, or a quarantine that takes nothing): a server that is away comes back, and is spilled for meanwhile.
"""

from collections.abc import Mapping

import psycopg

from daemon import log
from daemon.alerts import Alerts
from daemon.sinks.column_types import WrongColumns
from daemon.sinks.database import UnknownSchema
from daemon.sinks.failures import FailureKind, classify
from daemon.sinks.host import Counters
from daemon.sinks.owner import OwnedByAnother

CODE = "database_needs_operator"
OVER = f"{CODE}_ended"
# Errors of our own, whose texts name tables, places and versions, and no address.
SAFE_TO_TELL = (WrongColumns, UnknownSchema, OwnedByAnother)


class Trouble:
    """The present kind of trouble, if any."""

    def __init__(self, *, counters: Counters, alerts: Alerts) -> None:
        self.kind: FailureKind | None = None
        self._counters = counters
        self._alerts = alerts
        self._is_told = False
        self._log = log.get()

    def note_failure(self, error: psycopg.Error, *, records: int = 0, rows: Mapping[str, int] | None = None) -> None:
        """Something failed with *error*; records, rows: of the batch, if it was one."""
        kind = classify(error)
        self._counters.set("database_connected", int(kind is FailureKind.DATA))
        if kind is self.kind:
            return
        self.kind = kind
        fields = {"sqlstate": error.sqlstate, "error": str(error).strip(), "batch_records": records}
        if kind is FailureKind.AWAY:
            self._log.error("database_away", **fields)
            return
        # nothing is ever skipped to get on
        self._log.critical("database_refuses_batch", kind=kind.value, rows=dict(rows or {}), **fields)
        if not self._is_told:
            self._is_told = True
            # Never the whole text: the client's may quote the address, the server's the row.
            said = error.diag.message_primary or (
                str(error) if isinstance(error, SAFE_TO_TELL) else type(error).__name__
            )
            message = f"every batch is refused and goes to spill files until this is repaired: {error.sqlstate} {said}"
            self._alerts.send("CRITICAL", CODE, message)

    def note_answer(self) -> None:
        """The database answered something. That ends AWAY; of another trouble only a batch that it takes is the end."""
        if self.kind in (None, FailureKind.AWAY):
            self._end()

    def note_batch(self) -> None:
        """The database took a batch."""
        self._end()
        if self._is_told:
            self._is_told = False
            self._alerts.send("INFO", OVER, "the database takes batches again")

    def _end(self) -> None:
        self._counters.set("database_connected", 1)
        if self.kind is not None:
            self._log.info("database_back", after=self.kind.value)
            self.kind = None
