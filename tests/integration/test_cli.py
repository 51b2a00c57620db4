"""The command line as an operator meets it: exit codes, and one line on stderr."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert [finding.split(" ")[0] for finding in out.splitlines()] == ["ok", "ok", "FAIL", "FAIL", "FAIL"]
    assert line.startswith("sise: check failed: database: ")
    assert "redis: " in line


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
