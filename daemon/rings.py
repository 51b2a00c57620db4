"""Where the rings of a data directory are, and that each can be used before any process opens it."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from daemon import log
from daemon.errors import RingError, RingInUse, RingReplaced
from native_pipeline.ring_creation import GATING, LOSSY, create_ring
from native_pipeline.ring_file import HEADER_BYTES, LAYOUT_VERSION, RingFile
from native_pipeline.ring_reader import RingReader
from native_pipeline.ring_writer import RingWriter

RINGS_DIR = "rings"
SUFFIX = ".ring"
MIB = 1 << 20
CONSUMERS = {"writer": GATING, "publisher": LOSSY}  # that `create_ring` registers in every ring
LOOK_INTERVAL_S = 1.0  # between two looks of a sink at whether the files are still those that it reads
VERSION_OFFSET = 8  # of layout_version in the header: native_pipeline/layout.h


def ring_path(data_dir: Path, worker: int) -> Path:
    """Return the file of the ring that *worker* produces."""
    return data_dir / RINGS_DIR / f"worker-{worker}{SUFFIX}"


def ring_paths(data_dir: Path) -> list[Path]:
    """Return every ring, also those of workers that the present settings no longer have: they may hold data."""
    return rings_in(data_dir / RINGS_DIR)


def rings_in(rings_dir: Path) -> list[Path]:
    """Return every ring in *rings_dir*, in the order of their workers."""
    return sorted(rings_dir.glob(f"worker-*{SUFFIX}"), key=lambda path: int(path.stem.split("-")[1]))


def missing_bytes(data_dir: Path, *, workers: int, capacity_mb: int) -> int:
    """Return the room on the disk that prepare_rings() will need for rings that do not exist yet."""
    missing = sum(1 for worker in range(workers) if not ring_path(data_dir, worker).exists())
    return missing * ((1 << (capacity_mb - 1).bit_length()) * MIB + HEADER_BYTES)


def prepare_rings(data_dir: Path, *, workers: int, capacity_mb: int) -> None:
    """Make sure that every worker has a ring that opens. To be called while no process of the daemon runs.

    A file that is not a ring is moved aside, loudly, and replaced: refusing to start would lose the live feed too.
    A ring of another layout version is refused with RingError before any file is touched, because another version
    of this program can still read what is in it. Raises OSError when the disk has no room.
    """
    directory = data_dir / RINGS_DIR
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_other_versions(ring_paths(data_dir))
    for path in ring_paths(data_dir):
        _check(path)
    for worker in range(workers):
        path = ring_path(data_dir, worker)
        if not path.exists():
            create_ring(path, ring=worker, capacity_bytes=capacity_mb * MIB)
            log.get().info("ring_created", path=str(path), capacity_mb=capacity_mb)


def open_ring(
    path: Path, *, ring: int, capacity_mb: int, wake_fds: Mapping[str, int], syncs_first: bool = False
) -> RingWriter:
    """Open the ring at *path* as its producer; make a new one if it has vanished or is none any more.

    For a worker that starts while the daemon runs: somebody may have deleted or cut the file since. What the old file
    held and nobody had read is lost, and noted by whoever reads the new one. Raises RingInUse, RingError for a ring of
    another layout version, OSError when the disk has no room.
    """
    try:
        writer = RingWriter(path, wake_fds=wake_fds, syncs_first=syncs_first)
    except RingInUse:
        raise
    except RingError as exc:
        if path.exists():
            _move_aside(path, exc)
        else:
            log.get().critical("ring_file_gone", path=str(path))
        create_ring(path, ring=ring, capacity_bytes=capacity_mb * MIB)
        log.get().info("ring_created", path=str(path), capacity_mb=capacity_mb)
        writer = RingWriter(path, wake_fds=wake_fds, syncs_first=syncs_first)
    _tell(path, writer)
    return writer


def require_in_place(ring: RingFile) -> None:
    """Raise RingReplaced if the file of *ring* was deleted, replaced or cut: what is written there finds no reader."""
    if not ring.is_in_place:
        raise RingReplaced(f"{ring.path}: the file was deleted, replaced or cut while it is in use")


def look_for_new_rings(rings_dir: Path, readers: Sequence[RingReader]) -> None:
    """Raise RingReplaced if *rings_dir* has one that *readers* do not read, or for one that is read to its end."""
    for path in set(rings_in(rings_dir)) - {Path(reader.path) for reader in readers}:
        raise RingReplaced(f"{path}: is a new ring, to be read from now on")
    for reader in readers:
        if not reader.is_in_place and (reader.is_cut or reader.lag_bytes == 0):
            require_in_place(reader)


def noticing_new_rings(
    wait: Callable[[float], object],
    rings_dir: Path,
    readers: Sequence[RingReader],
    *,
    clock_s: Callable[[], float] = time.monotonic,
) -> Callable[[float], object]:
    """Return *wait* for a sink that reads *readers*, with a look at the files of *rings_dir* each second.

    It raises RingReplaced when a worker has made a new ring, and nothing is left to read in the one that it replaces: a
    sink that starts again opens the new one.
    """
    due_s = clock_s() + LOOK_INTERVAL_S

    def watched(seconds: float) -> object:
        nonlocal due_s
        result = wait(seconds)
        if clock_s() >= due_s:
            due_s = clock_s() + LOOK_INTERVAL_S
            look_for_new_rings(rings_dir, readers)
        return result

    return watched


def move_aside(path: Path) -> Path:
    """Rename a file that is not what it should be; return its new name. Nothing of it is changed."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    return aside


def _refuse_other_versions(paths: Sequence[Path]) -> None:
    """To open a ring as its producer repairs it: so all are looked at before the first one is."""
    others = [path for path in paths if is_other_version(path)]
    if others:
        raise RingError(
            f"{', '.join(str(path) for path in others)}: made by another version of Sise, this one reads layout version"
            f" {LAYOUT_VERSION}; run that version until its rings are drained, or move the files away"
        )


def _check(path: Path) -> None:
    try:
        writer = RingWriter(path)
        _check_consumers(writer)
    except RingInUse:
        raise
    except RingError as exc:
        _move_aside(path, exc)
        return
    _tell(path, writer)
    writer.close()


def _move_aside(path: Path, exc: RingError) -> None:
    if is_other_version(path):
        raise RingError(f"{exc}; run that version until its rings are drained, or move the file away") from exc
    aside = move_aside(path)
    log.get().critical("ring_moved_aside", path=str(path), moved_to=str(aside), reason=str(exc))


def _tell(path: Path, writer: RingWriter) -> None:
    if writer.recovered_bytes:
        log.get().critical("ring_tail_cut", path=str(path), bytes=writer.recovered_bytes)
    if writer.adopted_records:
        log.get().info("ring_records_adopted", path=str(path), records=writer.adopted_records)


def _check_consumers(writer: RingWriter) -> None:
    restored = writer.restore_consumers(CONSUMERS)
    if restored:
        log.get().critical("ring_consumers_restored", path=writer.path, consumers=restored)


def is_other_version(path: Path) -> bool:
    """Return whether *path* is a ring that another version of this program can still read."""
    with path.open("rb") as file:
        header = file.read(VERSION_OFFSET + 4)
    return header[:8] == b"SISERING" and int.from_bytes(header[VERSION_OFFSET:], "little") != LAYOUT_VERSION
