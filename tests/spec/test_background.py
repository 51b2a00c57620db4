"""The second thread of writer and publisher: what an action raises must not outlive its handling."""

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from daemon.sinks.background import BackgroundThread

WAIT_S = 10.0


class Segment:
    """Something large that an action works on."""


class Full(Exception):
    """What the action raises."""


@contextmanager
def no_collector() -> Iterator[None]:
    """Only what nobody refers to any more goes: a cycle stays."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def fail_with(segment: Segment) -> None:
    """Fail while the frame holds *segment*."""
    raise Full(f"no room for {type(segment).__name__}")


@pytest.mark.requirement("F61")
def test_what_a_failed_action_held_is_free_as_soon_as_its_error_is_handled() -> None:
    """A second of a full disk is a segment of 16 MiB: the collector of cycles comes too late for that."""
    thread = BackgroundThread("test")
    segment = Segment()
    alive = weakref.ref(segment)
    with no_collector():
        thread.submit(partial(fail_with, segment))
        assert thread.wait(WAIT_S)
        del segment
        # not pytest.raises, which keeps the error
        with suppress(Full):
            thread.result()
            pytest.fail("the error is not raised")
        assert thread.close(lambda: None, WAIT_S)  # the thread has let go of its action
        assert alive() is None


def test_result_returns_what_the_action_returned_and_close_ends_the_thread() -> None:
    thread = BackgroundThread("test")

    thread.submit(lambda: 7)

    assert thread.wait(WAIT_S)
    assert thread.result() == 7
    assert thread.close(lambda: None, WAIT_S)


def test_what_was_to_be_done_last_is_done_when_an_action_ends_that_was_not_waited_for() -> None:
    """A connection that a server lets wait until after the stop is closed all the same."""
    thread = BackgroundThread("test")
    may_end, has_ended = threading.Event(), threading.Event()
    thread.submit(may_end.wait)

    assert not thread.close(has_ended.set, 0.0)
    may_end.set()

    assert has_ended.wait(WAIT_S)
