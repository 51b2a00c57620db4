"""The image that is shipped: `docker stop` under load loses nothing. Needs a container engine and the image `sise`."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.rig import Rig, wait_for

IMAGE = os.environ.get("SISE_IMAGE", "sise")
CONTAINER_UID = 10001
HEALTH_PORT = 9464  # the one that the image's health check asks


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def container_rig(
    tmp_path: Path, own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis]
) -> Iterator[Rig]:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode
    ):
        pytest.skip(f"no container engine, or no image {IMAGE!r}: docker build --network host -t {IMAGE} .")
    with Rig(tmp_path, own_postgres(), own_redis(), http_port=HEALTH_PORT) as rig:
        yield rig


@pytest.mark.nightly
@pytest.mark.requirement("DLP-01", "GS-01")
def test_docker_stop_under_load_loses_nothing_and_a_restart_goes_on(container_rig: Rig) -> None:
    rig = container_rig
    rig.start_simulator(rate=5_000)
    rig.data_dir.mkdir(mode=0o700)
    os.chown(rig.data_dir, CONTAINER_UID, CONTAINER_UID)
    os.chown(rig.config_path, CONTAINER_UID, CONTAINER_UID)
    name = f"sise-test-{os.getpid()}"
    docker(
        *("run", "-d", "--name", name, "--network", "host", "--read-only", "--cap-drop", "ALL"),
        *("-v", f"{rig.config_path}:/etc/sise/sise.toml:ro", "-v", f"{rig.data_dir}:{rig.data_dir}"),
        *("--stop-timeout", "30", IMAGE),
    )
    try:
        for _ in range(2):
            wait_for(lambda: rig.total("records_received") > 0, f"data: {docker('logs', '--tail', '5', name)}")
            rig.wait_received(10_000)
            docker("stop", name)
            state = json.loads(docker("inspect", name, "--format", "{{json .State}}"))
            assert state["ExitCode"] == 0, docker("logs", "--tail", "20", name)
            assert rig.backlog() == 0
            docker("start", name)
        wait_for(
            lambda: json.loads(docker("inspect", name, "--format", "{{json .State}}"))["Health"]["Status"] == "healthy",
            "the health check to pass",
        )
        rig.wait_received(5_000)
        rig.stop_simulator()
        docker("stop", name)
    finally:
        rig.log_path.write_text(subprocess.run(["docker", "logs", name], capture_output=True, text=True).stderr)
        docker("rm", "-f", name)

    verdict = rig.compare()
    assert verdict.is_exact, f"{verdict}\n{rig.tail()}"
