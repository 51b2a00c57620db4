"""The rings of a data directory before a start: usable, or moved aside, or refused."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.errors import RingError, RingInUse
from daemon.rings import prepare_rings, ring_path, ring_paths
from native_pipeline.ring import RingWriter

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
    [(0, b"NOTARING"), (EPOCH_OFFSET, b"\xff" * 8), (40, b"\x07"), (FIRST_CONSUMER_OFFSET, b"riter"), (16, b"\x01")],
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


def test_a_ring_of_another_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    prepare_rings(tmp_path, workers=1, capacity_mb=1)
    overwrite(ring_path(tmp_path, 0), VERSION_OFFSET, b"\x09")
    before = ring_path(tmp_path, 0).read_bytes()

    with pytest.raises(RingError, match=r"worker-0\.ring: has layout version 9"):
        prepare_rings(tmp_path, workers=1, capacity_mb=1)

    assert ring_path(tmp_path, 0).read_bytes() == before


def test_a_ring_that_is_in_use_is_not_moved(tmp_path: Path) -> None:
    prepare_rings(tmp_path, workers=1, capacity_mb=1)
    owner = RingWriter(ring_path(tmp_path, 0))

    with pytest.raises(RingInUse):
        prepare_rings(tmp_path, workers=1, capacity_mb=1)

    owner.close()
    assert os.listdir(tmp_path / "rings") == ["worker-0.ring"]  # noqa: PTH208
