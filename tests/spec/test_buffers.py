"""`sise buffers`: rings and spill files listed, walked and repaired, with nothing destroyed."""

import json
import os
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon.buffers import as_text, repair, survey
from daemon.cli import main
from daemon.errors import Refused
from daemon.rings import prepare_rings, ring_path
from daemon.sinks import segment
from daemon.sinks.segment import Range
from daemon.supervision.directory_lock import DirectoryLock
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import Trade, append
from tests.spec.ring_support import HEAD, HEADER_BYTES, drain, flip, patch, read_u64

RECORD = 120
NOW_NS = 1_763_596_801_000_000_000


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    prepare_rings(tmp_path, workers=1, capacity_mb=1)
    return tmp_path


def filled(data_dir: Path, count: int) -> RingWriter:
    writer = RingWriter(ring_path(data_dir, 0))
    for number in range(count):
        append(writer, Trade(recv_ns=NOW_NS + number))
    writer.publish()
    return writer


def spilled(data_dir: Path, count: int) -> Path:
    """A spill file with the ring's first records."""
    raw = ring_path(data_dir, 0).read_bytes()[HEADER_BYTES : HEADER_BYTES + count * RECORD]
    one = Range(
        ring=0, epoch=1, after_seq=1, through_seq=1 + count, records=count, raw_bytes=len(raw),
        first_recv_ns=NOW_NS, last_recv_ns=NOW_NS + count - 1,
    )  # fmt: skip
    batch = uuid.UUID(int=7)
    _, data = segment.encode(batch, [one], raw, created_ns=NOW_NS)
    path = data_dir / "failed_batches" / f"batch_20261123T000000.000000Z_{batch.hex}.spill"
    path.parent.mkdir()
    path.write_bytes(data)
    return path


def image(data_dir: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in data_dir.rglob("*") if path.is_file() and path.name != "sise.lock"}


def test_a_list_says_what_is_there_and_how_far_each_consumer_is(data_dir: Path) -> None:
    writer = filled(data_dir, 100)
    writer.sync()
    reader = GatingReader(ring_path(data_dir, 0), "writer")
    reader.fetch_bytes()
    for _ in range(40):
        reader.next_bytes()
    reader.commit()
    spilled(data_dir, 10)
    before = image(data_dir)

    ring, spill = survey(data_dir)

    assert (ring.kind, ring.records, ring.used_bytes, ring.problems) == ("ring", 100, 60 * RECORD, [])
    assert (ring.first_ns, ring.last_ns, ring.synced) == (NOW_NS, NOW_NS + 99, 100 * RECORD)
    assert {one.name: one.lag_bytes for one in ring.consumers} == {"writer": 60 * RECORD, "publisher": 100 * RECORD}
    assert (spill.kind, spill.records, spill.first_ns, spill.problems) == ("spill", 10, NOW_NS, [])
    assert image(data_dir) == before, "only read"
    last = as_text([ring, spill]).splitlines()[-1]
    assert last == f"1 rings; 1 spill files, 10 records in {spill.size_bytes:,} bytes; all are whole"
    assert as_text([]) == "no rings and no spill files"


def test_a_survey_beside_a_running_producer_finds_no_damage(data_dir: Path) -> None:
    """The ring is lapped while it is walked: what is overwritten meanwhile is no damage."""
    writer = filled(data_dir, 1)
    reader = GatingReader(ring_path(data_dir, 0), "writer")
    for _ in range(5):
        for _ in range(5000):
            append(writer, Trade(recv_ns=NOW_NS))
        writer.publish()
        drain(reader)
        reader.commit()
        (ring,) = survey(data_dir)
        assert ring.problems == []
        assert ring.records > 5000


@pytest.mark.requirement("F42")
def test_verify_names_each_damaged_place_and_fails(data_dir: Path) -> None:
    filled(data_dir, 100).close()
    flip(ring_path(data_dir, 0), HEADER_BYTES + 3 * RECORD + 60)
    flip(ring_path(data_dir, 0), HEADER_BYTES + 50 * RECORD + 4)
    path = spilled(data_dir, 20)
    flip(path, path.stat().st_size - 5)

    ring, spill = survey(data_dir)

    assert ring.problems == [
        f"{ring.path}: 120 bytes at offset {HEADER_BYTES + 3 * RECORD} (position {3 * RECORD}) are no whole record",
        f"{ring.path}: 120 bytes at offset {HEADER_BYTES + 50 * RECORD} (position {50 * RECORD}) are no whole record",
        f"{ring.path}: 2 sequence numbers are missing",
    ]
    assert ring.records == 98
    assert "checksum of the body" in spill.problems[0]


@pytest.mark.requirement("F42")
def test_repair_cuts_a_torn_end_and_keeps_what_it_cut(data_dir: Path) -> None:
    filled(data_dir, 100)
    path = ring_path(data_dir, 0)
    head = read_u64(path, HEAD)
    flip(path, HEADER_BYTES + 99 * RECORD + 60)
    torn = path.read_bytes()[HEADER_BYTES + 99 * RECORD : HEADER_BYTES + head]

    (line,) = repair(data_dir, grace_s=0.0)

    assert "cut 120 bytes" in line
    assert path.with_name(f"{path.name}.cut-{99 * RECORD}").read_bytes() == torn
    (ring,) = survey(data_dir)
    assert (ring.records, ring.problems) == (99, [])
    assert repair(data_dir, grace_s=0.0) == []


@pytest.mark.requirement("F42", "F47")
def test_repair_moves_damaged_files_aside_and_leaves_those_of_another_version(data_dir: Path) -> None:
    prepare_rings(data_dir, workers=2, capacity_mb=1)
    patch(ring_path(data_dir, 0), 0, b"garbage!")
    patch(ring_path(data_dir, 1), 8, b"\x09")
    other = ring_path(data_dir, 1).read_bytes()
    (data_dir / "failed_batches").mkdir()
    spill = data_dir / "failed_batches" / f"batch_20261123T000000.000000Z_{'0' * 32}.spill"
    spill.write_bytes(b"SISESPIL" + bytes(200))

    lines = repair(data_dir, grace_s=0.0)

    assert len(lines) == 3
    assert not ring_path(data_dir, 0).exists()
    assert not spill.exists()
    assert ring_path(data_dir, 1).read_bytes() == other
    assert len(list(data_dir.rglob("*.damaged-*"))) == 2


def test_repair_is_refused_while_a_daemon_runs(data_dir: Path) -> None:
    lock = DirectoryLock(data_dir / "run")
    lock.acquire(orphan_grace_s=0.0)
    try:
        with pytest.raises(Refused, match=f"already running here .pid {os.getpid()}"):
            repair(data_dir, grace_s=0.0)
    finally:
        lock.close()


def test_the_command_exits_with_1_for_damage_and_takes_json(data_dir: Path) -> None:
    filled(data_dir, 5).close()
    config = data_dir / "sise.toml"
    config.write_text(f'data_dir = "{data_dir}"\n')

    fine = CliRunner().invoke(main, ["buffers", "verify", "-c", str(config), "--json"])
    flip(ring_path(data_dir, 0), HEADER_BYTES + 60)
    damaged = CliRunner().invoke(main, ["buffers", "verify", "-c", str(config)])
    listed = CliRunner().invoke(main, ["buffers", "list", "-c", str(config)])

    assert fine.exit_code == 0, fine.output
    assert json.loads(fine.output)["whole"] is True
    assert damaged.exit_code == 1
    assert f"DAMAGED {ring_path(data_dir, 0)}: 120 bytes at offset {HEADER_BYTES}" in damaged.output
    assert damaged.output.splitlines()[-1].endswith("; 1 files DAMAGED")
    assert listed.exit_code == 0
