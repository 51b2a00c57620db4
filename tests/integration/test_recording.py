"""Raw capture and replay with real processes and a real database: what was received can be stored again, once."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.recording.capture import CaptureFile, Damage, decode_line, read_lines
from native_pipeline.copy_encoder import COLUMNS
from native_pipeline.ring_file import RingFile
from tests.chaos.venue_rig import Feed, VenueRig
from tests.rig import Rig, running, wait_for

pytestmark = pytest.mark.requirement("RAW-01")

RATE = 3_000.0
TABLES = ("market_ticks", "market_orderbook", "market_events", "quarantine")


def enable_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture, also on a machine whose disk is nearly full for other reasons: recorders stop there, as they should."""
    monkeypatch.setenv("SISE_RAW__ENABLED", "true")
    monkeypatch.setenv("SISE_RAW__DISK_PERCENT", "99")


@pytest.fixture
def rig(
    tmp_path: Path,
    own_postgres: Callable[[], EmbeddedPostgres],
    own_redis: Callable[[], EmbeddedRedis],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Rig]:
    enable_capture(monkeypatch)
    with Rig(tmp_path, own_postgres(), own_redis(), symbols=6) as rig:
        yield rig


def captures(rig: Rig) -> list[Path]:
    return sorted((rig.data_dir / "raw").glob("*.jsonl.zst"))


def replay(rig: Rig, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "daemon.cli", "replay", "-c", str(rig.config_path), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def said(table: str) -> str:
    return ", ".join(column for column in COLUMNS[table] if column not in ("source", "seq"))


@dataclasses.dataclass
class Kept:
    """What the tables held, before something was done to them."""

    rig: Rig

    def __post_init__(self) -> None:
        with psycopg.connect(self.rig.postgres.dsn) as connection:
            for table in TABLES:
                connection.execute(f"CREATE TABLE kept_{table} AS SELECT {said(table)} FROM {table}")

    def differences(self) -> dict[str, tuple[int, int]]:
        """Rows that lack and rows that are too many, by table."""
        found = {}
        with psycopg.connect(self.rig.postgres.dsn) as connection:
            for table in TABLES:
                now, before = f"SELECT {said(table)} FROM {table}", f"TABLE kept_{table}"
                lacking, extra = (
                    connection.execute(f"SELECT count(*) FROM ({a} EXCEPT ALL {b}) AS difference").fetchone()
                    for a, b in ((before, now), (now, before))
                )
                assert lacking
                assert extra
                found[table] = lacking[0], extra[0]
        return found


def execute(rig: Rig, statement: str) -> int:
    with psycopg.connect(rig.postgres.dsn) as connection:
        return connection.execute(statement.encode()).rowcount


def finish(rig: Rig) -> None:
    rig.stop_simulator()
    rig.wait_committed()
    assert rig.stop_daemon() == 0, rig.tail()
    assert rig.compare().is_exact, rig.tail()


def frames_in(rig: Rig) -> list[tuple[int, int]]:
    """(worker, seq) of every line."""
    found = []
    for path in captures(rig):
        damage = Damage()
        found += [(frame.worker, frame.seq) for frame in map(decode_line, read_lines(path, damage))]
        assert damage == Damage()
    return found


def test_a_day_that_was_lost_is_replayed_row_for_row_and_only_once(rig: Rig) -> None:
    with running(rig, rate=RATE):
        rig.wait_received(5_000)
        finish(rig)
    assert rig.total("raw_frames") == rig.total("raw_frames_recorded") > 0, rig.tail()
    assert rig.total("raw_frames_dropped") == 0
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in captures(rig))
    kept = Kept(rig)
    files = [str(path) for path in captures(rig)]

    nothing = replay(rig, *files)
    assert nothing.returncode == 0, nothing.stderr
    assert " 0 rows inserted" in nothing.stdout
    assert kept.differences() == dict.fromkeys(TABLES, (0, 0))

    execute(rig, f"TRUNCATE {', '.join(TABLES)}")
    tried = replay(rig, "--dry-run", *files)
    assert tried.returncode == 0, tried.stderr
    assert kept.differences()["market_ticks"][0] > 0
    everything = replay(rig, *files)
    assert everything.returncode == 0, everything.stderr
    assert tried.stdout == everything.stdout
    assert kept.differences() == dict.fromkeys(TABLES, (0, 0))

    assert execute(rig, "DELETE FROM market_ticks WHERE volume::int % 3 = 0") > 0
    again = replay(rig, "--speed", "1000", *files)
    assert again.returncode == 0, again.stderr
    assert kept.differences() == dict.fromkeys(TABLES, (0, 0))
    assert " 0 rows inserted" in replay(rig, *files).stdout
    verified = subprocess.run(
        [sys.executable, "-m", "daemon.cli", "verify", "-c", str(rig.config_path), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    report = json.loads(verified.stdout)
    assert report["complete"], report


def test_a_recorder_that_dies_at_any_point_or_is_refused_by_the_disk_loses_no_message_and_writes_none_twice(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = tmp_path / "points"
    points.mkdir()
    monkeypatch.setenv("SISE_FAILPOINTS", str(points))
    with running(rig, rate=RATE):
        for point, order in (
            ("recorder.after_write", "kill 2"),
            ("recorder.before_write", "kill"),
            ("recorder.before_write", "raise ENOSPC 2"),
        ):
            before = rig.pids("recorder")
            (points / point).write_text(order)
            wait_for(lambda: not (points / point).exists(), f"{point}: {rig.tail()}")  # noqa: B023
            if order.startswith("kill"):
                wait_for(lambda: set(rig.pids("recorder")) - set(before), "another recorder")  # noqa: B023
        killed = wait_for(lambda: rig.kill_roles(signal.SIGKILL, "recorder"), "a recorder to kill")
        wait_for(lambda: set(rig.pids("recorder")) - set(killed), "another recorder")
        finish(rig)

    lines = frames_in(rig)
    assert len(set(lines)) == len(lines) == rig.total("raw_frames")
    assert rig.total("raw_frames_dropped") == 0
    assert rig.total("restarts") == 3


def test_a_recorder_that_stands_still_delays_nobody_and_what_it_misses_is_counted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SISE_RAW__RING_MB", "1")
    with running(rig, rate=RATE):
        stopped = wait_for(lambda: rig.kill_roles(signal.SIGSTOP, "recorder"), "a recorder to stop")
        rings = [RingFile(rig.data_dir / "rings" / f"raw-{worker}.ring") for worker in range(rig.workers)]
        wait_for(
            lambda: all(ring.head > ring.consumers()["recorder"]["position"] + 2 * (1 << 20) for ring in rings),
            "the raw rings to go round",
        )
        assert stopped == rig.kill_roles(signal.SIGCONT, "recorder")
        wait_for(lambda: rig.total("raw_frames_dropped") > 0, "the recorder to notice")
        finish(rig)

    assert rig.total("raw_frames_dropped") > 0
    assert rig.total("raw_frames") == rig.total("raw_frames_recorded") + rig.total("raw_frames_dropped")
    assert len(frames_in(rig)) == rig.total("raw_frames_recorded")


@pytest.mark.nightly
def test_what_all_venues_sent_with_faults_and_redundant_sessions_is_replayed_as_it_was_stored(
    tmp_path: Path, postgres_dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, chaos_seed: str
) -> None:
    enable_capture(monkeypatch)
    accounts = {"a": "kis", "b": "kis", "c": "kis", "kiwoom": "kiwoom", "upbit": "upbit"}
    feeds = [
        Feed(["a", "b"], ["100000", "100010", "100020"], redundancy="ab"),
        Feed(["c"], ["101000", "101010", "101020"]),
        Feed(["kiwoom"], ["102000", "102010"]),
        Feed(["upbit"], ["KRW-BTC", "KRW-ETH"], market="crypto"),
    ]
    rig = VenueRig(tmp_path, postgres_dsn, redis_url, accounts=accounts, feeds=feeds, workers=2)
    with rig:
        faults = ("jitter:150:200@key-b", "garbage:20@key-c", "truncate:11@key-c", "pack:7", "reorder:101000:9")
        rig.start(rate=1_500.0, faults=faults, extra=("--venues", "kis=0.6,kiwoom,upbit", "--fragment", "0.05"))
        for fault in ("abort@key-a", "close@key-b", "abort@key-c"):
            rig.wait_received(1_500)
            rig.inject(fault)
        rig.wait_received(1_500)
        rig.finish()

        kept, files = Kept(rig), captures(rig)
        words = [str(path) for path in files]
        assert len({path.name.partition("_")[0] for path in files}) == 3
        nothing = replay(rig, *words)
        assert nothing.stdout.count(" 0 rows inserted") == nothing.stdout.count(" 0 quarantined") == len(files)

        rng = random.Random(chaos_seed)
        partial = tmp_path / "partial"
        partial.mkdir()
        for path in files:
            lines = [line + b"\n" for line in read_lines(path, Damage()) if rng.random() < 0.7]
            file = CaptureFile(partial / path.name, level=1)
            file.append(b"".join(lines), frames=len(lines), through={})
            file.close()
        holes = replay(rig, *(str(partial / path.name) for path in files))
        assert holes.returncode == 0, holes.stderr
        assert kept.differences() == dict.fromkeys(TABLES, (0, 0)), holes.stdout

        for table in TABLES:
            execute(rig, f"DELETE FROM {table} WHERE hashtext(seq::text || '{chaos_seed}') % 3 = 0")
        assert kept.differences()["market_ticks"][0] > 0
        assert replay(rig, *words).returncode == 0
        assert kept.differences() == dict.fromkeys(TABLES, (0, 0))
        execute(rig, f"TRUNCATE {', '.join(TABLES)}")
        assert replay(rig, *words).returncode == 0
        assert kept.differences() == dict.fromkeys(TABLES, (0, 0))
