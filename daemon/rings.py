"""Where the rings of a data directory are, and that each can be used before any process opens it."""

import time
from pathlib import Path

from daemon import log
from daemon.errors import RingError, RingInUse
from native_pipeline.ring import HEADER_BYTES, LAYOUT_VERSION, RingWriter, create_ring

RINGS_DIR = "rings"
SUFFIX = ".ring"
MIB = 1 << 20
CONSUMERS = {"writer", "publisher"}  # that `create_ring` registers in every ring
VERSION_OFFSET = 8  # of layout_version in the header: native_pipeline/layout.h


def ring_path(data_dir: Path, worker: int) -> Path:
    """Return the file of the ring that *worker* produces."""
    return data_dir / RINGS_DIR / f"worker-{worker}{SUFFIX}"


def ring_paths(data_dir: Path) -> list[Path]:
    """Return every ring, also those of workers that the present settings no longer have: they may hold data."""
    return sorted((data_dir / RINGS_DIR).glob(f"worker-*{SUFFIX}"), key=lambda path: int(path.stem.split("-")[1]))


def missing_bytes(data_dir: Path, *, workers: int, capacity_mb: int) -> int:
    """Return the room on the disk that prepare_rings() will need for rings that do not exist yet."""
    missing = sum(1 for worker in range(workers) if not ring_path(data_dir, worker).exists())
    return missing * ((1 << (capacity_mb - 1).bit_length()) * MIB + HEADER_BYTES)


def prepare_rings(data_dir: Path, *, workers: int, capacity_mb: int) -> None:
    """Make sure that every worker has a ring that opens. To be called while no process of the daemon runs.

    A file that is not a ring is moved aside, loudly, and replaced: refusing to start would lose the live feed too.
    A ring of another layout version is left alone and refused with RingError, because another version of this
    program can still read what is in it. Raises OSError when the disk has no room.
    """
    directory = data_dir / RINGS_DIR
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in ring_paths(data_dir):
        _check(path)
    for worker in range(workers):
        path = ring_path(data_dir, worker)
        if not path.exists():
            create_ring(path, ring=worker, capacity_bytes=capacity_mb * MIB)
            log.get().info("ring_created", path=str(path), capacity_mb=capacity_mb)


def _check(path: Path) -> None:
    try:
        writer = RingWriter(path)
        _check_consumers(writer)
    except RingInUse:
        raise
    except RingError as exc:
        if _is_other_version(path):
            raise RingError(f"{exc}; run that version until its rings are drained, or move the file away") from exc
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        path.rename(aside)
        log.get().critical("ring_moved_aside", path=str(path), moved_to=str(aside), reason=str(exc))
        return
    if writer.recovered_bytes:
        log.get().critical("ring_tail_cut", path=str(path), bytes=writer.recovered_bytes)
    writer.close()


def _check_consumers(writer: RingWriter) -> None:
    missing = CONSUMERS - writer.consumers().keys()
    if missing:
        raise RingError(f"{writer.path}: its consumers are damaged: {', '.join(sorted(missing))} is missing")


def _is_other_version(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(VERSION_OFFSET + 4)
    return header[:8] == b"SISERING" and int.from_bytes(header[VERSION_OFFSET:], "little") != LAYOUT_VERSION
