"""What has been received and is on its way to the database: in the rings, or in spill files. Only reads.

Nothing here is exact from one moment to the next while the daemon runs: it says why counts are not complete yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.errors import RingError
from daemon.rings import ring_paths
from daemon.sinks.count_queries import Checkpoint
from daemon.sinks.counts import minute_of
from daemon.sinks.segment import MAX_HEADER_BYTES, Header, SegmentError, decode_header
from daemon.sinks.spill import DIRECTORY, SUFFIX
from native_pipeline.ring_file import RingFile

WRITER = "writer"
MINUTE_NS = 60_000_000_000


@dataclass(frozen=True, slots=True)
class InFlight:
    """What waits on this machine."""

    ring_bytes: Mapping[int, int]  # ring -> published and not stored, of those that have any
    spilled: tuple[Header, ...]  # of the spill files, oldest first

    @property
    def spilled_records(self) -> int:
        """Records in all spill files."""
        return sum(header.records for header in self.spilled)


def read_in_flight(data_dir: Path) -> InFlight:
    """Return what waits under *data_dir*; a directory that is not there, or not ours to read, holds nothing."""
    return InFlight(_ring_bytes(data_dir), tuple(_spilled(data_dir / DIRECTORY)))


def unsettled_from(checkpoints: Sequence[Checkpoint], found: InFlight) -> int | None:
    """Return the first minute of which the database may not know everything yet; None: it knows all there is.

    Of a ring from which something waits, that is the minute of the newest ledger row that counts.
    """
    waiting = {one.ring for header in found.spilled for one in header.ranges} | found.ring_bytes.keys()
    waiting |= {one.source for one in checkpoints if one.is_waiting}
    newest = dict.fromkeys(waiting, 0)
    for one in checkpoints:
        if one.source in newest and one.newest is not None:
            newest[one.source] = max(newest[one.source], minute_of(one.newest))
    oldest_spilled = [header.received_ns[0] // MINUTE_NS for header in found.spilled]
    return min([*newest.values(), *oldest_spilled], default=None)


def _ring_bytes(data_dir: Path) -> dict[int, int]:
    found = {}
    for path in ring_paths(data_dir):
        try:
            ring = RingFile(path)
        except (RingError, OSError):  # reported by the daemon; nothing of it can be stored
            continue
        writer = ring.consumers().get(WRITER)
        if writer is not None and (waiting := ring.head - writer["position"]) > 0:
            found[ring.ring] = waiting
    return found


def _spilled(directory: Path) -> list[Header]:
    found = []
    try:
        paths = sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIX))
    except OSError:
        return []
    for path in paths:
        try:
            with path.open("rb") as file:
                found.append(decode_header(file.read(MAX_HEADER_BYTES)))
        except (OSError, SegmentError):  # stored a moment ago, or damaged: the writer moves that aside and tells
            continue
    return found
