"""The machine loses power at any moment: what was synced is there, nothing is invented, no number is used twice.

The oracle is a list of what was appended, independent of the ring: bodies carry their own number. The database is a
list too: what a consumer had committed before the loss, with the cursor behind it.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from daemon.errors import RingError
from native_pipeline.ring_file import RingFile
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import LEDGER
from tests.spec.power_model import PAGE, SECTOR, PowerModel
from tests.spec.ring_support import BOOT_ID, MIB, QUARANTINE, Seen, drain, new_ring, patch

SYNC_MODES = ("off", "1s", "batch")


@dataclass
class Machine:
    """One ring with its producer, its writer and the database, over several losses of power."""

    path: Path
    rng: random.Random
    mode: str
    bodies: dict[int, bytes] = field(default_factory=dict)  # seq -> what was appended, ever
    stored: dict[int, bytes] = field(default_factory=dict)  # the database
    used: set[int] = field(default_factory=set)  # numbers that anybody outside the ring has seen
    cursor: int = 0
    number: int = 0

    def start(self) -> None:
        """Boot: the producer opens the ring, then the writer seeks behind the database's cursor."""
        self.writer = RingWriter(self.path, syncs_first=self.mode == "batch")
        self.disk = PowerModel(self.path)  # repaired and synced, or nothing to repair
        if self.mode == "batch":
            self.writer.sync()
        self.reader = GatingReader(self.path, "writer")
        self.cursor = self.cursor or self.reader.first_seq - 1
        self.missing = self.reader.seek_after(self.cursor)
        self.synced = self.writer.synced

    def append(self) -> None:
        self.number += 1
        size = self.rng.choice((8, 88, 100, 392, 3000, 20_000, 120_000))
        body = (self.number.to_bytes(8, "little") * (size // 8 + 1))[:size]
        before = self.writer.last_seq
        try:
            seq = self.writer.append(QUARANTINE, body, recv_ns=self.number)
        except RingError:
            return
        assert seq > before
        assert seq not in self.used, "a number was used twice"
        self.bodies[seq] = body + bytes(-len(body) % 8)

    def publish(self) -> None:
        self.writer.publish()

    def sync(self) -> None:
        image = self.path.read_bytes()
        self.synced = self.writer.sync()
        self.disk.synced(image)

    def store(self, gives_back: float) -> None:
        """The writer commits what is published to the database, then gives the space back."""
        for seen in drain(self.reader):
            self.take(seen)
        if self.rng.random() < gives_back:  # the writer may be slow to give space back
            self.reader.commit()

    def take(self, seen: Seen) -> None:
        self.used.add(seen.seq)
        if seen.kind == LEDGER:
            return
        assert self.bodies.get(seen.seq) == seen.body, "a record that nobody wrote"
        assert seen.seq not in self.stored, "stored twice"
        assert seen.seq > self.cursor
        self.stored[seen.seq] = seen.body
        self.cursor = seen.seq

    def lose_power(self) -> None:
        image = self.disk.lose(self.rng, unit=self.rng.choice((SECTOR, PAGE)))
        in_ring_before = self.synced_records()
        del self.writer, self.reader
        self.path.write_bytes(image)
        patch(self.path, BOOT_ID, self.rng.randbytes(16))
        self.must_have = in_ring_before

    def synced_records(self) -> set[int]:
        """Numbers of the records that lie below the watermark and were not stored yet."""
        file = RingFile(self.path)
        assert file.synced == self.synced
        return {seq for seq, end in self.positions().items() if end <= self.synced and seq > self.cursor}

    def positions(self) -> dict[int, int]:
        """Position behind every published record that the writer has not given back, by a walk of its own."""
        found = {}
        data = self.path.read_bytes()
        capacity = len(data) - 8192
        at = self.reader.consumers()["writer"]["position"]
        while at < self.writer.head:
            offset = at % capacity
            room = capacity - offset
            if room < 32:
                at += room
                continue
            length = int.from_bytes(data[8192 + offset : 8192 + offset + 4], "little")
            if data[8192 + offset + 24] != 255:
                found[int.from_bytes(data[8192 + offset + 8 : 8192 + offset + 16], "little")] = at + length
            at += length
        return found


def one_life(seed: int, directory: Path, *, losses: int, steps: int) -> None:
    """Run a machine through *losses* losses of power; every rule is an assertion."""
    rng = random.Random(seed)
    mode = rng.choice(SYNC_MODES)
    machine = Machine(new_ring(directory, name=f"{seed}.ring"), rng, mode)
    syncs, stores, gives_back = (rng.choice((0.1, 0.4, 0.9)) for _ in range(3))
    for _ in range(losses):
        machine.start()
        for _ in range(rng.randrange(steps)):
            for _ in range(rng.choice((1, 1, 5, 60))):
                machine.append()
            machine.publish()
            if mode != "off" and rng.random() < syncs:
                machine.sync()
            if rng.random() < stores:
                machine.store(gives_back)
            if rng.random() < 0.2:
                machine.disk.observe()
        for _ in range(rng.choice((0, 0, 3))):
            machine.append()  # not published
        machine.lose_power()

        machine.start()
        before = len(machine.stored)
        must_have = {seq for seq in machine.must_have if seq > machine.cursor}
        for seen in drain(machine.reader):
            machine.take(seen)
        machine.reader.commit()
        lost = must_have - machine.stored.keys()
        assert not lost, (
            f"{len(lost)} of {len(must_have)} synced records are gone, {len(machine.stored) - before} found"
        )
        assert machine.writer.last_seq >= max(machine.used, default=0), "numbers that the database has would come again"
        machine.writer.close(clean=rng.random() < 0.5)
        machine.reader.close()
        del machine.writer, machine.reader


@contextmanager
def reported(seed: int) -> Iterator[Path]:
    """A directory in memory; the seed is printed when something fails."""
    base = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=base, prefix="sise-power-") as directory:
        try:
            yield Path(directory)
        except BaseException:
            print(f"reproduce with seed {seed}")
            raise


@pytest.mark.requirement("DLP-01", "F41")
@pytest.mark.parametrize("seed", range(40))
def test_after_a_power_loss_what_was_synced_is_there_and_nothing_is_invented(seed: int) -> None:
    with reported(seed) as directory:
        one_life(seed, directory, losses=3, steps=12)


def reboot(path: Path, image: bytes) -> None:
    """Another boot of the machine finds *image* on its disk."""
    path.write_bytes(image)
    patch(path, BOOT_ID, bytes(range(16)))


@pytest.mark.requirement("DLP-01", "F41")
def test_records_of_a_lap_that_the_header_does_not_know_hide_none_of_those_that_it_knows(tmp_path: Path) -> None:
    """The kernel wrote data pages and not the header: newer records lie where older ones were that are consumed."""
    path = new_ring(tmp_path)
    writer, reader = RingWriter(path), GatingReader(path, "writer")
    per_lap = MIB // PAGE
    seqs = [writer.append(QUARANTINE, bytes(PAGE - 32)) for _ in range(per_lap)]
    writer.publish()
    writer.sync()
    synced_header = path.read_bytes()[: 2 * PAGE]
    reader.fetch_bytes()
    for _ in range(100):
        reader.next_bytes()
    reader.commit()  # the database has them
    for _ in range(50):
        writer.append(QUARANTINE, bytes(PAGE - 32))
    writer.publish()
    image = synced_header + path.read_bytes()[2 * PAGE :]
    del writer, reader

    reboot(path, image)
    writer, reader = RingWriter(path), GatingReader(path, "writer")

    assert reader.seek_after(seqs[99]) == 0
    assert seqs[100:] == [seen.seq for seen in drain(reader)]
    assert writer.recovered_bytes == 0
    assert writer.last_seq > seqs[-1] + 50


@pytest.mark.requirement("DLP-01", "F41")
def test_a_header_from_before_an_orderly_close_is_not_trusted_after_a_reboot(tmp_path: Path) -> None:
    """What was stored since, the file does not know: those numbers must not come again."""
    path = new_ring(tmp_path)
    writer = RingWriter(path)
    writer.append(QUARANTINE, b"before")
    writer.close(clean=True)
    del writer
    image = path.read_bytes()
    writer = RingWriter(path)
    stored = [writer.append(QUARANTINE, b"stored") for _ in range(100)]
    del writer

    reboot(path, image)

    assert RingWriter(path).last_seq > stored[-1]


@pytest.mark.requirement("DLP-01", "F41")
@pytest.mark.parametrize("sectors", range(9))
def test_a_torn_index_page_costs_nothing(tmp_path: Path, sectors: int) -> None:
    path = new_ring(tmp_path)
    writer = RingWriter(path)
    old_index = path.read_bytes()[PAGE : 2 * PAGE]
    seqs = [writer.append(QUARANTINE, bytes(1000)) for _ in range(1000)]
    writer.publish()
    image = bytearray(path.read_bytes())
    image[PAGE : PAGE + sectors * SECTOR] = old_index[: sectors * SECTOR]
    del writer

    reboot(path, bytes(image))
    RingWriter(path)

    reader = GatingReader(path, "writer")
    assert reader.seek_after(seqs[10]) == 0
    assert seqs[11:] == [seen.seq for seen in drain(reader)]


@pytest.mark.requirement("F41")
def test_a_ring_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    """It is linked under its name when it is complete: before, there is only the unfinished file."""
    unfinished = tmp_path / "worker-0.ring.new"
    unfinished.write_bytes(b"SISERING" + bytes(100))

    writer = RingWriter(new_ring(tmp_path))

    assert not unfinished.exists()
    assert writer.append(QUARANTINE, b"first") == writer.first_seq


@pytest.mark.nightly
@pytest.mark.requirement("DLP-01", "F41", "NIGHT-01")
@pytest.mark.timeout(3600)
def test_thousands_of_power_losses(request: pytest.FixtureRequest) -> None:
    for seed in range(1000, 6000):
        with reported(seed) as directory:
            one_life(seed, directory, losses=2, steps=20)
