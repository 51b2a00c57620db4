"""Random use of a ring by one producer and two consumers, against `tests/reference/ring_model.py`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daemon.errors import RingError
from native_pipeline.ring_reader import GatingReader, LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.ring_model import ModelReader, RingModel
from tests.spec.ring_support import MIB, QUARANTINE, drain, new_ring, padded

BODY_SIZES = st.one_of(
    st.integers(0, 400),
    st.integers(20_000, 40_000),
    st.sampled_from([MIB // 8 - 32, MIB // 8 - 40, 65_536, 65_536 - 32]),  # the longest record, and exact fits
)

UNPUBLISHED_LIMIT = MIB // 2  # a network read is far smaller; test_ring_damage.py has the case of a whole lap


class RingMachine(RuleBasedStateMachine):
    """Appends of any size, publishes, reads, commits, rewinds, restarts of every party."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="sise-ring-"))

    @initialize()
    def begin(self) -> None:
        self.path = new_ring(self.directory)
        self.writer = RingWriter(self.path)
        self.gating = GatingReader(self.path, "writer")
        self.lossy = LossyReader(self.path, "publisher")
        self.model = RingModel(self.writer.first_seq)
        self.model_gating = ModelReader()
        self.model_lossy = ModelReader()
        self.unpublished = 0
        self.fill = 0

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    @rule(size=BODY_SIZES, times=st.integers(1, 40), publish_each=st.booleans())
    def append(self, size: int, times: int, publish_each: bool) -> None:
        for _ in range(times):
            self.fill = (self.fill + 1) % 251
            body = bytes([self.fill]) * size
            try:
                seq = self.writer.append(QUARANTINE, body)
            except RingError:
                # full: then a record of this size, with its pad at the wrap, really does not fit
                assert self.writer.room_bytes < 2 * (size + 40)
                return
            assert self.model.append(padded(body)) == seq
            self.unpublished += size + 40
            if publish_each or self.unpublished > UNPUBLISHED_LIMIT:
                self.publish()

    @rule()
    def publish(self) -> None:
        self.writer.publish()
        self.model.publish()
        self.unpublished = 0

    @rule()
    def read_gating(self) -> None:
        assert self.model.visible(self.model_gating) == [(seen.seq, seen.body) for seen in drain(self.gating)]
        self.model_gating.read = self.model.published

    @rule()
    def commit_gating(self) -> None:
        self.gating.commit()
        self.model_gating.committed = self.model_gating.read

    @rule()
    def rewind_gating(self) -> None:
        self.gating.rewind()
        self.model_gating.read = self.model_gating.committed

    @rule(max_bytes=st.sampled_from([0, 1, 24, 100, 4096, 300_000]))
    def read_lossy(self, max_bytes: int) -> None:
        for seen in drain(self.lossy, max_bytes=max_bytes):
            number = self.model.number_of(seen.seq)
            assert number >= self.model_lossy.read, "a lossy reader went back"
            self.model_lossy.skip_to(number)
            assert self.model.appended[number] == (seen.seq, seen.body), "a torn record"
            self.model_lossy.read += 1
        assert self.lossy.lapped_records == self.model_lossy.lapped
        self.lossy.commit()

    @rule()
    def restart_gating(self) -> None:
        self.gating.close()
        self.gating = GatingReader(self.path, "writer")
        self.model_gating.read = self.model_gating.committed

    @precondition(lambda self: self.model.appended)
    @rule(data=st.data())
    def seek_behind_a_cursor(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(-2, len(self.model.appended) + 2))
        committed, published = self.model_gating.committed, self.model.published
        if 0 < number <= len(self.model.appended):
            cursor = self.model.appended[number - 1][0]
        else:
            cursor = self.writer.first_seq - 1 if number <= 0 else self.model.next_seq + number

        missing = self.gating.seek_after(cursor)

        number = min(max(number, 0), published)
        assert max(0, committed - number) == missing
        self.model_gating.read = max(committed, number)

    @rule(clean=st.booleans())
    def restart_producer(self, clean: bool) -> None:
        if clean:
            self.writer.close()
            self.model.publish()
        else:
            self.model.crash()
            del self.writer
        self.writer = RingWriter(self.path)
        assert self.writer.recovered_bytes == 0
        assert self.writer.last_seq + 1 == self.model.next_seq

    @invariant()
    def nothing_is_damaged(self) -> None:
        assert self.gating.corrupt_records == 0
        assert self.gating.lapped_records == 0
        assert self.lossy.corrupt_records == 0

    @invariant()
    def the_gating_reader_is_never_overtaken(self) -> None:
        assert self.writer.head - self.gating.consumers()["writer"]["position"] <= MIB


RingMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRingAgainstItsModel = pytest.mark.requirement("DLP-01", "CH-PROC-01")(RingMachine.TestCase)
