"""`sise status` and `sise top`: the daemon's numbers in a terminal, once or each second."""

import json
import os
import select
import shutil
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from daemon.config import Config
from daemon.market_hours import FILE as HOURS_FILE
from daemon.market_hours import MarketHours
from daemon.watching import console
from daemon.watching.inspection import Inspection, NotRunning
from daemon.watching.markets import collected_markets, market_readings
from daemon.watching.readings import Reading
from daemon.watching.summary import summarize

INTERVAL_S = 1.0
HISTORY_READINGS = 61
RATE_S = 0.6  # what `sise status` measures its rates over
HOME_AND_CLEAR, CLEAR_LINE_END, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
ENDING_KEYS = frozenset(b"qQ\x03\x04")
MAX_KEYS = 64  # at a time


class _Silent:
    """A logger for a command whose output is the status: unknown hours are in it."""

    def warning(self, *_event: str, **_fields: object) -> None:
        """Say nothing."""


class Observer:
    """The summary of the daemon that *config* describes, from outside."""

    def __init__(self, config: Config) -> None:
        data_dir = Path(config.data_dir)
        self._inspection = Inspection(data_dir)
        self._hours = MarketHours(data_dir / HOURS_FILE, logger=_Silent())
        self._markets = collected_markets(config.feeds)
        self._silence_limit_s = config.supervision.heartbeat_timeout_s
        self._history: deque[Reading] = deque(maxlen=HISTORY_READINGS)

    def look(self) -> dict[str, Any]:  # JSON
        """Return the present summary; rates from the second call on. Raises NotRunning."""
        reading = self._inspection.read()
        self._history.append(reading)
        return summarize(
            self._history,
            silence_limit_s=self._silence_limit_s,
            markets=market_readings(reading, self._markets, self._hours),
        )


def print_status(config: Config, out: TextIO, *, as_json: bool, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Print the state once, with the rates of a moment; return whether the daemon runs and is healthy."""
    observer = Observer(config)
    try:
        observer.look()
        sleep(RATE_S)
        status = observer.look()
    except NotRunning as exc:
        status = {"running": False, "ready": False, "reasons": [str(exc)]}
        out.write(json.dumps(status) + "\n" if as_json else f"Sise is not running: {exc}\n")
        return False
    out.write(json.dumps({"running": True, **status}) + "\n" if as_json else console.full_text(status))
    return bool(status["alive"] and status["ready"])


def run_top(config: Config, out: TextIO, keys: TextIO) -> None:
    """Show the state until `q` or Ctrl-C; each second a line where *out* is no terminal."""
    observer = Observer(config)
    if not (out.isatty() and keys.isatty()):
        follow(observer.look, out, wait=lambda: _sleep(INTERVAL_S))
        return
    with _screen(out, keys):
        redraw(observer.look, out, wait=lambda: _key_pressed(keys, INTERVAL_S))


def follow(look: Callable[[], dict[str, Any]], out: TextIO, *, wait: Callable[[], bool]) -> None:
    """Write a line after each wait() until that returns True."""
    while True:
        try:
            line = console.one_line(look())
        except NotRunning as exc:
            line = f"not running: {exc}"
        out.write(line + "\n")
        out.flush()
        if wait():
            return


def redraw(look: Callable[[], dict[str, Any]], out: TextIO, *, wait: Callable[[], bool]) -> None:
    """Draw the whole state again after each wait() until that returns True."""
    while True:
        try:
            lines = console.full_text(look()).splitlines()
        except NotRunning as exc:
            lines = [f"Sise is not running: {exc}"]
        out.write(frame([*lines, "", "q: quit"], shutil.get_terminal_size()))
        out.flush()
        if wait():
            return


def frame(lines: Sequence[str], size: tuple[int, int]) -> str:
    """Return what draws *lines* over the former ones on a screen of *size* (columns, rows), without flicker."""
    columns, rows = size
    shown = [*lines[: rows - 1], lines[-1]] if len(lines) > rows else list(lines)
    return HOME_AND_CLEAR + "\r\n".join(_cut(line, columns) + CLEAR_LINE_END for line in shown) + CLEAR_BELOW


def _cut(line: str, columns: int) -> str:
    while console.width(line) > columns:
        line = line[:-1]
    return line


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _key_pressed(keys: TextIO, timeout_s: float) -> bool:
    """Return True if a key that ends the display was pressed within *timeout_s*."""
    deadline_s = time.monotonic() + timeout_s
    while (remaining_s := deadline_s - time.monotonic()) > 0:
        ready, _, _ = select.select([keys], [], [], remaining_s)
        if ready:
            pressed = os.read(keys.fileno(), MAX_KEYS)
            if not pressed or ENDING_KEYS & set(pressed):
                return True
    return False


@contextmanager
def _screen(out: TextIO, keys: TextIO) -> Iterator[None]:
    """The terminal's other screen, keys as they are pressed; everything back at the end."""
    before = termios.tcgetattr(keys.fileno())
    try:
        tty.setcbreak(keys.fileno())
        out.write(ENTER_SCREEN)
        yield
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(keys.fileno(), termios.TCSADRAIN, before)
        out.write(LEAVE_SCREEN)
        out.flush()
