"""Which PostgreSQL the tests use: the one of the wheel, or one with TimescaleDB that the environment names.

`SISE_TEST_POSTGRES_BIN` is the directory with `initdb` and `postgres` of an installation that has the extension: every
test runs, also those that stop and kill their server. `SISE_TEST_POSTGRES` is the DSN of a superuser of a server that
runs: each test gets a database of its own there, and those that stop their server are skipped. Both want encoding UTF8
and `timescaledb` among the preloaded libraries, which is set for a server that is started here.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
from psycopg.conninfo import make_conninfo

from daemon.embedded import EmbeddedPostgres

PROGRAMS = os.environ.get("SISE_TEST_POSTGRES_BIN", "")
DSN = os.environ.get("SISE_TEST_POSTGRES", "")
HAS_TIMESCALEDB = bool(PROGRAMS or DSN)
# One scheduler for each database of a test, and its jobs.
PRELOAD: Mapping[str, str] = {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    "timescaledb.max_background_workers": "16",
    "max_worker_processes": "32",
}
plain_only = pytest.mark.skipif(HAS_TIMESCALEDB, reason="is about a PostgreSQL without TimescaleDB")
STOPS_ITS_SERVER = "stops its server, and SISE_TEST_POSTGRES names one that runs: see SISE_TEST_POSTGRES_BIN"
NEEDS_TIMESCALEDB = "needs a TimescaleDB: SISE_TEST_POSTGRES_BIN or SISE_TEST_POSTGRES, see tests/servers.py"


class _WithTimescaleDB(EmbeddedPostgres):
    """Started here, from the named programs."""

    def __init__(self, directory: Path | str, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory, {**PRELOAD, **(settings or {})})

    @property
    def binaries(self) -> Path:
        return Path(PROGRAMS)


class RunningPostgres(EmbeddedPostgres):
    """Somebody else's server: it is neither started nor stopped here."""

    def __init__(self) -> None:
        super().__init__("/nonexistent")

    @property
    def pid(self) -> int:
        """Nobody's: not ours to signal."""
        return 0

    def start(self) -> None:
        """It runs."""

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """It goes on."""

    def dsn_for(self, database: str, *, unix_socket: bool = False) -> str:
        """Return the DSN with another database."""
        assert not unix_socket
        return make_conninfo(DSN, dbname=database)


def make_postgres(directory: Path, settings: Mapping[str, str]) -> EmbeddedPostgres:
    """Return a server that is not started yet."""
    kind = _WithTimescaleDB if PROGRAMS else EmbeddedPostgres
    return kind(directory, settings)
