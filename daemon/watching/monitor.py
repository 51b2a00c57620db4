"""The monitor process: takes a reading each second, raises alarm about it, publishes all alerts, answers over HTTP.

It only reads: counters, ring headers, what workers write of their sessions. When its port is taken, the daemon goes on
without it and the monitor tries again every ten seconds; when Redis is away, alerts wait.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from daemon.alerts import SOCKET as ALERTS_SOCKET
from daemon.config import Http
from daemon.market_hours import FILE as HOURS_FILE
from daemon.market_hours import MarketHours
from daemon.supervision import process
from daemon.supervision.directory_lock import write_atomically
from daemon.supervision.process import Child
from daemon.watching.alarms import Alarms, Condition, conditions
from daemon.watching.alert_desk import AlertDesk, DeskAlerts
from daemon.watching.alert_inbox import AlertInbox
from daemon.watching.alert_publisher import AlertPublisher
from daemon.watching.markets import MarketReading, Silences, collected_markets, market_readings
from daemon.watching.readings import NS_PER_S, Instruments, Reading
from daemon.watching.status import SAMPLE_INTERVAL_S, Watch, build_app

if TYPE_CHECKING:
    from daemon.watching.reconcile_thread import ReconcileThread

PORT_RETRY_S = 10.0
SHUTDOWN_S = 1.0  # for requests under way when we stop
LAST_WORDS_S = 2.0  # for alerts that wait when we stop
ADDRESS_FILE = "http"  # in run/: where the monitor really listens, host:port


async def sample_forever(
    watch: Watch, beat: Callable[[], None], on_sample: Callable[[Sequence[Reading]], None] = lambda _history: None
) -> None:
    """Keep *watch* and the heartbeat fresh; *on_sample* is given the last minute each second."""
    while True:
        on_sample(watch.sample())
        beat()
        await asyncio.sleep(SAMPLE_INTERVAL_S)


async def serve_forever(
    app: web.Application,
    http: Http,
    *,
    on_listening: Callable[[str], None],
    logger: Any,  # structlog's bound logger
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Serve *app* until cancelled; wait for the port as long as somebody else has it."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False)
    await runner.setup()
    try:
        while True:
            try:
                await web.TCPSite(runner, http.host, http.port).start()
            except OSError as exc:
                logger.error("http_not_listening", host=http.host, port=http.port, error=str(exc), retry_s=PORT_RETRY_S)  # noqa: TRY400
                await sleep(PORT_RETRY_S)
                continue
            host, port = runner.addresses[0][:2]
            on_listening(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            await asyncio.Event().wait()
    finally:
        await runner.cleanup()


class AlarmBell:
    """Looks at each sample for what is wrong, and keeps the counters of the alerts."""

    def __init__(
        self,
        child: Child,
        desk: AlertDesk,
        markets: Callable[[Reading], list[MarketReading]],
        more: Callable[[], Sequence[Condition]] = tuple,
    ) -> None:
        config = child.config
        own = DeskAlerts(desk, source=child.name, logger=child.log, counters=child.counters, clock=time.monotonic)
        self._alarms = Alarms(own, repeat_s=config.alerts.repeat_s)
        self._desk = desk
        self._counters = child.counters
        self._markets = markets
        self._more = more  # conditions that are found elsewhere
        self._silences = Silences()
        self._silence_limit_s = config.supervision.heartbeat_timeout_s
        self._is_redundant = any(feed.redundancy == "ab" for feed in config.feeds)
        self._counted = desk.numbers()

    def on_sample(self, history: Sequence[Reading]) -> None:
        """Raise what is new in the last reading of *history*."""
        now = history[-1]
        silences_s = self._silences.update(now, self._markets(now))
        found = conditions(history, silences_s, silence_limit_s=self._silence_limit_s, is_redundant=self._is_redundant)
        self._alarms.update(now.mono_ns / NS_PER_S, [*found, *self._more()])
        self.count()

    def count(self) -> None:
        """Add what the desk has counted since the last time to our counters block."""
        numbers = self._desk.numbers()
        for counter, name in (("alerts_suppressed", "suppressed"), ("alerts_lost", "lost")):
            self._counters.increment(counter, numbers[name] - self._counted[name])
        self._counted = numbers


async def _monitor(child: Child) -> None:
    stop = asyncio.Event()
    child.stop_into(asyncio.get_running_loop(), stop)
    config = child.config
    instruments = Instruments(counters_path=child.counters_path, processes=child.processes, data_dir=child.data_dir)
    hours = MarketHours(child.data_dir / HOURS_FILE)
    collected = collected_markets(config.feeds)

    def markets(reading: Reading) -> list[MarketReading]:
        return market_readings(reading, collected, hours)

    watch = Watch(instruments.read, silence_limit_s=config.supervision.heartbeat_timeout_s, markets=markets)
    limits = config.alerts
    desk = AlertDesk(repeat_s=limits.repeat_s, per_minute=limits.per_minute, queue=limits.queue)
    reconciler = _reconciler(child)
    bell = AlarmBell(child, desk, markets, tuple if reconciler is None else reconciler.conditions)
    inbox = AlertInbox(
        child.data_dir / ALERTS_SOCKET, accept=lambda alert: desk.accept(alert, time.monotonic()), logger=child.log
    )
    publisher = AlertPublisher(
        desk, config.redis, logger=child.log, on_published=lambda: child.counters.increment("alerts_published")
    )
    address_file = child.data_dir / "run" / ADDRESS_FILE

    def on_listening(address: str) -> None:
        child.log.info("http_listening", address=address)
        try:
            write_atomically(address_file, f"{address}\n".encode())
        except OSError as exc:  # a full disk: who reads the file can read the log
            child.log.error("run_record_not_written", path=str(address_file), error=exc.strerror)  # noqa: TRY400

    inbox.open()
    if reconciler is not None:
        reconciler.start()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(sample_forever(watch, child.running, bell.on_sample), name="sampler"),
                group.create_task(
                    serve_forever(build_app(watch), config.http, on_listening=on_listening, logger=child.log),
                    name="http-server",
                ),
                group.create_task(publisher.run(), name="alert-publisher"),
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()
    finally:
        address_file.unlink(missing_ok=True)
        if reconciler is not None:
            reconciler.stop()
        inbox.close()
        await publisher.publish_rest(min(LAST_WORDS_S, child.drain_s / 2))
        bell.count()


def _reconciler(child: Child) -> "ReconcileThread | None":
    if not child.config.reconcile.enabled:
        return None
    # The drivers are loaded only by who uses them.
    from daemon.watching.reconcile_thread import ReconcileThread  # noqa: PLC0415

    return ReconcileThread(child.config, child.data_dir, child.counters, child.log)


def run(child: Child) -> None:
    """Monitor until asked to stop."""
    asyncio.run(_monitor(child))


if __name__ == "__main__":
    process.main(run)
