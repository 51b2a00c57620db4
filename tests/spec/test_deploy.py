"""What is shipped for production: settings that load, a Redis that keeps its data, an image without a compiler."""

from pathlib import Path

import pytest

from daemon import config as settings
from daemon.embedded import REDIS_CONFIGURATION
from daemon.shard_plan import make_plan

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_example_settings_load_and_plan(tmp_path: Path) -> None:
    text = (DEPLOY / "sise.example.toml").read_text(encoding="utf-8")
    for name in ("database_dsn", "kis_app_key", "kis_app_secret"):
        (tmp_path / name).write_text("postgresql://sise:x@database/sise\n")
    (tmp_path / "sise.toml").write_text(text.replace("/run/secrets/", f"{tmp_path}/"))

    plan = make_plan(settings.load(tmp_path / "sise.toml", {}))

    assert sum(worker.registrations() for worker in plan.workers) == 4


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
