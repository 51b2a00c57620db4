"""Two versions, or two daemons, and one set of data: handed over without a record lost or doubled, or refused in words.

One data directory has one daemon. A rolling upgrade is therefore a stop, or a kill, and the start of the next version
on the same rings, spill files and cursors.
"""

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

import daemon
import native_pipeline
from tests.chaos.network_rig import NetworkRig
from tests.rig import TIMEOUT_S, wait_for

RATE = 1_500.0
MakeRig = Callable[..., NetworkRig]
NEXT_MIGRATION = "ALTER TABLE market_ticks ADD COLUMN note text;\nALTER TABLE feed_gaps ADD COLUMN note text;\n"


@pytest.fixture
def make_rig(tmp_path: Path, postgres_dsn: str, redis_url: str) -> Iterator[MakeRig]:
    def make(**fields: Any) -> NetworkRig:
        settings: dict[str, Any] = {"accounts": 2, "workers": 2, "symbols": 4, "connects_per_10min": 1000, **fields}
        return stack.enter_context(NetworkRig(tmp_path, postgres_dsn, redis_url, **settings))

    with ExitStack() as stack:
        yield make


def run(config: Path, place: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`sise run` of the version in *place*, which is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "daemon.cli", "run", "-c", str(config)],
        capture_output=True, text=True, timeout=TIMEOUT_S, cwd=place, check=False,
    )  # fmt: skip


def fingerprints(data_dir: Path) -> dict[str, str]:
    """Return what lies in rings and spill files, by name."""
    files = [path for folder in ("rings", "failed_batches") for path in (data_dir / folder).glob("*")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(dsn: str, query: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


def next_version(place: Path) -> None:
    """Make the next version of the package in *place*: the same code, and one migration more."""
    for package in (daemon, native_pipeline):
        assert package.__file__ is not None
        source = Path(package.__file__).parent
        ignored = shutil.ignore_patterns("*.c", "*.pyx", "*.html", "__pycache__")
        shutil.copytree(source, place / source.name, ignore=ignored)
    migrations = place / "daemon" / "sinks" / "migrations"
    newest = max(int(path.name[:4]) for path in migrations.glob("*.sql"))
    (migrations / f"{newest + 1:04}_next_version.sql").write_text(NEXT_MIGRATION)


@pytest.mark.requirement("F35", "F47")
def test_a_start_on_tables_of_a_newer_version_is_refused_in_words_and_makes_nothing(
    tmp_path: Path, postgres_dsn: str, redis_url: str
) -> None:
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (9001, 'later', 'x')")
    config = tmp_path / "sise.toml"
    config.write_text(
        f'data_dir = "{tmp_path}/data"\n[database]\ndsn = "{postgres_dsn}"\n[redis]\nurl = "{redis_url}"\n'
        '[[accounts]]\nname = "a"\nvenue = "upbit"\n'
        '[[feeds]]\naccount = "a"\nmarket = "crypto"\nsymbols = ["KRW-BTC"]\n'
    )

    done = run(config)

    assert done.returncode == 2, done.stderr
    assert "has migration 9001 (later), this version of Sise does not" in done.stderr
    assert not (tmp_path / "data" / "rings").exists()
    assert rows(postgres_dsn, "SELECT to_regclass('ingest_owner') IS NULL") == [(True,)]


@pytest.mark.nightly
@pytest.mark.requirement("F35", "F36")
@pytest.mark.parametrize("shared", ["both", "redis"])
def test_a_daemon_of_another_directory_on_the_same_servers_is_refused_and_disturbs_nothing(
    make_rig: MakeRig, tmp_path: Path, shared: str
) -> None:
    """Both would number their rings from 0, and move each other's cursors."""
    rig = make_rig()
    rig.start(rate=RATE)
    rig.wait_ready()
    sessions = len([event for event in rig.happened() if event["event"] == "connect"])
    pids = {name: block["pid"] for name, block in rig.counters().items()}
    text = rig.config_path.read_text().replace(str(rig.data_dir), str(tmp_path / "other"))
    assert text.count(str(tmp_path / "other")) == 1

    if shared == "redis":
        text = text.replace(rig.postgres.dsn, "postgresql://sise@127.0.0.1:1/sise")
    (tmp_path / "other.toml").write_text(text)

    second = run(tmp_path / "other.toml")

    assert second.returncode == 1, second.stderr
    assert f":{rig.data_dir}, seen there" in second.stderr
    assert not (tmp_path / "other" / "rings").exists()

    rig.wait_received(int(RATE))
    assert {name: rig.counters()[name]["pid"] for name in pids} == pids
    assert len([event for event in rig.happened() if event["event"] == "connect"]) == sessions
    rig.finish()
    assert rig.gaps() == []


@pytest.mark.nightly
@pytest.mark.requirement("F35", "F47", "DLP-01")
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
def test_the_next_version_goes_on_where_this_one_was_ended_and_this_one_refuses_what_that_has_made(
    make_rig: MakeRig, tmp_path: Path, is_killed: bool
) -> None:
    next_version(tmp_path / "next")
    rig = make_rig(more_settings={"database": "retry_delays_s = [0.1]", "spill": "probe_s = 0.5"})
    rig.start(rate=RATE)
    rig.wait_ready()
    rig.wait_received(int(2 * RATE))
    before = rows(rig.postgres.dsn, "SELECT ring, epoch FROM ingest_cursor ORDER BY 1")

    assert rig.daemon is not None
    if is_killed:
        rig.kill_roles(signal.SIGKILL)
        rig.daemon.wait()
        wait_for(lambda: not any(rig.pids(role) for role in ("worker", "writer", "publisher")), "all to be dead")
    else:
        assert rig.stop_daemon() == 0, rig.tail()
    rig.launcher = ["env", f"--chdir={tmp_path / 'next'}"]
    rig.start_daemon()
    rig.wait_ready()
    rig.wait_received(int(2 * RATE))

    verdict, _ = rig.finish()  # exact: nothing lost, nothing twice

    assert verdict.stored > 4 * RATE
    assert rows(rig.postgres.dsn, "SELECT ring, epoch FROM ingest_cursor ORDER BY 1") == before
    assert rows(rig.postgres.dsn, "SELECT count(*) FROM schema_migrations WHERE name = 'next_version'") == [(1,)]

    files, cursors = fingerprints(rig.data_dir), rows(rig.postgres.dsn, "SELECT * FROM ingest_cursor ORDER BY 1, 2")
    older = run(rig.config_path)

    assert older.returncode == 2, older.stderr
    assert "(next_version), this version of Sise does not" in older.stderr
    assert fingerprints(rig.data_dir) == files
    assert rows(rig.postgres.dsn, "SELECT * FROM ingest_cursor ORDER BY 1, 2") == cursors


@pytest.mark.nightly
@pytest.mark.requirement("F35", "F47", "F53")
def test_tables_that_the_next_version_changes_under_a_running_daemon_stop_nothing(
    make_rig: MakeRig, tmp_path: Path
) -> None:
    """`sise migrate` before the stop: rows of the older one still fit, and after an outage they wait in files."""
    next_version(tmp_path / "next")
    rig = make_rig(more_settings={"database": "retry_delays_s = [0.1]", "spill": "probe_s = 0.5"})
    rig.start(rate=RATE)
    rig.wait_ready()
    words = [sys.executable, "-m", "daemon.cli", "migrate", "-c", str(rig.config_path)]
    subprocess.run(words, cwd=tmp_path / "next", check=True, timeout=TIMEOUT_S, capture_output=True)
    stored = rig.total("rows_committed")
    wait_for(lambda: rig.total("rows_committed") > stored + RATE, f"rows in the new tables: {rig.tail()}")

    rig.kill_roles(signal.SIGKILL, "writer")
    wait_for(lambda: rig.total("batches_spilled") > 0, f"spill files: {rig.tail()}")
    rig.wait_received(int(RATE))
    assert "database_needs_operator" in rig.alerts()
    assert rig.total("connections_lost") == 0

    rig.stop_daemon()
    rig.launcher = ["env", f"--chdir={tmp_path / 'next'}"]
    rig.start_daemon()
    rig.wait_ready()
    rig.wait_received(int(RATE))
    wait_for(lambda: rig.total("spill_files") == 0, f"the files to be stored: {rig.tail()}")
    rig.finish()


@pytest.mark.nightly
@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.requirement("F35", "F36", "DLP-01")
def test_a_directory_that_is_lost_with_its_daemon_is_replaced_as_soon_as_that_is_sure(
    make_rig: MakeRig, where: str
) -> None:
    rig = make_rig()
    rig.start(rate=RATE)
    rig.wait_ready()
    rig.wait_received(int(RATE))
    stored = rig.total("rows_committed")
    wait_for(lambda: rig.total("rows_committed") > stored and rig.backlog() == 0, f"all to be stored: {rig.tail()}")
    rig.kill_roles(signal.SIGKILL)
    assert rig.daemon is not None
    rig.daemon.wait()
    shutil.rmtree(rig.data_dir)
    if where == "elsewhere":  # whose processes cannot be seen from here
        with psycopg.connect(rig.postgres.dsn) as connection:
            connection.execute("UPDATE ingest_owner SET process = 'elsewhere/1/1'")

    rig.start_daemon()
    rig.wait_ready()
    rig.wait_received(int(RATE))

    assert len(rig.events("waiting_for_owner")) == (where == "elsewhere")
    rig.stop_simulator()
    assert rig.stop_daemon() == 0, rig.tail()
    verdict = rig.compare()
    assert (verdict.lost, verdict.duplicated, verdict.wrong, verdict.unknown) == (0, 0, 0, 0)
    assert rows(rig.postgres.dsn, "SELECT count(*) - count(DISTINCT (source, seq)) FROM market_ticks") == [(0,)]
    assert rows(rig.postgres.dsn, "SELECT count(*) FROM ingest_cursor") == [(2 * rig.workers,)]
    assert {reason for _, _, reason, _ in rig.gaps()} == {"ring lost"}
