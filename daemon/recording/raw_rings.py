"""The rings between workers and recorder: `rings/raw-N.ring`. Nothing in them is worth a refusal to start."""

from pathlib import Path

from daemon import log
from daemon.errors import RingError
from daemon.rings import MIB, RINGS_DIR, SUFFIX
from native_pipeline.ring_creation import LOSSY, create_ring
from native_pipeline.ring_writer import RingWriter

CONSUMER = "recorder"


def raw_ring_path(data_dir: Path, worker: int) -> Path:
    """Return the file of the raw ring that *worker* fills."""
    return data_dir / RINGS_DIR / f"raw-{worker}{SUFFIX}"


def raw_ring_paths(data_dir: Path) -> list[Path]:
    """Return every raw ring, also those of workers that the present settings no longer have."""
    return sorted((data_dir / RINGS_DIR).glob(f"raw-*{SUFFIX}"), key=lambda path: int(path.stem.split("-")[1]))


def prepare_raw_rings(data_dir: Path, *, workers: int, capacity_mb: int) -> None:
    """Make sure that every worker has a raw ring that opens; to be called while no process of the daemon runs.

    One that does not open, or has another size than *capacity_mb* says, is replaced. What cannot be made is reported
    and left out: market data do not need it.
    """
    for worker in range(workers):
        path = raw_ring_path(data_dir, worker)
        try:
            if path.exists() and not _is_usable(path, capacity_mb):
                path.unlink()
            if not path.exists():
                create_ring(path, ring=worker, capacity_bytes=capacity_mb * MIB, consumers=((CONSUMER, LOSSY),))
        except (OSError, RingError) as exc:
            log.get().error("raw_ring_not_made", path=str(path), error=str(exc))


def _is_usable(path: Path, capacity_mb: int) -> bool:
    try:
        ring = RingWriter(path)
    except RingError as exc:
        log.get().warning("raw_ring_replaced", path=str(path), error=str(exc))
        return False
    is_usable = ring.capacity_bytes == (1 << (capacity_mb - 1).bit_length()) * MIB and CONSUMER in ring.consumers()
    ring.close()
    return is_usable
