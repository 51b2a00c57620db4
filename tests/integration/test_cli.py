"""The command line as an operator meets it: exit codes, and one line on stderr."""

import datetime
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.learned_limits import LearnedLimits

REPOSITORY = Path(__file__).parents[2]
NOWHERE = {"SISE_DATABASE__DSN": "postgresql://sise@127.0.0.1:1/sise", "SISE_REDIS__URL": "redis://127.0.0.1:1/0"}
ACCOUNT = (
    '[[accounts]]\nname = "main"\nvenue = "kis"\napp_key = "key"\napp_secret = "secret"\n'
    'rest_url = "http://127.0.0.1:1"\nws_url = "ws://127.0.0.1:1"\n'
)
FEED = '[[feeds]]\naccount = "main"\nmarket = "kr"\nsymbols = ["005930"]\n'


def sise(
    command: str, config: Path, *, largest_file: int = resource.RLIM_INFINITY, **environment: str
) -> tuple[int, str, list[str]]:
    """Return exit code, stdout, and the lines on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli", command, "-c", config],
        cwd=REPOSITORY,
        env={**os.environ, **NOWHERE, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file)),
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sise.toml"
    path.write_text(f'data_dir = "{tmp_path}/data"\n{ACCOUNT}{FEED}')
    return path


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        (FEED, "", "feeds: is empty: nothing would be collected"),
        (ACCOUNT + FEED, "", "feeds: is empty: nothing would be collected"),
        ('app_key = "key"\n', "", "accounts.app_key: account 'main': is empty"),
        ('"secret"', '""', "accounts.app_secret: account 'main': is empty"),
        ("127.0.0.1:1", "127.0.0.1:x", "accounts.ws_url: account 'main': 'x' is not a port"),
    ],
)
def test_settings_that_cannot_work_are_one_line_with_file_and_key(
    config: Path, command: str, before: str, after: str, key: str
) -> None:
    config.write_text(config.read_text().replace(before, after))

    code, _, (line,) = sise(command, config)

    assert code == 2
    assert line.startswith(f"sise: {config}: {key}")
    assert not (config.parent / "data").exists()


@pytest.mark.parametrize("command", ["migrate", "verify"])
def test_a_database_that_is_away_is_one_line(config: Path, command: str) -> None:
    config.write_text("")  # neither needs a feed

    code, _, (line,) = sise(command, config)

    assert code == 1
    assert line.startswith("sise: database.dsn: ")
    assert "refused" in line


def test_servers_that_are_away_are_findings_of_the_check(config: Path) -> None:
    code, out, (line,) = sise("check", config)

    assert code == 1
    assert [line[:4] for line in out.splitlines() if line[:4] in ("ok  ", "FAIL")] == ["ok  "] * 3 + ["FAIL"] * 3
    assert line.startswith("sise: check failed: database: ")
    assert "redis: " in line


@pytest.mark.requirement("DLP-02", "F39")
def test_the_check_says_that_nothing_could_be_spilled_before_the_database_is_away(config: Path) -> None:
    _, plenty, _ = sise("check", config)
    config.write_text(config.read_text() + "[spill]\nmin_free_mb = 1_000_000_000\n")
    _, full, _ = sise("check", config)
    (config.parent / "data").mkdir()
    (config.parent / "data" / "failed_batches").write_text("not a directory")
    _, blocked, _ = sise("check", config)

    assert "ok   failed_batches\n" in plenty
    assert re.search(
        r"ok   failed_batches: \d+ MiB free, spill.min_free_mb is 1000000000: nothing can be spilled\n", full
    )
    assert "FAIL failed_batches: " in blocked


@pytest.mark.requirement("DUAL-SOC-01")
def test_the_check_prints_the_plan_with_what_is_shared_doubled_learned_and_left_out(config: Path) -> None:
    accounts = "".join(ACCOUNT.replace('"main"', f'"a{n}"') for n in range(5))
    feeds = [
        'accounts = ["a0", "a1"]\nmarket = "kr"\nsymbols_file = "kr.txt"\n',
        'accounts = ["a2", "a3"]\nredundancy = "ab"\nmarket = "kr"\nkinds = ["trade"]\nsymbols = ["069500"]\n',
        'account = "a4"\nmarket = "kr"\nbest_effort = true\nsymbols = ["000270", "005380"]\n',
    ]
    config.write_text(
        f'data_dir = "{config.parent}/data"\n{accounts}' + "".join(f"[[feeds]]\n{feed}" for feed in feeds)
    )
    (config.parent / "kr.txt").write_text("# of KOSPI\n005930  # Samsung\n\n000660\n")
    limits = LearnedLimits(config.parent / "data")
    learned_at = datetime.datetime.now(datetime.UTC)
    limits.record("a4", 3, learned_at)
    day, again = learned_at.date(), (learned_at + datetime.timedelta(days=1)).date()
    path = limits.path("a4")

    _, out, _ = sise("check", config)

    lines = out.splitlines()
    assert lines[: lines.index("ok   plan: 5 connections, 9 registrations, 1 left out")] == [
        "worker 0: 5 registrations",
        "  a4  kis      3/3  2 kr trade, 1 kr orderbook; trades and order books share this socket",
        "  a2  kis     1/41  1 kr trade; side A, 1 registration also on a3",
        "  a3  kis     1/41  1 kr trade; side B, 1 registration also on a2",
        "worker 1: 4 registrations",
        "  a0  kis     2/41  2 kr trade",
        "  a1  kis     2/41  2 kr orderbook",
        f"account a4: takes 3, learned from the venue on {day}, put to the test from {again} on; to forget: rm {path}",
        "left out, no account has room: 1 registration",
        "  feeds[2]: 005380 kr orderbook",
    ]


def test_too_few_accounts_are_one_line_that_says_how_many_are_missing(config: Path) -> None:
    symbols = [f"{number:06d}" for number in range(60)]
    config.write_text(config.read_text().replace('["005930"]', str(symbols).replace("'", '"')))

    code, _, (line,) = sise("check", config)

    assert code == 2
    assert line == (
        f"sise: {config}: feeds: account 'main' takes 41 registrations, its feeds need 120: "
        "79 too many; 2 more accounts needed"
    )


@pytest.mark.parametrize("place", ["file/data", "file"])
def test_a_data_directory_that_cannot_be_made_is_one_line(config: Path, place: str) -> None:
    (config.parent / "file").touch()

    code, _, (line,) = sise("run", config, SISE_DATA_DIR=str(config.parent / place))

    assert code == 2
    assert line.startswith(f"sise: {config}: data_dir: {config.parent / place}: ")


def test_a_disk_without_room_is_refused_with_path_and_size(config: Path) -> None:
    code, _, lines = sise("run", config, largest_file=1 << 20, SISE_RING__CAPACITY_MB="3", SISE_WORKERS="2")

    assert code == 1
    (line,) = [line for line in lines if "cannot_boot" in line]
    assert f"{config.parent}/data/rings: no room: the missing rings need 8 MiB, " in line
    assert (config.parent / "data").stat().st_mode & 0o777 == 0o700
    assert not [line for line in lines if "Traceback" in line]


def test_a_database_without_tables_passes_the_check_with_a_note(config: Path, empty_postgres_dsn: str) -> None:
    _, out, _ = sise("check", config, SISE_DATABASE__DSN=empty_postgres_dsn)

    assert "ok   database: not migrated yet: " in out


def test_a_redis_that_is_away_fails_the_comparison_with_its_reason(config: Path, postgres_dsn: str) -> None:
    code, out, lines = sise("verify", config, SISE_DATABASE__DSN=postgres_dsn)

    assert (code, lines) == (1, [])
    assert "published could not be compared: " in out
