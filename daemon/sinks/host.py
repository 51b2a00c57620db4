"""What the two sinks need of the process they run in: counters, clock, wake-ups, and the time to drain."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from daemon.supervision.process import Child


class Counters(Protocol):
    """What `native_pipeline.counters.CountersBlock` offers to a sink."""

    def increment(self, name: str, n: int = 1, /) -> None:
        """Add to a counter."""

    def set(self, name: str, value: int, /) -> None:
        """Set a gauge."""


class Clock(Protocol):
    """The part of the module `time` that a sink uses."""

    def monotonic(self) -> float:
        """Seconds, never going back."""

    def time_ns(self) -> int:
        """Wall clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the process does for its sink."""

    wait: Callable[[float], object]  # sleep that many seconds at most: until the wake-up, or until a stop is asked for
    beat: Callable[[], object]
    stopping: Callable[[], bool]
    drain_s: float  # time to empty the rings, from the moment that stopping() becomes true


class DrainDeadline(Exception):
    """Time is up; what is left stays in the rings for the next start."""


def before_each(host: Host, action: Callable[[], object]) -> Host:
    """Return *host*, with *action* done at each beat and before each wait."""

    def beat() -> None:
        host.beat()
        action()

    def wait(seconds: float) -> object:
        action()
        return host.wait(seconds)

    return dataclasses.replace(host, beat=beat, wait=wait)


def host_of(child: Child, consumer: str) -> Host:
    """Return what *child* does for the sink that waits on the eventfd of *consumer*."""
    return Host(
        wait=lambda seconds: child.wait(consumer, seconds),
        beat=child.beat,
        stopping=lambda: child.stopping,
        drain_s=child.drain_s,
    )
