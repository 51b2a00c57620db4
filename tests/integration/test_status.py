"""The monitor over HTTP: real processes, a real ring, a real port."""

import asyncio
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from daemon import log
from daemon.config import Http
from daemon.rings import prepare_rings
from daemon.watching.monitor import serve_forever
from daemon.watching.page import PAGE
from daemon.watching.status import Watch, build_app
from tests.integration.dummy_daemon import Dummy
from tests.integration.dummy_harness import QUICK, WORKER, WRITER, Daemon, Start, behaving, dummies, wait_for
from tests.spec.made_readings import reading

REAL_MONITOR = Dummy(role="monitor", drain_order=3, best_effort=True, module="daemon.watching.monitor")
STREAMING = behaving(
    WORKER, adds={"connections_planned": 1, "connections_ready": 1, "subscriptions_confirmed": 2, "records_received": 3}
)
STORING = behaving(WRITER, adds={"database_connected": 1})


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with dummies(tmp_path) as starter:
        prepare_rings(tmp_path / "data", workers=1, capacity_mb=1)
        yield starter


class Client:
    """A client of one daemon's monitor."""

    def __init__(self, daemon: Daemon) -> None:
        address = wait_for(lambda: self._address(daemon), f"the monitor to listen: {daemon.log_text()}")
        self._base = f"http://{address}"

    @staticmethod
    def _address(daemon: Daemon) -> str | None:
        file = daemon.data_dir / "run" / "http"
        return file.read_text().strip() if file.exists() else None

    def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Return status and body, decoded if it is JSON."""
        request = urllib.request.Request(self._base + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                status, body, kind = response.status, response.read(), response.headers.get_content_type()
        except urllib.error.HTTPError as exc:
            with exc:
                status, body, kind = exc.code, exc.read(), exc.headers.get_content_type()
        return status, json.loads(body) if kind == "application/json" else body.decode()

    def wait(self, path: str, expected: int) -> Any:
        """Wait for the status *expected*; return the body."""

        def found() -> list[Any]:
            status, body = self.get(path)
            return [body] if status == expected else []

        return wait_for(found, f"{path} to answer {expected}")[0]


def test_all_pages_of_a_healthy_daemon(start: Start) -> None:
    daemon = start(STREAMING, STORING, REAL_MONITOR)
    http = Client(daemon)

    ready = http.wait("/readyz", 200)
    metrics = http.get("/metrics")[1]
    status = http.get("/status.json")[1]

    assert ready == {"ready": True, "reasons": []}
    assert http.get("/healthz") == (200, {"alive": True, "reasons": []})
    values = {s.name: s.value for f in text_string_to_metric_families(metrics) for s in f.samples}
    assert values["sise_records_received_total"] == 3
    assert values["sise_ready"] == 1
    assert {one["name"]: one["state"] for one in status["processes"]} == dict.fromkeys(
        ("supervisor", "worker-0", "writer", "monitor"), "running"
    )
    assert {one["rss_bytes"] > 1_000_000 for one in status["processes"]} == {True}
    assert [ring["name"] for ring in status["rings"]] == ["worker-0"]
    assert http.get("/")[1] == PAGE
    assert daemon.stop() == 0


def test_the_page_loads_nothing_from_elsewhere() -> None:
    assert "http:" not in PAGE
    assert "https:" not in PAGE
    assert " src=" not in PAGE


def test_only_reading_is_possible(start: Start) -> None:
    daemon = start(STREAMING, REAL_MONITOR)
    http = Client(daemon)

    assert [http.get(path, "POST")[0] for path in ("/", "/status.json", "/metrics")] == [405, 405, 405]
    assert http.get("/etc/passwd")[0] == 404
    assert daemon.stop() == 0


def test_a_dead_writer_makes_the_daemon_unready_but_leaves_it_alive(start: Start) -> None:
    slow_restart = msgspec.structs.replace(QUICK, restart_first_s=60.0, restart_max_s=60.0)
    daemon = start(STREAMING, STORING, REAL_MONITOR, supervision=slow_restart)
    http = Client(daemon)
    http.wait("/readyz", 200)

    os.kill(daemon.wait_running("writer"), signal.SIGKILL)

    assert http.wait("/readyz", 503) == {"ready": False, "reasons": ["writer: is stopped"]}
    assert http.get("/healthz")[0] == 200


def test_a_silent_process_makes_the_daemon_dead(start: Start) -> None:
    # the supervisor itself: nobody would restart it
    daemon = start(STREAMING, REAL_MONITOR, supervision=msgspec.structs.replace(QUICK, heartbeat_timeout_s=2.0))
    http = Client(daemon)
    http.wait("/healthz", 200)

    daemon.process.send_signal(signal.SIGSTOP)

    assert http.wait("/healthz", 503)["reasons"][0].startswith("supervisor: no heartbeat")
    daemon.process.send_signal(signal.SIGCONT)
    http.wait("/healthz", 200)
    assert daemon.stop() == 0


# ---- the server itself ---------------------------------------------------------------------------------------


def healthy_app() -> web.Application:
    return build_app(Watch(reading, silence_limit_s=30.0))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_taken_port_is_waited_for_and_reported() -> None:
    squatter = socket.create_server(("127.0.0.1", 0))
    port = squatter.getsockname()[1]
    listening: list[str] = []
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            squatter.close()
        await asyncio.sleep(0)

    server = asyncio.create_task(
        serve_forever(healthy_app(), Http(port=port), on_listening=listening.append, logger=log.get(), sleep=nap),
        name="server",
    )
    await until(lambda: listening)

    assert naps == [10.0, 10.0]
    assert listening == [f"127.0.0.1:{port}"]
    server.cancel()
    await asyncio.wait([server])


@pytest.mark.requirement("LEAK-02")
async def test_the_server_leaves_no_task_and_no_port_behind() -> None:
    listening: list[str] = []
    before = asyncio.all_tasks()
    server = asyncio.create_task(
        serve_forever(healthy_app(), Http(port=0), on_listening=listening.append, logger=log.get()), name="server"
    )
    await until(lambda: listening)
    port = int(listening[0].rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")

    server.cancel()
    await asyncio.wait([server])
    writer.close()
    await writer.wait_closed()

    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
