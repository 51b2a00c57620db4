"""What the monitor says over HTTP: `/metrics`, `/healthz`, `/readyz`, `/status.json` and the page `/`.

Everything is computed from the monitor's readings at the moment of the request; no process is asked. Nothing here
holds a secret: settings are not shown.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from daemon.watching import ages, health, metrics
from daemon.watching.page import PAGE
from daemon.watching.readings import NS_PER_S, ProcessReading, Reading, RingReading

SAMPLE_INTERVAL_S = 1.0
WINDOW_S = 60
RATES = ("frames_received", "records_received", "records_published", "rows_committed", "records_quarantined")
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
JSON_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Watch:
    """The readings of the last minute, one a second, and what follows from them."""

    def __init__(self, read: Callable[[], Reading], *, silence_limit_s: float) -> None:
        self._read = read
        self._silence_limit_s = silence_limit_s
        self._history: deque[Reading] = deque(maxlen=int(WINDOW_S / SAMPLE_INTERVAL_S) + 1)

    def sample(self) -> None:
        """Keep a reading; called each SAMPLE_INTERVAL_S."""
        self._history.append(self._read())

    def _history_and_now(self) -> list[Reading]:
        return [*self._history, self._read()]

    def dead_reasons(self) -> list[str]:
        """Return why the daemon is not alive."""
        return health.dead_reasons(self._read(), silence_limit_s=self._silence_limit_s)

    def unready_reasons(self) -> list[str]:
        """Return why the daemon is not ready."""
        return health.unready_reasons(self._history_and_now(), silence_limit_s=self._silence_limit_s)

    def exposition(self) -> bytes:
        """Return the numbers in the Prometheus text format."""
        history = self._history_and_now()
        return metrics.exposition(
            history[-1],
            is_ready=not health.unready_reasons(history, silence_limit_s=self._silence_limit_s),
            recent_ages_us=ages.between(history[0], history[-1]),
        )

    def status(self) -> dict[str, Any]:  # JSON
        """Return everything, for `/status.json`."""
        history = self._history_and_now()
        now = history[-1]
        return {
            "time": datetime.fromtimestamp(now.wall_ns / NS_PER_S, UTC).isoformat(),
            "alive": not (dead := health.dead_reasons(now, silence_limit_s=self._silence_limit_s)),
            "ready": not (unready := health.unready_reasons(history, silence_limit_s=self._silence_limit_s)),
            "reasons": list(dict.fromkeys([*dead, *unready])),
            "totals": {name: total(now, name) for name in RATES},
            "per_second": rates(history),
            "age_us": ages.between(history[0], now),
            "processes": [_process_status(now, process) for process in now.processes],
            "missing": now.missing,
            "rings": [_ring_status(ring) for ring in now.rings],
        }


def total(reading: Reading, counter: str) -> int:
    """Return the sum of *counter* over all processes."""
    return sum(process.values[counter] for process in reading.processes)


def rates(history: Sequence[Reading]) -> dict[str, float]:
    """Return the increase a second over the last ten seconds of *history*."""
    now = history[-1]
    since = next(reading for reading in history if now.mono_ns - reading.mono_ns <= 10 * NS_PER_S)
    elapsed_s = (now.mono_ns - since.mono_ns) / NS_PER_S
    if elapsed_s < SAMPLE_INTERVAL_S / 2:
        return dict.fromkeys(RATES, 0.0)
    return {name: round((total(now, name) - total(since, name)) / elapsed_s, 1) for name in RATES}


def _process_status(now: Reading, process: ProcessReading) -> dict[str, Any]:
    return {
        "name": process.name,
        "role": process.role,
        "pid": process.pid,
        "state": process.state,
        "silent_for_s": round(process.silent_for_s, 3),
        "starts": process.starts,
        "uptime_s": round((now.wall_ns - process.started_ns) / NS_PER_S, 1),
        "rss_bytes": process.values["rss_bytes"],
        "counters": metrics.relevant_counters(process),
    }


def _ring_status(ring: RingReading) -> dict[str, Any]:
    return {
        "name": ring.name,
        "capacity_bytes": ring.capacity_bytes,
        "written_bytes": ring.head,
        "consumers": {
            consumer.name: {
                "mode": consumer.mode,
                "lag_bytes": consumer.lag_bytes,
                "lag_share": round(consumer.lag_bytes / ring.capacity_bytes, 4),
                "lapped_records": consumer.lapped_records,
            }
            for consumer in ring.consumers
        },
    }


def build_app(watch: Watch) -> web.Application:
    """Return the application that answers from *watch*."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html", headers=PAGE_HEADERS)

    async def metrics_text(_request: web.Request) -> web.Response:
        return web.Response(body=watch.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_request: web.Request) -> web.Response:
        reasons = watch.dead_reasons()
        return _json({"alive": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def readyz(_request: web.Request) -> web.Response:
        reasons = watch.unready_reasons()
        return _json({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def status(_request: web.Request) -> web.Response:
        return _json(watch.status())

    app = web.Application()
    for path, handler in {
        "/": page,
        "/metrics": metrics_text,
        "/healthz": healthz,
        "/readyz": readyz,
        "/status.json": status,
    }.items():
        app.router.add_get(path, handler)
    return app


def _json(content: Mapping[str, Any], *, status: int = 200) -> web.Response:
    return web.json_response(content, status=status, headers=JSON_HEADERS, dumps=json.dumps)
