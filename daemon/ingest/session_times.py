"""Which settings say how patient a session is: for its connection, and for its watchdog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.ingest.connection import Times
from daemon.ingest.watchdog import Limits

if TYPE_CHECKING:
    from daemon.config import Ingest


def connection_times(settings: Ingest) -> Times:
    """Return those that a connection goes by."""
    return Times(
        backoff_first_s=settings.backoff_first_s,
        backoff_max_s=settings.backoff_max_s,
        slot_held_backoff_s=settings.slot_held_backoff_s,
        link_timeout_s=settings.link_timeout_s,
    )


def watchdog_limits(settings: Ingest) -> Limits:
    """Return those that the data watchdog goes by."""
    return Limits(
        warn_s=settings.data_warn_s,
        resubscribe_s=settings.data_resubscribe_s,
        reconnect_s=settings.data_reconnect_s,
    )
