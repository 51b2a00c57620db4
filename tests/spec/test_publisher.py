"""What the publisher decides: when to try again, whose turn it is, and what an answer of Redis means."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from daemon.config import Redis as RedisSettings
from daemon.sinks.host import Host
from daemon.sinks.publisher import Publisher
from daemon.sinks.redis_link import Cursor, RedisAway
from native_pipeline.redis_replies import TransactionReplies

EPOCH = 1_000


class FakeClock:
    """Time passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


class FakeCounters:
    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def increment(self, name: str, n: int = 1, /) -> None:
        self.values[name] = self.values.get(name, 0) + n

    def set(self, name: str, value: int, /) -> None:
        self.values[name] = value

    def get(self, name: str, /) -> int:
        return self.values.get(name, 0)


class FakeReader:
    """A ring of seqs that are waiting."""

    lapped_records = 0
    corrupt_records = 0
    capacity_bytes = 1 << 20
    first_seq = EPOCH

    def __init__(self, ring: int, waiting: int) -> None:
        self.ring, self.epoch = ring, EPOCH
        self.next_seq, self.end_seq = EPOCH, EPOCH + waiting
        self.commits: list[int] = []

    @property
    def lag_bytes(self) -> int:
        return self.end_seq - self.next_seq

    def seek_after(self, seq: int, /) -> int:
        self.next_seq = seq + 1
        return 0

    def commit(self) -> None:
        self.commits.append(self.next_seq - 1)

    def prepare_sleep(self) -> bool:
        return self.next_seq == self.end_seq

    def cancel_sleep(self) -> None:
        pass


class FakeBatch:
    commands = 1
    entries = gap_entries = unread = 0

    def __init__(self) -> None:
        self.progress: dict[int, tuple[int, int, int]] = {}
        self.dropped: Counter[str] = Counter()
        self.resumed: list[tuple[int, int]] = []
        self.forgotten: list[tuple[int, int]] = []
        self.parts: dict[int, tuple[int, int, int, dict[str, int] | None]] = {}
        self.gaps: dict[int, tuple[int, int, int, int, dict[str, int] | None]] = {}

    def restore_gap(
        self, reader: FakeReader, after: int, through: int, records: int, missing: Mapping[str, int] | None, /
    ) -> None:
        raise AssertionError("there is no journal")

    def skip_from(self, reader: FakeReader, max_records: int, /) -> int:
        skipped = min(max_records, reader.end_seq - reader.next_seq)
        reader.next_seq += skipped
        self.dropped["ticker.kr"] += skipped
        return skipped

    def resume(
        self, reader: FakeReader, seq: int, last: Mapping[str, int], /, *, replaced_seq: int | None = None
    ) -> None:
        self.resumed.append((reader.ring, seq))

    def tell_forgotten(self, reader: FakeReader, seq: int, /) -> None:
        self.forgotten.append((reader.ring, seq))

    def keys_of(self, commands: Iterable[int], /) -> Sequence[str]:
        return ["stream:ticker.kr:0" for _ in commands]

    @property
    def records(self) -> int:
        return sum(last - first + 1 for _, first, last in self.progress.values())

    messages = records

    def append_from(self, reader: FakeReader, max_records: int, /) -> int:
        taken = min(max_records, reader.end_seq - reader.next_seq)
        if taken:
            _, first, _ = self.progress.get(reader.ring, (EPOCH, reader.next_seq, 0))
            reader.next_seq += taken
            self.progress[reader.ring] = (EPOCH, first, reader.next_seq - 1)
        return taken

    def payload(self) -> memoryview:
        return memoryview(repr(sorted(self.progress.items())).encode())

    def observe_ages(self, counters: Any, histogram: int, now_ns: int, /) -> None:
        pass

    def clear(self) -> None:
        self.progress.clear()


def replies(text: bytes) -> TransactionReplies:
    found = TransactionReplies(1)
    found.feed(text)
    return found


DONE = b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n+OK\r\n"
FAILED_INSIDE = b"+OK\r\n+QUEUED\r\n*1\r\n-WRONGTYPE no\r\n+OK\r\n"
DISCARDED = b"+OK\r\n-OOM no\r\n-EXECABORT no\r\n+OK\r\n"
MOVED = b"+OK\r\n+QUEUED\r\n*-1\r\n+OK\r\n"
AWAY = RedisAway("connection refused")


class FakeLink:
    """Answers as told; then everything works."""

    def __init__(self, connects: Sequence[Any] = (), sends: Sequence[Any] = ()) -> None:
        self.connects, self.sends = list(connects), list(sends)
        self.sent: list[bytes] = []
        self.connected_at: list[float] = []
        self.clock: FakeClock | None = None

    def connect(self, rings: Sequence[int], /) -> Mapping[int, Cursor]:
        assert self.clock is not None
        self.connected_at.append(self.clock.now)
        answer = self.connects.pop(0) if self.connects else {}
        if isinstance(answer, Exception):
            raise answer
        return {ring: Cursor(EPOCH, seq) for ring, seq in answer.items()}

    def send(self, payload: memoryview, commands: int, /) -> TransactionReplies:
        self.sent.append(bytes(payload))
        answer = self.sends.pop(0) if self.sends else DONE
        if isinstance(answer, Exception):
            raise answer
        return replies(answer)

    def keep_owner(self) -> None:
        pass

    def give_up_owner(self) -> None:
        pass

    def close(self) -> None:
        pass


class Rig:
    """A publisher that is asked to stop when nothing is left to do."""

    def __init__(self, readers: Sequence[FakeReader], link: FakeLink, **settings: Any) -> None:
        self.clock, self.counters, self.link = FakeClock(), FakeCounters(), link
        self.waits: list[float] = []
        self.asked_to_stop = False
        link.clock = self.clock
        self.publisher = Publisher(
            readers=readers, batch=FakeBatch(), link=link, settings=RedisSettings(**settings), counters=self.counters,
            host=Host(wait=self.wait, beat=lambda: None, stopping=lambda: self.asked_to_stop, drain_s=10.0),
            clock=self.clock, jitter=lambda: 1.0,
        )  # fmt: skip
        self.readers = readers

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.now += seconds
        if all(reader.commits and reader.commits[-1] == reader.end_seq - 1 for reader in self.readers):
            self.asked_to_stop = True


def test_attempts_come_later_and_later_up_to_the_limit_and_start_over_after_a_success() -> None:
    link = FakeLink(connects=[AWAY] * 6, sends=[AWAY])
    rig = Rig([FakeReader(0, 1)], link, retry_max_s=1.0)

    assert rig.publisher.run()

    pauses = [round(later - earlier, 3) for earlier, later in pairwise(link.connected_at)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]  # the last one: connecting alone is no success
    assert rig.counters.values["publish_errors"] == 7
    assert rig.counters.values["records_published"] == 1


def test_the_same_batch_is_sent_again_when_redis_did_not_take_it() -> None:
    for answer in (AWAY, DISCARDED, MOVED):
        link = FakeLink(sends=[answer])
        rig = Rig([FakeReader(0, 3)], link)

        assert rig.publisher.run()

        assert len(link.sent) == 2
        assert link.sent[0] == link.sent[1]
        assert rig.counters.values["records_published"] == 3
        assert rig.counters.values["publish_errors"] == 1


@pytest.mark.requirement("CH-PROC-01")
def test_a_batch_that_the_cursor_says_is_published_is_counted_and_not_sent_again() -> None:
    reader = FakeReader(0, 3)
    link = FakeLink(connects=[{}, {0: EPOCH + 2}], sends=[AWAY])
    rig = Rig([reader], link)

    assert rig.publisher.run()

    assert len(link.sent) == 1
    assert rig.counters.values["records_published"] == 3
    assert reader.commits == [EPOCH + 2]


def test_a_batch_that_another_published_in_part_is_read_again_behind_it() -> None:
    reader = FakeReader(0, 3)
    link = FakeLink(connects=[{}, {0: EPOCH}], sends=[MOVED])
    rig = Rig([reader], link)

    assert rig.publisher.run()

    assert link.sent[1] == repr([(0, (EPOCH, EPOCH + 1, EPOCH + 2))]).encode()
    assert rig.counters.values["records_published"] == 2


def test_a_command_that_failed_inside_the_transaction_is_an_error_but_not_a_reason_to_repeat() -> None:
    link = FakeLink(sends=[FAILED_INSIDE])
    rig = Rig([FakeReader(0, 3)], link)

    assert rig.publisher.run()

    assert len(link.sent) == 1
    assert rig.counters.values["publish_errors"] == 1
    assert rig.counters.values["records_published"] == 3


def test_a_busy_ring_does_not_starve_the_others() -> None:
    link = FakeLink()
    rig = Rig([FakeReader(0, 1000), FakeReader(1, 3)], link, batch_messages=10)

    assert rig.publisher.run()

    assert b"(1, (1000, 1000, 1002))" in link.sent[0]
    assert rig.counters.values["records_published"] == 1003


def test_a_full_batch_is_followed_at_once_and_a_smaller_one_after_the_flush_interval() -> None:
    link = FakeLink()
    rig = Rig([FakeReader(0, 25)], link, batch_messages=10, flush_interval_ms=20)

    assert rig.publisher.run()

    assert len(link.sent) == 3
    assert rig.waits[0] == pytest.approx(0.02)


@pytest.mark.requirement("GS-01")
def test_a_stop_is_not_held_up_by_a_redis_that_is_away() -> None:
    reader = FakeReader(0, 3)
    rig = Rig([reader], FakeLink(connects=[AWAY] * 100))
    rig.asked_to_stop = True

    assert not rig.publisher.run()

    assert rig.waits == []
    assert reader.commits == []


def test_the_successor_goes_on_behind_the_cursor_of_redis() -> None:
    link = FakeLink(connects=[{0: EPOCH + 6}])
    rig = Rig([FakeReader(0, 10)], link)

    assert rig.publisher.run()

    assert link.sent == [repr([(0, (EPOCH, EPOCH + 7, EPOCH + 9))]).encode()]
