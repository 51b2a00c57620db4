"""What the writer does while the database cannot take batches: it spills them, and looks whether the database is back.

The first batch that is spilled is the one whose commit failed, with exactly its ranges: if it was committed after all
and only the answer got lost, the cursors say so when the database is back. Everything behind it is spilled in larger
pieces. Where spilling is impossible too, the records stay in the rings, whose workers pause their sockets when they
are full; it is tried again every second.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from daemon import log
from daemon.alerts import Alerts
from daemon.config import Spill as SpillSettings
from daemon.sinks import free_memory
from daemon.sinks.errands import BEAT_S, Errands
from daemon.sinks.host import Clock, Counters, Host
from daemon.sinks.recovery import Registrar
from daemon.sinks.recovery_thread import RecoveryThread
from daemon.sinks.spill import CannotSpill, SpillDirectory, SpillFile
from daemon.sinks.spiller import Ring, Spiller, Taken
from daemon.sinks.trouble import Trouble

LAST_LOOK_S = 1.0  # at a stop, for a database that has come back since the last look
LAST_LOOK_SHARE = 0.2  # of the time that is left, if that is shorter
POLLS_PER_INTERVAL = 20  # how often the rings are looked at while a segment fills up
TRY_AGAIN_S = 1.0  # after a failure to spill
# Of a ring. Up to here spilling rests while the last files are registered, however slowly the database answers: with
# every file that came meanwhile the return would take longer, and never end.
RETURN_SHARE = 0.5
ROOM_TO_KEEP = 4  # a ring is emptied when a quarter of it waits: it stays below half while that is written


class State(enum.Enum):
    """How the writer gets rid of records."""

    LIVE = "live"  # the database takes them
    SPILLING = "spilling"  # files do
    BLOCKED = "blocked"  # neither: they stay in the rings


class Event(enum.Enum):
    """What changes that."""

    AWAY = "the database does not take a batch"
    SPILLED = "a file took a batch"
    CANNOT_SPILL = "no file took it"
    BACK = "the database answers, and every file is registered"


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.LIVE: {Event.AWAY: State.SPILLING, Event.BACK: State.LIVE},
    State.SPILLING: {
        Event.SPILLED: State.SPILLING,
        Event.CANNOT_SPILL: State.BLOCKED,
        Event.BACK: State.LIVE,
    },
    State.BLOCKED: {
        Event.SPILLED: State.SPILLING,
        Event.CANNOT_SPILL: State.BLOCKED,
        Event.BACK: State.LIVE,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpillParts:
    """What the writer needs to spill and to recover."""

    settings: SpillSettings
    directory: SpillDirectory
    spiller: Spiller
    registrar: Registrar
    recovery: RecoveryThread
    alerts: Alerts


@dataclass(slots=True)
class Fate:
    """What is known about the cursors of the database; None: it was never asked."""

    stored: dict[Ring, int] | None = None
    doubtful: dict[Ring, int] = field(default_factory=dict)  # where they are if the batch that failed was committed

    def possible(self) -> dict[Ring, list[int]] | None:
        """Return where each cursor can be, unless another writer moved it."""
        if self.stored is None:
            return None
        return {ring: [seq, self.doubtful.get(ring, seq)] for ring, seq in self.stored.items()}


class Outage:
    """The state, and what is done in it; the writer calls step() as long as it is not LIVE."""

    def __init__(
        self, parts: SpillParts, *, errands: Errands, trouble: Trouble, counters: Counters, host: Host, clock: Clock
    ) -> None:
        self.state = State.LIVE
        self.fate = Fate()
        self._parts = parts
        self._errands = errands
        self._trouble = trouble
        self._counters = counters
        self._host = host
        self._clock = clock
        self._pending: dict[Ring, int] = {}  # reached by the batch that failed, while it is not spilled
        self._due = 0.0  # when the present segment is written, full or not
        self._probe_due = 0.0
        self._is_probing = False
        self._is_last_round = False  # only the last files are being registered
        self._is_announced = False
        self._log = log.get()

    def begin(self, reached: Mapping[Ring, int]) -> None:
        """The database did not take the batch that ends at *reached* (empty: there was none yet)."""
        self._change(Event.AWAY)
        self._parts.recovery.allow(False)
        self._pending = dict(reached)
        self.fate.doubtful = dict(reached)
        self._due = self._clock.monotonic()
        self._probe_due = self._clock.monotonic() + self._parts.settings.probe_s

    def step(self, cursors: dict[Ring, int], lags: Callable[[], Sequence[float]]) -> Taken | None:
        """Spill one segment, or wait for one; return what is durable now and may be given back to the rings.

        cursors: where each ring's next record is; a ring that is not in it is read from its committed position.
        lags: how much of each ring waits, as a part of the ring.
        """
        if self._is_returning(lags()) or (not self._pending and not self._is_time(lags())):
            pause_s = self._parts.settings.interval_s / POLLS_PER_INTERVAL
            self._host.wait(pause_s)
            self._errands.check_deadline()
            return None
        spiller = self._parts.spiller
        taken = spiller.take_exactly(cursors, self._pending) if self._pending else spiller.take(cursors)
        self._due = self._clock.monotonic() + self._parts.settings.interval_s
        if not taken.ranges:
            return taken
        try:
            file = self._errands.run(self._errands.disk, lambda: self._parts.directory.append(taken.ranges, taken.raw))
        except CannotSpill as exc:
            self._note_blocked(exc)
            return None
        self._note_spilled(file)
        return taken

    def look_for_database(self) -> dict[Ring, int] | None:
        """Every few seconds, ask in the database's thread; return its cursors once it answers and knows every file.

        Spilling goes on meanwhile. Raises Fenced.
        """
        thread = self._errands.database
        if not self._is_probing:
            if self._clock.monotonic() >= self._probe_due:
                self._is_probing = True
                possible = self.fate.possible()
                thread.submit(lambda: self._parts.registrar.bring_up_to_date(possible))
            return None
        if not thread.wait(0.0):
            return None
        self._is_probing = False
        self._probe_due = self._clock.monotonic() + self._parts.settings.probe_s
        try:
            cursors: dict[Ring, int] = thread.result()
        except psycopg.Error as exc:
            self._trouble.note_failure(exc)
            self._is_last_round = False
            return None
        self.fate = Fate(cursors, self.fate.doubtful)
        if self._parts.registrar.has_unregistered():  # spilled while it was asked: once more, and no more till then
            self._probe_due = 0.0
            self._is_last_round = True
            return None
        return cursors

    def look_once_more(self) -> dict[Ring, int] | None:
        """Ask a last time, at a stop: who has just started the database again expects the day in it. Raises Fenced."""
        if self.state is not State.SPILLING:
            return None
        ends = self._clock.monotonic() + min(LAST_LOOK_S, self._errands.remaining_s() * LAST_LOOK_SHARE)
        self._probe_due = 0.0
        while self._clock.monotonic() < ends:
            cursors = self.look_for_database()
            if cursors is not None or not (self._is_probing or self._is_last_round):
                return cursors
            self._errands.database.wait(BEAT_S)
            self._host.beat()
        return None

    def _is_returning(self, lags: Sequence[float]) -> bool:
        """Whether only the last files are being registered: what would be spilled now would come too late for that."""
        return self._is_last_round and not any(lag > RETURN_SHARE for lag in lags)

    def end(self) -> None:
        """The database takes batches again."""
        self._change(Event.BACK)
        self._is_last_round = False
        self._pending = {}
        self.fate.doubtful = {}
        self._parts.recovery.allow(True)

    def drain_files(self, *, margin_s: float) -> None:
        """Let the recovery store what is spilled, until *margin_s* before the time to drain is over.

        It would be safe where it is, but who stops a daemon whose database answers expects it stored.
        """
        recovery = self._parts.recovery
        if self.state is not State.LIVE:
            return
        recovery.hurry()
        while not recovery.rests(BEAT_S) and self._errands.remaining_s() > margin_s:
            self._host.beat()

    def tell_news(self) -> None:
        """Pass on what the recovery has to say."""
        for level, code, message, subject in self._parts.recovery.news():
            self._parts.alerts.send(level, code, message, subject=subject)
            if code in ("spill_recovered", "spilled_batch_lost"):
                self._is_announced = False
            if code == "spill_recovered" and self.state is State.LIVE:
                self._parts.spiller.forget()
                free_memory.trim()

    def _is_time(self, lags: Sequence[float]) -> bool:
        """Whether a segment is full, old enough, or a ring in need of room. Blocked: only the time counts."""
        now = self._clock.monotonic()
        if now >= self._due or self.state is State.BLOCKED or self._host.stopping():
            return now >= self._due or self._host.stopping()
        return self._parts.spiller.is_full() or any(lag * ROOM_TO_KEEP >= 1.0 for lag in lags)

    def _note_spilled(self, file: SpillFile) -> None:
        self._change(Event.SPILLED)
        self._pending = {}
        self._counters.increment("batches_spilled")
        self._counters.increment("records_spilled", file.header.records)
        self.show_size()
        if not self._is_announced:
            self._is_announced = True
            self._parts.alerts.send(
                "WARNING", "database_spilling", "the database takes no batches: they are written to spill files"
            )

    def _note_blocked(self, error: CannotSpill) -> None:
        self._counters.increment("spill_failures")
        if self.state is not State.BLOCKED:
            self._log.critical("spill_impossible", reason=str(error))
            self._parts.alerts.send(
                "CRITICAL", "spill_impossible", f"records stay in the rings, sockets pause when they are full: {error}"
            )
        self._change(Event.CANNOT_SPILL)
        self._due = self._clock.monotonic() + TRY_AGAIN_S
        self._host.wait(min(TRY_AGAIN_S, self._parts.settings.interval_s))
        self._errands.check_deadline()

    def show_size(self) -> None:
        """Set the gauges of what waits in files."""
        files, size_bytes = self._parts.directory.size()
        self._counters.set("spill_files", files)
        self._counters.set("spill_bytes", size_bytes)

    def _change(self, event: Event) -> None:
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            raise AssertionError(f"{event.name} cannot happen while {self.state.name}")
        if self.state is State.BLOCKED and following is not State.BLOCKED:
            if following is State.SPILLING:
                self._log.info("spilling_again")
            self._parts.alerts.send("INFO", "spill_impossible_ended", "records no longer have to stay in the rings")
        self.state = following
