"""Gaps: from the last whole moment to the renewed confirmation, once for each registration."""

from daemon.ingest.gaps import Gap, GapReason, Gaps, whole_until
from daemon.ingest.venues.venue import Registration

A, B = (Registration("TRADES", symbol) for symbol in "AB")
LOST, RESTARTED = GapReason.CONNECTION_LOST, GapReason.WORKER_RESTARTED


def test_a_gap_runs_from_the_interruption_to_the_renewed_confirmation() -> None:
    gaps = Gaps()

    gaps.on_interrupted([A, B], 100, LOST)
    assert gaps.ended() == ()
    gaps.on_resumed(B, 150)
    gaps.on_resumed(A, 160)

    assert gaps.ended() == (Gap(B, 100, 150, LOST), Gap(A, 100, 160, LOST))


def test_a_first_confirmation_is_no_gap() -> None:
    gaps = Gaps()

    gaps.on_resumed(A, 100)

    assert gaps.ended() == ()


def test_a_second_interruption_before_the_stream_resumed_keeps_the_first_start_and_reason() -> None:
    gaps = Gaps()
    gaps.on_interrupted([A], 100, RESTARTED)
    gaps.on_interrupted([A], 200, LOST)

    gaps.on_resumed(A, 300)

    assert gaps.ended() == (Gap(A, 100, 300, RESTARTED),)


def test_a_written_gap_is_forgotten() -> None:
    gaps = Gaps()
    gaps.on_interrupted([A], 100, LOST)
    gaps.on_resumed(A, 150)

    gaps.on_written(gaps.ended()[0])
    gaps.on_resumed(A, 200)

    assert gaps.ended() == ()


def test_gaps_that_find_no_room_grow_instead_of_multiplying() -> None:
    gaps = Gaps()
    for second in range(1000):
        gaps.on_interrupted([A], 10 * second + 5, LOST)
        gaps.on_resumed(A, 10 * second + 9)

    assert gaps.ended() == (Gap(A, 5, 9999, LOST),)


def test_a_wall_clock_that_was_set_back_makes_no_negative_gap() -> None:
    gaps = Gaps()
    gaps.on_interrupted([A], 1000, LOST)

    gaps.on_resumed(A, 400)

    assert gaps.ended() == (Gap(A, 1000, 1000, LOST),)


def test_a_stop_ends_what_is_interrupted() -> None:
    gaps = Gaps()
    gaps.on_interrupted([A, B], 100, LOST)
    gaps.on_resumed(B, 150)

    gaps.on_stopped(300)

    assert gaps.ended() == (Gap(B, 100, 150, LOST), Gap(A, 100, 300, LOST))


def test_a_stream_was_whole_until_its_newest_record_was_sent_by_the_venues_clock() -> None:
    second = 10**9

    assert whole_until({("A", 1): (102 * second, 100 * second)}) == {("A", 1): 100 * second}


def test_a_venue_clock_that_is_not_close_to_ours_is_not_used() -> None:
    second = 10**9

    assert whole_until({("A", 1): (100 * second, 94 * second), ("A", 2): (100 * second, 101 * second)}) == {
        ("A", 1): 100 * second,
        ("A", 2): 100 * second,
    }
