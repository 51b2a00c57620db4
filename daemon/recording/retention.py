"""Which capture files go: pure.

Age first: what is older than it has to be kept goes. Then room: while the disk is too full the oldest go, but never
those of the last hours that are protected, whatever the disk says.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from daemon.recording.capture import HOUR_NS


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A capture file."""

    name: str
    hour_ns: int  # start of its hour
    bytes: int


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the capture. What root alone may use belongs to neither number."""

    used_bytes: int
    free_bytes: int

    @property
    def used_percent(self) -> float:
        """As `df` computes it; an empty file system counts as full."""
        total = self.used_bytes + self.free_bytes
        return 100 * self.used_bytes / total if total else 100.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What goes, in order, and whether the disk is too full even then."""

    delete: tuple[str, ...]
    is_still_full: bool


def judge(
    files: Iterable[StoredFile], *, now_ns: int, disk: Disk, keep_h: int, protect_h: int, disk_percent: float
) -> Verdict:
    """Return which of *files* go. A file is as old as its newest possible line: the end of its hour.

    keep_h: older ones go. protect_h: younger ones never go, not even for *keep_h*. disk_percent: from this on, the
    oldest go until the disk is below it.
    """
    delete: list[str] = []
    used, total = disk.used_bytes, disk.used_bytes + disk.free_bytes
    for file in sorted(files, key=lambda file: (file.hour_ns, file.name)):
        age_ns = now_ns - (file.hour_ns + HOUR_NS)
        is_full = used * 100 >= disk_percent * total
        if age_ns < protect_h * HOUR_NS or not (age_ns > keep_h * HOUR_NS or is_full):
            continue
        delete.append(file.name)
        used = max(0, used - file.bytes)
    return Verdict(tuple(delete), used * 100 >= disk_percent * total)
