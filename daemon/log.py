"""Structured logging: a fixed event name plus fields, one JSON object a line (or readable text on a terminal)."""

import contextlib
import io
import logging
import os
import sys
from typing import Any, Literal, TextIO, cast

# structlog takes in rich, if it is there, for tracebacks that are never drawn here: 4 MiB and 60 ms in every process.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment] # how the import system is told that there is no such module
try:
    import structlog
finally:
    if _rich is None:
        del sys.modules["rich"]
    else:
        sys.modules["rich"] = _rich


class _Tolerant(io.TextIOBase):
    """stderr, except that a terminal or pipe that is gone must not take a process with it.

    A line is one write(2): all processes of the daemon share the file, and lines must not interleave.
    """

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), text.encode(errors="backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered."""


class _LibraryHandler(logging.Handler):
    """Puts what libraries log through the standard module (warnings and above) into our stream, as events."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record; a message that does not fit its arguments is kept as it was written."""
        try:
            message = record.getMessage()
        except Exception:  # whatever a foreign __str__ raises
            message = f"{record.msg} {record.args}"
        level = max(known for known in LIBRARY_LEVELS if known <= max(record.levelno, logging.WARNING))
        get().log(level, "library_log", logger=record.name, message=message, exc_info=record.exc_info or None)


LIBRARY_LEVELS = (logging.WARNING, logging.ERROR, logging.CRITICAL)
LogFormat = Literal["auto", "json", "text"]
Logger = structlog.stdlib.BoundLogger


def configure(level: str = "info", format: LogFormat = "auto", **context: Any) -> None:
    """Set up logging for this process; *context* (role, pid, shard) is on every line. Lines go to stderr."""
    as_text = format == "text" or (format == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if as_text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            _adding(context),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _head_first,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Tolerant())),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler(logging.WARNING))


HEAD = ("event", "level", "timestamp")


def _head_first(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What happened, how bad it is and when come before the fields: a line is read from its beginning."""
    return {**{key: event[key] for key in HEAD}, **event}


def _adding(context: dict[str, Any]) -> structlog.typing.Processor:
    """Put *context* on each line, of every thread: context variables of the main thread are not those of others."""

    def add(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        for key, value in context.items():
            event.setdefault(key, value)
        return event

    return add


def get(**fields: Any) -> Any:
    """Return a logger with *fields* bound."""
    return structlog.get_logger(**fields)
