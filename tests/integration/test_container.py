"""The image that is shipped: `docker stop` loses nothing, with and without the database.

Needs a container engine and the image `sise`, see docs/deployment_strategy.md.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.sinks import migrations
from daemon.sinks.spill import DIRECTORY as SPILL_DIRECTORY
from tests.rig import Rig, wait_for

IMAGE = os.environ.get("SISE_IMAGE", "sise")
CONTAINER_UID = 10001
HEALTH_PORT = 9464  # the one that the image's health check asks
# The servers of the tests have the tables of these sources; an older image would refuse them.
LIST_MIGRATIONS = """
import importlib.resources as r
files = r.files("daemon.sinks.migrations").iterdir()
print(sorted(file.name for file in files if file.name.endswith(".sql")))
"""
GRACE_S = 20.0  # supervision.grace_s of the rig


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


def known_migrations() -> list[str]:
    return sorted(path.name for path in Path(migrations.__file__).parent.glob("*.sql"))


@pytest.fixture
def container_rig(
    tmp_path: Path, own_postgres: Callable[[], EmbeddedPostgres], own_redis: Callable[[], EmbeddedRedis]
) -> Iterator[Rig]:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode
    ):
        pytest.skip(f"no container engine, or no image {IMAGE!r}: docker build --network host -t {IMAGE} .")
    if docker("run", "--rm", "--entrypoint", "python", IMAGE, "-c", LIST_MIGRATIONS) != str(known_migrations()):
        pytest.skip(f"the image {IMAGE!r} is not of these sources: build it anew")
    with Rig(tmp_path, own_postgres(), own_redis(), http_port=HEALTH_PORT) as rig:
        yield rig


class Container:
    """The daemon of *rig*: own user, read-only file system, no capabilities, the network of the host."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.name = f"sise-test-{os.getpid()}"
        rig.data_dir.mkdir(mode=0o700)
        for path in (rig.data_dir, rig.config_path):
            os.chown(path, CONTAINER_UID, CONTAINER_UID)
        docker(
            *("run", "-d", "--name", self.name, "--network", "host", "--read-only", "--cap-drop", "ALL"),
            *("-v", f"{rig.config_path}:/etc/sise/sise.toml:ro", "-v", f"{rig.data_dir}:{rig.data_dir}"),
            *("--tmpfs", "/tmp", "--security-opt", "no-new-privileges", "--stop-timeout", "30", IMAGE),
        )

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        self.read_log()
        docker("rm", "-f", self.name)

    def state(self) -> dict[str, Any]:
        """What the engine says of it."""
        state: dict[str, Any] = json.loads(docker("inspect", self.name, "--format", "{{json .State}}"))
        return state

    def read_log(self) -> None:
        """Bring the log to where the rig looks for it."""
        log = subprocess.run(["docker", "logs", self.name], capture_output=True, text=True)
        self.rig.log_path.write_text(log.stderr)

    def wait_received(self, more: int) -> None:
        """Wait for the first record of this start, then for *more*."""
        wait_for(lambda: self.rig.total("records_received") > 0, f"data: {docker('logs', '--tail', '5', self.name)}")
        self.rig.wait_received(more)

    def start(self) -> None:
        """Start it again."""
        docker("start", self.name)

    def verify(self) -> None:
        """`sise verify` from the image; fails on any difference."""
        mounts = (
            "-v",
            f"{self.rig.config_path}:/etc/sise/sise.toml:ro",
            "-v",
            f"{self.rig.data_dir}:{self.rig.data_dir}",
        )
        docker("run", "--rm", "--network", "host", *mounts, IMAGE, "verify", "-c", "/etc/sise/sise.toml")

    def stop(self) -> float:
        """`docker stop`; return how long it took. Fails unless the daemon ended well."""
        began = time.monotonic()
        docker("stop", self.name)
        took_s = time.monotonic() - began
        self.read_log()
        assert self.state()["ExitCode"] == 0, self.rig.tail()
        assert self.rig.events("Graceful Shutdown Complete"), self.rig.tail()
        return took_s


@pytest.mark.nightly
@pytest.mark.requirement("DLP-01", "GS-01")
def test_docker_stop_under_load_loses_nothing_and_a_restart_goes_on(container_rig: Rig) -> None:
    rig = container_rig
    rig.start_simulator(rate=5_000)
    with Container(rig) as container:
        for _ in range(2):
            container.wait_received(10_000)
            container.stop()
            assert rig.backlog() == 0
            container.start()
        wait_for(lambda: container.state()["Health"]["Status"] == "healthy", "the health check to pass")
        container.wait_received(5_000)
        rig.stop_simulator()
        container.stop()
        container.verify()

    verdict = rig.compare()
    assert verdict.is_exact, f"{verdict}\n{rig.tail()}"


@pytest.mark.nightly
@pytest.mark.requirement("GS-01", "DLP-02", "DLP-03", "CH-RES-01")
def test_docker_stop_without_the_database_spills_in_time_and_the_next_start_stores_it(container_rig: Rig) -> None:
    rig = container_rig
    rig.start_simulator(rate=5_000)
    spilled = rig.data_dir / SPILL_DIRECTORY
    with Container(rig) as container:
        container.wait_received(10_000)
        rig.postgres.stop("immediate")
        container.wait_received(10_000)

        assert container.stop() < GRACE_S
        assert rig.backlog() == 0
        assert list(spilled.glob("*.spill"))

        rig.postgres.start()
        container.start()
        wait_for(lambda: not list(spilled.glob("*.spill")), "what was spilled to be stored")
        container.wait_received(5_000)
        rig.stop_simulator()
        container.stop()
        container.verify()

    verdict = rig.compare()
    assert verdict.is_exact, f"{verdict}\n{rig.tail()}"


@pytest.mark.nightly
@pytest.mark.requirement("GS-01")
@pytest.mark.usefixtures("container_rig")
def test_the_image_has_no_compiler_its_own_user_and_new_volumes_that_are_its_users() -> None:
    directories = [f"/var/lib/sise{below}" for below in ("", "/failed_batches", "/raw")]
    look = f"id -u; command -v cc gcc ld as make; stat -c '%u %a' {' '.join(directories)}"
    volumes = [word for directory in directories for word in ("-v", directory)]

    found = docker("run", "--rm", *volumes, "--entrypoint", "sh", IMAGE, "-c", look).split("\n")

    assert found == [str(CONTAINER_UID), *[f"{CONTAINER_UID} 700"] * 3]
