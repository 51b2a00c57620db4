"""The directory of spill files: a batch is in it completely and durably, or not at all.

A file is written under a temporary name, synced, renamed, and its directory synced; only then does append() return. A
sync that failed is never tried again on the same file: the kernel may have dropped the pages and would report success.
That file is abandoned and the batch written anew under another name. Names rise with time, so that their order is the
order of the batches, also when the clock was set back.
"""

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemon import log
from daemon.errors import IngestError
from daemon.failpoints import reach
from daemon.sinks import segment
from daemon.sinks.segment import Header, Range, SegmentDamaged, SegmentError

DIRECTORY = "failed_batches"  # in the data directory
SUFFIX = ".spill"
UNFINISHED = ".tmp"
NAME = re.compile(r"batch_(?P<time>\d{8}T\d{6}\.\d{6}Z)_(?P<batch>[0-9a-f]{32})\.spill")
TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"
MIB, GIB = 1 << 20, 1 << 30


class CannotSpill(IngestError):
    """The batch is not in the directory; nothing of it was left there. Where it came from, it must stay."""


@dataclass(frozen=True, slots=True)
class SpillFile:
    """One complete file."""

    path: Path
    header: Header


class SpillDirectory:
    """Not for use by two threads at once, except files(), read() and remove()."""

    def __init__(
        self,
        path: Path,
        *,
        quota_bytes: int,
        min_free_bytes: int,
        time_ns: Callable[[], int] = time.time_ns,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self.path = path
        self._quota_bytes = quota_bytes
        self._min_free_bytes = min_free_bytes
        self._time_ns = time_ns
        self._free_bytes = free_bytes
        self._newest = ""  # time of the newest name
        self._headers: dict[str, Header] = {}
        self._unsynced = ""  # name of the file that is being made durable: nobody else may see it yet
        self._unreadable: dict[str, str] = {}  # name of a file, or of the directory -> why
        self._strangers: set[str] = set()  # names that we would not give
        self._log = log.get()

    def open(self) -> list[SpillFile]:
        """Make the directory if it is missing, remove what was never finished, and return files(). Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for unfinished in self.path.glob(f"*{UNFINISHED}"):  # its batch is still in the ring
            unfinished.unlink(missing_ok=True)
            self._log.info("spill_leftover_removed", file=unfinished.name)
        return self.files()

    def files(self) -> list[SpillFile]:
        """Return the whole files, oldest first; a damaged one is moved aside and reported, an unreadable one left."""
        found = []
        self._note_strangers()
        for path in self._readable_paths():
            header = self._header_of(path)
            if header is not None:
                found.append(SpillFile(path, header))
        return found

    def size(self) -> tuple[int, int]:
        """Return (files, bytes) that wait here."""
        paths = self._readable_paths()
        known = [self._headers.get(path.name) for path in paths]
        sizes = [_size_of(p) if h is None else h.file_bytes for p, h in zip(paths, known, strict=True)]
        return len(sizes), sum(sizes)

    @property
    def unreadable(self) -> dict[str, str]:
        """What could not be read when it was last tried, and perhaps will be: name -> reason."""
        return dict(self._unreadable)

    def batches(self) -> set[uuid.UUID]:
        """Return the batches whose files are here by their names, also of those that cannot be read. Raises OSError."""
        found = (NAME.fullmatch(path.name) for path in self._paths())
        return {uuid.UUID(hex=name["batch"]) for name in found if name is not None}

    def append(self, ranges: Sequence[Range], raw: bytes) -> SpillFile:
        """Write one batch: *raw* holds the records of *ranges*, in that order. Durable when this returns.

        Raises CannotSpill: quota, too little disk left, or an error of the disk.
        """
        batch = uuid.uuid4()
        header, data = segment.encode(batch, ranges, raw, created_ns=self._time_ns())
        try:
            self._require_room(len(data))
            path = self.path / f"batch_{self._next_time()}_{batch.hex}{SUFFIX}"
            self._write(path, data)
        except OSError as exc:
            name = errno.errorcode.get(exc.errno or 0, "OSError")
            raise CannotSpill(f"{self.path}: {name}: {os.strerror(exc.errno or 0)}") from exc
        self._headers[path.name] = header
        return SpillFile(path, header)

    def read(self, file: SpillFile) -> list[tuple[Range, bytes]]:
        """Return the raw records of each range of *file*.

        Raises SegmentDamaged when the file is not what was written (it was moved aside), FileNotFoundError when
        somebody else removed it, OSError when the disk cannot read it.
        """
        try:
            header, parts = segment.decode(file.path.read_bytes())
        except SegmentDamaged as exc:
            self.move_aside(file.path, exc)
            raise
        except FileNotFoundError:
            raise
        except OSError as exc:
            self._note_unreadable(file.path, exc)
            raise
        self._unreadable.pop(file.path.name, None)
        if header != file.header:
            raise SegmentDamaged(f"{file.path}: is another batch than before")
        return parts

    def remove(self, file: SpillFile) -> None:
        """Remove *file*, whose rows are stored. A power loss may bring it back: its claim then finds it stored."""
        file.path.unlink(missing_ok=True)
        self._headers.pop(file.path.name, None)

    def move_aside(self, path: Path, reason: SegmentError) -> None:
        """Rename a damaged file, so that it is in nobody's way and can be looked at."""
        aside = path.with_name(f"{path.name}.damaged-{self._time_ns()}")
        with contextlib.suppress(OSError):
            path.rename(aside)
        self._headers.pop(path.name, None)
        self._log.critical("spill_file_damaged", file=path.name, moved_to=aside.name, reason=str(reason))

    def _paths(self) -> list[Path]:
        try:
            found = sorted(path for path in self.path.iterdir() if NAME.fullmatch(path.name))
        except FileNotFoundError:
            found = []
        return [path for path in found if path.name != self._unsynced]

    def _readable_paths(self) -> list[Path]:
        """None if the directory cannot be read: what is in it waits for the day that it can."""
        try:
            found = self._paths()
        except OSError as exc:
            if self._unreadable.get(self.path.name) is None:
                self._log.critical("spill_directory_unusable", error=str(exc))
            self._unreadable[self.path.name] = str(exc)
            return []
        self._unreadable.pop(self.path.name, None)
        for name in self._unreadable.keys() - {path.name for path in found} - self._strangers:
            self._unreadable.pop(name, None)
        return found

    def _note_strangers(self) -> None:
        """A renamed file, or a copy: whoever put it here expects it to be stored."""
        found = {path.name for path in self.path.glob(f"*{SUFFIX}") if NAME.fullmatch(path.name) is None}
        for name in self._strangers - found:
            self._unreadable.pop(name, None)
        self._strangers = found
        for name in found:
            self._note_unreadable(self.path / name, SegmentError("its name is not batch_TIME_UUID.spill, as it was"))

    def _note_unreadable(self, path: Path, reason: Exception) -> None:
        """Once for each file: it is tried again all the time."""
        if path.name not in self._unreadable:
            self._log.critical("spill_file_unreadable", file=path.name, reason=str(reason))
        self._unreadable[path.name] = str(reason)

    def _header_of(self, path: Path) -> Header | None:
        known = self._headers.get(path.name)
        if known is not None:
            return known
        try:
            header = _read_header(path)
        except FileNotFoundError:
            return None
        except SegmentDamaged as exc:
            self.move_aside(path, exc)
            return None
        except (SegmentError, OSError) as exc:  # whole, or perhaps whole: left where it is
            self._note_unreadable(path, exc)
            return None
        self._headers[path.name] = header
        self._unreadable.pop(path.name, None)
        return header

    def _require_room(self, size_bytes: int) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _, used = self.size()
        if self._quota_bytes and used + size_bytes > self._quota_bytes:
            raise CannotSpill(
                f"{self.path}: {used / MIB:,.1f} MiB are spilled, "
                f"spill.quota_gb allows {self._quota_bytes / MIB:,.1f} MiB"
            )
        free = self._free_bytes(self.path)
        if free - size_bytes < self._min_free_bytes:
            raise CannotSpill(
                f"{self.path}: {free // MIB:,} MiB are free, "
                f"spill.min_free_mb keeps {self._min_free_bytes // MIB:,} MiB so"
            )

    def _next_time(self) -> str:
        """Return the time for a name: now, or just behind the newest name if the clock says less."""
        newest = max([self._newest, *(path.name.split("_")[1] for path in self._paths()[-1:])])
        now = datetime.fromtimestamp(self._time_ns() // 1000 / 1e6, UTC)
        if newest and now.strftime(TIME_FORMAT) <= newest:
            now = datetime.strptime(newest, TIME_FORMAT).replace(tzinfo=UTC) + timedelta(microseconds=1)
        self._newest = now.strftime(TIME_FORMAT)
        return self._newest

    def _write(self, path: Path, data: bytes) -> None:
        """Raises OSError; then nothing of *path* is left, whatever the disk did."""
        unfinished = path.with_name(path.name + UNFINISHED)
        try:
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write_all(fd, data)
                reach("spill.written")
                os.fsync(fd)
            finally:
                os.close(fd)
            reach("spill.synced")
            self._unsynced = path.name
            unfinished.rename(path)
            reach("spill.renamed")
            _sync_directory(self.path)
            reach("spill.directory_synced")
        except OSError:
            # Also the renamed one: nobody may find a file later whose batch was written again under another name.
            for left in (unfinished, path):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)
            raise
        finally:
            self._unsynced = ""


def _read_header(path: Path) -> Header:
    with path.open("rb") as file:
        header = segment.decode_header(file.read(segment.MAX_HEADER_BYTES))
        size_bytes = os.fstat(file.fileno()).st_size
    if size_bytes != header.file_bytes:
        raise SegmentDamaged(f"expected {header.file_bytes} bytes, found {size_bytes}")
    return header


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.write(fd, view)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone meanwhile
        return 0
