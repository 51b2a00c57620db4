"""What stays in the rings at the end."""

from pathlib import Path

from daemon.rings import prepare_rings, ring_path
from daemon.sinks import spill
from daemon.supervision import leftovers
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter

QUARANTINE = 3  # of sise_record_kind; any kind will do


def fill(data_dir: Path, worker: int, records: int, *, committed: int = 0) -> None:
    ring = RingWriter(ring_path(data_dir, worker))
    for _ in range(records):
        ring.append(QUARANTINE, bytes(32))
    ring.publish()
    ring.close()
    reader = GatingReader(ring_path(data_dir, worker), "writer")
    reader.fetch_bytes(committed * 64)
    for _ in range(committed):
        assert reader.next_bytes() is not None
    reader.commit()
    reader.close()


def test_nothing_stays_in_rings_that_the_writer_has_emptied(tmp_path: Path) -> None:
    prepare_rings(tmp_path, workers=2, capacity_mb=1)
    fill(tmp_path, 0, 10, committed=10)

    assert leftovers.count(tmp_path, patience_s=1.0) == (0, 0)


def test_records_and_bytes_are_counted_over_all_rings_and_stay_where_they_are(tmp_path: Path) -> None:
    prepare_rings(tmp_path, workers=2, capacity_mb=1)
    fill(tmp_path, 0, 10, committed=4)
    fill(tmp_path, 1, 5)

    assert leftovers.count(tmp_path, patience_s=1.0) == (11, 11 * 64)
    assert leftovers.count(tmp_path, patience_s=1.0) == (11, 11 * 64)


def test_a_long_rest_is_counted_in_part_and_extrapolated(tmp_path: Path) -> None:
    prepare_rings(tmp_path, workers=2, capacity_mb=4)
    for worker in (0, 1):
        fill(tmp_path, worker, 50_000)

    found = leftovers.count(tmp_path, patience_s=0.0, clock_s=lambda: 0.0)

    assert found == (100_000, 100_000 * 64)


def test_a_ring_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    prepare_rings(tmp_path, workers=2, capacity_mb=1)
    fill(tmp_path, 1, 5)
    ring_path(tmp_path, 0).write_bytes(b"no ring")

    assert leftovers.count(tmp_path, patience_s=1.0) == (5, 5 * 64)


def test_spill_files_that_wait_are_counted_and_nothing_else_of_their_directory(tmp_path: Path) -> None:
    assert leftovers.count_spilled(tmp_path) == 0

    directory = tmp_path / spill.DIRECTORY
    directory.mkdir()
    for name in (f"batch_1{spill.SUFFIX}", f"batch_2{spill.SUFFIX}", f"batch_3{spill.SUFFIX}.tmp", "batch_4.damaged-1"):
        (directory / name).touch()

    assert leftovers.count_spilled(tmp_path) == 2
