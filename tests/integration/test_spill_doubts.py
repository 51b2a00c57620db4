"""Spill files that come and go, servers that hang, a directory that is none: nothing is removed on a mere suspicion."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest

from daemon.config import Spill
from daemon.embedded import EmbeddedPostgres
from daemon.sinks import segment
from daemon.sinks.spill import DIRECTORY
from tests.integration.cutting_proxy import CuttingProxy
from tests.integration.writer_rig import (
    Rings,
    RunningWriter,
    drain,
    freeze,
    make_rings,
    query,
    settings_for,
    spilled_files,
    stored,
    wait_until,
)

__all__ = ["make_rings"]  # the fixture

Servers = Callable[[], EmbeddedPostgres]


def spill(rings: Rings, server: EmbeddedPostgres, *, files: int = 3, records: int = 1_000) -> None:
    """Leave at least *files* files of *records* together, with the server stopped and the writer ended."""
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        wait_until(lambda: rings.counters.get("database_connected"))
        server.stop("immediate")
        before = rings.counters.get("records_spilled")
        for count in range(1, files + 1):
            for ring in range(len(rings.producers)):
                rings.fill(records, ring=ring)
            due = before + count * records * len(rings.producers)
            wait_until(lambda: rings.counters.get("records_spilled") == due)  # noqa: B023 - awaited here
        assert running.stop() is True


@pytest.mark.requirement("DLP-01", "DLP-03", "F43")
@pytest.mark.parametrize(
    "busy",
    [
        pytest.param((0, 1), marks=pytest.mark.nightly, id="every_ring_goes_on"),
        pytest.param((0,), id="one_ring_goes_on"),
    ],
)
def test_files_that_were_away_for_a_time_are_stored_when_they_are_there_again(
    make_rings: Callable[..., Rings], own_postgres: Servers, busy: tuple[int, ...]
) -> None:
    """A directory that was not mounted, a file of a newer version: live records have moved the cursors over it."""
    rings = make_rings(2)
    server = own_postgres()
    spill(rings, server)
    files = spilled_files(rings)
    kept = {path: path.read_bytes() for path in files}
    for path in files:
        path.unlink()
    server.start()
    for ring in busy:
        rings.fill(500, ring=ring)
    drain(rings, server.dsn)
    assert stored(server.dsn) == (500 * len(busy), 500 * len(busy))
    assert query(server.dsn, "SELECT count(*) > 0 FROM feed_gaps") == [(False,)], "no stream was known yet"

    for path, data in kept.items():
        path.write_bytes(data)
    drain(rings, server.dsn)

    total = 6_000 + 500 * len(busy)
    assert stored(server.dsn) == (total, total)
    assert spilled_files(rings) == []


@pytest.mark.requirement("DLP-01", "F43")
def test_a_file_that_is_gone_before_it_was_registered_is_counted_and_a_gap_of_its_stream(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        rings.fill(10)
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
        assert running.stop() is True
    spill(rings, server)
    files = spilled_files(rings)
    lost = segment.decode_header(files[1].read_bytes())
    files[1].unlink()
    server.start()

    drain(rings, server.dsn)

    rest = 3_010 - lost.records
    assert stored(server.dsn) == (rest, rest), "what is behind the gap is stored all the same"
    assert rings.counters.get("writer_lapped") == lost.records
    told = "SELECT symbol, kind, count(*) FROM feed_gaps GROUP BY 1, 2"
    assert query(server.dsn, told) == [("005930", "trade", 1)]
    (one,) = lost.ranges
    first, last = (ns / 1e9 for ns in (one.first_recv_ns, one.last_recv_ns))
    covered = "SELECT extract(epoch FROM started) < %s AND extract(epoch FROM ended) > %s FROM feed_gaps"
    assert query(server.dsn, covered, [first, last]) == [(True,)]


@pytest.mark.requirement("DLP-03", "F49")
def test_of_a_file_that_the_database_has_in_part_only_the_rest_is_stored(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    rings = make_rings()
    server = own_postgres()
    spill(rings, server, files=1)
    kept = {path: path.read_bytes() for path in spilled_files(rings)}
    server.start()
    drain(rings, server.dsn)
    assert stored(server.dsn) == (1_000, 1_000)
    query(server.dsn, "DELETE FROM market_ticks WHERE mod(seq, 2) = 0")
    query(server.dsn, "DELETE FROM spilled_batches")
    for path, data in kept.items():
        path.write_bytes(data)

    drain(rings, server.dsn)

    assert stored(server.dsn) == (1_000, 1_000)


@pytest.mark.requirement("BP-01")
def test_a_server_that_answers_nothing_at_all_fills_no_ring(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    """Neither the statement nor the request to cancel it is answered, and the connection stays."""
    rings = make_rings()
    server = own_postgres()
    with RunningWriter(rings, settings_for(server.dsn)) as running:
        rings.fill(10)
        wait_until(lambda: rings.counters.get("rows_committed") == 10)
        frozen = freeze(server)
        try:
            rings.fill(20_000)
            wait_until(lambda: rings.counters.get("records_spilled") >= 15_000)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        wait_until(lambda: stored(server.dsn)[0] == 20_010)
        wait_until(lambda: not spilled_files(rings))
        assert running.stop() is True

    assert stored(server.dsn) == (20_010, 20_010)


@pytest.mark.requirement("F40")
def test_a_spill_directory_that_is_none_keeps_no_row_out_of_the_database(
    make_rings: Callable[..., Rings], postgres_dsn: str
) -> None:
    rings = make_rings()
    (rings.directory / DIRECTORY).write_text("in the way")
    with RunningWriter(rings, settings_for(postgres_dsn)) as running:
        rings.fill(100)
        wait_until(lambda: rings.counters.get("rows_committed") == 100)
        assert running.stop() is True
    assert running.error is None


class SlowProxy(CuttingProxy):
    """Everything that the server says takes *delay_s*, once that is set."""

    delay_s = 0.0

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((self._target.hostname or "", self._target.port or 0))
            except OSError:  # it is away
                client.close()
                continue
            self._sockets += [client, server]
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        def answer() -> None:
            with contextlib.suppress(OSError):
                while data := server.recv(1 << 16):
                    time.sleep(self.delay_s)
                    client.sendall(data)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=answer, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
        for each in (client, server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.mark.nightly
@pytest.mark.requirement("DLP-02", "BP-01")
def test_a_database_that_answers_slowly_is_gone_back_to_while_records_keep_coming(
    make_rings: Callable[..., Rings], own_postgres: Servers
) -> None:
    """Registering the last files takes longer than spilling first rests for it."""
    rings = make_rings(capacity_bytes=1 << 24)
    server = own_postgres()
    settings = Spill(min_free_mb=0, segment_mb=1, interval_s=0.5, probe_s=0.1)
    with SlowProxy(server.dsn) as proxy, RunningWriter(rings, settings_for(proxy.dsn), spill=settings) as running:
        wait_until(lambda: rings.counters.get("database_connected"))
        server.stop("immediate")
        rings.fill(1_000)
        wait_until(lambda: rings.counters.get("records_spilled") == 1_000)
        proxy.delay_s = 0.2
        server.start()
        sent = 1_000
        deadline = time.monotonic() + 90
        while not rings.counters.get("batches_committed"):
            assert time.monotonic() < deadline, "it never goes live"
            rings.fill(20)
            sent += 20
            time.sleep(0.02)
        proxy.delay_s = 0.0
        wait_until(lambda: stored(server.dsn)[0] == sent)
        assert running.stop() is True

    assert stored(server.dsn) == (sent, sent)
