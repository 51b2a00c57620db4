"""Named places where a test makes a process die, stop or fail, to see what survives. Nothing of it runs in production.

The environment variable SISE_FAILPOINTS names a directory; without it `reach()` returns at once. A test arms a point of
a running process by writing a file there whose name is the point's and whose text is

    kill            SIGKILL to the process itself
    stop            SIGSTOP to the process itself
    raise ENOSPC    an OSError of that name
    kill 3          the third time that it is reached; the same for the others

The file is removed before it takes effect, so that a process which is started again does not die of it again. Which
points there are, and what is left behind at each, is in docs/formats.md (crash behaviour).
"""

import errno
import os
import re
import signal
import threading
from pathlib import Path
from typing import NoReturn

VARIABLE = "SISE_FAILPOINTS"
ORDER = re.compile(r"(?P<action>kill|stop|raise)(?: (?P<error>[A-Z]+))?(?: (?P<times>\d+))?")

_directory = os.environ.get(VARIABLE)
_passed: dict[str, int] = {}  # how often an armed point was reached since its file was first seen


def is_enabled() -> bool:
    """Whether points can be armed in this process at all."""
    return _directory is not None


def reach(name: str) -> None:
    """Do what the file called *name* says, if there is one. Raises the OSError that it orders."""
    if _directory is None:
        return
    path = Path(_directory, name)
    try:
        order = ORDER.fullmatch(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return
    if order is None:
        raise ValueError(f"{path}: expected kill, stop or raise NAME, and perhaps a number")
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] < int(order["times"] or 1):
        return
    del _passed[name]
    path.unlink(missing_ok=True)
    if order["action"] == "raise":
        _fail(order["error"] or "EIO", name)
    # To this thread: one that is stopped by way of another goes on for a moment, and may commit in it.
    signal.pthread_kill(threading.get_ident(), signal.SIGKILL if order["action"] == "kill" else signal.SIGSTOP)


def _fail(error: str, name: str) -> NoReturn:
    number = getattr(errno, error)
    raise OSError(number, os.strerror(number), name)
