"""The monitor process: takes a reading each second and answers over HTTP.

It only reads: counters and ring headers. When its port is taken, the daemon goes on without it and the monitor tries
again every ten seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from daemon.config import Http
from daemon.supervision import process
from daemon.supervision.directory_lock import write_atomically
from daemon.supervision.process import Child
from daemon.watching.readings import Instruments
from daemon.watching.status import SAMPLE_INTERVAL_S, Watch, build_app

PORT_RETRY_S = 10.0
SHUTDOWN_S = 1.0  # for requests under way when we stop
ADDRESS_FILE = "http"  # in run/: where the monitor really listens, host:port


async def sample_forever(watch: Watch, beat: Callable[[], None]) -> None:
    """Keep *watch* and the heartbeat fresh."""
    while True:
        watch.sample()
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


async def _monitor(child: Child) -> None:
    stop = asyncio.Event()
    child.stop_into(asyncio.get_running_loop(), stop)
    instruments = Instruments(counters_path=child.counters_path, processes=child.processes, data_dir=child.data_dir)
    watch = Watch(instruments.read, silence_limit_s=child.config.supervision.heartbeat_timeout_s)
    address_file = child.data_dir / "run" / ADDRESS_FILE

    def on_listening(address: str) -> None:
        child.log.info("http_listening", address=address)
        try:
            write_atomically(address_file, f"{address}\n".encode())
        except OSError as exc:  # a full disk: who reads the file can read the log
            child.log.error("run_record_not_written", path=str(address_file), error=exc.strerror)  # noqa: TRY400

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(sample_forever(watch, child.running), name="sampler"),
                group.create_task(
                    serve_forever(build_app(watch), child.config.http, on_listening=on_listening, logger=child.log),
                    name="http-server",
                ),
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()
    finally:
        address_file.unlink(missing_ok=True)


def run(child: Child) -> None:
    """Monitor until asked to stop."""
    asyncio.run(_monitor(child))


if __name__ == "__main__":
    process.main(run)
