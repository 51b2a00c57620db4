"""The status as text for a terminal or a log: from the summary, pure."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_PROBLEMS = 20  # of one session; the rest is a number
MIB = 1 << 20
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400

Summary = Mapping[str, Any]  # what summary.summarize() returns


def full_text(status: Summary) -> str:
    """Return everything, several lines."""
    return "\n".join(_lines(status)) + "\n"


def one_line(status: Summary) -> str:
    """Return the most important numbers in one line, for an output that is no terminal."""
    rate = status["per_second"]
    parts = [
        status["time"][11:19],
        state(status),
        f"received {rate['records_received']:,.0f}/s",
        f"published {rate['records_published']:,.0f}/s",
        f"stored {rate['rows_committed']:,.0f}/s",
        f"behind {mib(sum(lag for _, _, lag in _lags(status)))}",
    ]
    return "  ".join([*parts, *(*status["reasons"], *status["notes"])[:1]])


def state(status: Summary) -> str:
    """Return the state in a word or two."""
    if not status["alive"]:
        return "NOT ALIVE"
    return "healthy" if status["ready"] else "DEGRADED"


def _lines(status: Summary) -> Iterator[str]:
    yield f"Sise {state(status)}  {status['time'][:19].replace('T', ' ')} UTC"
    yield from (f"  ! {reason}" for reason in (*status["reasons"], *status["notes"]))
    yield ""
    yield from _table(
        ("process", "pid", "state", "up", "heartbeat", "starts", "memory"),
        [
            (
                one["name"],
                str(one["pid"]),
                one["state"],
                span(one["uptime_s"]),
                f"{one['silent_for_s']:.1f} s",
                str(one["starts"]),
                mib(one["rss_bytes"]),
            )
            for one in status["processes"]
        ],
    )
    memory = sum(one["rss_bytes"] for one in status["processes"])
    yield f"memory of all: {mib(memory)}"
    yield from _numbers(status)
    yield from _markets(status)
    yield from _sessions(status)


def _numbers(status: Summary) -> Iterator[str]:
    yield ""
    names = {
        "frames": "frames_received",
        "received": "records_received",
        "published": "records_published",
        "stored": "rows_committed",
        "quarantined": "records_quarantined",
    }
    yield from _table(
        ("records", "in all", "a second"),
        [(label, f"{status['totals'][name]:,}", f"{status['per_second'][name]:,.1f}") for label, name in names.items()],
    )
    yield ""
    yield from _table(("ring", "consumer", "behind"), [(ring, name, mib(lag)) for ring, name, lag in _lags(status)])
    yield ""
    yield from _delays(status)
    found = status["completeness"]
    yield (
        f"completeness: {found['volume_gaps']:,} holes in the stream, {found['gaps_recorded']:,} gaps recorded, "
        f"{found['duplicates_dropped']:,} duplicates dropped, {found['publish_lapped']:,} messages not published"
    )
    yield from _reconciled(status.get("reconcile", {}))
    spilled = status.get("spilled", {"files": 0})
    if spilled["files"]:
        yield f"spilled: {spilled['files']:,} files, {mib(spilled['bytes'])} wait for the database"
    alerts = status["alerts"]
    yield (
        f"alerts: {alerts['raised']:,} raised, {alerts['published']:,} published, "
        f"{alerts['suppressed']:,} repetitions, {alerts['lost']:,} lost"
    )


def _delays(status: Summary) -> Iterator[str]:
    for one in status.get("exchange_delays", ()):
        yield (
            f"received behind the exchange's time, {one['venue']} {one['market']}: {one['smallest_s']:.3f} s at least, "
            f"median {one['p50_s']:.2f}, p99 {one['p99_s']:.2f}, {one['largest_s']:.2f} at most"
        )


def _reconciled(found: Mapping[str, Any]) -> Iterator[str]:
    if "differences" not in found:
        return
    through = found["through"][:16].replace("T", " ") + " UTC" if found["through"] else "nothing yet"
    waiting = f"; waits: {found['waiting']}" if found["waiting"] else ""
    yield (
        f"received = stored = published: compared up to {through}, {found['minutes']:,} minutes, "
        f"{found['differences']:,} differences{waiting}"
    )
    yield from (f"  ! {line}" for line in found["named"])


def _markets(status: Summary) -> Iterator[str]:
    if not status["markets"]:
        return
    yield ""
    yield from _table(
        ("market", "state", "last data", "next change"),
        [
            (
                one["name"],
                "open" if one["open"] else "closed",
                ago(one["last_data_age_s"]),
                _next_change(one),
            )
            for one in status["markets"]
        ],
    )


def _next_change(market: Mapping[str, Any]) -> str:
    if market["changes_at"] is not None:
        return f"{market['changes_at'][:16].replace('T', ' ')} UTC"
    return "-" if market["open"] else "hours unknown"


def _sessions(status: Summary) -> Iterator[str]:
    if not status["sessions"]:
        return
    yield ""
    yield from _table(
        ("session", "venue", "worker", "state", "confirmed", "last data"),
        [
            (
                one["account"],
                one["venue"],
                one["worker"],
                one["state"],
                f"{one['confirmed']}/{one['desired']}",
                ago(one["last_data_age_s"]),
            )
            for one in status["sessions"]
        ],
    )
    for session in status["sessions"]:
        problems = session["problems"]
        for one in problems[:MAX_PROBLEMS]:
            reason = f": {one['reason']}" if one["reason"] else ""
            place = ".".join(filter(None, (one["market"], one["exchange"])))
            yield clean(f"  ! {session['account']}: {place} {one['kind']} {one['symbol']}: {one['state']}{reason}")
        more = len(problems[MAX_PROBLEMS:]) + session["unlisted"]
        if more:
            yield f"  ! {session['account']}: {more} more"


def _lags(status: Summary) -> list[tuple[str, str, int]]:
    return [
        (ring["name"], name, consumer["lag_bytes"])
        for ring in status["rings"]
        for name, consumer in ring["consumers"].items()
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield aligned lines: the first column to the left, the others to the right."""
    cells = [head, *([clean(cell) for cell in row] for row in rows)]
    widths = [max(width(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        padded = [" " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)]
        texts = [row[0] + padded[0], *(pad + cell for pad, cell in zip(padded[1:], row[1:], strict=True))]
        yield "  ".join(texts).rstrip()


def clean(text: str) -> str:
    """Return *text* without what could move a terminal's cursor: reasons may be a venue's own words."""
    return "".join(char if char.isprintable() else "?" for char in text)


def width(text: str) -> int:
    """Return how many columns *text* takes: Korean syllables take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def mib(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / MIB:,.1f} MiB"


def span(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    if seconds < 2 * DAY_S:
        return f"{seconds / HOUR_S:.1f} h"
    return f"{seconds / DAY_S:.1f} d"


def ago(age_s: float | None) -> str:
    """Return an age for people; None: there has been nothing yet."""
    return "never" if age_s is None else f"{span(age_s)} ago"
