"""What the monitor says over HTTP: `/metrics`, `/healthz`, `/readyz`, `/status.json` and the page `/`.

Everything is computed from the monitor's readings at the moment of the request; no process is asked. Nothing here
holds a secret: settings are not shown.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from daemon.watching import ages, health, metrics
from daemon.watching.markets import MarketReading
from daemon.watching.page import PAGE
from daemon.watching.readings import Reading
from daemon.watching.summary import summarize

SAMPLE_INTERVAL_S = 1.0
WINDOW_S = 60
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

    def __init__(
        self,
        read: Callable[[], Reading],
        *,
        silence_limit_s: float,
        markets: Callable[[Reading], list[MarketReading]] = lambda _reading: [],
    ) -> None:
        self._read = read
        self._silence_limit_s = silence_limit_s
        self._markets = markets
        self._history: deque[Reading] = deque(maxlen=int(WINDOW_S / SAMPLE_INTERVAL_S) + 1)

    def sample(self) -> Sequence[Reading]:
        """Keep a reading; called each SAMPLE_INTERVAL_S. Returns the last minute, the newest at the end."""
        self._history.append(self._read())
        return self._history

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
            markets=self._markets(history[-1]),
        )

    def status(self) -> dict[str, Any]:  # JSON
        """Return everything, for `/status.json`."""
        history = self._history_and_now()
        return summarize(history, silence_limit_s=self._silence_limit_s, markets=self._markets(history[-1]))


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
