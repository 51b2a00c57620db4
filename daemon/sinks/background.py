"""One thread that runs one action at a time for its owner, who stays free to beat and to notice a stop."""

import queue
import threading
from collections.abc import Callable
from typing import Any

Outcome = tuple[Any, BaseException | None]  # Any: whatever the action returned


class BackgroundThread:
    """submit() an action, wait() until it is over, take its result(). A daemon thread: a hung action ends with us."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._actions: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._outcome: Outcome | None = None
        self._is_busy = False

    def submit(self, action: Callable[[], Any]) -> None:
        """Start *action*; the one before must be over."""
        assert not self._is_busy
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._is_busy = True
        self._actions.put(action)

    def wait(self, timeout_s: float) -> bool:
        """Return True as soon as the action is over, False after *timeout_s*."""
        if self._is_busy:
            try:
                self._outcome = self._outcomes.get(timeout=timeout_s)
            except queue.Empty:
                return False
            self._is_busy = False
        return True

    def result(self) -> Any:
        """Return what the action returned, or raise what it raised."""
        assert self._outcome is not None
        value, error = self._outcome
        self._outcome = None
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback holds this frame, and by way of the action's frames perhaps a whole segment: one that is
                # held from here in turn would live until the collector comes by, while one a second is added.
                del error
        return value

    def close(self, last: Callable[[], Any], timeout_s: float) -> bool:
        """Run *last* after the current action, and end the thread; False if either took longer than *timeout_s*."""
        if not self.wait(timeout_s):
            self._actions.put(last)  # if it ever ends
            self._actions.put(None)
            return False
        self.submit(last)
        if not self.wait(timeout_s):
            return False
        self._actions.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
        self.result()
        return True

    def _run(self) -> None:
        while (action := self._actions.get()) is not None:
            try:
                self._outcomes.put((action(), None))
            except BaseException as exc:  # handed over, raised by result()
                self._outcomes.put((None, exc))
            del action
