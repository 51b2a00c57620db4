"""Structured logging: a fixed event name plus fields, one JSON object a line (or readable text on a terminal)."""

import logging
import sys
from typing import Any, Literal

import structlog

LogFormat = Literal["auto", "json", "text"]
Logger = structlog.stdlib.BoundLogger


def configure(level: str = "info", format: LogFormat = "auto", **context: Any) -> None:  # noqa: A002
    """Set up logging for this process; *context* (role, pid, shard) is on every line. Lines go to stderr."""
    as_text = format == "text" or (format == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if as_text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)


def get(**fields: Any) -> Any:
    """Return a logger with *fields* bound."""
    return structlog.get_logger(**fields)
