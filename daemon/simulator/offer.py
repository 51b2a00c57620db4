"""The load: which records are due now, and for which registrations."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from daemon.simulator.market import ExchangeTime
from daemon.simulator.session import Session
from daemon.simulator.streams import RANKS, Fate, Stream
from daemon.simulator.venue import Venue

TICK_S = 0.004  # one system call a session and tick: shorter costs CPU, longer makes bursts
RECORDS_PER_TICK = 10  # at low rates, wait for about so many
IDLE_TICK_S = 0.02  # at most so late
MAX_RECORDS_PER_TICK = 20_000  # after a hiccup: catch up in steps, so that requests are still answered


class Burst(NamedTuple):
    """For so many seconds of offering, from so many on, the rate is multiplied."""

    after_s: float = 0.0
    for_s: float = 0.0
    factor: float = 1.0


class Pacer:
    """An open-loop schedule: record n is due n / rate seconds of offering after the start, but for a burst. Pure."""

    def __init__(self, rate: float, seconds: float | None = None, burst: Burst = Burst()) -> None:  # noqa: B008
        self._rate = rate
        self._burst = burst
        self._limit = None if seconds is None else round(self._scheduled(seconds))
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
        due = int(self._scheduled(self.elapsed_s))
        if self._limit is not None:
            due = min(due, self._limit)
        count = min(due - self.taken, at_most)
        self.taken += count
        return count

    def _scheduled(self, seconds: float) -> float:
        in_burst_s = min(max(0.0, seconds - self._burst.after_s), self._burst.for_s)
        return self._rate * (seconds + (self._burst.factor - 1.0) * in_burst_s)

    def give_back(self, count: int) -> None:
        """Make so many of those taken due again."""
        self.taken -= count


class Rotation:
    """Takes streams in turn."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams
        self._place = -1

    def __bool__(self) -> bool:
        return bool(self._streams)

    def take(self) -> Stream:
        """Return the next one."""
        self._place += 1
        if self._place >= len(self._streams):
            self._place = 0
        return self._streams[self._place]

    def peek(self) -> Stream:
        """Return what `take()` would."""
        return self._streams[(self._place + 1) % len(self._streams)]


class Offer:
    """Produces one venue's records that are due and hands them to the sessions that registered them, tick by tick."""

    def __init__(self, venue: Venue, rate: float) -> None:
        options = venue.options
        self.pacer = Pacer(rate, options.seconds, Burst(*venue.world.faults.plan(venue.name).burst))
        self.finished = asyncio.Event()
        self.started = asyncio.Event()
        self._venue = venue
        self._version = -1
        self._trades = self._books = Rotation(())
        self._timed: list[Stream] = []
        self._timed_at = 0.0
        self._book_credit = 0.0
        self._tick_s = min(max(TICK_S, RECORDS_PER_TICK / rate), IDLE_TICK_S)
        self._goes_on = venue.world.faults.plan(venue.name).market_goes_on
        self._shared: list[tuple[str, list[Session]]] = []  # lines of the journal, and who has to have sent them

    async def run(self) -> None:
        """Offer until cancelled. OSError if the journal cannot be written."""
        loop = asyncio.get_running_loop()
        while True:
            is_offering = self._is_offering()
            count = self.pacer.due(loop.time(), is_offering=is_offering)
            if count:
                self.started.set()
                self._offer(count)
            may_tell = self._timed and not self.pacer.is_finished and not self._venue.world.is_waiting
            if may_tell and loop.time() >= self._timed_at:
                self._timed_at = loop.time() + self._venue.options.event_interval_s
                self._offer_timed()
            if self.pacer.is_finished:
                self.finished.set()
            await asyncio.sleep(self._tick_s if is_offering else IDLE_TICK_S)

    def _is_offering(self) -> bool:
        venue = self._venue
        if venue.registrations_version != self._version:
            self._version = venue.registrations_version
            self._look_again()
        if not (self._trades or self._books) or self.pacer.is_finished:
            return False
        return not (venue.world.is_waiting or venue.is_stalled)

    def _look_again(self) -> None:
        """Find out who hears what, after registrations or faults have changed."""
        venue = self._venue
        heard = []
        for stream in venue.streams.values():
            registrations = [s.by_stream[stream] for s in venue.sessions.values() if stream in s.by_stream]
            hearing = [r for r in registrations if r.session.hears(r)]
            stream.sessions = [r.session for r in hearing]
            is_simple = len(hearing) == 1 and not hearing[0].session.is_meddled and not stream.keeps_last
            stream.only = hearing[0] if is_simple else None
            if hearing or (self._goes_on and not registrations):
                heard.append(stream)
        # Shuffled, so that neither sessions nor symbols come in blocks.
        venue.draw.shuffle(heard)
        self._trades = Rotation([s for s in heard if s.is_trade])
        self._books = Rotation([s for s in heard if s.subject.kind == "orderbook"])
        self._timed = [s for s in heard if s.subject.kind not in ("trade", "orderbook")]

    def _ready(self) -> set[Session]:
        journal = self._venue.world.journal
        is_journal_behind = journal is not None and journal.is_behind
        return {s for s in self._venue.sessions.values() if s.accepts_records and not is_journal_behind}

    def _offer(self, count: int) -> None:
        venue = self._venue
        plan = venue.world.faults.plan(venue.name)
        longest = plan.pack or venue.options.records_per_frame
        now = venue.world.exchange_time()
        ready = self._ready()
        trades, books = self._trades, self._books
        share = 0.0 if not books else 1.0 if not trades else venue.options.book_share
        credit = self._book_credit
        unheard: list[str] = []
        while count > 0:
            credit += share
            if credit >= 1:
                credit -= 1
                stream, size = books.take(), 1
            else:
                if count < plan.pack and not self.pacer.is_finished:
                    self.pacer.give_back(count)
                    break
                stream = trades.take()
                size = 1 if longest == 1 else min(plan.pack or venue.draw.randint(1, longest), count)
                credit += share * (size - 1)
            count -= size
            only = stream.only
            if size == 1 and only is not None:
                if only.session in ready:
                    only.session.put_one(only, now)
                else:
                    venue.counts["withheld"] += 1
            else:
                self._broadcast(self._burst(stream, size), now, ready, unheard)
        self._book_credit = credit
        self._flush(ready, unheard)

    def _offer_timed(self) -> None:
        now, ready = self._venue.world.exchange_time(), self._ready()
        for stream in self._timed:
            self._broadcast([stream], now, ready, [])
        self._flush(ready, [])

    def _flush(self, ready: set[Session], unheard: list[str]) -> None:
        for session in ready:
            session.flush()
        shared, self._shared = self._shared, []
        self._venue.write_lines([*(line for line, whose in shared if any(s.is_open for s in whose)), *unheard])

    def _broadcast(self, streams: list[Stream], now: ExchangeTime, ready: set[Session], unheard: list[str]) -> None:
        """Produce one record of each stream (all are heard by the same sessions) and send them as one frame."""
        venue, first = self._venue, streams[0]
        sessions = [session for session in first.sessions if session in ready]
        if not sessions and not self._goes_on:
            venue.counts["withheld"] += len(streams)
            return
        records = [stream.produce(now) for stream in streams]
        fates = [Fate.UNHEARD] * len(records)
        tellers = [0] * len(records)  # the session that goes into the journal
        whose: list[list[Session]] = [[] for _ in records]  # any of them makes the line true
        for session in sessions:
            what = session.put(streams, records) or [Fate.SENT] * len(records)
            for place, fate in enumerate(what):
                if fate is Fate.SENT:
                    whose[place].append(session)
                if RANKS[fate] < RANKS[fates[place]]:
                    fates[place], tellers[place] = fate, session.number
        lines = [
            stream.line(teller, record, fate)
            for stream, teller, record, fate in zip(streams, tellers, records, fates, strict=True)
        ]
        for stream, record, fate in zip(streams, records, fates, strict=True):
            if stream.keeps_last and fate is Fate.SENT:
                stream.recent.append(record)
        if len(sessions) == 1:
            for line in lines:
                sessions[0].note_record(line)
        elif sessions:
            self._shared += [(line, senders or sessions) for line, senders in zip(lines, whose, strict=True)]
        else:
            unheard += lines

    def _burst(self, first: Stream, size: int) -> list[Stream]:
        """Return whose trades one frame of *size* carries: symbols mix where the rotation allows, as the venue does."""
        burst = [first]
        while len(burst) < size:
            other = self._trades.peek()
            fits = other.sessions == first.sessions and self._venue.speech.may_share_frame(first, other)
            burst.append(self._trades.take() if fits else burst[-1])
        return burst
