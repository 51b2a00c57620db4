"""One bit wrong anywhere in a ring file: it opens, nothing is invented, and what is lost is what the bit was in.

Damage below is of a file that nobody has open: found at the next start, before any consumer looks.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.errors import RingError
from daemon.rings import prepare_rings, ring_path
from native_pipeline.ring_reader import GatingReader, LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.spec.ring_support import CONSUMERS, HEAD, HEADER_BYTES, INDEX, MIB, QUARANTINE, drain, flip

RECORD = 136
COUNT = 9_000  # more than a lap
STORED = 8_000  # that the database has
GIVEN_BACK = 7_500  # that the writer's position in the ring knows of
IDENTITY = 84  # bytes of the header that never change, and the flags between
SLOTS = range(CONSUMERS, CONSUMERS + 2 * 64)
RESERVED = range(768, 4096)
RECORDS_AT = [HEADER_BYTES + (number * RECORD) % MIB for number in (GIVEN_BACK, STORED, 8_500, COUNT - 1)]


def directory_with_ring(base: Path) -> tuple[Path, list[int]]:
    """A data directory whose ring was left behind by a killed daemon; the numbers of all its records."""
    prepare_rings(base, workers=1, capacity_mb=1)
    path = ring_path(base, 0)
    writer, reader, seqs = RingWriter(path), GatingReader(path, "writer"), []
    for number in range(COUNT):
        seqs.append(writer.append(QUARANTINE, number.to_bytes(8, "little") * 13))
        if number == GIVEN_BACK - 1:
            writer.publish()
            drain(reader)
            reader.commit()
    writer.publish()
    return path, seqs


def start_again(path: Path, seqs: list[int]) -> int:
    """Boot, read as the writer does, go on; return how many records were lost, all of them noted."""
    with capture_logs() as logs:
        prepare_rings(path.parent.parent, workers=1, capacity_mb=1)
    events = {entry["event"] for entry in logs}
    writer = RingWriter(path)
    if writer.first_seq != seqs[0]:
        assert "ring_moved_aside" in events
        return COUNT - STORED
    known = dict(zip(seqs, range(COUNT), strict=True))
    reader, lossy = GatingReader(path, "writer"), LossyReader(path, "publisher")
    missing = reader.seek_after(seqs[STORED - 1])
    found = drain(reader)
    for seen in [*found, *drain(lossy)]:
        assert seen.body == known[seen.seq].to_bytes(8, "little") * 13, "a record that nobody wrote"
    numbers = [known[seen.seq] for seen in found]
    assert numbers == sorted(set(numbers)), "out of order, or twice"
    assert numbers == [] or numbers[0] >= STORED, "the database has it already"
    seq = writer.append(QUARANTINE, b"new")
    writer.publish()
    assert seq > seqs[-1] or (COUNT - 1 not in numbers and seq not in known), "a number was used twice"
    assert [seq] == [seen.seq for seen in drain(reader)], "it goes on"
    lost = COUNT - STORED - len(numbers)
    noted = missing + reader.corrupt_records + writer.recovered_bytes
    assert lost == 0 or noted or "ring_tail_cut" in events, f"{lost} lost without a word"
    return lost


def flip_each(offsets: Iterable[int], masks: Iterable[int]) -> dict[int, int]:
    """Start again with each of these bits wrong; return {offset: most records lost}."""
    base = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    worst: dict[int, int] = {}
    with tempfile.TemporaryDirectory(dir=base, prefix="sise-bits-") as directory:
        path, seqs = directory_with_ring(Path(directory))
        whole = path.read_bytes()
        for offset in offsets:
            for mask in masks:
                for left in path.parent.iterdir():
                    left.unlink()
                path.write_bytes(whole)
                flip(path, offset, mask)
                try:
                    worst[offset] = max(worst.get(offset, 0), start_again(path, seqs))
                except BaseException:
                    print(f"offset {offset}, mask {mask:#x}")
                    raise
    return worst


def judge(worst: dict[int, int]) -> None:
    """What may be lost where."""
    for offset, lost in worst.items():
        if offset >= HEADER_BYTES:
            assert lost <= 1, f"offset {offset}: {lost} records"
        elif offset >= IDENTITY:
            assert lost == 0, f"offset {offset}: {lost} records"


@pytest.mark.requirement("F42", "DLP-01")
@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param(range(44, 256, 3), id="header"),
        pytest.param(SLOTS[::2], id="consumer slots"),
        pytest.param(range(INDEX, INDEX + 64, 2), id="index"),
        pytest.param(range(RECORDS_AT[1], RECORDS_AT[1] + RECORD, 3), id="a record"),
        pytest.param(range(RECORDS_AT[3], RECORDS_AT[3] + RECORD, 3), id="the last record"),
    ],
)
def test_one_wrong_bit_costs_one_record_at_most(offsets: range) -> None:
    rng = random.Random(offsets.start)
    judge(flip_each(offsets, [1 << rng.randrange(8)]))


@pytest.mark.requirement("F42", "CH-PROC-01")
def test_a_damaged_identity_is_moved_aside_and_replaced() -> None:
    flip_each([0, 5, 13, 17, 20, 25, 30, 34, 39, 40, 43], [0x10])


@pytest.mark.requirement("F42", "F47")
@pytest.mark.parametrize("offset", range(8, 12))
def test_a_wrong_bit_in_the_version_is_taken_for_another_version_and_nothing_is_touched(
    tmp_path: Path, offset: int
) -> None:
    prepare_rings(tmp_path, workers=1, capacity_mb=1)
    flip(ring_path(tmp_path, 0), offset, 0x10)
    before = ring_path(tmp_path, 0).read_bytes()

    with pytest.raises(RingError, match="another version of Sise"):
        prepare_rings(tmp_path, workers=1, capacity_mb=1)

    assert ring_path(tmp_path, 0).read_bytes() == before


@pytest.mark.requirement("F42", "F44", "DLP-01")
@pytest.mark.parametrize("field", [HEAD, HEAD + 8, CONSUMERS + 16, CONSUMERS + 48, 152, 160])
def test_a_wrong_bit_in_a_position_is_repaired_from_what_is_provable(field: int) -> None:
    for bit in (0, 2, 3, 7, 12, 16, 18, 19, 20, 21, 22, 24, 33, 47, 63):
        judge(flip_each([field + bit // 8], [1 << bit % 8]))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.requirement("F42", "DLP-01", "NIGHT-01")
def test_each_bit_of_header_index_and_several_records() -> None:
    offsets = [*range(8), *range(12, 768), *range(INDEX, HEADER_BYTES), *range(768, INDEX, 101)]
    for begin in RECORDS_AT:
        offsets += range(begin, begin + RECORD)
    judge(flip_each(offsets, [1 << bit for bit in range(8)]))
