"""A writer that stands still in its transaction while another one has the same records: only one of them stores them.

The lock of a ring's file keeps a second writer away, but not from a copy of the file: a data directory that was copied,
or a disk that was restored, while the first writer still lived. Then nothing but the cursors in the database does.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.sinks.database import APPLICATION_NAME, Fenced
from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.ring_writer import RingWriter
from tests.integration import writer_rig
from tests.integration.writer_rig import (
    CHILD,
    ROOT,
    Rings,
    RunningWriter,
    drain,
    query,
    settings_for,
    spilled_files,
    stored,
    wait_until,
)

make_rings = writer_rig.make_rings

RECORDS = 300
BATCH_ROWS = 100  # of the process; the other takes all that it has at once, so that their cursors cannot agree
ALL = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
WAITING = f"{ALL} AND wait_event_type = 'Lock'"
CLAIMING = f"{WAITING} AND strpos(query, 'UPDATE ingest_cursor') > 0"


@contextmanager
def process_stopped_before_its_commit(rings: Rings, dsn: str, said: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A writer process that has sent its first batch and stands still; *said* gets its stderr."""
    points = rings.directory / "points"
    points.mkdir()
    (points / "writer.before_commit").write_text("stop")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SISE_FAILPOINTS": str(points)}
    arguments = [dsn, rings.paths[0], rings.directory / "counters", BATCH_ROWS, 5]
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    with said.open("wb") as stderr, subprocess.Popen(command, env=environment, stderr=stderr) as child:
        try:
            wait_until(lambda: is_stopped(child.pid))
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def is_stopped(pid: int) -> bool:
    """Raises AssertionError if it has ended; it is left to its parent either way."""
    result = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
    assert result is None or result.si_code == os.CLD_STOPPED
    return result is not None


def copy_of(rings: Rings) -> Rings:
    """The same ring in another data directory: no lock keeps two writers apart, nor two producers."""
    directory = rings.directory / "copy"
    directory.mkdir()
    shutil.copy(rings.paths[0], directory)
    create_counters_file(directory / "counters", 1)
    counters = CountersBlock(directory / "counters", 0)
    counters.take("writer")
    producer = RingWriter(directory / rings.paths[0].name, wake_fds={"writer": rings.wake_fd})
    return Rings(directory, [producer], counters, rings.wake_fd)


def sessions(dsn: str, which: str) -> list[int]:
    return [pid for (pid,) in query(dsn, which, [APPLICATION_NAME])]


@pytest.mark.requirement("F30", "DLP-01")
def test_a_writer_that_stood_still_in_its_transaction_until_the_server_ended_it_never_writes_again(
    make_rings: Callable[..., Rings], postgres_dsn: str, tmp_path: Path
) -> None:
    rings = make_rings()
    rings.fill(RECORDS)
    with process_stopped_before_its_commit(rings, postgres_dsn, tmp_path / "said") as still:
        of_still = sessions(postgres_dsn, ALL)
        with RunningWriter(copy_of(rings), settings_for(postgres_dsn)) as other:
            wait_until(lambda: sessions(postgres_dsn, WAITING))
            assert stored(postgres_dsn) == (0, 0)
            query(postgres_dsn, "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS each (pid)", [of_still])
            wait_until(lambda: stored(postgres_dsn)[0] == RECORDS)
            assert other.stop() is True

        still.send_signal(signal.SIGCONT)
        assert still.wait(60) == 1
    assert "\ndaemon.sinks.database.Fenced: " in (tmp_path / "said").read_text()
    assert stored(postgres_dsn) == (RECORDS, RECORDS)
    assert spilled_files(rings) == []

    rings.fill(50)
    drain(rings, postgres_dsn)
    assert stored(postgres_dsn) == (RECORDS + 50, RECORDS + 50)


@pytest.mark.requirement("F30", "DLP-01")
def test_a_writer_waits_for_the_open_transaction_of_one_that_stands_still_and_is_fenced_by_its_commit(
    make_rings: Callable[..., Rings], postgres_dsn: str, tmp_path: Path
) -> None:
    rings = make_rings()
    copy = copy_of(rings)
    rings.fill(RECORDS)
    with RunningWriter(copy, settings_for(postgres_dsn)) as other:
        wait_until(lambda: copy.counters.get("database_connected"))
        with process_stopped_before_its_commit(rings, postgres_dsn, tmp_path / "said") as still:
            copy.fill(RECORDS - BATCH_ROWS // 2)
            wait_until(lambda: sessions(postgres_dsn, CLAIMING))
            assert stored(postgres_dsn) == (0, 0)

            still.send_signal(signal.SIGCONT)
            other.wait_for_end()
            wait_until(lambda: stored(postgres_dsn)[0] == RECORDS)
            still.terminate()
            assert still.wait(60) == 0
    assert isinstance(other.error, Fenced)
    assert copy.counters.get("rows_committed") == 0
    assert spilled_files(copy) == []
    assert stored(postgres_dsn) == (RECORDS, RECORDS)
