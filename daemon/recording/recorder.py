"""The recorder process: takes what workers received out of the raw rings and keeps it in hourly files.

Best effort. The rings are lossy for it: a recorder that is slow, stopped or out of room delays nobody, and each message
that it misses is counted (`raw_frames_dropped`). A line is written once: the rings' positions are given back after the
blocks are in their files, and a successor looks into the files to see how far they came.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from daemon import log
from daemon.alerts import SOCKET as ALERTS_SOCKET
from daemon.alerts import Alerts, DatagramAlerts
from daemon.config import Raw as RawSettings
from daemon.failpoints import reach
from daemon.ingest.venues import VENUE_NAMES
from daemon.recording.capture import (
    DIRECTORY,
    CaptureFile,
    encode_line,
    file_name,
    hour_of,
    parse_name,
    read_through,
)
from daemon.recording.raw_rings import CONSUMER, raw_ring_paths
from daemon.recording.retention import Disk, StoredFile, judge
from daemon.sinks.host import Clock, Counters, Host
from daemon.supervision import process
from native_pipeline.raw_frames import read_raw_frames
from native_pipeline.ring_reader import LossyReader

POLL_S = 0.2  # a ring of 64 MiB then takes 300 MB/s before it goes round
IDLE_POLL_S = 1.0
FLUSH_S = 1.0  # what a SIGKILL leaves unwritten is still in the rings; what a power loss takes is not much more
BLOCK_BYTES = 4 << 20  # a block is written early when so many bytes of lines wait
READ_BYTES = 1 << 20  # taken out of one ring before the next has its turn
CLAIM_AHEAD = 1 << 16  # a producer may be writing so far beyond the head
LATE_NS = 60 * 10**9  # a line this little behind the hour of its file goes there: files are not opened to and fro
HOUSEKEEPING_S = 10.0
REPORT_S = 60.0
NEWEST_FILES = 2  # of each venue: one flush can end an hour and begin the next
Ring = tuple[int, int]  # worker, epoch
# seq, whether the numbering jumped before it, recv_ns, venue, connection, is_text, is_redundant, message
RawFrame = tuple[int, bool, int, int, int, bool, bool, bytes]


class Reader(Protocol):
    """What `native_pipeline.ring_reader.LossyReader` offers to the recorder."""

    @property
    def ring(self) -> int:
        """Number of the worker."""

    @property
    def epoch(self) -> int:
        """Epoch of the ring file."""

    @property
    def capacity_bytes(self) -> int:
        """Size of the ring."""

    @property
    def head(self) -> int:
        """Position behind the newest message."""

    @property
    def position_bytes(self) -> int:
        """Position of the next message to read."""

    @property
    def lapped_records(self) -> int:
        """Records that were overwritten unread."""

    @property
    def corrupt_records(self) -> int:
        """Records skipped because they were damaged."""

    def commit(self) -> None:
        """Give the position to a successor."""

    def close(self) -> None:
        """Give the consumer's slot back."""


@dataclass(slots=True)
class _Block:
    """Lines of one file that are not written yet."""

    file: str
    lines: bytearray = field(default_factory=bytearray)
    frames: int = 0
    through: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Source:
    """One raw ring."""

    reader: Reader
    missed: int  # by the reader's own counts, as far as they are in `dropped`
    begins_at: int  # position at the start: where a predecessor ended
    reached: int = 0  # seq of the newest message taken; 0: none is known
    is_new: bool = True  # nothing was taken yet


class Recorder:
    """The loop: gather, write, give back. `run` returns when it was asked to stop and the rings are empty."""

    def __init__(
        self,
        *,
        readers: Sequence[Reader],
        directory: Path,
        settings: RawSettings,
        counters: Counters,
        alerts: Alerts,
        host: Host,
        clock: Clock = time,
        disk_of: Callable[[Path], Disk] | None = None,
        take: Callable[[Any, int], list[RawFrame]] = read_raw_frames,  # Any: the native function, the native reader
    ) -> None:
        self._sources = [_Source(reader, _missed_by(reader), reader.position_bytes) for reader in readers]
        self._directory = directory
        self._settings = settings
        self._counters = counters
        self._alerts = alerts
        self._host = host
        self._clock = clock
        self._disk_of = disk_of or read_disk
        self._take = take
        self._written: dict[tuple[str, Ring], int] = {}  # seq of the newest line in the venue's files
        self._files: dict[str, CaptureFile] = {}
        self._hours: dict[str, int] = {}  # of each venue: the hour that lines go to
        self._blocks: list[_Block] = []  # in the order in which they must be written
        self._waiting_bytes = 0
        self._dropped = 0  # since the last flush
        self._dropped_unreported = 0
        self._flush_due = self._housekeeping_due = self._report_due = 0.0
        self._is_refused = False  # by the disk, at the last attempt
        self._is_behind = False  # a ring may hold more than was taken at once
        self._is_full = False  # the disk, although everything has gone that may go
        self._has_room = True  # the disk is not so full that capture has to stop
        self._log: Any = log.get()

    def run(self) -> None:
        """Record until asked to stop, then what is left, for as long as there is time."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._look_back()
        deadline = None
        try:
            while True:
                taken = self.step()
                if self._host.stopping():
                    deadline = deadline or self._clock.monotonic() + self._host.drain_s / 2
                    if not taken or self._clock.monotonic() >= deadline:
                        break
                elif not self._is_behind:
                    self._host.wait(POLL_S if taken or self._blocks else IDLE_POLL_S)
        finally:
            self._flush()
            for file in self._files.values():
                file.close()

    def step(self) -> int:
        """Take what the rings hold, up to a block; write what is due. Return how many messages were taken."""
        self._host.beat()
        now = self._clock.monotonic()
        if now >= self._housekeeping_due:
            self._housekeeping_due = now + HOUSEKEEPING_S
            self._keep_house()
        # while the disk refuses, what waits is not thrown away, and the rings hold what comes meanwhile
        taken = 0 if self._is_refused else self._gather()
        self._is_behind = taken > 0 and self._is_behind
        if (self._waiting_bytes >= BLOCK_BYTES and not self._is_refused) or now >= self._flush_due:
            self._flush_due = now + FLUSH_S
            self._flush()
        self._report(now)
        return taken

    def _look_back(self) -> None:
        """Find out what the files already hold: it may be more than the rings' positions say."""
        files: dict[str, list[tuple[int, str]]] = {}
        for file in self._stored_files():
            named = parse_name(file.name)
            assert named is not None
            files.setdefault(named[0], []).append((file.hour_ns, file.name))
        for venue, found in files.items():
            for _, name in sorted(found)[-NEWEST_FILES:]:
                try:
                    through = read_through(self._directory / name)
                except OSError as exc:
                    self._log.info("capture_not_read", file=name, error=exc.strerror)
                    continue
                for worker, (epoch, seq) in through.items():
                    key = venue, (worker, epoch)
                    self._written[key] = max(self._written.get(key, 0), seq)
        for source in self._sources:
            ring = _ring_of(source.reader)
            source.reached = max((seq for (_, of), seq in self._written.items() if of == ring), default=0)

    def _gather(self) -> int:
        taken = 0
        self._is_behind = False
        for source in self._sources:
            frames = self._take(source.reader, READ_BYTES)
            if frames:
                self._is_behind = self._is_behind or sum(len(frame[-1]) for frame in frames) > READ_BYTES // 2
                self._note_missed(source, frames[0])
                self._keep(source, frames)
                taken += len(frames)
        return taken

    def _note_missed(self, source: _Source, first: RawFrame) -> None:
        """Count what was overwritten: the reader knows, unless it was before it began; then the files do."""
        total = _missed_by(source.reader)
        missed = total - source.missed
        seq, is_jump = first[0], first[1]
        went_round = source.reader.head + CLAIM_AHEAD > source.begins_at + source.reader.capacity_bytes
        if source.is_new and went_round and missed == 0 and source.reached and not is_jump:
            missed = max(0, seq - source.reached - 1)
        source.is_new = False
        source.missed = total
        self._dropped += missed

    def _keep(self, source: _Source, frames: Sequence[RawFrame]) -> None:
        """Append the lines of *frames* to the blocks that wait."""
        worker, epoch = ring = _ring_of(source.reader)
        source.reached = frames[-1][0]
        if not self._has_room:
            self._dropped += len(frames)
            return
        for seq, _, recv_ns, venue_id, connection, is_text, is_redundant, message in frames:
            venue = VENUE_NAMES[venue_id] if venue_id < len(VENUE_NAMES) else f"venue{venue_id}"
            if seq <= self._written.get((venue, ring), 0):
                continue  # a predecessor wrote it and died before it could say so
            block = self._block_of(venue, recv_ns)
            block.lines += encode_line(
                message,
                recv_ns=recv_ns,
                worker=worker,
                connection=connection,
                venue=venue,
                seq=seq,
                is_text=is_text,
                is_redundant=is_redundant,
            )
            block.frames += 1
            block.through[worker] = epoch, seq
        self._waiting_bytes = sum(len(block.lines) for block in self._blocks)

    def _block_of(self, venue: str, recv_ns: int) -> _Block:
        """Return the block of the venue's file for *recv_ns*; the newest, so that a venue's lines stay in order."""
        hour_ns = hour_of(recv_ns)
        current_ns = self._hours.get(venue)
        if current_ns is not None and current_ns - LATE_NS <= recv_ns < current_ns:
            hour_ns = current_ns
        self._hours[venue] = hour_ns
        name = file_name(venue, hour_ns)
        for block in reversed(self._blocks):
            if block.file.startswith(f"{venue}_"):
                if block.file == name:
                    return block
                break
        block = _Block(name)
        self._blocks.append(block)
        return block

    def _flush(self) -> None:
        """Write the blocks that wait, then give the rings' positions to a successor."""
        while self._blocks:
            block = self._blocks[0]
            try:
                reach("recorder.before_write")
                size = self._file(block.file).append(block.lines, frames=block.frames, through=block.through)
                reach("recorder.after_write")
            except OSError as exc:
                self._note_refusal(exc)
                return
            del self._blocks[0]
            self._waiting_bytes -= len(block.lines)
            self._counters.increment("raw_frames_recorded", block.frames)
            self._counters.increment("raw_bytes_written", size)
            self._is_refused = False
        if self._dropped:
            self._counters.increment("raw_frames_dropped", self._dropped)
            self._dropped_unreported += self._dropped
            self._dropped = 0
        for source in self._sources:
            source.reader.commit()

    def _file(self, name: str) -> CaptureFile:
        """Return the open file; files of hours that are over are closed."""
        if name not in self._files:
            for other in [other for other in self._files if other.partition("_")[0] == name.partition("_")[0]]:
                self._files.pop(other).close()
            self._files[name] = CaptureFile(self._directory / name, level=self._settings.compression_level)
        return self._files[name]

    def _note_refusal(self, error: OSError) -> None:
        if not self._is_refused:
            self._is_refused = True
            self._alerts.send("WARNING", "raw_capture_failed", f"raw capture: cannot be written: {error.strerror}")

    def _keep_house(self) -> None:
        """Delete what may go; stop capturing while the disk is nearly full all the same."""
        settings = self._settings
        try:
            verdict = judge(
                self._stored_files(),
                now_ns=self._clock.time_ns(),
                disk=self._disk_of(self._directory),
                keep_h=settings.keep_h,
                protect_h=settings.protect_h,
                disk_percent=settings.disk_percent,
            )
            for name in verdict.delete:
                (self._directory / name).unlink(missing_ok=True)
                self._log.info("capture_deleted", file=name)
            if verdict.is_still_full and not self._is_full:
                message = f"the disk is {settings.disk_percent} % full or more, and older captures are gone already"
                self._alerts.send("WARNING", "raw_disk_full", message)
            self._is_full = verdict.is_still_full
            self._judge_room(self._disk_of(self._directory))
        except OSError as exc:
            self._log.info("capture_not_tidied", error=exc.strerror)

    def _judge_room(self, disk: Disk) -> None:
        """Leave half of what is left to those who need it more: rings, spilled batches, perhaps the database."""
        has_room = disk.used_percent < (self._settings.disk_percent + 100) / 2
        if has_room != self._has_room:
            self._has_room = has_room
            if not has_room:
                self._alerts.send("CRITICAL", "raw_capture_paused", "raw capture: paused, the disk is nearly full")
            else:
                self._alerts.send("INFO", "raw_capture_resumed", "raw capture: there is room again")

    def _stored_files(self) -> list[StoredFile]:
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                named = parse_name(entry.name)
                if named is not None and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        found.append(StoredFile(entry.name, named[1], entry.stat().st_size))
        return found

    def _report(self, now: float) -> None:
        """Say once a minute that something was missed, with the number."""
        if self._dropped_unreported and now >= self._report_due:
            self._report_due = now + REPORT_S
            message = f"raw capture: {self._dropped_unreported} messages were not recorded"
            self._alerts.send("WARNING", "raw_frames_dropped", message)
            self._dropped_unreported = 0


def read_disk(directory: Path) -> Disk:
    """Return how full the file system of *directory* is, as its ordinary users see it."""
    found = os.statvfs(directory)
    return Disk((found.f_blocks - found.f_bfree) * found.f_frsize, found.f_bavail * found.f_frsize)


def _ring_of(reader: Reader) -> Ring:
    return reader.ring, reader.epoch


def _missed_by(reader: Reader) -> int:
    return reader.lapped_records + reader.corrupt_records


def main(child: process.Child) -> None:
    """Be the recorder process until asked to stop."""
    alerts = DatagramAlerts(child.data_dir / ALERTS_SOCKET, role=child.name, logger=child.log, counters=child.counters)

    def beat() -> None:
        child.beat()
        alerts.flush()

    host = Host(
        wait=lambda seconds: child.wait(None, seconds),
        beat=beat,
        stopping=lambda: child.stopping,
        drain_s=child.drain_s,
    )
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(contextlib.closing(LossyReader(path, CONSUMER)))
            for path in raw_ring_paths(child.data_dir)
        ]
        child.running()
        Recorder(
            readers=readers,
            directory=child.data_dir / DIRECTORY,
            settings=child.config.raw,
            counters=child.counters,
            alerts=alerts,
            host=host,
        ).run()


if __name__ == "__main__":
    process.main(main)
