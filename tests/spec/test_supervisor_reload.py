"""What a reload changes, and whom it is told."""

import os

import msgspec
import pytest

from daemon.config import Account, Alerts, Config, Database, Ingest
from daemon.errors import ConfigError
from daemon.supervision import handover
from daemon.supervision.process import ProcessSpec
from daemon.supervision.reload import LIVE, revise

MAIN, BACKUP = Account(name="main", venue="v", app_key="one"), Account(name="backup", venue="v", app_key="two")
CONFIG = Config(accounts=(MAIN, BACKUP))


def worker(index: int, account: str, payload: bytes = b"plan") -> ProcessSpec:
    return ProcessSpec(
        role="worker", index=index, argv=(), counters_block=1, drain_order=1, payload=payload, accounts=(account,)
    )


WRITER = ProcessSpec(role="writer", argv=(), counters_block=3, drain_order=2)
SPECS = (worker(0, "main"), worker(1, "backup"), WRITER)


@pytest.mark.requirement("F63")
def test_the_same_settings_concern_nobody() -> None:
    revision = revise(CONFIG, CONFIG, SPECS, lambda _: SPECS)

    assert (revision.config, revision.refused, revision.concerned) == (CONFIG, (), frozenset())


@pytest.mark.requirement("F63")
def test_a_changed_plan_concerns_its_worker() -> None:
    changed = (SPECS[0], worker(1, "backup", b"other"), WRITER)

    revision = revise(CONFIG, CONFIG, SPECS, lambda _: changed)

    assert revision.concerned == {"worker-1"}
    assert revision.specs["worker-1"].payload == b"other"


@pytest.mark.requirement("F64")
def test_a_changed_account_concerns_the_worker_that_uses_it() -> None:
    new = msgspec.structs.replace(CONFIG, accounts=(MAIN, msgspec.structs.replace(BACKUP, app_secret="rotated")))

    assert revise(CONFIG, new, SPECS, lambda _: SPECS).concerned == {"worker-1"}


def test_an_account_that_a_worker_gives_up_concerns_it() -> None:
    new = msgspec.structs.replace(CONFIG, accounts=(MAIN,))

    assert revise(CONFIG, new, SPECS, lambda _: (SPECS[0], worker(1, "main"), WRITER)).concerned == {"worker-1"}


def test_what_governs_all_sessions_concerns_everybody() -> None:
    new = msgspec.structs.replace(CONFIG, ingest=Ingest(subscribe_interval_ms=7))

    assert revise(CONFIG, new, SPECS, None).concerned == {"worker-0", "worker-1", "writer"}


@pytest.mark.requirement("F63")
def test_what_is_fixed_keeps_its_value_and_is_named_by_its_key() -> None:
    database = Database(dsn="postgresql://elsewhere/sise", batch_rows=1)
    new = msgspec.structs.replace(CONFIG, data_dir="/elsewhere", workers=9, database=database, single_socket=True)

    revision = revise(CONFIG, new, SPECS, None)

    assert revision.refused == ("data_dir", "workers", "database.dsn", "database.batch_rows")
    assert revision.config == msgspec.structs.replace(CONFIG, single_socket=True)


def test_the_plan_is_made_for_the_settings_that_will_hold() -> None:
    seen = []

    def respec(config: Config) -> tuple[ProcessSpec, ...]:
        seen.append(config.workers)
        return SPECS

    revise(CONFIG, msgspec.structs.replace(CONFIG, workers=9), SPECS, respec)

    assert seen == [CONFIG.workers]


@pytest.mark.requirement("F63")
def test_settings_that_cannot_be_planned_are_refused_as_a_whole() -> None:
    def respec(_: Config) -> tuple[ProcessSpec, ...]:
        raise ConfigError("sise.toml: feeds: 7 too many")

    with pytest.raises(ConfigError, match="7 too many"):
        revise(CONFIG, msgspec.structs.replace(CONFIG, single_socket=True), SPECS, respec)


def test_everything_that_is_live_is_a_setting() -> None:
    assert set(Config.__struct_fields__) >= LIVE


# ---- the file in memory ------------------------------------------------------------------------------------------


def test_the_newest_content_is_read_whatever_its_length() -> None:
    fd = handover.create()

    handover.write(fd, 1, b"a long content " * 1000)
    handover.write(fd, 2, b"short")

    assert handover.read(fd) == (2, b"short")
    handover.write(fd, 3, b"")
    assert handover.read(fd) == (3, b"")
    os.close(fd)


@pytest.mark.parametrize("cut", [0, 5, 16, 20])
def test_half_of_a_content_is_nothing(cut: int) -> None:
    fd = handover.create()
    handover.write(fd, 1, b"content")

    os.ftruncate(fd, cut)

    assert handover.read(fd) is None
    os.close(fd)


def test_a_content_that_is_being_overwritten_is_nothing() -> None:
    fd = handover.create()
    handover.write(fd, 1, b"content")

    os.pwrite(fd, b"CON", handover.HEADER.size)

    assert handover.read(fd) is None
    os.close(fd)


@pytest.mark.requirement("F63")
def test_what_running_processes_have_built_upon_waits_for_their_restart_and_is_named() -> None:
    new = msgspec.structs.replace(
        CONFIG,
        ingest=Ingest(subscribe_timeout_s=7.0, link_timeout_s=50.0, connect_timeout_s=7.0),
        alerts=Alerts(repeat_s=7.0),
    )

    revision = revise(CONFIG, new, SPECS, lambda _: SPECS)

    assert revision.waiting == ("ingest.connect_timeout_s", "alerts.repeat_s")
    assert revision.refused == ()
    assert revision.config.ingest == new.ingest
