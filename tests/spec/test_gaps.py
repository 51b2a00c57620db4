"""Gaps: from the last whole moment to the renewed confirmation, once per stream, however many sessions carry it."""

import random

import pytest

from daemon.ingest.gaps import Gap, GapReason, Gaps, Stream, whole_until

A, B = (Stream("venue", "kr", "", symbol, "trade") for symbol in "AB")
LOST, RESTARTED = GapReason.CONNECTION_LOST, GapReason.WORKER_RESTARTED


def gaps_of(*streams: Stream) -> Gaps:
    gaps = Gaps()
    gaps.set_wanted(streams, 0)
    return gaps


def carried(*streams: Stream, session: int = 0, since: int = 1) -> Gaps:
    gaps = gaps_of(*streams)
    for stream in streams:
        gaps.on_carried(stream, session, since)
    return gaps


def test_a_gap_runs_from_the_interruption_to_the_renewed_confirmation() -> None:
    gaps = carried(A, B)

    gaps.on_dropped([A, B], 0, 100, LOST)
    assert gaps.ended() == ()
    gaps.on_carried(B, 0, 150)
    gaps.on_carried(A, 0, 160)

    assert gaps.ended() == (Gap(B, 100, 150, LOST), Gap(A, 100, 160, LOST))


def test_a_first_confirmation_is_no_gap() -> None:
    assert carried(A).ended() == ()


def test_what_was_not_carried_cannot_be_interrupted() -> None:
    gaps = gaps_of(A)

    gaps.on_dropped([A], 0, 100, LOST)
    gaps.on_carried(A, 0, 150)

    assert gaps.ended() == ()


def test_a_second_interruption_before_the_stream_resumed_keeps_the_first_start_and_reason() -> None:
    gaps = gaps_of(A)
    gaps.on_interrupted([A], 100, RESTARTED)
    gaps.on_interrupted([A], 200, LOST)

    gaps.on_carried(A, 0, 300)

    assert gaps.ended() == (Gap(A, 100, 300, RESTARTED),)


def test_a_written_gap_is_forgotten() -> None:
    gaps = carried(A)
    gaps.on_dropped([A], 0, 100, LOST)
    gaps.on_carried(A, 0, 150)

    gaps.on_written(gaps.ended()[0])
    gaps.on_carried(A, 0, 200)

    assert gaps.ended() == ()


def test_gaps_that_find_no_room_grow_instead_of_multiplying() -> None:
    gaps = carried(A)
    for second in range(1000):
        gaps.on_dropped([A], 0, 10 * second + 5, LOST)
        gaps.on_carried(A, 0, 10 * second + 9)

    assert gaps.ended() == (Gap(A, 5, 9999, LOST),)


def test_a_wall_clock_that_was_set_back_makes_no_negative_gap() -> None:
    gaps = carried(A)
    gaps.on_dropped([A], 0, 1000, LOST)

    gaps.on_carried(A, 0, 400)

    assert gaps.ended() == (Gap(A, 1000, 1000, LOST),)


def test_a_stop_ends_what_is_interrupted() -> None:
    gaps = carried(A, B)
    gaps.on_dropped([A, B], 0, 100, LOST)
    gaps.on_carried(B, 0, 150)

    gaps.on_stopped(300)

    assert gaps.ended() == (Gap(B, 100, 150, LOST), Gap(A, 100, 300, LOST))


@pytest.mark.requirement("F22")
def test_a_stream_that_another_session_still_carries_is_not_interrupted() -> None:
    gaps = carried(A)
    gaps.on_carried(A, 1, 10)

    gaps.on_dropped([A], 0, 100, LOST)
    gaps.on_carried(A, 0, 150)
    gaps.on_dropped([A], 1, 200, LOST)
    gaps.on_carried(A, 1, 250)

    assert gaps.ended() == ()


@pytest.mark.requirement("F22")
def test_a_stream_is_interrupted_from_the_end_of_its_last_carrier() -> None:
    gaps = carried(A)
    gaps.on_carried(A, 1, 10)

    gaps.on_dropped([A], 0, 100, LOST)
    gaps.on_dropped([A], 1, 130, LOST)
    gaps.on_carried(A, 0, 150)

    assert gaps.ended() == (Gap(A, 130, 150, LOST),)


@pytest.mark.requirement("F22")
def test_a_carrier_that_turns_out_to_have_been_dead_all_the_time_covers_nothing() -> None:
    gaps = carried(A)
    gaps.on_carried(A, 1, 10)

    gaps.on_dropped([A], 1, 130, LOST)  # session 0 seems to carry it
    gaps.on_carried(A, 1, 170)
    gaps.on_dropped([A], 0, 50, LOST)  # found silent: dead since 50

    assert gaps.ended() == (Gap(A, 130, 170, LOST),)


@pytest.mark.requirement("F22")
def test_a_last_carrier_that_was_dead_for_longer_does_not_lengthen_the_hole() -> None:
    gaps = carried(A)
    gaps.on_carried(A, 1, 10)

    gaps.on_dropped([A], 1, 130, LOST)
    gaps.on_dropped([A], 0, 50, LOST)
    gaps.on_carried(A, 0, 150)

    assert gaps.ended() == (Gap(A, 130, 150, LOST),)


@pytest.mark.requirement("F22")
def test_any_order_of_two_sessions_leaves_exactly_the_time_that_neither_carried() -> None:
    fate = random.Random(5)
    for _ in range(300):
        gaps, now, alive, covered = gaps_of(A), 0, {0: False, 1: False}, [False] * 400
        for moment in range(1, 400):
            now = moment
            session = fate.randrange(2)
            if fate.random() < 0.1:
                if alive[session]:
                    gaps.on_dropped([A], session, now, LOST)
                else:
                    gaps.on_carried(A, session, now)
                alive[session] = not alive[session]
            covered[moment] = any(alive.values())
            for gap in gaps.ended():
                assert not any(covered[gap.started_ns : gap.ended_ns])
                assert covered[gap.ended_ns]
                gaps.on_written(gap)


@pytest.mark.requirement("F63")
def test_a_stream_that_is_not_wanted_any_more_ends_its_hole_and_is_forgotten() -> None:
    gaps = carried(A, B)
    gaps.on_dropped([A, B], 0, 100, LOST)

    gaps.set_wanted([B], 120)

    assert gaps.ended() == (Gap(A, 100, 120, LOST),)
    assert gaps.streams() == (B,)
    gaps.on_carried(A, 0, 130)  # late
    assert gaps.carried_by(0) == []


@pytest.mark.requirement("F63")
def test_a_stream_that_moves_to_another_session_has_a_hole_in_between() -> None:
    gaps = carried(A)

    gaps.set_wanted([A], 90)
    gaps.on_dropped([A], 0, 100, LOST)
    gaps.on_carried(A, 1, 140)

    assert gaps.ended() == (Gap(A, 100, 140, LOST),)


def test_a_stream_was_whole_until_its_newest_record_was_sent_by_the_venues_clock() -> None:
    second = 10**9

    assert whole_until({("A", 1, ""): (102 * second, 100 * second)}) == {("A", 1, ""): 100 * second}


def test_a_venue_clock_that_is_not_close_to_ours_is_not_used() -> None:
    second = 10**9

    assert whole_until({("A", 1, ""): (100 * second, 94 * second), ("A", 2, ""): (100 * second, 101 * second)}) == {
        ("A", 1, ""): 100 * second,
        ("A", 2, ""): 100 * second,
    }
