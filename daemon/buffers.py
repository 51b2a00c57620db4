"""`sise buffers`: what lies in rings and spill files, whether it is whole, and the repair of what is not.

`list` and `verify` only read: they take no lock, change no byte, and are right beside a running daemon. `repair` needs
the data directory for itself. It destroys nothing: a file that is not what it should be is renamed, and of a ring
whose end is torn a copy of the cut bytes is kept beside it.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from daemon.errors import IngestError, RingError
from daemon.rings import RINGS_DIR, SUFFIX, is_other_version, move_aside
from daemon.sinks.segment import SegmentDamaged, decode, decode_header
from daemon.sinks.spill import DIRECTORY as SPILL_DIR
from daemon.supervision.directory_lock import DirectoryLock
from native_pipeline.record_block import RecordBlock
from native_pipeline.ring_check import check_ring
from native_pipeline.ring_file import HEADER_BYTES, RingFile
from native_pipeline.ring_writer import RingWriter

if TYPE_CHECKING:
    from daemon.sinks.segment import Header

SPILL_PATTERN = "batch_*.spill"
COPY_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Consumer:
    """How far one consumer of a ring has come."""

    name: str
    mode: str
    position: int
    lag_bytes: int
    lapped_records: int
    pid: int


@dataclass(slots=True)
class Buffer:
    """One file, as it was found. Times are wall clock nanoseconds, 0: no record has one."""

    path: str
    kind: Literal["ring", "spill"]
    size_bytes: int = 0
    used_bytes: int = 0  # of a ring: not yet committed by its slowest gating consumer
    records: int = 0  # that it holds; in a ring also those that are consumed and not overwritten yet
    first_ns: int = 0
    last_ns: int = 0
    head: int = 0
    synced: int = 0
    consumers: list[Consumer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # each names the place


def survey(data_dir: Path) -> list[Buffer]:
    """Return every ring and spill file of *data_dir*, rings first; each record is walked and its checksum compared."""
    return [
        *(_ring(path) for path in _rings(data_dir)),
        *(_spill(path) for path in sorted((data_dir / SPILL_DIR).glob(SPILL_PATTERN))),
    ]


def repair(data_dir: Path, *, grace_s: float) -> list[str]:
    """Make every file usable; return what was done, a line each.

    Raises Refused while a daemon runs here. What is left of a dead one has grace_s to drain, then it is ended.
    """
    run_dir = data_dir / "run"
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = DirectoryLock(run_dir)
    lock.acquire(orphan_grace_s=grace_s)
    try:
        done = [line for path in _rings(data_dir) for line in _repair_ring(path)]
        for path in sorted((data_dir / SPILL_DIR).glob(SPILL_PATTERN)):
            done += _repair_spill(path)
    finally:
        lock.close()
    return done


def as_text(buffers: list[Buffer]) -> str:
    """Return a block of lines for each file, for people."""
    if not buffers:
        return "no rings and no spill files"
    return "\n".join([*(line for buffer in buffers for line in _lines(buffer)), _total(buffers)])


def as_json(buffers: list[Buffer]) -> dict[str, Any]:  # Any: what JSON takes
    """Return the same for programs."""
    return {"buffers": [asdict(buffer) for buffer in buffers], "whole": not any(b.problems for b in buffers)}


def _rings(data_dir: Path) -> list[Path]:
    return sorted((data_dir / RINGS_DIR).glob(f"*{SUFFIX}"))


def _ring(path: Path) -> Buffer:
    found = Buffer(str(path), "ring")
    try:
        found.size_bytes = path.stat().st_size
        ring = RingFile(path)
    except (RingError, OSError) as exc:
        found.problems.append(str(exc))
        return found
    walk = check_ring(ring)
    consumers = ring.consumers()
    found.head, found.synced = ring.head, ring.synced
    found.consumers = [
        Consumer(
            name=name,
            mode=state["mode"],
            position=state["position"],
            lag_bytes=max(0, found.head - state["position"]),
            lapped_records=state["lapped_records"],
            pid=state["pid"],
        )
        for name, state in consumers.items()
    ]
    found.used_bytes = max((one.lag_bytes for one in found.consumers if one.mode == "gating"), default=0)
    found.records = walk["records"]
    found.first_ns, found.last_ns = walk["first_recv_ns"], walk["last_recv_ns"]
    for at, size in walk["damaged"]:
        offset = HEADER_BYTES + at % ring.capacity_bytes
        found.problems.append(f"{path}: {size} bytes at offset {offset} (position {at}) are no whole record")
    if walk["damaged_places"] > len(walk["damaged"]):
        found.problems.append(f"{path}: {walk['damaged_places'] - len(walk['damaged'])} more damaged places")
    if walk["missing"]:
        found.problems.append(f"{path}: {walk['missing']} sequence numbers are missing")
    found.problems += [
        f"{path}: consumer {one.name!r} is at position {one.position}, behind the end {found.head}"
        for one in found.consumers
        if one.position > ring.head or one.position & 7
    ]
    if not consumers:
        found.problems.append(f"{path}: has no consumers")
    return found


def _spill(path: Path) -> Buffer:
    found = Buffer(str(path), "spill")
    try:
        data = path.read_bytes()
        found.size_bytes = found.used_bytes = len(data)
        _describe(found, decode_header(data))
        _, parts = decode(data)
        for one, raw in parts:
            _check_range(found, one.ring, one.records, raw)
    except FileNotFoundError:  # recovered meanwhile
        found.size_bytes = found.records = 0
    except (IngestError, OSError) as exc:
        found.problems.append(f"{path}: {exc}")
    return found


def _describe(found: Buffer, header: Header) -> None:
    found.records = header.records
    found.first_ns, found.last_ns = header.received_ns


def _check_range(found: Buffer, ring: int, records: int, raw: bytes) -> None:
    block = RecordBlock()
    appended = block.append_bytes(raw, ring=ring)  # raises RingError, naming the offset
    if appended != records:
        found.problems.append(f"{found.path}: ring {ring}: {appended} records, the header says {records}")


def _repair_ring(path: Path) -> Iterator[str]:
    try:
        with contextlib.closing(RingWriter(path)) as ring:
            if ring.recovered_bytes:
                kept = _keep_cut(path, ring)
                yield f"{path}: cut {ring.recovered_bytes} bytes that are no whole record; they are in {kept.name}"
            if ring.adopted_records:
                yield f"{path}: took over {ring.adopted_records} records that were not published"
    except RingError as exc:
        if is_other_version(path):
            yield f"{exc}; left where it is: that version can read it"
        else:
            yield f"{exc}; moved to {move_aside(path).name}"


def _keep_cut(path: Path, ring: RingWriter) -> Path:
    """Copy what lies behind the end that was found: the repair has changed the header only."""
    aside = path.with_name(f"{path.name}.cut-{ring.head}")
    remaining, position = ring.recovered_bytes, ring.head
    with path.open("rb") as source, aside.open("xb") as target:
        aside.chmod(0o600)
        while remaining:
            offset = position % ring.capacity_bytes
            size = min(remaining, ring.capacity_bytes - offset, COPY_CHUNK_BYTES)
            source.seek(HEADER_BYTES + offset)
            target.write(source.read(size))
            position += size
            remaining -= size
    return aside


def _repair_spill(path: Path) -> Iterator[str]:
    """Only what is damaged for certain: a file of another version is whole, and that version can read it."""
    try:
        _, parts = decode(path.read_bytes())
        problems = Buffer(str(path), "spill")
        for one, raw in parts:
            _check_range(problems, one.ring, one.records, raw)
        reason = "; ".join(problems.problems)
    except FileNotFoundError:
        return
    except (SegmentDamaged, RingError) as exc:
        reason = str(exc)
    except (IngestError, OSError) as exc:
        yield f"{path}: left where it is: {exc}"
        return
    if reason:
        yield f"{path}: {reason}; moved to {move_aside(path).name}"


def _total(buffers: list[Buffer]) -> str:
    """The last line: what an operator with a thousand spill files reads first."""
    spilled = [one for one in buffers if one.kind == "spill"]
    damaged = sum(1 for one in buffers if one.problems)
    return (
        f"{len(buffers) - len(spilled)} rings; {len(spilled):,} spill files, {sum(one.records for one in spilled):,} "
        f"records in {sum(one.size_bytes for one in spilled):,} bytes; "
        + (f"{damaged:,} files DAMAGED" if damaged else "all are whole")
    )


def _lines(buffer: Buffer) -> Iterator[str]:
    yield (
        f"{buffer.path}: {buffer.kind}, {buffer.size_bytes:,} bytes, {buffer.used_bytes:,} in use, "
        f"{buffer.records:,} records from {_time(buffer.first_ns)} to {_time(buffer.last_ns)}"
    )
    if buffer.kind == "ring" and buffer.consumers:
        yield f"  end {buffer.head}, synced {buffer.synced}"
    for one in buffer.consumers:
        attached = f"pid {one.pid}" if one.pid else "detached"
        yield f"  {one.name} ({one.mode}, {attached}): position {one.position}, {one.lag_bytes:,} bytes behind"
    for problem in buffer.problems:
        yield f"  DAMAGED {problem}"


def _time(wall_ns: int) -> str:
    if wall_ns <= 0:
        return "-"
    return datetime.datetime.fromtimestamp(wall_ns / 1e9, datetime.UTC).isoformat(timespec="milliseconds")
