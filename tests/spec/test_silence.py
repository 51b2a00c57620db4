"""Which registrations are doubted: silent in an open market while others flow, each time after twice the patience."""

import pytest

from daemon.ingest.silence import Silence
from daemon.ingest.venues.venue import Registration

A = Registration("TRADES", "A")


def watching(newest_ns: int = 100) -> Silence:
    silence = Silence(300.0)
    silence.on_requested(A, newest_ns)
    return silence


def ask(silence: Silence, now: float, *, is_open: bool = True, is_flowing: bool = True) -> float | None:
    return silence.silent_s(A, now, is_open=is_open, is_flowing=is_flowing)


@pytest.mark.requirement("F04")
def test_a_confirmed_registration_is_doubted_when_it_has_been_silent_for_the_threshold() -> None:
    silence = watching()

    assert ask(silence, 0.0) is None
    assert ask(silence, 299.0) is None
    assert ask(silence, 300.0) == 300.0


@pytest.mark.requirement("F04")
def test_each_doubt_waits_twice_as_long_until_data_arrive() -> None:
    silence = watching()
    doubted_at = [float(now) for now in range(4000) if ask(silence, float(now)) is not None]
    assert doubted_at == [300.0, 900.0, 2100.0]

    assert silence.has_data(A, 200, 4000.0)
    assert ask(silence, 4299.0) is None
    assert ask(silence, 4300.0) == 300.0


def test_only_what_is_newer_than_the_request_is_its_data() -> None:
    silence = watching(newest_ns=100)

    assert not silence.has_data(A, 100, 1.0)
    assert silence.has_data(A, 101, 2.0)
    assert not silence.has_data(A, 101, 3.0)


@pytest.mark.requirement("F58")
def test_a_wall_clock_that_steps_back_is_still_data_and_one_that_leaps_is_no_silence() -> None:
    silence = watching(newest_ns=3_600_000_000_000)
    ask(silence, 0.0)

    assert silence.has_data(A, 5, 10.0)
    assert ask(silence, 20.0) is None


@pytest.mark.requirement("F05")
def test_a_closed_market_is_no_silence_and_the_time_counts_from_its_opening() -> None:
    silence = watching()
    assert ask(silence, 0.0, is_open=False) is None
    assert ask(silence, 50_000.0, is_open=False) is None

    assert ask(silence, 50_001.0) is None
    assert ask(silence, 50_300.0) is None
    assert ask(silence, 50_301.0) == 300.0


def test_a_session_that_brings_nothing_at_all_is_not_the_symbols_fault() -> None:
    silence = watching()
    ask(silence, 0.0)

    assert ask(silence, 1000.0, is_flowing=False) is None
    assert ask(silence, 1001.0) == 1001.0


def test_what_is_not_wanted_any_more_is_forgotten() -> None:
    silence = watching()

    silence.keep([])

    assert ask(silence, 1000.0) is None
    assert not silence.has_data(A, 500, 1000.0)
