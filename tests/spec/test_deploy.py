"""What is shipped for production: settings that load, a Redis that keeps its data, an image without a compiler."""

import re
import tomllib
from operator import attrgetter
from pathlib import Path

import pytest
from msgspec import Struct

from daemon import config as settings
from daemon.embedded import REDIS_CONFIGURATION
from daemon.recording.capture import DIRECTORY as RAW_DIRECTORY
from daemon.shard_plan import make_plan
from daemon.sinks.spill import DIRECTORY as SPILL_DIRECTORY

DEPLOY = Path(__file__).parents[2] / "deploy"


EXAMPLE = (DEPLOY / "sise.example.toml").read_text(encoding="utf-8")
COMPOSE = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
COMMENTED_OUT = re.compile(r"^#(?! |$)", re.MULTILINE)  # settings; prose has a space behind the sign
DEFAULTS = settings.Config()
OWN_VALUES = {"database.dsn", "redis.url", "http.host", "log.format"}  # where production differs from the defaults


def load(text: str, tmp_path: Path) -> settings.Config:
    for name in re.findall(r"/run/secrets/(\w+)", text):
        (tmp_path / name).write_text("postgresql://sise:x@database/sise\n")
    (tmp_path / "sise.toml").write_text(text.replace("/run/secrets/", f"{tmp_path}/"))
    return settings.load(tmp_path / "sise.toml", {})


def test_the_example_settings_load_and_plan(tmp_path: Path) -> None:
    plan = make_plan(load(EXAMPLE, tmp_path))

    assert sum(worker.registrations() for worker in plan.workers) == 4


def test_the_example_settings_with_every_venue_load_and_plan(tmp_path: Path) -> None:
    config = load(COMMENTED_OUT.sub("", EXAMPLE), tmp_path)

    assert {account.venue for account in config.accounts} == {"kis", "kiwoom", "upbit"}
    assert sum(worker.registrations() for worker in make_plan(config).workers) == 8


def test_the_example_settings_show_every_section_and_no_stale_default(tmp_path: Path) -> None:
    config = load(EXAMPLE, tmp_path)
    shown = tomllib.loads(EXAMPLE)

    sections = {name: value for name, value in shown.items() if isinstance(value, dict)}
    keys = {f"{name}.{key}" for name, section in sections.items() for key in section}
    assert {name for name in settings.Config.__struct_fields__ if isinstance(getattr(DEFAULTS, name), Struct)} == {
        *sections
    }
    assert {key for key in keys if attrgetter(key)(config) != attrgetter(key)(DEFAULTS)} == OWN_VALUES


def test_every_secret_of_the_example_settings_is_one_of_the_compose_file() -> None:
    wanted = set(re.findall(r"/run/secrets/(\w+)", EXAMPLE))

    assert wanted == {"database_dsn", "kis_app_key", "kis_app_secret", "kiwoom_app_key", "kiwoom_app_secret"}
    for name in wanted:
        assert f"- {name}\n" in COMPOSE, name
        assert f"{name}: {{ file: ./secrets/{name} }}" in COMPOSE, name


@pytest.mark.requirement("GS-01", "DLP-02")
def test_what_must_outlive_the_container_is_on_volumes_that_its_user_may_write_to() -> None:
    final = (DEPLOY.parent / "Dockerfile").read_text(encoding="utf-8").rpartition("FROM ")[2]
    made = re.search(r"install -d -o sise -g sise -m 0700 ([^&]*)&&", final)
    assert made is not None

    for directory in made[1].split():
        assert f":{directory} " in COMPOSE.replace("\n", " "), directory
    assert {Path(directory).name for directory in made[1].split()} == {"sise", SPILL_DIRECTORY, RAW_DIRECTORY}


@pytest.mark.requirement("GS-01")
def test_the_container_has_more_time_to_stop_than_the_daemon_takes(tmp_path: Path) -> None:
    seconds = re.search(r"stop_grace_period: (\d+)s", COMPOSE)
    assert seconds is not None

    assert int(seconds[1]) > load(EXAMPLE, tmp_path).supervision.grace_s


@pytest.mark.requirement("RDS-01")
@pytest.mark.parametrize(
    "line", ["appendonly yes", "appendfsync everysec", "no-appendfsync-on-rewrite yes", "save 60 1000"]
)
def test_redis_keeps_its_data_across_a_restart(line: str) -> None:
    assert line in (DEPLOY / "redis.conf").read_text(encoding="utf-8").splitlines()


def test_the_final_image_has_no_compiler_runs_as_a_user_and_checks_its_health() -> None:
    final = (DEPLOY.parent / "Dockerfile").read_text(encoding="utf-8").rpartition("FROM ")[2]

    assert "gcc" not in final
    assert "\nUSER sise\n" in final
    assert "\nHEALTHCHECK " in final
    assert 'ENTRYPOINT ["sise"]' in final


@pytest.mark.requirement("RDS-01")
def test_the_file_that_is_shipped_is_the_one_that_the_embedded_server_starts_with() -> None:
    shipped = DEPLOY / "redis.conf"

    assert shipped.samefile(REDIS_CONFIGURATION)
    assert "./redis.conf:/etc/redis.conf:ro" in (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
