"""The plan over time: each one close to the one before, with the limits that were learned meanwhile.

The plan in force is kept in `state/plan.json` (no secrets), so that after a restart too a stream goes on in the ring
that has its history. Without the file everything is planned from scratch; deleting it is how an operator asks for that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from daemon import log
from daemon.alerts import Alerts, NullAlerts
from daemon.declined import DeclinedRegistrations
from daemon.ingest.venues import venue_named
from daemon.learned_limits import LearnedLimits
from daemon.shard_plan import Plan, make_plan
from daemon.supervision.directory_lock import write_atomically

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.ingest.venues.venue import Venue

PLAN_FILE = Path("state") / "plan.json"
NAMED_SYMBOLS = 20  # of those left out, in a log line; all are in the file and in `sise check`


class KeptPlan(msgspec.Struct, frozen=True):
    """Content of the file."""

    generation: int
    plan: Plan


def read_plan(data_dir: Path) -> KeptPlan | None:
    """Return the plan that is kept, None if there is none that can be read. Changes nothing."""
    try:
        return msgspec.json.decode((data_dir / PLAN_FILE).read_bytes(), type=KeptPlan)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def planned_streams(data_dir: Path, worker: int) -> set[tuple[str, str, str, str]]:
    """Return (venue, market, symbol, kind of its rows) of what *worker* collects by the plan that is kept."""
    try:
        found = (data_dir / PLAN_FILE).stat()
    except OSError:
        return set()
    return _streams_of_workers(data_dir, found.st_ino, found.st_mtime_ns).get(worker, set())


@lru_cache(maxsize=1)  # asked for each of many lost files
def _streams_of_workers(data_dir: Path, *_version: int) -> dict[int, set[tuple[str, str, str, str]]]:
    kept = read_plan(data_dir)
    return {
        plan.worker: {
            (connection.venue, subscription.market, subscription.symbol, subscription.data())
            for connection in plan.connections
            for subscription in connection.subscriptions
        }
        for plan in (kept.plan.workers if kept else ())
    }


def preview(config: Config, *, source: str, venues: Callable[[str], Venue] = venue_named) -> Plan:
    """Return the plan that a start would make now; nothing is written. Raises ConfigError."""
    data_dir = Path(config.data_dir)
    kept = read_plan(data_dir)
    names = [account.name for account in config.accounts]
    learned, declined = LearnedLimits(data_dir).all_of(names), DeclinedRegistrations(data_dir).all_of(names)
    before = kept.plan if kept else None
    return make_plan(config, source=source, learned=learned, declined=declined, before=before, venues=venues)


class Planner:
    """Makes and keeps the plans of one run of the daemon."""

    def __init__(
        self,
        data_dir: Path,
        *,
        source: str,
        venues: Callable[[str], Venue] = venue_named,
    ) -> None:
        self._data_dir = data_dir
        self._source = source
        self._alerts: Alerts = NullAlerts()
        self._venues = venues
        self._limits = LearnedLimits(data_dir)
        self._declined = DeclinedRegistrations(data_dir)
        self._plan: Plan | None = None
        self._running: frozenset[int] = frozenset()

    def start(self, config: Config) -> Plan:
        """Return the plan of a start. Nothing is written before keep(). Raises ConfigError."""
        kept = read_plan(self._data_dir)
        self._plan = self._make(config, before=kept.plan if kept else None, running=None)
        self._running = frozenset(worker.worker for worker in self._plan.workers if worker.connections)
        return self._plan

    def again(self, config: Config) -> Plan:
        """Return the plan for settings or limits that have changed while the daemon runs. Raises ConfigError."""
        before, self._plan = self._plan, self._make(config, before=self._plan, running=self._running)
        self.keep()
        if self._plan.left_out and (before is None or self._plan.left_out != before.left_out):
            self._alert(self._plan)
        return self._plan

    def keep(self) -> None:
        """Write the plan in force. To be called by the one daemon that has the data directory."""
        kept = read_plan(self._data_dir)
        if self._plan is None or (kept is not None and kept.plan == self._plan):
            return
        path = self._data_dir / PLAN_FILE
        generation = 1 if kept is None else kept.generation + 1
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, msgspec.json.encode(KeptPlan(generation, self._plan)) + b"\n")
        except OSError as exc:  # costs closeness to this plan after a restart, nothing else
            log.get().error("plan_not_kept", path=str(path), error=exc.strerror or str(exc))

    def report_to(self, alerts: Alerts) -> None:
        """Tell *alerts* from now on what finds no place, and what has found none already."""
        self._alerts = alerts
        if self._plan is not None and self._plan.left_out:
            self._alert(self._plan)

    @property
    def running(self) -> frozenset[int]:
        """The workers that had something to do at the start: they exist, and no others."""
        return self._running

    def _make(self, config: Config, *, before: Plan | None, running: Collection[int] | None) -> Plan:
        names = [account.name for account in config.accounts]
        return make_plan(
            config,
            source=self._source,
            learned=self._limits.all_of(names),
            declined=self._declined.all_of(names),
            before=before,
            running=running,
            venues=self._venues,
        )

    def _alert(self, plan: Plan) -> None:
        symbols = list(dict.fromkeys(left.subscription.symbol for left in plan.left_out))
        log.get().error("registrations_left_out", registrations=len(plan.left_out), symbols=symbols[:NAMED_SYMBOLS])
        named = ", ".join(symbols[:NAMED_SYMBOLS]) + (" and more" if len(symbols) > NAMED_SYMBOLS else "")
        message = f"no account has room for {len(plan.left_out)} registrations: {named}"
        self._alerts.send("CRITICAL", "registrations_left_out", message)
