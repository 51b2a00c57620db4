"""When spilled batches are stored: in a thread of the writer, beside the live batches, which it gives way to."""

import queue
import threading
import time

import psycopg

from daemon import log
from daemon.alerts import Level
from daemon.sinks.database import FailureKind, classify
from daemon.sinks.recovery import Pass, Replayer, Store
from daemon.sinks.spill import SpillFile

LONGEST_YIELD_S = 5.0  # to a live batch


class LiveLoad:
    """What the recovery knows of the live batches: it gives way to them."""

    def __init__(self) -> None:
        self.commit_s = 0.0  # how long the last one took
        self.is_waiting = False  # one is being stored, or waits for it

    def pause_s(self) -> float:
        """How long to leave the database to them now."""
        return min(self.commit_s, LONGEST_YIELD_S) if self.is_waiting else 0.0


News = tuple[Level, str, str, str]  # level, code, message, subject of an alert


class WaitingAlerts:
    """Keeps what one thread has to say until another, which may speak, asks for it."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[News] = queue.SimpleQueue()

    def send(self, level: Level, code: str, message: str, *, subject: str = "") -> None:
        """Keep it."""
        self._waiting.put((level, code, message, subject))

    def take(self) -> list[News]:
        """Return what came since the last call."""
        return [self._waiting.get() for _ in range(self._waiting.qsize())]


class RecoveryThread:
    """Replays in a thread of its own, with its own connection, whenever it is allowed to and woken, or every so often.

    What it has to tell waits in `news()` for the thread that may speak.
    """

    def __init__(
        self,
        replayer: Replayer,
        database: Store,
        load: LiveLoad,
        *,
        every_s: float,
        again_s: float,
        alerts: WaitingAlerts | None = None,
    ) -> None:
        self._replayer = replayer
        self._database = database
        self._load = load
        self._every_s = every_s
        self._again_s = again_s
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._rests = threading.Event()  # nothing more can be stored for now
        self._allowed = False
        self._error: BaseException | None = None
        self._alerts = alerts or WaitingAlerts()  # the replayer's too
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)
        self._told_records = 0  # stored when all was drained the last time
        self._began_s = 0.0
        self._is_interrupted = False
        self._has_put_aside = True  # perhaps, until it was looked
        self._log = log.get()

    def start(self) -> None:
        """Begin; nothing is replayed before allow()."""
        self._thread.start()

    def allow(self, is_allowed: bool) -> None:
        """Say whether the database is there, and every file registered."""
        self._allowed = is_allowed
        if is_allowed:
            self._wake.set()

    def store_put_aside(self) -> None:
        """Say that a live batch has put late rows aside."""
        self._has_put_aside = True
        self._wake.set()

    def hurry(self) -> None:
        """Look at once whether there is anything to store; rests() tells when that is done."""
        self._rests.clear()
        self._wake.set()

    def rests(self, timeout_s: float) -> bool:
        """Wait until all is stored that can be for now; False after *timeout_s*."""
        return self._rests.wait(timeout_s)

    def news(self) -> list[News]:
        """Return what there is to tell since the last call. Raises what ended the thread."""
        if self._error is not None:
            raise self._error
        return self._alerts.take()

    def stop(self, timeout_s: float) -> None:
        """End within *timeout_s*: after the present transaction, or by giving it up. Nothing is lost by that."""
        self._stop.set()
        self._wake.set()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout_s / 2)
        if self._thread.is_alive():
            self._database.cancel()
            self._thread.join(timeout_s / 2)

    def _run(self) -> None:
        try:
            wait_s: float | None = None
            while not self._stop.is_set():
                self._wake.wait(wait_s)
                self._wake.clear()
                wait_s = self._replay() if self._allowed and not self._stop.is_set() else None
                if wait_s != 0.0 and not self._wake.is_set():  # by hurry(), while that pass went on
                    self._rests.set()
        except BaseException as exc:  # raised again by news(), in the thread that ends the role
            self._error = exc
        finally:
            self._rests.set()
            self._database.close()

    def _replay(self) -> float:
        """Store what waits; return when to look again."""
        self._began_s = self._began_s or time.monotonic()
        try:
            done = self._replayer.replay(is_stopping=self._is_to_stop, after_each=self._give_way)
            self._store_put_aside()
        except psycopg.Error as exc:
            if not self._is_interrupted and not self._stop.is_set():  # once, not each time that it is tried again
                self._is_interrupted = True
                self._log.warning("recovery_interrupted", sqlstate=exc.sqlstate, error=str(exc).strip())
                if classify(exc) is not FailureKind.AWAY:
                    why = f"the database takes no spilled batch until this is repaired: {exc.sqlstate}"
                    self._alerts.send("CRITICAL", "recovery_interrupted", why)
            return self._again_s
        finally:
            self._replayer.show_size()
        self._is_interrupted = False
        if done.lost:
            self._alerts.send("CRITICAL", "spilled_batch_lost", f"{done.lost} spill files are missing or damaged")
        if done.stored:
            return 0.0  # there may be more by now
        if self._is_to_stop():
            return self._again_s
        return self._note_drained(done)

    def _store_put_aside(self) -> None:
        """Behind the files: these may hold up everything for as long as they like."""
        if self._has_put_aside and not self._is_to_stop():
            self._has_put_aside = False  # before the look: more may come meanwhile
            try:
                is_done = self._replayer.store_put_aside()
            except psycopg.Error:
                self._has_put_aside = True
                raise
            if not is_done:
                self._has_put_aside = True

    def _note_drained(self, done: Pass) -> float:
        self._database.close()  # until there is something to do again
        records = self._replayer.records - self._told_records
        if records and done.is_complete and not done.unregistered:
            took_s = time.monotonic() - self._began_s
            self._log.info("spill_recovered", records=records, took_s=round(took_s, 1))
            message = f"{records} spilled records stored in {took_s:.1f} s"
            if done.unreadable:
                message += f"; {done.unreadable} files cannot be read and wait"
            self._alerts.send("INFO", "spill_recovered", message)
            self._told_records = self._replayer.records
        self._began_s = 0.0
        return self._again_s if self._has_put_aside else self._every_s

    def _is_to_stop(self) -> bool:
        return self._stop.is_set() or not self._allowed

    def _give_way(self, _: SpillFile) -> None:
        pause_s = self._load.pause_s()
        if pause_s:
            self._stop.wait(pause_s)
