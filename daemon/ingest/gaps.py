"""Holes in the streams of one worker: from the last frame before an interruption to the renewed confirmation.

Pure. A stream may be carried by several sessions: it is interrupted only while none of them carries it. A gap is
written when it has ended; while the ring has no room it waits here, and grows rather than multiplies: there is never
more than one per stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

import msgspec


class Stream(NamedTuple):
    """What a gap is about: one planned subscription, whichever sessions carry it. symbol: as its records have it."""

    venue: str
    market: str
    exchange: str
    symbol: str
    kind: str
    channel: str = ""  # two registrations may bring records of one symbol and kind: each has its own interruptions
    key: str = ""


# A stream as its records have it, whatever they were asked for with: symbol, kind of data, exchange.
Place = tuple[str, int, str]


class GapReason(IntEnum):
    """Why a stream was interrupted: the position in `native_pipeline.GAP_REASONS`."""

    CONNECTION_LOST = 1
    WORKER_RESTARTED = 2


class Gap(msgspec.Struct, frozen=True):
    """One hole; wall clock, nanoseconds. The stream was whole until the start and is whole again from the end."""

    stream: Stream
    started_ns: int
    ended_ns: int
    reason: GapReason


# The newest record that a dead worker had read was *sent* before it was received; what was sent in between may have
# been on its way, and is gone with the socket. The venue's own clock says when, if it is close to ours.
MAX_TRANSIT_NS = 5_000_000_000


def whole_until(receipts: Mapping[Place, tuple[int, int]]) -> dict[Place, int]:
    """Return until when each stream was certainly whole when its worker died.

    receipts: `receipts_in()` of its ring. By the newest record of the stream itself, not of its connection or of the
    worker: one that was killed twice in a row had not yet resumed every stream when it died again.
    """
    return {
        stream: exchange_ns if 0 <= recv_ns - exchange_ns <= MAX_TRANSIT_NS else recv_ns
        for stream, (recv_ns, exchange_ns) in receipts.items()
    }


class _Course:
    """How one stream has been carried. carriers: session number -> since when."""

    __slots__ = ("carriers", "interrupted", "whole_until_ns")

    def __init__(self) -> None:
        self.carriers: dict[int, int] = {}
        self.whole_until_ns = 0  # the latest end of any session's share
        self.interrupted: tuple[int, GapReason] | None = None


class Gaps:
    """Remembers which streams are interrupted since when."""

    def __init__(self) -> None:
        self._courses: dict[Stream, _Course] = {}
        self._ended: dict[Stream, Gap] = {}

    def set_wanted(self, streams: Iterable[Stream], now_ns: int) -> None:
        """Collect exactly *streams* from now on; a hole in one that is not wanted any more ends here."""
        wanted = dict.fromkeys(streams)
        for stream in [stream for stream in self._courses if stream not in wanted]:
            self._end(stream, now_ns)
            del self._courses[stream]
        for stream in wanted:
            self._courses.setdefault(stream, _Course())

    def streams(self) -> tuple[Stream, ...]:
        """Return what is wanted."""
        return tuple(self._courses)

    def on_interrupted(self, streams: Iterable[Stream], started_ns: int, reason: GapReason) -> None:
        """*streams* stopped; those that had not resumed yet keep their earlier start."""
        for stream in streams:
            course = self._courses.get(stream)
            if course is not None and not course.carriers and course.interrupted is None:
                course.interrupted = started_ns, reason

    def on_carried(self, stream: Stream, session: int, now_ns: int) -> None:
        """*session* carries *stream* from now on; the hole in it, if there was one, has ended."""
        course = self._courses.get(stream)
        if course is None:
            return
        self._end(stream, now_ns)
        course.carriers.setdefault(session, now_ns)

    def on_dropped(self, streams: Iterable[Stream], session: int, until_ns: int, reason: GapReason) -> None:
        """*session* has carried *streams* until *until_ns*, which may be long ago: its link was dead since then."""
        for stream in streams:
            course = self._courses.get(stream)
            if course is None or course.carriers.pop(session, None) is None:
                continue
            course.whole_until_ns = max(course.whole_until_ns, until_ns)
            if not course.carriers:
                course.interrupted = course.whole_until_ns, reason
                continue
            carried_from_ns = min(course.carriers.values())
            if carried_from_ns > course.whole_until_ns:  # nobody did in between, as we know only now
                self._add(Gap(stream, course.whole_until_ns, carried_from_ns, reason))

    def carried_by(self, session: int) -> list[Stream]:
        """Return the streams that *session* carries."""
        return [stream for stream, course in self._courses.items() if session in course.carriers]

    def on_stopped(self, now_ns: int) -> None:
        """The process stops: end what is interrupted here; its successor's gaps begin where this ring ends."""
        for stream in self._courses:
            self._end(stream, now_ns)

    def ended(self) -> tuple[Gap, ...]:
        """Return the gaps that wait to be written, oldest first."""
        return tuple(self._ended.values())

    def on_written(self, gap: Gap) -> None:
        """*gap* is in the ring."""
        del self._ended[gap.stream]

    def _end(self, stream: Stream, now_ns: int) -> None:
        course = self._courses[stream]
        if course.interrupted is None:
            return
        started_ns, reason = course.interrupted
        course.interrupted = None
        self._add(Gap(stream, started_ns, max(started_ns, now_ns), reason))  # the wall clock may have been set back

    def _add(self, gap: Gap) -> None:
        waiting = self._ended.get(gap.stream)
        if waiting is not None:
            gap = Gap(gap.stream, waiting.started_ns, max(waiting.ended_ns, gap.ended_ns), waiting.reason)
        self._ended[gap.stream] = gap
