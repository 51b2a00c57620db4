"""What may take long runs in another thread, while the writer goes on beating and notices a stop and its deadline."""

from collections.abc import Callable
from typing import TypeVar

from daemon.sinks.background import BackgroundThread
from daemon.sinks.host import Clock, DrainDeadline, Host

BEAT_S = 0.25  # the heartbeat's pace while another thread works
IDLE_WAIT_S = 1.0  # the heartbeat's pace when nothing arrives
DEADLINE_MARGIN_S = 0.5  # of the time to drain, for closing the connection

T = TypeVar("T")


class Errands:
    """One thread for the database, one for the disk; each runs one action at a time."""

    def __init__(self, host: Host, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._drain_deadline: float | None = None
        self.database = BackgroundThread("database")
        self.disk = BackgroundThread("spill")

    def run(self, thread: BackgroundThread, action: Callable[[], T], on_beat: Callable[[], object] = lambda: None) -> T:
        """Return what *action* returned in *thread*, or raise what it raised; on_beat is called while it takes.

        Raises DrainDeadline when the time to drain is over; the action goes on.
        """
        thread.submit(action)
        while not thread.wait(BEAT_S):
            self._host.beat()
            self.check_deadline()
            on_beat()
        result: T = thread.result()
        return result

    def pause(self, seconds: float, on_beat: Callable[[], object] = lambda: None) -> None:
        """Sleep, unless a stop is asked for. Raises DrainDeadline."""
        end = self._clock.monotonic() + seconds
        while (remaining := end - self._clock.monotonic()) > 0 and not self._host.stopping():
            on_beat()
            self._host.wait(min(remaining, IDLE_WAIT_S))
        self.check_deadline()

    def check_deadline(self) -> None:
        """Raise DrainDeadline if a stop was asked for and its time is over."""
        if self.remaining_s() <= 0:
            raise DrainDeadline

    def remaining_s(self) -> float:
        """Return how much of the time to drain is left; all of it as long as no stop is asked for."""
        if not self._host.stopping():
            return self._host.drain_s - DEADLINE_MARGIN_S
        now = self._clock.monotonic()
        if self._drain_deadline is None:
            self._drain_deadline = now + self._host.drain_s - DEADLINE_MARGIN_S
        return self._drain_deadline - now

    def close(self, last: Callable[[], object]) -> None:
        """End both threads, the database's with *last*, which closes the connection."""
        self.disk.close(lambda: None, DEADLINE_MARGIN_S)
        self.database.close(last, DEADLINE_MARGIN_S)
