"""Registering spill files: interrupted anywhere, and with `sise recover` beside it, no stranger is suspected."""

import uuid
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

from daemon.sinks.database import Batch, Claim, Fenced, Isolated, Ring
from daemon.sinks.put_aside import Aside
from daemon.sinks.recovery import REGISTERED_TOGETHER, Registrar
from daemon.sinks.segment import Header, Range
from daemon.sinks.spill import SpillDirectory, SpillFile
from daemon.sinks.spill_ledger import Cursors, Known, KnownBatches, RegisterClaim
from native_pipeline.record_block import RecordBlock

RING = (0, 7)


def spill_file(number: int) -> SpillFile:
    one = Range(0, 7, number * 10, number * 10 + 10, 10, 0, 0, 0)
    return SpillFile(Path(f"file-{number}"), Header(uuid.UUID(int=number), 0, 0, 0, b"", (one,)))


class Directory(SpillDirectory):
    """Holds *held* and no bytes."""

    def __init__(self, held: list[SpillFile]) -> None:
        super().__init__(Path("/nonexistent"), quota_bytes=0, min_free_bytes=0)
        self.held = held

    def files(self) -> list[SpillFile]:
        return list(self.held)


class Server:
    """A database with a cursor and registered batches, which goes away before the registration number *fails_at*."""

    def __init__(self) -> None:
        self.cursor = 0
        self.registered: set[uuid.UUID] = set()
        self.fails_at: int | None = None
        self.registrations = 0

    def start_cursors(self, first: Mapping[Ring, int], /) -> dict[Ring, int]:
        return {RING: self.cursor}

    def store(self, _batch: Batch, claim: Claim, /) -> None:
        if isinstance(claim, Cursors):
            claim.found = {RING: self.cursor}
        elif isinstance(claim, KnownBatches):
            claim.found = {batch: Known(False, {}) for batch in self.registered & set(claim._batches)}
        else:
            assert isinstance(claim, RegisterClaim)
            self.registrations += 1
            if self.registrations == self.fails_at:
                raise psycopg.OperationalError("gone")
            self.registered |= {header.batch for header in claim._headers}
            self.cursor = claim._headers[-1].ranges[0].through_seq

    def store_isolated(self, block: RecordBlock, claim: Claim, /) -> Isolated:
        raise NotImplementedError

    def store_missing(self, block: RecordBlock, claim: Claim, /) -> Isolated:
        raise NotImplementedError

    def store_put_aside(self) -> Aside:
        raise NotImplementedError

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


class Ignored:
    def increment(self, name: str, n: int = 1, /) -> None:
        pass

    def set(self, name: str, value: int, /) -> None:
        pass


@pytest.mark.requirement("DLP-03")
def test_files_that_were_registered_stored_and_removed_by_others_before_the_answer_are_no_other_writer() -> None:
    files = [spill_file(number) for number in range(REGISTERED_TOGETHER + 5)]
    directory, server = Directory(files), Server()
    registrar = Registrar(directory=directory, database=server, counters=Ignored(), first={RING: 0})
    possible = {RING: [0]}
    server.fails_at = 2
    with pytest.raises(psycopg.OperationalError):
        registrar.bring_up_to_date(possible)
    directory.held = files[REGISTERED_TOGETHER:]  # `sise recover` beside the daemon has stored the others

    assert registrar.bring_up_to_date(possible) == {RING: files[-1].header.ranges[0].through_seq}


@pytest.mark.requirement("DLP-03")
def test_a_cursor_that_nobody_here_can_have_moved_is_another_writer() -> None:
    directory, server = Directory([spill_file(0)]), Server()
    registrar = Registrar(directory=directory, database=server, counters=Ignored(), first={RING: 0})
    assert registrar.bring_up_to_date({RING: [0]}) == {RING: 10}

    server.cursor = 5
    with pytest.raises(Fenced):
        registrar.bring_up_to_date({RING: [10]})


@pytest.mark.requirement("DLP-01", "DLP-03")
def test_where_a_registration_left_a_cursor_is_no_excuse_for_finding_it_there_again_later() -> None:
    directory, server = Directory([spill_file(0)]), Server()
    registrar = Registrar(directory=directory, database=server, counters=Ignored(), first={RING: 0})
    assert registrar.bring_up_to_date({RING: [0]}) == {RING: 10}
    directory.held = []  # stored; and live batches went on to 50

    with pytest.raises(Fenced):
        registrar.bring_up_to_date({RING: [50]})


@pytest.mark.requirement("DLP-01", "DLP-03")
@pytest.mark.parametrize("other", [(1, 7), (0, 8)], ids=["ring", "epoch"])
def test_a_file_of_another_ring_does_not_explain_where_a_cursor_is(other: Ring) -> None:
    said = Range(*other, 0, 10, 10, 0, 0, 0)
    directory, server = Directory([SpillFile(Path("file"), Header(uuid.UUID(int=9), 0, 0, 0, b"", (said,)))]), Server()
    registrar = Registrar(directory=directory, database=server, counters=Ignored(), first={RING: 0})
    server.cursor = 10

    with pytest.raises(Fenced):
        registrar.bring_up_to_date({RING: [0]})
