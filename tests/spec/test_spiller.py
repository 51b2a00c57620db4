"""What is taken out of the rings for a file: each record behind the cursor, once, in order, and said as it is."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from daemon.sinks.spiller import UNKNOWN_SEQ, Spiller, Taken
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.spec.ring_support import HEADER_BYTES, MIB, QUARANTINE, RECORD_HEADER, RESUMED, Seen, flip, parsed

RECV_NS = 1_795_000_000 * 10**9
SIZE = 64  # of a record with a body of 32 bytes


class Ring:
    """A ring, who fills it, and who empties it."""

    def __init__(self, path: Path, number: int) -> None:
        create_ring(path, ring=number, capacity_bytes=MIB, consumers=(("writer", GATING),))
        self.path = path
        self.producer = RingWriter(path)
        self.reader = GatingReader(path, "writer")
        self.key = (self.reader.ring, self.reader.epoch)
        self.start = self.reader.first_seq - 1  # the cursor of a ring of which nothing is stored

    def fill(self, *bodies: bytes, flags: int = 0) -> list[int]:
        """Append and publish; the time of receipt counts up with the number. Only the first has *flags*."""
        seqs = []
        for i, body in enumerate(bodies):
            recv_ns = RECV_NS + self.producer.last_seq + 1
            seqs.append(self.producer.append(QUARANTINE, body, flags=0 if i else flags, recv_ns=recv_ns))
        self.producer.publish()
        return seqs

    def close(self) -> None:
        self.reader.close()
        self.producer.close()


@pytest.fixture
def make_ring(tmp_path: Path) -> Iterator[Callable[[], Ring]]:
    with ExitStack() as stack:
        numbers = iter(range(64))

        def make() -> Ring:
            number = next(numbers)
            return stack.enter_context(closing(Ring(tmp_path / f"worker-{number}.ring", number)))

        yield make


def bodies(count: int, size: int = 32) -> list[bytes]:
    return [number.to_bytes(4, "little") * (size // 4) for number in range(count)]


def damage(ring: Ring, number: int) -> None:
    """Flip bits of record *number* of the ring, all of them SIZE bytes long."""
    flip(ring.path, HEADER_BYTES + number * SIZE + RECORD_HEADER.size)


def spiller(*rings: Ring, segment_bytes: int = MIB) -> Spiller:
    return Spiller([ring.reader for ring in rings], segment_bytes=segment_bytes)


def records_of(taken: Taken) -> dict[tuple[int, int], list[Seen]]:
    """Take the raw bytes apart, range by range; they must add up."""
    found: dict[tuple[int, int], list[Seen]] = {}
    at = 0
    for one in taken.ranges:
        end, seen = at + one.raw_bytes, []
        while at < end:
            length = RECORD_HEADER.unpack_from(taken.raw, at)[0]
            seen.append(parsed(taken.raw[at : at + length]))
            at += length
        assert (at, len(seen)) == (end, one.records)
        found[one.ring, one.epoch] = seen
    assert at == len(taken.raw)
    return found


def seqs_of(taken: Taken) -> dict[tuple[int, int], list[int]]:
    return {ring: [seen.seq for seen in records] for ring, records in records_of(taken).items()}


@pytest.mark.requirement("DLP-02", "DLP-01")
def test_what_is_taken_is_what_follows_the_cursor_of_each_ring(make_ring: Callable[[], Ring]) -> None:
    one, two, idle = make_ring(), make_ring(), make_ring()
    sent = bodies(10)
    first, second = one.fill(*sent), two.fill(*sent[:4])

    taken = spiller(one, two, idle).take({one.key: first[2], two.key: two.start, idle.key: idle.start})

    assert seqs_of(taken) == {one.key: first[3:], two.key: second}
    assert [seen.body for seen in records_of(taken)[one.key]] == sent[3:]
    assert taken.reached == {one.key: first[-1], two.key: second[-1]}
    assert (taken.records, taken.damaged) == (11, {})
    for said, seqs in zip(taken.ranges, (first[3:], second), strict=True):
        assert (said.after_seq, said.through_seq) == (seqs[0] - 1, seqs[-1])
        assert (said.first_recv_ns, said.last_recv_ns) == (RECV_NS + seqs[0], RECV_NS + seqs[-1])
        assert (said.records, said.raw_bytes) == (len(seqs), len(seqs) * SIZE)


@pytest.mark.requirement("DLP-02")
def test_what_could_not_be_written_is_taken_again_as_it_was(make_ring: Callable[[], Ring]) -> None:
    one, two = make_ring(), make_ring()
    first = one.fill(*bodies(10))
    two.fill(*bodies(7))
    subject = spiller(one, two)

    taken = subject.take({one.key: one.start})

    assert subject.take({one.key: one.start}) == taken, "also of a ring without a cursor: nothing was committed"
    exact = subject.take_exactly({one.key: first[4]}, {one.key: first[7]})
    assert subject.take_exactly({one.key: first[4]}, {one.key: first[7]}) == exact
    assert seqs_of(exact) == {one.key: first[5:8]}


@pytest.mark.requirement("DLP-01", "F46")
def test_a_ring_whose_cursor_nobody_knows_is_read_from_where_it_was_committed(make_ring: Callable[[], Ring]) -> None:
    ring = make_ring()
    seqs = ring.fill(*bodies(6))
    ring.reader.seek_after(seqs[1])
    ring.reader.commit()
    ring.reader.fetch_bytes()
    ring.reader.next_bytes()  # a failed attempt has read on

    (said,) = (taken := spiller(ring).take({})).ranges

    assert seqs_of(taken) == {ring.key: seqs[2:]}
    assert (said.after_seq, said.through_seq) == (seqs[1], seqs[-1])


@pytest.mark.requirement("DLP-01", "F46")
def test_where_the_sequence_jumps_and_no_cursor_is_known_nothing_is_said_to_be_missing(
    make_ring: Callable[[], Ring],
) -> None:
    ring = make_ring()
    ring.fill(*bodies(3), flags=RESUMED)

    (said,) = spiller(ring).take({}).ranges
    (known,) = spiller(ring).take({ring.key: ring.start}).ranges

    assert said.after_seq == UNKNOWN_SEQ, "the record before is not its predecessor by number"
    assert known.after_seq == ring.start


@pytest.mark.parametrize("flag", [1, 8, 16, 32, 64])
def test_no_other_flag_makes_the_beginning_of_a_range_doubtful(make_ring: Callable[[], Ring], flag: int) -> None:
    ring = make_ring()
    seqs = ring.fill(*bodies(3), flags=flag)

    (said,) = spiller(ring).take({}).ranges

    assert said.after_seq == seqs[0] - 1


@pytest.mark.requirement("DLP-02", "DLP-03")
@pytest.mark.parametrize("seed", range(8))
def test_segment_by_segment_every_record_is_taken_once(make_ring: Callable[[], Ring], seed: int) -> None:
    """Rings of different fill and record size, some with a cursor: a segment is neither empty nor much too large."""
    rng = random.Random(seed)
    rings = [make_ring() for _ in range(3)]
    segment_bytes = rng.choice([100, 4_000, 20_000])
    sent = {
        ring.key: ring.fill(*(bytes(rng.choice([8, 200, 3_000])) for _ in range(rng.randrange(1, 120))))
        for ring in rings
    }
    subject = spiller(*rings, segment_bytes=segment_bytes)
    cursors = {ring.key: ring.start for ring in rings if rng.random() < 0.5}
    found: dict[tuple[int, int], list[int]] = {ring.key: [] for ring in rings}

    while any(ring.reader.lag_bytes for ring in rings):
        before = {ring.key: ring.reader.lag_bytes for ring in rings}
        taken = subject.take(cursors)
        for key, seqs in seqs_of(taken).items():
            found[key] += seqs
        assert taken.reached.keys() == {key for key, lag in before.items() if lag}, "none is left out"
        assert len(taken.raw) <= sum(before.values())
        cursors |= {key: through for key, through in taken.reached.items() if key in cursors}
        for ring in rings:
            if ring.key in taken.reached:
                ring.reader.seek_after(taken.reached[ring.key])
                ring.reader.commit()

    assert found == sent


def test_a_segment_is_about_as_large_as_it_is_to_be_and_shared_by_what_waits(make_ring: Callable[[], Ring]) -> None:
    busy, calm = make_ring(), make_ring()
    busy.fill(*bodies(3_000))
    calm.fill(*bodies(1_000))

    taken = spiller(busy, calm, segment_bytes=80 * SIZE).take({})

    sizes = [one.raw_bytes for one in taken.ranges]
    assert sizes == [pytest.approx(60 * SIZE, abs=2 * SIZE), pytest.approx(20 * SIZE, abs=2 * SIZE)]


def test_large_records_are_not_taken_for_typical_ones_twice(make_ring: Callable[[], Ring]) -> None:
    ring = make_ring()
    ring.fill(*bodies(100, size=8_000))

    taken = spiller(ring, segment_bytes=300).take({})

    assert taken.records == 2, "two typical ones would fit, and the second step knows better"


@pytest.mark.requirement("DLP-01", "F42")
@pytest.mark.parametrize("segment_bytes", [MIB, 42 * SIZE], ids=["in one step", "in several"])
def test_damaged_records_are_passed_over_and_counted_once(make_ring: Callable[[], Ring], segment_bytes: int) -> None:
    ring, other = make_ring(), make_ring()
    seqs = ring.fill(*bodies(40))
    other.fill(*bodies(2))
    damaged = [0, 7, 8, 30, 39]
    for number in damaged:
        damage(ring, number)

    taken = spiller(ring, other, segment_bytes=segment_bytes).take({ring.key: ring.start, other.key: other.start})

    assert taken.damaged == {ring.key: len(damaged)}
    whole = [seq for number, seq in enumerate(seqs) if number not in damaged]
    assert seqs_of(taken)[ring.key] == whole
    said = taken.ranges[0]
    assert (said.after_seq, said.through_seq, said.records) == (ring.start, whole[-1], len(whole))


@pytest.mark.requirement("DLP-01", "F42")
def test_a_ring_of_damaged_records_only_has_no_range_and_keeps_its_cursor(make_ring: Callable[[], Ring]) -> None:
    ring, other = make_ring(), make_ring()
    ring.fill(*bodies(3))
    seqs = other.fill(*bodies(2))
    for number in range(3):
        damage(ring, number)

    taken = spiller(ring, other).take({ring.key: ring.start, other.key: other.start})

    assert taken.reached == {other.key: seqs[-1]}
    assert seqs_of(taken) == {other.key: seqs}


@pytest.mark.requirement("DLP-01", "DLP-03", "F49")
def test_a_batch_of_unknown_fate_is_taken_exactly_and_alone(make_ring: Callable[[], Ring]) -> None:
    one, two = make_ring(), make_ring()
    seqs = one.fill(*bodies(10))
    two.fill(*bodies(10))
    cursors = {one.key: seqs[1], two.key: two.start}

    taken = spiller(one, two).take_exactly(cursors, {one.key: seqs[5]})

    assert seqs_of(taken) == {one.key: seqs[2:6]}
    (said,) = taken.ranges
    assert (said.after_seq, said.through_seq) == (seqs[1], seqs[5])


@pytest.mark.requirement("DLP-01", "F42", "F49")
@pytest.mark.parametrize("damaged", [[5], [2, 3, 4, 5]], ids=["the last", "all"])
def test_its_range_ends_where_the_batch_did_though_its_last_record_was_damaged_meanwhile(
    make_ring: Callable[[], Ring], damaged: list[int]
) -> None:
    ring = make_ring()
    seqs = ring.fill(*bodies(10))
    for number in damaged:
        damage(ring, number)

    taken = spiller(ring).take_exactly({ring.key: seqs[1]}, {ring.key: seqs[5]})

    (said,) = taken.ranges
    assert seqs_of(taken) == {ring.key: [seqs[number] for number in range(2, 6) if number not in damaged]}
    assert (said.after_seq, said.through_seq) == (seqs[1], seqs[5])


def test_a_segment_is_full_when_it_is_not_before(make_ring: Callable[[], Ring]) -> None:
    one, two = make_ring(), make_ring()
    one.fill(*bodies(3))
    two.fill(*bodies(2))

    assert spiller(one, two, segment_bytes=5 * SIZE).is_full()
    assert not spiller(one, two, segment_bytes=5 * SIZE + 1).is_full()
