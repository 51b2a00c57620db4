"""The load: which records are due now, and for which registrations."""

import asyncio
from collections.abc import Sequence

from daemon.simulator.session import Registration
from daemon.simulator.venue import Venue

TICK_S = 0.004  # one system call a session and tick: shorter costs CPU, longer makes bursts
RECORDS_PER_TICK = 10  # at low rates, wait for about so many
IDLE_TICK_S = 0.02  # at most so late
MAX_RECORDS_PER_TICK = 20_000  # after a hiccup: catch up in steps, so that requests are still answered


class Pacer:
    """An open-loop schedule: record n is due n / rate seconds of offering after the start. Pure."""

    def __init__(self, rate: float, seconds: float | None = None) -> None:
        self._rate = rate
        self._limit = None if seconds is None else int(rate * seconds)
        self._last_s: float | None = None
        self.elapsed_s = 0.0  # of offering: pauses do not count
        self.taken = 0

    @property
    def is_finished(self) -> bool:
        """Whether everything that `seconds` allows has been taken."""
        return self._limit is not None and self.taken >= self._limit

    def due(self, now_s: float, *, is_offering: bool, at_most: int = MAX_RECORDS_PER_TICK) -> int:
        """Return how many records are due since the last call, and count them as taken.

        Time that passes while not *is_offering* leaves no debt.
        """
        if self._last_s is not None and is_offering:
            self.elapsed_s += now_s - self._last_s
        self._last_s = now_s if is_offering else None
        due = int(self.elapsed_s * self._rate)
        if self._limit is not None:
            due = min(due, self._limit)
        count = min(due - self.taken, at_most)
        self.taken += count
        return count


class Rotation:
    """Takes registrations in turn."""

    def __init__(self, registrations: Sequence[Registration]) -> None:
        self._registrations = registrations
        self._place = -1

    def __bool__(self) -> bool:
        return bool(self._registrations)

    def take(self) -> Registration:
        """Return the next one."""
        self._place += 1
        if self._place >= len(self._registrations):
            self._place = 0
        return self._registrations[self._place]

    def peek(self) -> Registration:
        """Return what `take()` would."""
        return self._registrations[(self._place + 1) % len(self._registrations)]


class Offer:
    """Produces the records that are due and hands them to their sessions, tick by tick."""

    def __init__(self, venue: Venue) -> None:
        options = venue.options
        self.pacer = Pacer(options.rate, options.seconds)
        self.finished = asyncio.Event()
        self.started = asyncio.Event()
        self._venue = venue
        self._version = -1
        self._trades = self._books = Rotation(())
        self._book_credit = 0.0
        self._tick_s = min(max(TICK_S, RECORDS_PER_TICK / options.rate), IDLE_TICK_S)

    async def run(self) -> None:
        """Offer until cancelled. OSError if the journal cannot be written."""
        loop = asyncio.get_running_loop()
        while True:
            is_offering = self._is_offering()
            count = self.pacer.due(loop.time(), is_offering=is_offering)
            if count:
                self.started.set()
                self._offer(count)
            if self.pacer.is_finished:
                self.finished.set()
            await asyncio.sleep(self._tick_s if is_offering else IDLE_TICK_S)

    def _is_offering(self) -> bool:
        venue = self._venue
        if venue.registrations_version != self._version:
            self._version = venue.registrations_version
            heard = [r for r in venue.registrations if r.tr_key not in venue.faults.silent]
            # Shuffled, so that neither sessions nor symbols come in blocks.
            venue.draw.shuffle(heard)
            self._trades = Rotation([r for r in heard if r.is_trade])
            self._books = Rotation([r for r in heard if not r.is_trade])
        if not (self._trades or self._books) or self.pacer.is_finished:
            return False
        if not self.started.is_set() and len(venue.registrations) < venue.options.start_after:
            return False
        return not (venue.is_stalled or venue.faults.pingpong_only)

    def _offer(self, count: int) -> None:
        venue = self._venue
        longest = venue.options.records_per_frame
        now = venue.exchange_time()
        is_journal_behind = venue.journal is not None and venue.journal.is_behind
        ready = {s for s in venue.sessions.values() if s.accepts_records and not is_journal_behind}
        trades, books = self._trades, self._books
        share = 0.0 if not books else 1.0 if not trades else venue.options.book_share
        credit = self._book_credit
        while count > 0:
            credit += share
            if credit >= 1:
                credit -= 1
                registration, size = books.take(), 1
            else:
                registration = trades.take()
                size = 1 if longest == 1 else min(venue.draw.randint(1, longest), count)
                credit += share * (size - 1)
            count -= size
            if registration.session not in ready:
                venue.counts["withheld"] += size
            elif size == 1:
                registration.session.put_record(registration, now)
            else:
                registration.session.put_records(self._burst(registration, size), now)
        self._book_credit = credit
        for session in ready:
            session.flush()

    def _burst(self, first: Registration, size: int) -> list[Registration]:
        """Return whose trades one frame of *size* carries: symbols mix where the rotation allows, as the venue does."""
        burst = [first]
        while len(burst) < size:
            same_session = self._trades.peek().session is first.session
            burst.append(self._trades.take() if same_session else burst[-1])
        return burst
