"""A single registration that is refused without a reason: a bad symbol, a full session, or nobody can tell."""

import pytest

from daemon.ingest.unexplained import FULL_AFTER, Unexplained, Verdict
from daemon.ingest.venues.venue import Registration

A, B, C, D = (Registration("TRADES", symbol) for symbol in "ABCD")


@pytest.mark.requirement("F08")
def test_refused_again_although_another_one_was_taken_in_between_is_bad() -> None:
    subject = Unexplained()

    assert subject.judge(A, 1) is Verdict.ASK_LATER
    subject.on_taken()

    assert subject.judge(A, 0) is Verdict.BAD


@pytest.mark.requirement("F08")
def test_several_in_a_row_are_a_full_session() -> None:
    subject = Unexplained()

    verdicts = [subject.judge(registration, 9) for registration in (A, B, C)]

    assert len(verdicts) == FULL_AFTER
    assert verdicts == [Verdict.ASK_LATER, Verdict.ASK_LATER, Verdict.FULL]


def test_with_nothing_else_to_ask_nobody_can_tell() -> None:
    assert Unexplained().judge(A, 0) is Verdict.UNDECIDED


def test_what_was_taken_before_the_first_refusal_proves_nothing() -> None:
    subject = Unexplained()
    subject.on_taken()

    assert [subject.judge(A, 1), subject.judge(A, 1), subject.judge(A, 0)] == [
        Verdict.ASK_LATER, Verdict.ASK_LATER, Verdict.UNDECIDED,
    ]  # fmt: skip


def test_a_row_begins_anew_where_one_was_taken_and_with_each_session() -> None:
    subject = Unexplained()
    subject.judge(A, 9)
    subject.judge(B, 9)
    subject.on_taken()

    assert subject.judge(C, 9) is Verdict.ASK_LATER
    assert subject.judge(B, 9) is Verdict.BAD

    subject.clear()

    assert subject.judge(D, 9) is Verdict.ASK_LATER
    assert A not in subject
    assert D in subject
