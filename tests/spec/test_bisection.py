"""Bad rows are found by storing parts: every good row once, every bad one alone, with few questions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.sinks.bisection import CUTS, Refusal, store_parts

ROWS = 10_000


class Server:
    """Takes parts without a bad row; may name the first bad row, or a wrong one."""

    def __init__(self, bad: set[int], *, names: bool = False, lies: int | None = None) -> None:
        self.bad = bad
        self.names = names
        self.lies = lies
        self.stored: list[int] = []
        self.asked: list[tuple[int, int]] = []

    def attempt(self, begin: int, end: int) -> Refusal | None:
        self.asked.append((begin, end))
        worst = min((row for row in self.bad if begin <= row < end), default=None)
        if worst is None:
            self.stored += range(begin, end)
            return None
        named = self.lies if self.lies is not None else worst - begin if self.names else None
        return Refusal("23514", f"row {worst}", named)


def most_questions(rows: int) -> int:
    return 1 + 2 * math.ceil(math.log2(rows))


@pytest.mark.requirement("F51")
@pytest.mark.parametrize("bad", [0, 1, 4_999, 5_000, 6_789, 9_998, 9_999])
def test_one_bad_row_of_ten_thousand_takes_two_questions_for_each_halving(bad: int) -> None:
    server = Server({bad})

    [refused] = store_parts(ROWS, server.attempt)

    assert (refused.row, refused.refusal.message) == (bad, f"row {bad}")
    assert server.stored == [row for row in range(ROWS) if row != bad]
    assert len(server.asked) <= most_questions(ROWS)


@pytest.mark.parametrize("bad", [0, 1, 6_789, 9_999])
def test_a_bad_row_that_the_server_names_takes_three_questions_more(bad: int) -> None:
    server = Server({bad}, names=True)

    [refused] = store_parts(ROWS, server.attempt)

    assert refused.row == bad
    assert len(server.stored) == ROWS - 1
    assert len(server.asked) <= 4


@pytest.mark.requirement("F51")
@given(
    rows=st.integers(0, 60),
    bad=st.sets(st.integers(0, 59)),
    names=st.booleans(),
    lies=st.one_of(st.none(), st.integers(-3, 70)),
)
def test_every_good_row_is_stored_once_in_its_order_and_every_bad_one_is_asked_for_alone(
    rows: int, bad: set[int], names: bool, lies: int | None
) -> None:
    server = Server(bad, names=names, lies=lies)

    refused = store_parts(rows, server.attempt)

    expected = sorted(row for row in bad if row < rows)
    assert [each.row for each in refused] == expected
    assert [each.refusal.message for each in refused] == [f"row {row}" for row in expected]
    assert server.stored == [row for row in range(rows) if row not in bad]
    assert {(row, row + 1) for row in expected} <= set(server.asked)


@pytest.mark.requirement("F51")
def test_a_batch_of_bad_rows_only_is_not_sent_once_for_each_of_them() -> None:
    server = Server(set(range(1_000)), names=True)

    assert len(store_parts(1_000, server.attempt)) == 1_000

    sent = sum(end - begin for begin, end in server.asked)
    assert sent <= 1_000 * (CUTS + 2 + math.ceil(math.log2(1_000)))


def test_what_was_refused_already_is_not_asked_again() -> None:
    server = Server({3})

    store_parts(8, server.attempt, refused=Refusal("23514", "row 3"))

    assert (0, 8) not in server.asked


def test_nothing_is_asked_about_no_rows() -> None:
    server = Server(set())

    assert list(store_parts(0, server.attempt)) == []
    assert server.asked == []
