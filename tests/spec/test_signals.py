"""Signals are queued, heard by poll(), and end a sleep only if they ask to stop."""

import select
import signal
import time
from pathlib import Path

import pytest

from daemon.supervision.signals import Signals, StopAsked


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_signals_come_out_in_their_order_and_make_the_descriptor_readable_until_they_are_taken() -> None:
    with Signals((signal.SIGHUP, signal.SIGUSR1)) as signals:
        assert select.select([signals.fd], [], [], 0)[0] == []
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP):
            signal.raise_signal(number)
        assert select.select([signals.fd], [], [], 0)[0] == [signals.fd]

        assert list(signals.take()) == [signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP]
        assert select.select([signals.fd], [], [], 0)[0] == []
        assert list(signals.take()) == []


def test_afterwards_the_handlers_are_those_of_before_and_nothing_stays_open() -> None:
    before = signal.getsignal(signal.SIGUSR1), descriptors()
    with Signals((signal.SIGUSR1,)):
        assert signal.getsignal(signal.SIGUSR1) != before[0]

    assert (signal.getsignal(signal.SIGUSR1), descriptors()) == before


@pytest.mark.requirement("GS-01")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_a_sleep_and_stays_queued(number: signal.Signals) -> None:
    with Signals((number, signal.SIGCHLD)) as signals:
        signal.raise_signal(number)
        with pytest.raises(StopAsked):
            signals.sleep(3600.0)

        assert list(signals.take()) == [number]


def test_a_child_that_ends_makes_no_sleep_shorter() -> None:
    with Signals((signal.SIGTERM, signal.SIGCHLD)) as signals:
        signal.raise_signal(signal.SIGCHLD)
        began = time.monotonic()
        signals.sleep(0.05)

        assert time.monotonic() - began >= 0.05
        assert list(signals.take()) == [signal.SIGCHLD]
