"""The monitor over HTTP: real processes, a real ring, a real port."""

import asyncio
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
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
from tests.integration.dummy_harness import (
    PATIENCE_S,
    QUICK,
    REPOSITORY,
    WORKER,
    WRITER,
    Daemon,
    Start,
    behaving,
    dummies,
    wait_for,
)
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
    assert (status["sessions"], status["markets"], status["missing"]) == ([], [], [])
    assert status["alerts"]["lost"] == 0
    assert http.get("/")[1] == PAGE
    assert daemon.stop() == 0


def test_the_page_uses_only_what_the_status_has(start: Start) -> None:
    daemon = start(STREAMING, REAL_MONITOR)
    status = Client(daemon).wait("/status.json", 200)
    used = set(re.findall(r"\bstatus\.(\w+)", PAGE)) - {"json"}

    assert used - set(status) == set()
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


# ---- the commands -------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "sise.toml"
    path.write_text(f'data_dir = "{tmp_path}/data"\n')
    return path


def sise(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "daemon.cli", *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, **options)


def run_status(settings: Path, *options: str) -> tuple[int, str]:
    process = sise("status", "-c", settings, *options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out


def visible(daemon: Daemon) -> None:
    """The dummies keep their counters elsewhere."""
    (daemon.data_dir / "run" / "counters").symlink_to(daemon.data_dir / "counters")


def test_status_needs_no_http_and_its_exit_code_says_whether_all_is_well(start: Start, settings: Path) -> None:
    daemon = start(STREAMING, STORING)
    daemon.wait_running("writer")
    daemon.wait_running("worker-0")
    visible(daemon)

    code, out = run_status(settings)
    json_code, as_json = run_status(settings, "--json")
    assert (code, json_code) == (0, 0), out
    assert out.startswith("Sise healthy")
    assert [one["name"] for one in json.loads(as_json)["processes"]] == ["supervisor", "worker-0", "writer"]

    daemon.process.kill()
    daemon.process.wait()
    code, out = run_status(settings)
    assert code == 1
    assert "the supervisor" in out
    assert "is dead" in out


def test_status_of_a_degraded_daemon_says_what_is_wrong(start: Start, settings: Path) -> None:
    daemon = start(STREAMING, WRITER)
    daemon.wait_running("writer")
    daemon.wait_running("worker-0")
    visible(daemon)

    assert run_status(settings)[0] == 1
    assert "writer: the database is not connected" in run_status(settings)[1]
    assert daemon.stop() == 0


def test_status_where_nothing_ever_ran(settings: Path) -> None:
    assert run_status(settings) == (1, f"Sise is not running: {settings.parent}/data: no daemon has run here\n")


class Terminal:
    """A terminal in which `sise top` runs."""

    def __init__(self, settings: Path) -> None:
        self._fd, inside = pty.openpty()
        self.process = sise("top", "-c", settings, stdin=inside, stdout=inside, stderr=inside)
        os.close(inside)
        self.text = ""

    def read(self) -> str:
        while select.select([self._fd], [], [], 0.01)[0]:
            try:
                found = os.read(self._fd, 65536)
            except OSError:  # the other side is closed
                break
            if not found:
                break
            self.text += found.decode(errors="replace")
        return self.text

    def press(self, key: str) -> None:
        os.write(self._fd, key.encode())

    def end(self) -> int:
        deadline_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline_s:
            self.read()
        code = self.process.wait(1)
        self.read()
        os.close(self._fd)
        return code


@pytest.mark.parametrize("how", ["q", "SIGINT"])
def test_top_draws_until_it_is_told_to_end_and_leaves_the_terminal_as_it_was(
    start: Start, settings: Path, how: str
) -> None:
    daemon = start(STREAMING, STORING)
    daemon.wait_running("writer")
    visible(daemon)
    terminal = Terminal(settings)
    wait_for(lambda: terminal.read().count("q: quit") >= 2, "two frames")

    if how == "q":
        terminal.press("xq")
    else:
        terminal.process.send_signal(signal.SIGINT)

    assert terminal.end() == 0
    assert "writer" in terminal.text
    assert terminal.text.endswith("\x1b[?25h\x1b[?1049l")
    assert daemon.stop() == 0


def test_top_without_a_terminal_writes_a_line_a_second(start: Start, settings: Path) -> None:
    daemon = start(STREAMING, STORING)
    daemon.wait_running("writer")
    visible(daemon)

    top = sise("top", "-c", settings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert top.stdout is not None
    lines = [top.stdout.readline() for _ in range(2)]
    top.send_signal(signal.SIGINT)
    top.communicate(timeout=PATIENCE_S)

    assert top.returncode == 0
    assert [len(line.split("  ")) >= 6 for line in lines] == [True, True]
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
