"""What rings know of the past of streams, and what they are told of its holes.

A stream that comes from another worker has its past in that worker's ring, which anybody may read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import log
from daemon.errors import RingError
from daemon.ingest.gaps import Place, Stream, whole_until
from daemon.ingest.registrar import place_of, stream_of
from daemon.ingest.venues import MARKET_IDS, VENUE_IDS
from daemon.rings import ring_path
from native_pipeline.ring_file import RingFile
from native_pipeline.stream_receipts import append_gap, newest_receipts, receipts_in

if TYPE_CHECKING:
    from daemon.ingest.gaps import Gaps
    from daemon.shard_plan import WorkerPlan
    from native_pipeline.ring_writer import RingWriter

Receipts = Mapping[Place, tuple[int, int]]  # receive and exchange time, ns, of the newest record


def newest_receive_times(ring: RingWriter) -> dict[Place, int]:
    """Return when the newest record of each stream was received, wall clock ns."""
    return {place: recv_ns for place, (recv_ns, _) in newest_receipts(ring).items()}


def history_of(data_dir: Path, worker: int) -> Receipts:
    """Return what the ring of another worker holds, nothing if there is none to be read. Reads all of it."""
    try:
        return receipts_in(RingFile(ring_path(data_dir, worker)))
    except (RingError, OSError) as exc:
        log.get().warning("history_unreadable", ring=worker, error=str(exc))
        return {}


async def moved_until(
    plan: WorkerPlan, history: Callable[[int], Receipts], known: Container[Stream] = ()
) -> dict[Stream, int]:
    """Return until when another worker has carried what *plan* says came from there, but for streams *known*.

    0: its ring holds nothing of it. history: `history_of` a worker; called in a thread.
    """
    origins = {(moved.venue, moved.channel, moved.key): moved.worker for moved in plan.moved}
    found: dict[Stream, int] = {}
    ends: dict[int, Mapping[Place, int]] = {}
    for planned in plan.connections if origins else ():
        for subscription in planned.subscriptions:
            stream = stream_of(planned.venue, subscription)
            worker = origins.get((planned.venue, subscription.channel, subscription.key))
            if worker is None or stream in known:
                continue
            if worker not in ends:
                ends[worker] = whole_until(await asyncio.to_thread(history, worker))
            found[stream] = ends[worker].get(place_of(stream), 0)
    return found


def write_gaps(ring: RingWriter, gaps: Gaps) -> int:
    """Append the gaps that have ended and publish them; return how many. What finds no room waits for the next time."""
    ended = gaps.ended()
    written = 0
    for gap in ended:
        venue, market = VENUE_IDS[gap.stream.venue], MARKET_IDS[gap.stream.market]
        try:
            append_gap(
                ring,
                place_of(gap.stream),
                gap.started_ns,
                gap.ended_ns,
                int(gap.reason),
                venue=venue,
                market=market,
            )
        except RingError:
            break
        gaps.on_written(gap)
        written += 1
    if ended:
        ring.publish()
    return written
