"""The rings of a data directory before a start: usable, or moved aside, or refused."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.config import Config, Ring
from daemon.errors import Refused, RingError, RingInUse
from daemon.rings import RINGS_DIR, noticing_new_rings, open_ring, prepare_rings, ring_path, ring_paths
from daemon.topology import _prepare_rings as prepare_or_refuse
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter

EPOCH_OFFSET, FIRST_CONSUMER_OFFSET, VERSION_OFFSET = 24, 256, 8


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_each_worker_gets_a_ring_that_only_its_owner_can_read(tmp_path: Path) -> None:
    prepare_rings(tmp_path, workers=2, capacity_mb=1)

    assert [path.name for path in ring_paths(tmp_path)] == ["worker-0.ring", "worker-1.ring"]
    assert [path.stat().st_mode & 0o777 for path in ring_paths(tmp_path)] == [0o600, 0o600]
    assert (tmp_path / "rings").stat().st_mode & 0o777 == 0o700


def test_rings_of_workers_that_the_settings_no_longer_have_are_kept(tmp_path: Path) -> None:
    prepare_rings(tmp_path, workers=2, capacity_mb=1)

    prepare_rings(tmp_path, workers=1, capacity_mb=1)

    assert len(ring_paths(tmp_path)) == 2


@pytest.mark.requirement("CH-PROC-01")
@pytest.mark.parametrize(
    ("offset", "data"),
    [(0, b"NOTARING"), (EPOCH_OFFSET, b"\xff" * 8), (40, b"\x07"), (FIRST_CONSUMER_OFFSET, bytes(64)), (16, b"\x01")],
    ids=["magic", "epoch", "number", "consumer", "capacity"],
)
def test_a_damaged_ring_is_moved_aside_loudly_and_replaced(tmp_path: Path, offset: int, data: bytes) -> None:
    prepare_rings(tmp_path, workers=1, capacity_mb=1)
    overwrite(ring_path(tmp_path, 0), offset, data)

    with capture_logs() as logs:
        prepare_rings(tmp_path, workers=1, capacity_mb=1)

    (aside,) = (tmp_path / "rings").glob("*.damaged-*")
    assert [entry["log_level"] for entry in logs if entry["event"] == "ring_moved_aside"] == ["critical"]
    assert aside.stat().st_size == ring_path(tmp_path, 0).stat().st_size
    RingWriter(ring_path(tmp_path, 0)).close()


@pytest.mark.requirement("F35", "F47")
@pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
def test_one_ring_of_another_version_refuses_the_start_before_any_ring_is_touched(tmp_path: Path, version: int) -> None:
    prepare_rings(tmp_path, workers=3, capacity_mb=1)
    RingWriter(ring_path(tmp_path, 0)).close(clean=False)
    overwrite(ring_path(tmp_path, 1), VERSION_OFFSET, version.to_bytes(4, "little"))
    overwrite(ring_path(tmp_path, 2), 0, b"garbage!")
    before = {path: path.read_bytes() for path in ring_paths(tmp_path)}

    with pytest.raises(RingError, match=r"worker-1\.ring: made by another version of Sise.* layout version 1;"):
        prepare_rings(tmp_path, workers=4, capacity_mb=1)

    assert {path: path.read_bytes() for path in (tmp_path / "rings").iterdir()} == before


def test_a_ring_that_is_in_use_is_not_moved(tmp_path: Path) -> None:
    prepare_rings(tmp_path, workers=1, capacity_mb=1)
    owner = RingWriter(ring_path(tmp_path, 0))

    with pytest.raises(RingInUse):
        prepare_rings(tmp_path, workers=1, capacity_mb=1)

    owner.close()
    assert os.listdir(tmp_path / "rings") == ["worker-0.ring"]  # noqa: PTH208


@pytest.mark.requirement("F42")
@pytest.mark.parametrize(
    ("offset", "data"), [(0, b"riter"), (32, b"\x03"), (32, b"\x00")], ids=["name", "no kind", "free"]
)
def test_a_damaged_slot_of_a_consumer_is_restored_with_its_position(tmp_path: Path, offset: int, data: bytes) -> None:
    prepare_rings(tmp_path, workers=1, capacity_mb=1)
    path = ring_path(tmp_path, 0)
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    for number in range(10):
        writer.append(3, bytes(number))
    writer.publish()
    reader.fetch_bytes()
    reader.next_bytes()
    reader.commit()
    position = reader.position_bytes
    del reader, writer
    overwrite(path, FIRST_CONSUMER_OFFSET + offset, data)

    with capture_logs() as logs:
        prepare_rings(tmp_path, workers=1, capacity_mb=1)

    assert ["writer"] in [entry.get("consumers") for entry in logs]
    reader = GatingReader(path, "writer")
    assert reader.position_bytes == position
    assert reader.fetch_bytes() > 0


@pytest.mark.requirement("F43")
def test_a_sink_without_a_ring_notices_the_first_one(tmp_path: Path) -> None:
    """All rings deleted, and the sink has been quicker to start again than the worker to make a new one."""
    times = iter(range(100))
    watch = noticing_new_rings(lambda _seconds: None, tmp_path / RINGS_DIR, [], clock_s=lambda: float(next(times)))
    watch(1.0)
    prepare_rings(tmp_path, workers=1, capacity_mb=1)

    with pytest.raises(RingError, match=r"worker-0.ring: is a new ring"):
        watch(1.0)


@pytest.mark.requirement("F43")
@pytest.mark.parametrize("is_there", [False, True])
def test_a_worker_makes_a_ring_that_has_vanished_or_is_none_any_more(tmp_path: Path, is_there: bool) -> None:
    prepare_rings(tmp_path, workers=1, capacity_mb=1)
    path = ring_path(tmp_path, 0)
    old = RingWriter(path)
    reader = GatingReader(path, "writer")
    times = iter(range(100))
    watch = noticing_new_rings(lambda _seconds: None, path.parent, [reader], clock_s=lambda: float(next(times)))
    watch(1.0)
    old.append(3, b"not read yet")
    old.publish()
    path.unlink()
    if is_there:
        path.write_bytes(b"garbage")

    with capture_logs() as logs:
        writer = open_ring(path, ring=0, capacity_mb=1, wake_fds={})
    assert writer.first_seq > old.first_seq
    watch(1.0)  # something is left to read
    reader.fetch_bytes()
    reader.next_bytes()
    reader.commit()
    with pytest.raises(RingError, match="deleted, replaced or cut"):
        watch(1.0)

    assert {entry["event"] for entry in logs} >= {"ring_moved_aside" if is_there else "ring_file_gone", "ring_created"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """8 MiB of memory as a file system of its own."""
    path, mount = tmp_path / "small", shutil.which("mount")
    path.mkdir()
    words = [mount or "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    if mount is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.requirement("F38")
def test_a_ring_that_does_not_fit_is_refused_with_what_is_needed_and_leaves_nothing(small_disk: Path) -> None:
    config = Config(data_dir=str(small_disk), workers=2, ring=Ring(capacity_mb=4))

    with pytest.raises(Refused, match=r"rings: no room: the missing rings need \d+ MiB, \d+ MiB are free"):
        prepare_or_refuse(small_disk, config)

    assert [path.name for path in (small_disk / "rings").iterdir()] == ["worker-0.ring"]
    writer = RingWriter(ring_path(small_disk, 0))
    (small_disk / "full").write_bytes(bytes(3 * 1024 * 1024))
    with pytest.raises(OSError, match="No space left") as refused, (small_disk / "more").open("wb") as file:
        file.write(bytes(4 * 1024 * 1024))
    assert refused.value.errno == errno.ENOSPC
    for _ in range(30):  # every page of it exists: no SIGBUS on a full disk
        writer.append(3, bytes(120_000))
    writer.publish()
