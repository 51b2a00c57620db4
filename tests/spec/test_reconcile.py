"""What the monitor compares when, and when it raises alarm."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from daemon.sinks.counts import Difference, Key
from daemon.sinks.counts_digests import Digest
from daemon.watching.reconcile import (
    AGAIN_MINUTES,
    CATCH_UP_MINUTES,
    CONFIRM_S,
    MAX_CONDITIONS,
    MAX_KEPT,
    Measurement,
    Reconciler,
    Unavailable,
    conditions_of,
)
from daemon.watching.reconcile_sweep import ROWS_AT_ONCE

pytestmark = pytest.mark.requirement("E2E-OBS-01")

START = 1000  # minute
INTERVAL_S = 60.0
SETTLE_S = 20.0


class Servers:
    """Says what a test has put in, and remembers what it was asked."""

    def __init__(self) -> None:
        self.differences: list[Difference] = []
        self.unsettled_from: int | None = None
        self.unpublished = ""
        self.replayed = 0
        self.is_away = False
        self.asked: list[list[int]] = []
        self.read_again: list[tuple[int, int]] = []
        self.rows = 0  # of each minute that has a digest; 0: none has one
        self.seen: dict[int, int] = {}  # digests that are not 0
        self.removed = 0
        self.seconds_per_row = 0.0
        self.seconds = 0.0

    def digest(self, minute: int) -> Digest:
        return Digest(self.rows, frozenset({("market_ticks", self.rows, self.seen.get(minute, 0))}), 0)

    @contextmanager
    def digests(self) -> Iterator["Servers"]:
        if self.is_away:
            raise Unavailable("the database does not answer: 08006")
        yield self

    def changes(self) -> tuple[int, ...]:
        return (self.removed,)

    def read(self, first: int, behind: int) -> Mapping[int, Digest]:
        self.read_again.append((first, behind))
        self.seconds += self.seconds_per_row * self.rows * (behind - first)
        return {minute: self.digest(minute) for minute in range(first, behind)}

    def measure(self, minutes: Sequence[int]) -> Measurement:
        self.asked.append(list(minutes))
        if self.is_away:
            raise Unavailable("the database does not answer: 08006")
        return Measurement(
            [one for one in self.differences if one.key.minute in minutes],
            unsettled_from=self.unsettled_from,
            on_the_way="" if self.unsettled_from is None else "3 spill files are not stored yet",
            unpublished=self.unpublished,
            replayed=self.replayed,
            digests={minute: self.digest(minute) for minute in minutes if self.rows},
        )


class Bench:
    """A reconciler with a clock; it starts in the middle of minute START, when START - 1 has settled."""

    def __init__(self) -> None:
        self.now_s = START * 60 + 30.0
        self.servers = Servers()
        self.counts: dict[str, int] = {}
        self.reconciler = Reconciler(
            self.servers.measure, self, settle_s=SETTLE_S, interval_s=INTERVAL_S, clock=lambda: self.now_s,
            open_source=self.servers.digests, timer=lambda: self.servers.seconds,
        )  # fmt: skip

    def increment(self, name: str, n: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + n

    def look(self, *, after_s: float = 0.0) -> float:
        self.now_s += after_s
        return self.reconciler.look()

    def subjects(self) -> list[str]:
        return [condition.subject for condition in self.reconciler.conditions()]


def difference(minute: int, symbol: str = "005930", kind: str = "trade") -> Difference:
    return Difference(Key(minute, "kr", symbol, kind), 10, 9, 10)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_each_minute_is_compared_once_it_has_settled(bench: Bench) -> None:
    bench.look()
    assert bench.servers.asked == [[START - 60, START - 59, START - 1]]  # an hour ago, too

    bench.look(after_s=49.0)  # 19 s behind the end of the minute
    assert START not in bench.servers.asked[-1]

    bench.look(after_s=1.0)
    assert START in bench.servers.asked[-1]
    assert bench.counts["minutes_reconciled"] == 2
    assert bench.reconciler.state().through == "1970-01-01T16:41:00+00:00"


def test_a_difference_is_told_when_a_second_look_finds_it_too_and_once(bench: Bench) -> None:
    bench.servers.differences = [difference(START - 1), difference(START - 1, "000660")]

    assert bench.look() == CONFIRM_S
    assert bench.reconciler.conditions() == ()

    assert bench.look(after_s=CONFIRM_S) == INTERVAL_S
    (condition,) = bench.reconciler.conditions()
    assert (condition.level, condition.code, condition.subject) == ("CRITICAL", "counts_differ", "1970-01-01T16:39Z")
    assert condition.message == ("received, stored and published are not the same for kr 000660 trade, kr 005930 trade")
    assert bench.counts["reconcile_differences"] == 2
    for _ in range(10):
        bench.look(after_s=60)
    assert bench.counts["reconcile_differences"] == 2
    assert bench.reconciler.state().differences == 2


def test_what_is_gone_at_the_second_look_was_no_difference(bench: Bench) -> None:
    bench.servers.differences = [difference(START - 1)]
    bench.look()
    bench.servers.differences = []

    bench.look(after_s=CONFIRM_S)

    assert (bench.reconciler.conditions(), bench.counts.get("reconcile_differences", 0)) == ((), 0)


def test_a_row_that_is_removed_later_is_found_within_half_an_hour(bench: Bench) -> None:
    for _ in range(60):
        bench.look(after_s=60)
    removed = START + 12
    bench.servers.differences = [difference(removed)]

    looks = 0
    while not bench.reconciler.conditions():
        bench.look(after_s=60)
        looks += 1

    assert looks <= 60 // AGAIN_MINUTES + 1
    bench.servers.differences = []  # put back
    for _ in range(60 // AGAIN_MINUTES + 1):
        bench.look(after_s=60)
    assert bench.reconciler.conditions() == ()


def test_every_minute_of_the_last_hour_is_looked_at_again(bench: Bench) -> None:
    for _ in range(100):
        bench.look(after_s=60)
    bench.servers.asked.clear()
    for _ in range(31):
        bench.look(after_s=60)

    seen = {minute for minutes in bench.servers.asked for minute in minutes}
    assert set(range(START + 72, START + 100)) <= seen
    assert max(len(minutes) for minutes in bench.servers.asked) <= 1 + AGAIN_MINUTES


def test_while_the_database_is_away_nothing_is_told_and_afterwards_nothing_was_left_out(bench: Bench) -> None:
    bench.look()
    bench.servers.is_away = True
    for _ in range(100):
        assert bench.look(after_s=60) == INTERVAL_S
    assert bench.reconciler.conditions() == ()
    assert bench.reconciler.state().waiting == "the database does not answer: 08006"

    bench.servers.is_away = False
    bench.servers.asked.clear()
    for _ in range(5):
        bench.look(after_s=60)

    seen = {minute for minutes in bench.servers.asked for minute in minutes}
    assert set(range(START, START + 105)) <= seen
    assert max(len(minutes) for minutes in bench.servers.asked) <= 2 * CATCH_UP_MINUTES + AGAIN_MINUTES
    assert bench.reconciler.state().waiting == ""
    assert bench.counts["minutes_reconciled"] == 106


def test_minutes_of_which_something_waits_in_spill_files_wait_too(bench: Bench) -> None:
    bench.look()
    bench.servers.unsettled_from = START + 1
    bench.servers.differences = [difference(START + 2)]  # not stored yet, no wonder
    for _ in range(90):
        bench.look(after_s=60)
    assert bench.reconciler.conditions() == ()
    assert bench.counts["minutes_reconciled"] == 2
    assert bench.reconciler.state().waiting == "3 spill files are not stored yet"
    assert len(bench.servers.asked[-1]) <= 1 + CATCH_UP_MINUTES + AGAIN_MINUTES

    bench.servers.unsettled_from = None
    bench.servers.differences = [difference(START + 3)]
    for _ in range(5):
        bench.look(after_s=60)

    assert bench.subjects() == ["1970-01-01T16:43Z"]
    assert bench.counts["minutes_reconciled"] == 96
    assert bench.reconciler.state().waiting == ""


def test_a_publisher_that_is_behind_holds_up_only_the_comparison_with_redis(bench: Bench) -> None:
    bench.look()
    bench.servers.unpublished = "the publisher is behind in rings [0]"
    for _ in range(10):
        bench.look(after_s=60)
    assert bench.servers.asked[-1][-1] == START + 9
    assert bench.counts["minutes_reconciled"] == 1
    assert bench.reconciler.state().waiting == "the publisher is behind in rings [0]"

    bench.servers.unpublished = ""
    bench.servers.asked.clear()
    bench.look(after_s=60)
    bench.look(after_s=60)

    assert set(range(START, START + 12)) <= {minute for minutes in bench.servers.asked for minute in minutes}
    assert bench.counts["minutes_reconciled"] == 13


def settle(bench: Bench, minutes: int) -> None:
    """Let time pass in which all is equal, until every minute has a digest."""
    bench.servers.rows = bench.servers.rows or 1000
    for _ in range(minutes):
        bench.look(after_s=60)
    bench.servers.asked.clear()
    bench.servers.read_again.clear()


def test_what_was_found_equal_is_not_counted_again_while_its_digest_is_the_same(bench: Bench) -> None:
    settle(bench, 100)

    for _ in range(5):
        bench.look(after_s=60)

    assert [len(minutes) for minutes in bench.servers.asked] == [1] * 5
    for _ in range(2):  # every minute of the hour was read in every look
        bench.servers.read_again.clear()
        bench.look(after_s=60)
        read = {minute for first, behind in bench.servers.read_again for minute in range(first, behind)}
        assert read >= set(range(START + 45, START + 105))


@pytest.mark.parametrize("ago", [2, 31, 59, 90])
def test_a_row_that_is_doubled_or_removed_in_any_minute_is_told_after_the_next_look(bench: Bench, ago: int) -> None:
    settle(bench, 150)
    changed = START + 150 - ago
    bench.servers.seen[changed] = 77
    bench.servers.differences = [difference(changed)]

    assert bench.look(after_s=60) == CONFIRM_S
    bench.look(after_s=CONFIRM_S)

    (condition,) = bench.reconciler.conditions()
    assert "kr 005930 trade" in condition.message
    assert bench.counts["reconcile_differences"] == 1

    bench.servers.differences = []  # put back
    for _ in range(40):
        bench.look(after_s=60)
    assert bench.reconciler.conditions() == ()
    bench.servers.asked.clear()
    bench.look(after_s=60)
    assert len(bench.servers.asked[-1]) == 1  # the minute has a digest again


def test_a_change_that_leaves_the_counts_equal_is_compared_once_and_then_known(bench: Bench) -> None:
    settle(bench, 100)
    bench.servers.seen[START + 70] = 5

    bench.look(after_s=60)
    assert START + 70 in bench.servers.asked[-1]
    bench.look(after_s=60)

    assert START + 70 not in bench.servers.asked[-1]
    assert bench.reconciler.conditions() == ()


def test_at_full_rate_what_a_look_costs_is_bounded_and_a_round_takes_longer(bench: Bench) -> None:
    bench.servers.rows = 3 * ROWS_AT_ONCE
    settle(bench, 200)
    bench.servers.seconds_per_row = 1.25 / 3_000_000  # as measured

    looks = 0
    read: set[int] = set()
    while not read >= set(range(START + 142, START + 199)):
        spent = bench.servers.seconds
        bench.look(after_s=60)
        assert bench.servers.seconds - spent < 0.1 * INTERVAL_S + 2 * 1.25
        read |= {minute for first, behind in bench.servers.read_again for minute in range(first, behind)}
        looks += 1

    assert looks <= 16


def test_when_the_server_says_that_rows_were_removed_the_hour_is_read_at_once(bench: Bench) -> None:
    bench.servers.rows = 3 * ROWS_AT_ONCE
    settle(bench, 200)
    bench.servers.seconds_per_row = 0.3 / 3_000_000
    removed = START + 200 - 57
    bench.servers.seen[removed] = 77
    bench.servers.differences = [difference(removed)]
    bench.servers.removed = 1

    bench.look(after_s=60)
    bench.look(after_s=CONFIRM_S)

    assert len(bench.reconciler.conditions()) == 1
    spent = bench.servers.seconds
    bench.look(after_s=60)
    assert bench.servers.seconds - spent < 0.1 * INTERVAL_S + 1.0  # once


def test_digests_that_cannot_be_read_do_not_hold_up_the_comparison(bench: Bench) -> None:
    settle(bench, 10)

    def fail(first: int, behind: int) -> Mapping[int, Digest]:
        raise Unavailable("the database does not answer: 57014")

    bench.servers.read = fail  # type: ignore[method-assign]
    bench.look(after_s=60)

    assert bench.servers.asked[-1][-1] == START + 10
    assert bench.reconciler.state().waiting == (
        "earlier minutes cannot be read again: the database does not answer: 57014"
    )


def test_what_is_remembered_and_told_is_bounded(bench: Bench) -> None:
    bench.servers.differences = [difference(START - 1, f"{number:06d}") for number in range(3 * MAX_KEPT)]
    for _ in range(5):
        bench.look(after_s=CONFIRM_S)

    assert bench.reconciler.state().differences == MAX_KEPT
    assert len(bench.reconciler.state().named) == 8
    (condition,) = bench.reconciler.conditions()
    assert condition.message.endswith("and 992 more; `sise verify` lists them")

    many = {difference(minute).key: difference(minute) for minute in range(100)}
    found = conditions_of(many)
    assert len(found) == MAX_CONDITIONS + 1
    assert (found[0].subject, found[-1].message.endswith("in 90 more minutes")) == ("1970-01-01T01:39Z", True)


def test_differences_that_are_older_than_what_is_looked_at_again_are_forgotten(bench: Bench) -> None:
    bench.servers.differences = [difference(START - 1)]
    bench.look()
    bench.look(after_s=CONFIRM_S)
    assert bench.subjects() != []

    for _ in range(130):
        bench.look(after_s=60)

    assert bench.reconciler.conditions() == ()


def test_frames_that_were_replayed_are_counted(bench: Bench) -> None:
    bench.servers.replayed = 3
    bench.look()
    bench.look(after_s=60)

    assert bench.counts["quarantine_replayed"] == 6
