"""`run/worker-N.status.json`: which subscriptions of a worker are not confirmed, and why; for `sise status`.

{"worker": 0, "sessions": [{"account", "venue", "state", "is_degraded", "wanted", "confirmed", "unlisted",
"markets": {"kr": wall ns of its newest record, to ten seconds},
"unconfirmed": [{"market", "exchange", "symbol", "kind", "state", "attempts", "reason"}]}]}

A file and not counters, because it holds names. It is written only when it changes, and the heartbeat of the worker
says whether it is current.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from daemon.market_hours import market_key
from daemon.supervision.directory_lock import write_atomically

if TYPE_CHECKING:
    from daemon.ingest.gaps import Place
    from daemon.ingest.session import Session

# Of one session; the rest is only counted: the file is rewritten each second while many change.
MAX_LISTED = 200
NEWEST_STEP_NS = 10_000_000_000  # so that data alone rewrites the file every ten seconds at most
# States that no progress of our own will cure within seconds.
DEGRADED_STATES = frozenset({"suspected", "rejected", "failed", "capped"})


class SubscriptionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One subscription that is wanted and not simply confirmed; or that is tried on another session: `moved`."""

    market: str
    exchange: str
    symbol: str
    kind: str
    state: str
    attempts: int
    reason: str


class SessionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One session. unlisted: entries that were left out of *unconfirmed*."""

    account: str
    venue: str
    state: str
    is_degraded: bool
    wanted: int
    confirmed: int
    unconfirmed: tuple[SubscriptionEntry, ...]
    unlisted: int
    markets: dict[str, int] = {}


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    worker: int
    sessions: tuple[SessionEntry, ...]


def status_path(data_dir: str | Path, worker: int) -> Path:
    """Return where the status of *worker* is."""
    return Path(data_dir) / "run" / f"worker-{worker}.status.json"


def read_status(path: Path) -> WorkerStatus | None:
    """Return what is in the file, None if there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=WorkerStatus)
    except (OSError, msgspec.DecodeError):
        return None


def session_statuses(sessions: Iterable[Session], newest: Mapping[Place, int]) -> tuple[SessionEntry, ...]:
    """Return what is known of *sessions* now. newest: wall ns of the newest record by stream."""
    return tuple(_session_entry(session, newest) for session in sessions)


def _session_entry(session: Session, newest: Mapping[Place, int]) -> SessionEntry:
    statistics = session.statistics()
    found = session.registrar.unconfirmed()
    entries = tuple(
        SubscriptionEntry(
            market=stream.market,
            exchange=stream.exchange,
            symbol=stream.symbol,
            kind=stream.kind,
            state=state,
            attempts=attempts,
            reason=reason,
        )
        for stream, state, attempts, reason in found
    )
    return SessionEntry(
        account=session.account.name,
        venue=session.venue.name,
        state=session.state.value,
        is_degraded=statistics.doubted > 0 or any(entry.state in DEGRADED_STATES for entry in entries),
        wanted=session.registrar.wanted(),
        confirmed=statistics.confirmed + statistics.suspected,
        unconfirmed=entries[:MAX_LISTED],
        unlisted=max(0, len(entries) - MAX_LISTED),
        markets={
            market_key(market, exchange): newest_ns - newest_ns % NEWEST_STEP_NS
            for (market, exchange), newest_ns in session.registrar.markets(newest).items()
        },
    )


class StatusFile:
    """Written when it changes."""

    def __init__(self, path: Path, worker: int) -> None:
        self._path = path
        self._worker = worker
        self._written = b""

    def write(self, sessions: Sequence[SessionEntry]) -> None:
        """Replace the file if *sessions* are not what is in it. Raises OSError."""
        content = msgspec.json.encode(WorkerStatus(worker=self._worker, sessions=tuple(sessions)))
        if content != self._written:
            write_atomically(self._path, content)
            self._written = content
