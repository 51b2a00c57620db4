"""The signals of a process as a queue, with a file descriptor for poll(): a handler interrupts nothing."""

import os
import select
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Self

STOPPING = frozenset({signal.SIGTERM, signal.SIGINT})


class StopAsked(Exception):
    """SIGTERM or SIGINT came while something was waited for."""


class Signals:
    """Inside its context *numbers* are queued, in the main thread; outside it they do what they did before."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._queue: deque[int] = deque()
        self.fd = -1  # readable when something may be queued

    def __enter__(self) -> Self:
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._handlers = {number: signal.signal(number, self._on_signal) for number in self._numbers}
        self._wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup_fd)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write_fd)

    def take(self) -> Iterator[int]:
        """Yield those that came, in their order."""
        self._silence()
        while self._queue:
            yield self._queue.popleft()

    def sleep(self, seconds: float) -> None:
        """Sleep so long, whatever else comes. Raises StopAsked; the signal stays queued."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        end = time.monotonic() + seconds
        while not STOPPING & set(self._queue):
            poll.poll(max(0.0, end - time.monotonic()) * 1000)
            self._silence()
            if time.monotonic() >= end:
                return
        raise StopAsked

    def _silence(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.fd, 4096)  # only a bell: the numbers are in the queue

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._queue.append(number)
