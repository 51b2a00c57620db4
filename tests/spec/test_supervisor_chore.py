"""What a short-lived process does for the daemon: in time, again, and never in the way."""

import sys
import time
from collections.abc import Iterator

import pytest

from daemon.config import Config
from daemon.supervision.chore import INTERVAL_S, LIMIT_S, RETRY_S, Chore, ChoreSpec

CONFIG = Config()
PATIENCE_S = 30.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> int:
        return int(self.now_s * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def chore(clock: Clock, code: str, *, is_done: bool = False) -> Chore:
    argv = (sys.executable, "-S", "-c", code)
    return Chore(ChoreSpec("chore", argv, lambda _: b"told", lambda _: is_done), clock_ns=clock)


def wait_end(one: Chore) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while one.pid is not None:
        assert time.monotonic() < deadline
        one.tick(CONFIG)


@pytest.fixture
def started(clock: Clock) -> Iterator[list[Chore]]:
    chores: list[Chore] = []
    yield chores
    for one in chores:
        one.stop()


def test_it_is_done_again_after_its_interval_and_sooner_after_a_failure(clock: Clock, started: list[Chore]) -> None:
    for code, interval_s in (("pass", INTERVAL_S), ("raise SystemExit(1)", RETRY_S)):
        one = chore(clock, code)
        started.append(one)
        one.tick(CONFIG)
        wait_end(one)

        clock.now_s += interval_s - 1
        one.tick(CONFIG)
        assert one.pid is None
        clock.now_s += 1
        one.tick(CONFIG)
        assert one.pid is not None


def test_what_is_done_already_is_not_done_again(clock: Clock, started: list[Chore]) -> None:
    one = chore(clock, "pass", is_done=True)
    started.append(one)

    one.tick(CONFIG)

    assert one.pid is None


def test_asking_does_it_at_once(clock: Clock, started: list[Chore]) -> None:
    one = chore(clock, "pass")
    started.append(one)
    one.tick(CONFIG)
    wait_end(one)

    one.ask()
    one.tick(CONFIG)

    assert one.pid is not None


def test_one_that_hangs_is_killed_and_one_that_cannot_start_is_a_failure(clock: Clock, started: list[Chore]) -> None:
    hanging = chore(clock, "import time; time.sleep(1000)")
    missing = Chore(ChoreSpec("chore", ("/nonexistent",), lambda _: b""), clock_ns=clock)
    started += [hanging, missing]

    hanging.tick(CONFIG)
    missing.tick(CONFIG)
    clock.now_s += LIMIT_S
    hanging.tick(CONFIG)
    wait_end(hanging)

    assert missing.pid is None


def test_the_end_of_the_daemon_is_its_end(clock: Clock) -> None:
    one = chore(clock, "import time; time.sleep(1000)")
    one.tick(CONFIG)

    one.stop()

    assert one.pid is None
