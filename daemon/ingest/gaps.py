"""Holes in the streams of one connection: from the last frame before an interruption to the renewed confirmation.

Pure. A gap is written when it has ended, once for each registration; while the ring has no room it waits here, and
grows rather than multiplies: there is never more than one per registration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

import msgspec

from daemon.ingest.venues.venue import Registration


class GapReason(IntEnum):
    """Why a stream was interrupted: the position in `native_pipeline.GAP_REASONS`."""

    CONNECTION_LOST = 1
    WORKER_RESTARTED = 2


class Gap(msgspec.Struct, frozen=True):
    """One hole; wall clock, nanoseconds. The stream was whole until the start and is whole again from the end."""

    registration: Registration
    started_ns: int
    ended_ns: int
    reason: GapReason


# The newest record that a dead worker had read was *sent* before it was received; what was sent in between may have
# been on its way, and is gone with the socket. The venue's own clock says when, if it is close to ours.
MAX_TRANSIT_NS = 5_000_000_000


def whole_until(receipts: Mapping[tuple[str, int], tuple[int, int]]) -> dict[tuple[str, int], int]:
    """Return until when the stream of each (symbol, data kind) was certainly whole when its worker died.

    receipts: `RingWriter.last_receipts()`. By the newest record of the stream itself, not of its connection or of the
    worker: one that was killed twice in a row had not yet resumed every stream when it died again.
    """
    return {
        stream: exchange_ns if 0 <= recv_ns - exchange_ns <= MAX_TRANSIT_NS else recv_ns
        for stream, (recv_ns, exchange_ns) in receipts.items()
    }


class Gaps:
    """Remembers which streams are interrupted since when."""

    def __init__(self) -> None:
        self._open: dict[Registration, tuple[int, GapReason]] = {}
        self._ended: dict[Registration, Gap] = {}

    def on_interrupted(self, registrations: Iterable[Registration], started_ns: int, reason: GapReason) -> None:
        """The streams of *registrations* stopped; those that had not resumed yet keep their earlier start."""
        for registration in registrations:
            self._open.setdefault(registration, (started_ns, reason))

    def on_resumed(self, registration: Registration, now_ns: int) -> None:
        """The stream of *registration* is confirmed again, if it was interrupted at all."""
        if registration not in self._open:
            return
        started_ns, reason = self._open.pop(registration)
        waiting = self._ended.get(registration)
        if waiting is not None:
            started_ns, reason = waiting.started_ns, waiting.reason
        # the wall clock may have been set back meanwhile
        self._ended[registration] = Gap(registration, started_ns, max(started_ns, now_ns), reason)

    def on_stopped(self, now_ns: int) -> None:
        """The process stops: end what is interrupted here; its successor's gaps begin where this ring ends."""
        for registration in tuple(self._open):
            self.on_resumed(registration, now_ns)

    def ended(self) -> tuple[Gap, ...]:
        """Return the gaps that wait to be written, oldest first."""
        return tuple(self._ended.values())

    def on_written(self, gap: Gap) -> None:
        """*gap* is in the ring."""
        del self._ended[gap.registration]
