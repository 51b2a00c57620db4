"""The directory of spill files: all or nothing, in order, within its limits, and never an obstacle."""

import errno
import itertools
import os
from pathlib import Path

import pytest

from daemon import failpoints
from daemon.sinks.segment import Range, SegmentDamaged
from daemon.sinks.spill import CannotSpill, SpillDirectory

RAW = b"12345678" * 3
MIB = 1 << 20
POINTS = ("spill.written", "spill.synced", "spill.renamed", "spill.directory_synced")


def ranges(after_seq: int = 0) -> list[Range]:
    return [Range(0, 7, after_seq, after_seq + 3, 3, len(RAW), 1_000, 1_002)]


class Times:
    """A clock that says what it is told."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000 * 10**9

    def __call__(self) -> int:
        return self.now_ns


def make(
    path: Path, *, quota_bytes: int = 0, free_bytes: int = 100 * MIB, time_ns: Times | None = None
) -> SpillDirectory:
    return SpillDirectory(
        path / "spill",
        quota_bytes=quota_bytes,
        min_free_bytes=MIB,
        time_ns=time_ns or Times(),
        free_bytes=lambda _: free_bytes,
    )


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    points = tmp_path / "points"
    points.mkdir()
    monkeypatch.setattr(failpoints, "_directory", str(points))
    return points


def names(directory: SpillDirectory) -> list[str]:
    return sorted(path.name for path in directory.path.iterdir())


def test_what_was_appended_is_found_by_another_process(tmp_path: Path) -> None:
    file = make(tmp_path).append(ranges(), RAW)

    other = make(tmp_path)
    assert other.open() == [file]
    assert other.read(file) == [(ranges()[0], RAW)]
    assert other.size() == (1, file.path.stat().st_size)
    assert other.batches() == {file.header.batch}


def test_files_are_listed_in_the_order_of_their_batches_though_the_clock_went_back(tmp_path: Path) -> None:
    times = Times()
    directory = make(tmp_path, time_ns=times)
    for step in (0, -(10**12), 5, 10**9):
        times.now_ns += step
        directory.append(ranges(directory.size()[0]), RAW)
    successor = make(tmp_path, time_ns=times)
    times.now_ns -= 10**15
    successor.append(ranges(4), RAW)

    assert [file.header.ranges[0].after_seq for file in make(tmp_path).files()] == [0, 1, 2, 3, 4]


@pytest.mark.requirement("F40", "DLP-02")
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_an_error_of_the_disk_leaves_nothing_and_is_no_success(
    tmp_path: Path, armed: Path, point: str, error: str
) -> None:
    directory = make(tmp_path)
    directory.open()
    (armed / point).write_text(f"raise {error}")

    with pytest.raises(CannotSpill, match=error):
        directory.append(ranges(), RAW)
    assert names(directory) == []

    file = directory.append(ranges(), RAW)  # under another name, without a restart
    assert directory.files() == [file]


@pytest.mark.requirement("F40")
def test_a_sync_that_failed_is_not_tried_again_on_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make(tmp_path)
    directory.open()
    synced: list[str] = []
    failures = itertools.chain([True], itertools.repeat(False))

    def fsync(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        if next(failures):
            raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CannotSpill):
        directory.append(ranges(), RAW)
    directory.append(ranges(), RAW)

    files = [path for path in synced if path != str(directory.path)]
    assert len(files) == len(set(files)) == 2


@pytest.mark.requirement("DLP-02", "F39")
def test_quota_and_free_disk_are_respected_and_spilling_goes_on_when_there_is_room(tmp_path: Path) -> None:
    first = make(tmp_path).append(ranges(), RAW)
    full = make(tmp_path, quota_bytes=first.header.file_bytes * 2 - 1)
    with pytest.raises(CannotSpill, match=r"spill\.quota_gb allows"):
        full.append(ranges(3), RAW)
    with pytest.raises(CannotSpill, match=r"spill\.min_free_mb keeps"):
        make(tmp_path, free_bytes=MIB).append(ranges(3), RAW)

    full.remove(first)
    full.append(ranges(3), RAW)


@pytest.mark.requirement("F42")
def test_damaged_files_are_moved_aside_and_the_others_found(tmp_path: Path) -> None:
    directory = make(tmp_path)
    files = [directory.append(ranges(3 * number), RAW) for number in range(4)]
    for file, position in zip(files, (20, -1), strict=False):
        data = bytearray(file.path.read_bytes())
        data[position] ^= 1
        file.path.write_bytes(data)
    files[2].path.write_bytes(files[2].path.read_bytes()[:-1])

    fresh = make(tmp_path)
    found = fresh.open()
    assert found == [files[1], files[3]], "a damaged body is noticed when it is read"
    with pytest.raises(SegmentDamaged):
        fresh.read(found[0])
    assert fresh.files() == [files[3]]
    assert len([name for name in names(fresh) if ".damaged-" in name]) == 3


def test_what_was_never_finished_is_removed_at_the_start(tmp_path: Path) -> None:
    directory = make(tmp_path)
    directory.open()
    (directory.path / "batch_20260101T000000.000000Z_00000000000000000000000000000001.spill.tmp").write_bytes(b"half")
    (directory.path / "notes.txt").write_text("of the operator")

    assert directory.open() == []
    assert names(directory) == ["notes.txt"]


def test_a_file_of_another_version_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.sinks.segment.VERSION", 2)
    file = make(tmp_path).append(ranges(), RAW)
    monkeypatch.undo()

    other = make(tmp_path)
    assert other.files() == []
    assert names(other) == [file.path.name]
    assert other.batches() == {file.header.batch}


@pytest.mark.requirement("DLP-01")
def test_a_file_is_seen_by_nobody_before_its_directory_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered by then, and given up when that sync fails, its batch would be passed over in the ring."""
    directory = make(tmp_path)
    seen: list[object] = []

    def fail(_: Path) -> None:
        seen.extend(directory.files())
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("daemon.sinks.spill._sync_directory", fail)

    with pytest.raises(CannotSpill):
        directory.append(ranges(), RAW)

    assert seen == []
    assert names(directory) == []


@pytest.mark.requirement("F40")
def test_what_cannot_be_read_is_named_for_as_long_as_that_is_so(tmp_path: Path) -> None:
    directory = make(tmp_path)
    file = directory.append(ranges(), RAW)
    other = make(tmp_path)
    data = file.path.read_bytes()
    file.path.unlink()
    file.path.mkdir()

    assert other.files() == []
    assert list(other.unreadable) == [file.path.name]

    file.path.rmdir()
    file.path.write_bytes(data)
    assert [each.path for each in other.files()] == [file.path]
    assert other.unreadable == {}


def test_a_directory_that_is_none_holds_nothing_for_now(tmp_path: Path) -> None:
    directory = make(tmp_path)
    directory.path.write_text("in the way")

    assert directory.files() == []
    assert directory.size() == (0, 0)
    assert list(directory.unreadable) == [directory.path.name]
    with pytest.raises(NotADirectoryError):
        directory.batches()


@pytest.mark.requirement("F41", "DLP-01")
def test_the_data_are_synced_before_they_have_a_name_and_the_name_before_anybody_relies_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make(tmp_path)
    directory.open()
    done: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        fsync(fd)
        path = Path(f"/proc/self/fd/{fd}").readlink()
        done.append(("directory" if path == directory.path else path.suffix, names(directory)))

    monkeypatch.setattr(os, "fsync", note)
    file = directory.append(ranges(), RAW)

    assert done == [(".tmp", [f"{file.path.name}.tmp"]), ("directory", [file.path.name])]


def test_a_file_that_was_removed_and_brought_back_by_a_power_loss_is_looked_at_anew(tmp_path: Path) -> None:
    directory = make(tmp_path)
    file = directory.append(ranges(), RAW)
    data = file.path.read_bytes()
    assert directory.files() == [file]

    directory.remove(file)
    assert (directory.files(), directory.size()) == ([], (0, 0))
    file.path.write_bytes(data[:-1])

    assert directory.files() == [], "cut, and no longer what is remembered of it"
    assert [path.suffix.partition("-")[0] for path in directory.path.iterdir()] == [".damaged"]
