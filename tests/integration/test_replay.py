"""`sise replay` into a real database: only what the tables lack is inserted, whatever the capture lacks."""

import datetime
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from daemon.config import Account, Config, Database, Feed
from daemon.errors import ConfigError, Refused
from daemon.recording.capture import CaptureFile, encode_line, file_name, hour_of
from daemon.recording.replay import FileReport, Pace, parse_speed, replay_files
from daemon.recording.replay_store import LOWEST_SOURCE, require_alone
from daemon.sinks.count_queries import read_checkpoints, read_counts
from daemon.sinks.counts import minute_of
from native_pipeline.ring_creation import create_ring
from native_pipeline.ring_writer import RingWriter

pytestmark = pytest.mark.requirement("RAW-01")

FRAMES = Path(__file__).parents[1] / "frames" / "kis" / "data"
RECV_NS = 1_795_136_400 * 10**9  # 2026-11-20 01:00 UTC, ten in the morning in Korea
SECOND_NS = 10**9
DAY = datetime.date(2026, 11, 20)


def trade(number: int, *, volume: int = 1) -> bytes:
    """A KIS trade; *number* is its cumulative volume and the second of its time."""
    fields = (FRAMES / "H0STCNT0_single.txt").read_text().strip().split("|")[3].split("^")
    fields[1], fields[12], fields[13] = f"1000{number % 60:02}", str(volume), str(number)
    return f"0|H0STCNT0|001|{'^'.join(fields)}".encode()


def book(size: int) -> bytes:
    fields = (FRAMES / "H0STASP0_single.txt").read_text().strip().split("|")[3].split("^")
    fields[1], fields[23] = "100000", str(size)
    return f"0|H0STASP0|001|{'^'.join(fields)}".encode()


class Bench:
    """A database, and captures to replay into it."""

    def __init__(self, directory: Path, dsn: str) -> None:
        self.directory = directory
        self.config = Config(
            data_dir=str(directory / "data"),
            database=Database(dsn=dsn),
            accounts=(Account(name="main", venue="kis"),),
            feeds=(Feed(market="kr", account="main", symbols=("005930",)),),
        )
        self.seq = 0

    def capture(self, *messages: tuple[float, bytes], hour: int = 0, redundant: bool = False, worker: int = 0) -> Path:
        """A capture file with messages received so many seconds behind the hour; tenths: by another session."""
        start_ns = hour_of(RECV_NS) + hour * 3600 * SECOND_NS
        path = self.directory / file_name("kis", start_ns)
        path.unlink(missing_ok=True)
        lines = []
        for seconds, message in messages:
            self.seq += 1
            line = encode_line(
                message, recv_ns=start_ns + int(seconds * SECOND_NS), worker=worker, venue="kis",
                connection=int(seconds * 10) % 10,
                seq=self.seq, is_text=True, is_redundant=redundant,
            )  # fmt: skip
            lines.append(line)
        file = CaptureFile(path, level=1)
        file.append(b"".join(lines), frames=len(lines), through={worker: (1, self.seq)})
        file.close()
        return path

    def replay(
        self,
        *paths: Path,
        pace: Pace | None = None,
        venue: str | None = None,
        date: datetime.date | None = None,
        is_dry_run: bool = False,
    ) -> list[FileReport]:
        found = replay_files(self.config, paths, pace=pace or Pace(), venue=venue, date=date, is_dry_run=is_dry_run)
        return list(found)

    def inserted(self, *paths: Path, venue: str | None = None, date: datetime.date | None = None) -> int:
        return sum(sum(each.stored.inserted.values()) for each in self.replay(*paths, venue=venue, date=date))

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.config.database.dsn) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def count(self, table: str) -> object:
        return self.execute(f"SELECT count(*) FROM {table}")[0][0]

    def is_complete(self) -> bool:
        """Whether `sise verify` would find every row counted once."""
        start = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
        with psycopg.connect(self.config.database.dsn) as connection:
            checkpoints = read_checkpoints(connection, start)
            counts = read_counts(connection, checkpoints, minute_of(start), minute_of(start) + 60 * 24 * 40)
        received = {
            key: counts.received.get(key, 0) + counts.replayed.get(key, 0)
            for key in {*counts.received, *counts.replayed}
        }
        return received == counts.stored and not counts.open and not counts.duplicated


@pytest.fixture
def bench(tmp_path: Path, postgres_dsn: str) -> Bench:
    return Bench(tmp_path, postgres_dsn)


def test_rows_are_inserted_with_their_receive_times_and_counted_once(bench: Bench) -> None:
    path = bench.capture((0, trade(1)), (1, trade(2)), (61, book(7)), (62, b"9|nonsense"), worker=3)
    report = bench.replay(path)[0]

    assert report.stored.inserted == {"market_ticks": 2, "market_orderbook": 1, "quarantine": 1}
    assert (report.frames, report.records, report.is_whole) == (4, 4, True)
    rows = bench.execute("SELECT recv_time, source FROM market_ticks ORDER BY recv_time")
    assert rows == [
        (datetime.datetime.fromtimestamp(RECV_NS // SECOND_NS + second, datetime.UTC), LOWEST_SOURCE + 3)
        for second in (0, 1)
    ]
    assert bench.is_complete()
    assert bench.execute("SELECT file, venue, frames, inserted, known FROM replayed_captures") == [
        (path.name, "kis", 4, 4, 0)
    ]

    assert bench.replay(path)[0].stored.known == {"market_ticks": 2, "market_orderbook": 1, "quarantine": 1}
    assert bench.count("market_ticks") == 2
    assert bench.is_complete()


def test_equal_rows_are_kept_as_often_as_they_came(bench: Bench) -> None:
    path = bench.capture((0, book(7)), (0, book(7)), (0, book(7)), (1, book(7)))
    assert bench.inserted(path) == 4

    bench.execute("DELETE FROM market_orderbook WHERE ctid IN (SELECT ctid FROM market_orderbook ORDER BY seq LIMIT 2)")
    assert bench.inserted(path) == 2
    assert bench.inserted(path) == 0
    assert bench.is_complete()


def test_what_workers_had_counted_and_the_tables_had_lost_is_not_counted_twice(bench: Bench) -> None:
    path = bench.capture(*((second, trade(second + 1)) for second in range(9)))
    bench.inserted(path)
    bench.execute("UPDATE market_ticks SET source = 0; UPDATE ingest_ledger SET source = 0")
    bench.execute("INSERT INTO ingest_cursor (ring, epoch, seq) SELECT 0, 1, max(seq) FROM market_ticks")
    assert bench.is_complete()

    bench.execute("DELETE FROM market_ticks WHERE cum_volume IN (2, 3, 5)")
    assert not bench.is_complete()
    assert bench.inserted(path) == 3
    assert bench.is_complete()


def test_the_other_sessions_copy_of_a_trade_that_the_capture_lacks_is_not_stored_again(bench: Bench) -> None:
    both = bench.capture((0, trade(1)), (0.2, trade(1)), (1, book(1)), (1.2, book(1)), (2, trade(2)), redundant=True)
    assert bench.inserted(both) == 3

    without_first = bench.capture((0.2, trade(1)), (1.2, book(1)), (2, trade(2)), redundant=True)
    assert bench.inserted(without_first) == 0
    assert bench.is_complete()


def test_a_trade_that_was_late_when_it_came_is_known_although_the_capture_lacks_what_came_before(bench: Bench) -> None:
    assert bench.inserted(bench.capture((0, trade(5)), (1, trade(3)))) == 2
    assert bench.execute("SELECT flags FROM market_ticks ORDER BY recv_time") == [(0,), (8,)]

    assert bench.inserted(bench.capture((1, trade(3)))) == 0


def test_what_the_venue_sends_again_in_the_next_hour_is_recognised(bench: Bench) -> None:
    first, second = bench.capture((3599, trade(1))), bench.capture((1, trade(1)), (2, trade(2)), hour=1)
    assert bench.inserted(first, second) == 2

    bench.execute("TRUNCATE market_ticks, ingest_ledger")
    assert bench.inserted(second) == 1


def test_a_file_of_text_is_replayed_once(bench: Bench) -> None:
    path = bench.directory / "frames.txt"
    path.write_bytes(trade(1) + b"\n" + trade(2) + b"\r\n" + b'{"header":{"tr_id":"PINGPONG"}}\n')
    report = bench.replay(path, venue="kis", date=DAY)[0]
    assert (report.stored.inserted, report.control) == ({"market_ticks": 2}, 1)
    assert bench.inserted(path, venue="kis", date=DAY) == 0

    with pytest.raises(ConfigError, match="--venue and --date: needed"):
        bench.replay(path)
    with pytest.raises(ConfigError, match="'nobody' cannot be replayed"):
        bench.replay(path, venue="nobody", date=DAY)


def test_a_text_file_of_what_was_received_that_day_inserts_nothing(bench: Bench) -> None:
    bench.inserted(bench.capture((0, trade(1)), (1, trade(2))))
    path = bench.directory / "frames.txt"
    path.write_bytes(trade(1) + b"\n" + trade(2) + b"\n" + trade(3) + b"\n")

    assert bench.inserted(path, venue="kis", date=DAY) == 1


def test_a_dry_run_says_the_same_and_changes_nothing(bench: Bench) -> None:
    path = bench.capture((0, trade(1)), (1, book(1)))
    tried = bench.replay(path, is_dry_run=True)[0]

    assert [bench.count(table) for table in ("market_ticks", "ingest_ledger", "replayed_captures")] == [0, 0, 0]
    assert tried == bench.replay(path)[0]


def test_what_the_daemon_may_not_have_stored_yet_is_left_out(bench: Bench) -> None:
    path = bench.capture((0, trade(1)), (59, trade(2)), (61, trade(3)), (121, trade(4)))
    bench.replay(path)
    bench.execute("UPDATE market_ticks SET source = 0; UPDATE ingest_ledger SET source = 0, through_seq = seq")
    bench.execute("INSERT INTO ingest_cursor (ring, epoch, seq) SELECT 0, 1, max(seq) FROM market_ticks")
    bench.execute("DELETE FROM market_ticks; DELETE FROM ingest_ledger WHERE minute > '2026-11-20 01:01:00Z'")
    rings = bench.directory / "data" / "rings"
    rings.mkdir(parents=True)
    create_ring(rings / "worker-0.ring", ring=0, capacity_bytes=1 << 20)
    ring = RingWriter(rings / "worker-0.ring")
    ring.append_quarantine_frame(1, b"waits for the writer", venue=1, recv_ns=RECV_NS + 121 * SECOND_NS)
    ring.close()

    report = bench.replay(path)[0]
    assert (report.left_out, report.stored.inserted, report.is_whole) == (2, {"market_ticks": 2}, False)
    assert "2 messages left out" in report.as_text()


def test_two_replays_at_once_are_refused(bench: Bench) -> None:
    path = bench.capture((0, trade(1)))
    with psycopg.connect(bench.config.database.dsn, autocommit=True) as connection:
        with connection.transaction():
            require_alone(connection)
            with pytest.raises(Refused, match="another replay is running"):
                bench.replay(path)
        bench.replay(path)
    assert bench.count("market_ticks") == 1


def test_a_replay_at_recorded_speed_waits_as_long_as_it_took_and_commits_on_the_way(bench: Bench) -> None:
    now, committed = [0.0], []

    def sleep(seconds: float) -> None:
        committed.append(bench.count("market_ticks"))
        now[0] += seconds

    path = bench.capture((0, trade(1)), (4, trade(2)), (8, trade(3)))
    report = bench.replay(path, pace=Pace(2.0, monotonic=lambda: now[0], sleep=sleep))[0]

    assert now[0] == 4.0
    assert committed == [0, 2]
    assert report.stored.inserted == {"market_ticks": 3}
    assert bench.inserted(path) == 0


@pytest.mark.parametrize(("text", "speed"), [("max", None), ("recorded", 1.0), ("2.5", 2.5)])
def test_a_speed_is_a_word_or_a_number(text: str, speed: float | None) -> None:
    assert parse_speed(text).speed == speed


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "nan", "inf"])
def test_every_other_speed_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--speed: expected recorded, max or a positive number"):
        parse_speed(text)


@pytest.mark.parametrize("point", ["replay.before_commit", "replay.after_commit"])
def test_a_replay_that_is_killed_has_stored_all_or_nothing_of_its_file(bench: Bench, point: str) -> None:
    path = bench.capture((0, trade(1)), (1, trade(2)))
    config = bench.directory / "sise.toml"
    config.write_text(f'data_dir = "{bench.config.data_dir}"\n[database]\ndsn = "{bench.config.database.dsn}"\n')
    points = bench.directory / "points"
    points.mkdir()
    (points / point).write_text("kill")
    command = [sys.executable, "-m", "daemon.cli", "replay", "-c", str(config), str(path)]

    killed = subprocess.run(command, check=False, env={**os.environ, "SISE_FAILPOINTS": str(points)}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert bench.count("market_ticks") == (2 if point == "replay.after_commit" else 0)
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    assert bench.count("market_ticks") == 2
    assert bench.is_complete()
